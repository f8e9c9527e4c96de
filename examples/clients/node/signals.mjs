// Snowplow Signals without an API key: the SDK, with a JWT from Vault. Prints the attributes of each identifier that it
// reads from standard input.
//
//   npm install @snowplow/signals-node node-vault
//   export VAULT_ADDR=https://vault.example.com:8200   # and a login: VAULT_TOKEN
//   export SIGNALS_API_URL=https://example.svc.snplow.net
//   echo user-1 | node signals.mjs snowplow/token/analytics my_service user_id

import { createInterface } from 'node:readline';
import { Signals } from '@snowplow/signals-node';
import nodeVault from 'node-vault';

// VaultSignals is the SDK's client, except that each request carries a JWT from Vault.
class VaultSignals extends Signals {
  #vault = nodeVault(); // VAULT_ADDR, VAULT_TOKEN, VAULT_CACERT
  #path;
  #jwt;
  #readAgainAt = 0;
  #reading;

  constructor(baseUrl, path) {
    super({ baseUrl, sandboxToken: 'replaced in fetch' }); // the mode in which the SDK makes no exchange
    this.#path = path;
  }

  async fetch(url, request) {
    if (performance.now() >= this.#readAgainAt) {
      // Requests at the same time share one read.
      await (this.#reading ??= this.#read().finally(() => (this.#reading = undefined)));
    }
    return super.fetch(url, { ...request, headers: { ...request.headers, Authorization: `Bearer ${this.#jwt}` } });
  }

  async #read() {
    try {
      const { data, lease_duration: lease } = await this.#vault.read(this.#path);
      this.#jwt = data.access_token;
      this.#readAgainAt = performance.now() + (lease * 1000 * 2) / 3; // the lease cannot be renewed
    } catch (error) {
      if (!this.#jwt) throw error;
      this.#readAgainAt = performance.now() + 60_000; // a third of the lease is left: try again in a minute
      console.error('cannot read a new JWT:', error.message);
    }
  }
}

const [path, name, attribute_key] = process.argv.slice(2);
if (!attribute_key) {
  console.error('usage: signals.mjs <path of the token> <name of the service> <attribute key>');
  process.exit(2);
}
const signals = new VaultSignals(process.env.SIGNALS_API_URL, path);
for await (const identifier of createInterface({ input: process.stdin })) {
  try {
    console.log(JSON.stringify(await signals.getServiceAttributes({ name, attribute_key, identifier })));
  } catch (error) {
    console.log('error:', error.message);
  }
}
