# For a team that replaces its role's key itself, in addition to team.hcl. Each write must contain a key, since a role
# without one serves JWTs of config's key. "**" matches any text ("*" alone would be a literal asterisk) but not null,
# which removes the key; the engine refuses empty text. No "patch", no "delete", no other field.
path "snowplow/roles/analytics" {
  capabilities        = ["create", "update"]
  required_parameters = ["api_key_id", "api_key"]
  allowed_parameters = {
    "api_key_id" = ["**"]
    "api_key"    = ["**"]
  }
}
