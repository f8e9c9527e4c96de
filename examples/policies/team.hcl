# The team "analytics": tokens of its own role alone. "update" is for clients that can only PUT, "delete" forgets the
# token that is kept for further readers.
path "snowplow/token/analytics" {
  capabilities = ["read", "update", "delete"]
}
