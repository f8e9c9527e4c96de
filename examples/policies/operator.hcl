# Sets the engine up and keeps its keys. Cannot read a token, but can make the engine forget one.
path "snowplow/config" {
  capabilities = ["create", "update", "patch", "read", "delete"]
}

path "snowplow/roles/*" {
  capabilities = ["create", "update", "patch", "read", "delete"]
}

path "snowplow/roles" {
  capabilities = ["list"]
}

# To stop serving the cached JWT after its key was deleted in Console. "+" stands for every role.
path "snowplow/token" {
  capabilities = ["delete"]
}

path "snowplow/token/+" {
  capabilities = ["delete"]
}

path "snowplow/status" {
  capabilities = ["read"]
}

path "snowplow/status/*" {
  capabilities = ["read"]
}

path "snowplow/metrics" {
  capabilities = ["read"]
}
