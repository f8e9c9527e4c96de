"""Snowplow Signals without an API key: the SDK, with a JWT that Vault Agent keeps in a file.

It prints the attributes of each identifier that it reads from standard input. Needs
snowplow-signals (pip install snowplow-signals), and the Agent of examples/agent.

    export SIGNALS_API_URL=https://example.svc.snplow.net SNOWPLOW_TOKEN_FILE=/run/snowplow/token
    echo user-1 | python3 signals.py my_service user_id
"""

import json
import os
import sys
from pathlib import Path

from snowplow_signals import SignalsSandbox


def vault_signals(api_url, token_file):
    """The SDK's client in the mode in which it makes no exchange, with the JWT in token_file."""

    def read(_=None):
        return Path(token_file).read_text(encoding="ascii").strip()

    signals = SignalsSandbox(api_url=api_url, sandbox_token=read())
    # The SDK asks this method for the token of each request, and would answer with the first one
    # for ever. It is private: look at it again when you upgrade the SDK. A program that ends
    # before its JWT does can leave this line out.
    signals.api_client._check_token = read
    return signals


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: signals.py <name of the service> <attribute key>")
    signals = vault_signals(os.environ["SIGNALS_API_URL"], os.environ["SNOWPLOW_TOKEN_FILE"])
    for line in sys.stdin:
        try:
            attributes = signals.get_service_attributes(
                name=sys.argv[1], attribute_key=sys.argv[2], identifier=line.strip()
            )
            print(json.dumps(attributes), flush=True)
        except Exception as error:  # the next line may be answered
            print("error:", error, flush=True)


if __name__ == "__main__":
    main()
