// Package floor is the old name of package baseline, for bench_test.go until that names the new one.
package floor

import "github.com/snowplow-vault/vault-plugin-secrets-snowplow/bench/baseline"

// Factory makes a mount of the baseline.
var Factory = baseline.Factory
