# Prometheus: the engine's metrics and Vault's own. No secret can be read with this.
path "snowplow/metrics" {
  capabilities = ["read"]
}

path "sys/metrics" {
  capabilities = ["read"]
}
