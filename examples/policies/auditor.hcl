# Auditors and monitoring: which key is in use, how reads fare. No secret can be read with this.
path "snowplow/status" {
  capabilities = ["read"]
}

path "snowplow/status/*" {
  capabilities = ["read"]
}
