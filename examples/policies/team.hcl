# Readers of one role, "analytics": people, agents, CI jobs. They read its tokens and see how its reads fare; there is no
# secret in status. Name the policy after the role: snowplow-analytics.
path "snowplow/token/analytics" {
  capabilities = ["read"]
}

path "snowplow/status/analytics" {
  capabilities = ["read"]
}
