package acceptance

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// attempts are everything that one can do to the engine, and the holders of which example policies may do it. The
// order matters: what takes something away is last.
var attempts = []struct {
	name string
	may  []string
	do   func(testing.TB, mount) error
}{
	{"write config", []string{"operator"}, func(_ testing.TB, m mount) error { _, err := m.tryWrite("config", fields{"ttl": "1h"}); return err }},
	{"patch config", []string{"operator"}, func(t testing.TB, m mount) error {
		_, err := m.tryPatch(t, "config", fields{"ttl": "1h"})
		return err
	}},
	{"read config", []string{"operator"}, tryRead("config")},
	{"list roles", []string{"operator", "auditor"}, func(_ testing.TB, m mount) error { _, err := m.tryList("roles"); return err }},
	{"write a new role", []string{"operator"}, func(_ testing.TB, m mount) error { _, err := m.tryWrite("roles/new", fields{"ttl": "1h"}); return err }},
	{"write a role", []string{"operator"}, func(_ testing.TB, m mount) error {
		_, err := m.tryWrite("roles/analytics", fields{"ttl": "1h"})
		return err
	}},
	{"patch a role", []string{"operator"}, func(t testing.TB, m mount) error {
		_, err := m.tryPatch(t, "roles/analytics", fields{"ttl": "1h"})
		return err
	}},
	{"read a role", []string{"operator"}, tryRead("roles/analytics")},
	{"read status", []string{"operator", "auditor"}, tryRead("status")},
	{"read a role's status", []string{"operator", "auditor"}, tryRead("status/analytics")},
	{"read metrics", []string{"operator", "auditor"}, tryReadMetrics},
	{"read a token", []string{"ci"}, tryRead("token")},
	{"read a token with PUT", []string{"ci"}, func(_ testing.TB, m mount) error { _, err := m.tryWrite("token", nil); return err }},
	{"forget the token", []string{"operator"}, tryDelete("token")},
	{"read analytics' token", []string{"team"}, tryRead("token/analytics")},
	{"read analytics' token with PUT", []string{"team"}, func(_ testing.TB, m mount) error { _, err := m.tryWrite("token/analytics", nil); return err }},
	{"forget analytics' token", []string{"operator", "team"}, tryDelete("token/analytics")},
	{"read another role's token", nil, tryRead("token/ingest")},
	{"forget another role's token", []string{"operator"}, tryDelete("token/ingest")},
	{"delete a role", []string{"operator"}, tryDelete("roles/analytics")},
	{"delete config", []string{"operator"}, tryDelete("config")},
}

func tryRead(path string) func(testing.TB, mount) error {
	return func(_ testing.TB, m mount) error { _, err := m.tryRead(path); return err }
}

// tryReadMetrics asks only whether the policy allows it: the answer is text, and not this test's matter.
func tryReadMetrics(t testing.TB, m mount) error {
	response, err := m.client.Logical().ReadRawWithContext(t.Context(), m.at("metrics"))
	if response != nil {
		require.NoError(t, response.Body.Close())
	}
	if isDenied(err) {
		return err
	}
	return nil
}

func tryDelete(path string) func(testing.TB, mount) error {
	return func(_ testing.TB, m mount) error { _, err := m.tryDelete(path); return err }
}

func TestExamplePolicies(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../examples/policies/*.hcl")
	require.NoError(t, err)
	var policies []string
	for _, file := range files {
		policies = append(policies, strings.TrimSuffix(filepath.Base(file), ".hcl"))
	}
	require.Equal(t, []string{"auditor", "ci", "operator", "team"}, policies, "each example is tried here")

	// The examples name the mount snowplow/.
	s := startServer(t)
	console := consoletest.NewServer(t)
	console.AddKey(analyticsKey)
	root := s.mount(t, "snowplow", "")
	for i, policy := range policies {
		rules, err := os.ReadFile(files[i])
		require.NoError(t, err)
		root.write(t, "config", defaultConfig(console))
		root.write(t, "roles/analytics", keyOf(analyticsKey))
		root.write(t, "roles/ingest", keyOf(analyticsKey))
		root.remove(t, "roles/new")

		holder := root.as(t, s.createToken(t, string(rules)))
		for _, attempt := range attempts {
			err := attempt.do(t, holder)
			if slices.Contains(attempt.may, policy) {
				assert.NoError(t, err, "%s may %s", policy, attempt.name)
			} else {
				assert.True(t, isDenied(err), "%s may not %s", policy, attempt.name)
			}
		}
	}
}

func TestPolicyForTokenAloneOpensNothingElse(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	m.write(t, "roles/analytics", fields{"ttl": "2h"})
	m.write(t, "roles/ingest", fields{"ttl": "2h"})
	reader := m.as(t, m.server.createToken(t, `path "`+m.at("token")+`" { capabilities = ["read"] }`))
	for _, attempt := range attempts {
		if attempt.name != "read a token" {
			assert.True(t, isDenied(attempt.do(t, reader)), "the reader may not %s", attempt.name)
		}
	}
	requireKeyID(t, console, reader.jwt(t, "token"), consoletest.DefaultAPIKeyID)
}
