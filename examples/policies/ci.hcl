# CI jobs: tokens of config's key. Without "delete", no job can make the engine exchange the key more often than its
# readers need.
path "snowplow/token" {
  capabilities = ["read", "update"]
}
