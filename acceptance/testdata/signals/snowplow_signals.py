"""Stands in for the Signals Python SDK, where that is not installed: what its HTTP layer does with a token."""

import json
import urllib.request


class _ApiClient:
    def __init__(self, api_url, sandbox_token):
        self.api_url = api_url.rstrip("/")
        self.sandbox_token = sandbox_token
        self.token = None

    def _check_token(self, token):
        return self.sandbox_token

    def post(self, endpoint, data):
        self.token = self._check_token(self.token)
        request = urllib.request.Request(
            f"{self.api_url}/api/v1/{endpoint}",
            data=json.dumps(data).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json; charset=utf-8",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)


class SignalsSandbox:
    def __init__(self, *, api_url, sandbox_token):
        self.api_client = _ApiClient(api_url, sandbox_token)

    def get_service_attributes(self, name, attribute_key, identifier):
        data = {"service": name, "attribute_keys": {attribute_key: [identifier]}}
        answer = self.api_client.post("get-online-attributes", data)
        return {key: values[0] if values else None for key, values in answer.items()}
