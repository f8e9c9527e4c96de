# Auditors: which roles there are, which key each uses, and whether reads succeed. Cannot read a token or a key.
path "snowplow/roles" {
  capabilities = ["list"]
}

path "snowplow/status" {
  capabilities = ["read"]
}

path "snowplow/status/*" {
  capabilities = ["read"]
}

path "snowplow/metrics" {
  capabilities = ["read"]
}
