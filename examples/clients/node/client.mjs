// A client of Snowplow Console that takes its JWT from Vault. It asks Console
// for each path that it reads from standard input, and prints the answers.
//
//   npm install node-vault
//   export VAULT_ADDR=https://vault.example.com:8200   # and a login: VAULT_TOKEN
//   echo /api/msc/v1/organizations | node client.mjs snowplow/token/analytics

import { createInterface } from 'node:readline';
import nodeVault from 'node-vault';

// Console calls Snowplow Console with a JWT from Vault.
class Console {
  #vault;
  #path;
  #token;
  #readAgainAt = 0;

  constructor(vault, path) {
    this.#vault = vault;
    this.#path = path;
  }

  async get(path) {
    if (performance.now() >= this.#readAgainAt) {
      try {
        await this.#read();
      } catch (error) {
        if (!this.#token) throw error;
        // A third of the lease is left. Try again in a minute.
        this.#readAgainAt = performance.now() + 60_000;
        console.error('cannot read a new JWT:', error.message);
      }
    }
    const response = await this.#send(path);
    if (response.status !== 401) return response;
    // The key may have been replaced, or the cached JWT dropped. If Vault still
    // has the same JWT, it is the key that has to be looked at, and asking again
    // would not help.
    const refused = this.#token.access_token;
    await this.#read();
    if (this.#token.access_token === refused) {
      throw new Error('the JWT is refused, and Vault has no other: see vault read snowplow/status');
    }
    return this.#send(path);
  }

  // Reads a JWT. It may be the same as before: Vault hands out one to many readers.
  async #read() {
    const secret = await this.#vault.read(this.#path);
    for (const warning of secret.warnings ?? []) console.error('Vault warns:', warning);
    this.#token = secret.data;
    // The lease cannot be renewed. Two thirds of it leave time for a Vault that is away.
    this.#readAgainAt = performance.now() + (secret.lease_duration * 1000 * 2) / 3;
  }

  #send(path) {
    return fetch(this.#token.console_url + path, {
      headers: { Authorization: `Bearer ${this.#token.access_token}` },
      redirect: 'manual', // the JWT is for Console only
      signal: AbortSignal.timeout(30_000),
    });
  }
}

if (process.argv.length !== 3) {
  console.error('usage: client.mjs <path of the token, for example snowplow/token/analytics>');
  process.exit(2);
}
const client = new Console(nodeVault(), process.argv[2]); // VAULT_ADDR, VAULT_TOKEN, VAULT_CACERT
for await (const line of createInterface({ input: process.stdin })) {
  try {
    const response = await client.get(line.trim());
    console.log(response.status, (await response.text()).trim());
  } catch (error) {
    console.log('error:', error.message);
  }
}
