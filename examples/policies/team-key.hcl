# A team that replaces the key of its own role, beside team.hcl. Each write must carry a key, since a role without one
# serves JWTs of config's key. "**" is any text, but not null, which would remove the key; the engine refuses empty text.
# (For Vault, a single "*" is an asterisk.) No "patch", no "delete", and no field that is not here.
path "snowplow/roles/analytics" {
  capabilities        = ["create", "update"]
  required_parameters = ["api_key_id", "api_key"]
  allowed_parameters = {
    "api_key_id" = ["**"]
    "api_key"    = ["**"]
  }
}
