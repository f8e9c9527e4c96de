# Sets the engine up and keeps its keys: may write config and roles, may not read tokens.
path "snowplow/config" {
  capabilities = ["create", "update", "patch", "read", "delete"]
}

path "snowplow/roles/*" {
  capabilities = ["create", "update", "patch", "read", "delete"]
}

path "snowplow/roles" {
  capabilities = ["list"]
}

path "snowplow/status" {
  capabilities = ["read"]
}

path "snowplow/status/*" {
  capabilities = ["read"]
}
