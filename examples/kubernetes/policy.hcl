# The tokens of one role. Each of the three ways reads with GET.
path "snowplow/token/analytics" {
  capabilities = ["read"]
}
