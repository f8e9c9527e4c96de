# The team "analytics": tokens of its own role only. "update" is for clients that can only PUT; "delete" makes the
# engine forget the cached JWT.
path "snowplow/token/analytics" {
  capabilities = ["read", "update", "delete"]
}
