# All that the Agent needs: the tokens of one role. Its own login it renews by Vault's default policy.
path "snowplow/token/analytics" {
  capabilities = ["read"]
}
