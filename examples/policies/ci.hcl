# CI jobs: tokens of config's key. Without "delete", no job can make Console issue more tokens than its readers need.
path "snowplow/token" {
  capabilities = ["read", "update"]
}
