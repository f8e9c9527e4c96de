// The roots that the container image trusts, apart from the plugin's go.mod to keep
// that one short. Wants a newer Go than the plugin, since old roots are no roots to trust.
module github.com/snowplow-vault/vault-plugin-secrets-snowplow/tools/cacerts

go 1.26.0

require golang.org/x/crypto/x509roots/fallback v0.0.0-20261030153154-30a33513ff6d
