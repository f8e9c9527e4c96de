// govulncheck, apart from the plugin's go.mod to keep that one short. v1.7.0 is the
// newest that builds with Go 1.25; v1.8 wants 1.26.
module github.com/snowplow-vault/vault-plugin-secrets-snowplow/tools/vulncheck

go 1.25.7

tool golang.org/x/vuln/cmd/govulncheck

require (
	golang.org/x/mod v0.39.0 // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/telemetry v0.0.0-20260811182544-a038080d80e5 // indirect
	golang.org/x/tools v0.49.0 // indirect
	golang.org/x/vuln v1.7.0 // indirect
)
