# Readers of the role "analytics": people, agents, CI jobs. They may read its tokens and its status, which contains no
# secret. Name the policy after the role: snowplow-analytics.
path "snowplow/token/analytics" {
  capabilities = ["read"]
}

path "snowplow/status/analytics" {
  capabilities = ["read"]
}
