# Jobs that use the role "ci". Nothing else, and no "delete": no job can make the engine exchange the key more often than
# its readers need.
path "snowplow/token/ci" {
  capabilities = ["read"]
}
