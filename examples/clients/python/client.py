"""A client of Snowplow Console that takes its JWT from Vault.

It asks Console for each path that it reads from standard input, and prints the
answers. Needs hvac (pip install hvac, or Debian's python3-hvac).

    export VAULT_ADDR=https://vault.example.com:8200   # and a login: VAULT_TOKEN
    echo /api/msc/v1/organizations | python3 client.py snowplow/token/analytics
"""

import sys
import time

import hvac
import requests


class Console:
    """Calls Snowplow Console with a JWT from Vault."""

    def __init__(self, vault, path):
        self.vault = vault
        self.path = path
        self.session = requests.Session()
        self._read()

    def get(self, path):
        if time.monotonic() >= self.read_again_at:
            try:
                self._read()
            except (hvac.exceptions.VaultError, requests.RequestException) as error:
                # A third of the lease is left. Try again in a minute.
                self.read_again_at = time.monotonic() + 60
                print("cannot read a new JWT:", error, file=sys.stderr)
        response = self._send(path)
        if response.status_code != 401:
            return response
        # The key may have been replaced, or the cached JWT dropped. If Vault still
        # has the same JWT, it is the key that has to be looked at, and asking again
        # would not help.
        refused = self.token["access_token"]
        self._read()
        if self.token["access_token"] == refused:
            raise RuntimeError(
                "the JWT is refused, and Vault has no other: see vault read snowplow/status"
            )
        return self._send(path)

    def _read(self):
        """Reads a JWT. It may be the same as before: Vault hands out one to many readers."""
        secret = self.vault.read(self.path)
        if secret is None:
            raise RuntimeError(f"there is nothing at {self.path}: check the path")
        for warning in secret.get("warnings") or []:
            print("Vault warns:", warning, file=sys.stderr)
        self.token = secret["data"]
        # The lease cannot be renewed. Two thirds of it leave time for a Vault that is away.
        self.read_again_at = time.monotonic() + secret["lease_duration"] * 2 / 3

    def _send(self, path):
        return self.session.get(
            self.token["console_url"] + path,
            headers={"Authorization": "Bearer " + self.token["access_token"]},
            timeout=30,
        )


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: client.py <path of the token, for example snowplow/token/analytics>")
    # VAULT_ADDR and VAULT_TOKEN. For a CA of your own: hvac.Client(verify="/path/of/ca.pem").
    try:
        console = Console(hvac.Client(), sys.argv[1])
    except (RuntimeError, hvac.exceptions.VaultError, requests.RequestException) as error:
        sys.exit(f"error: {error}")
    for line in sys.stdin:
        try:
            response = console.get(line.strip())
            print(response.status_code, response.text.strip(), flush=True)
        except (RuntimeError, hvac.exceptions.VaultError, requests.RequestException) as error:
            print("error:", error, flush=True)


if __name__ == "__main__":
    main()
