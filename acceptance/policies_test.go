package acceptance

import (
	"maps"
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
	{"write config", []string{"operator"}, tryWriting("config", fields{"ttl": "1h"})},
	{"patch config", []string{"operator"}, tryPatching("config", fields{"ttl": "1h"})},
	{"read config", []string{"operator"}, tryReading("config")},
	{"list roles", []string{"operator", "auditor"}, func(_ testing.TB, m mount) error { _, err := m.tryList("roles"); return err }},
	{"write a new role", []string{"operator"}, tryWriting("roles/new", fields{"ttl": "1h"})},
	{"write a role", []string{"operator"}, tryWriting("roles/analytics", fields{"ttl": "1h"})},
	{"write a role's key", []string{"operator", "team-key"}, tryWriting("roles/analytics", keyOf(analyticsKey))},
	{"write another role's key", []string{"operator"}, tryWriting("roles/ingest", keyOf(analyticsKey))},
	{"patch a role", []string{"operator"}, tryPatching("roles/analytics", fields{"ttl": "1h"})},
	{"read a role", []string{"operator"}, tryReading("roles/analytics")},
	{"read status", []string{"operator", "auditor"}, tryReading("status")},
	{"read a role's status", []string{"operator", "auditor", "team"}, tryReading("status/analytics")},
	{"read another role's status", []string{"operator", "auditor"}, tryReading("status/ingest")},
	{"read metrics", []string{"operator", "auditor"}, tryReadingMetrics},
	{"read a token", []string{"token"}, tryReading("token")},
	{"read a token with PUT", nil, tryWriting("token", nil)},
	{"forget the token", []string{"operator"}, tryDeleting("token")},
	{"read analytics' token", []string{"team"}, tryReading("token/analytics")},
	{"forget analytics' token", []string{"operator"}, tryDeleting("token/analytics")},
	{"read another role's token", nil, tryReading("token/ingest")},
	{"forget another role's token", []string{"operator"}, tryDeleting("token/ingest")},
	{"delete a role", []string{"operator"}, tryDeleting("roles/analytics")},
	{"delete config", []string{"operator"}, tryDeleting("config")},
}

func tryReading(path string) func(testing.TB, mount) error {
	return func(_ testing.TB, m mount) error { _, err := m.tryRead(path); return err }
}

func tryWriting(path string, data fields) func(testing.TB, mount) error {
	return func(_ testing.TB, m mount) error { _, err := m.tryWrite(path, data); return err }
}

func tryPatching(path string, data fields) func(testing.TB, mount) error {
	return func(t testing.TB, m mount) error { _, err := m.tryPatch(t, path, data); return err }
}

// tryReadingMetrics asks only whether the policy allows it: the answer is text, and not this test's matter.
func tryReadingMetrics(t testing.TB, m mount) error {
	response, err := m.client.Logical().ReadRawWithContext(t.Context(), m.at("metrics"))
	if response != nil {
		require.NoError(t, response.Body.Close())
	}
	if isDenied(err) {
		return err
	}
	return nil
}

func tryDeleting(path string) func(testing.TB, mount) error {
	return func(_ testing.TB, m mount) error { _, err := m.tryDelete(path); return err }
}

// examplePolicies are the rules of each example policy, and a mount at the path that they name.
func examplePolicies(t *testing.T) (map[string]string, mount, *consoletest.Server) {
	t.Helper()
	files, err := filepath.Glob("../examples/policies/*.hcl")
	require.NoError(t, err)
	policies := map[string]string{}
	for _, file := range files {
		rules, err := os.ReadFile(file)
		require.NoError(t, err)
		policies[strings.TrimSuffix(filepath.Base(file), ".hcl")] = string(rules)
	}
	m, console := configuredAlone(t)
	return policies, m, console
}

func TestExamplePolicies(t *testing.T) {
	t.Parallel()
	policies, root, console := examplePolicies(t)
	policies["token"] = `path "snowplow/token" { capabilities = ["read"] }`
	require.Equal(t, []string{"auditor", "operator", "team", "team-key", "token"}, slices.Sorted(maps.Keys(policies)), "each is tried here")
	for policy, rules := range policies {
		root.write(t, "config", defaultConfig(console))
		root.write(t, "roles/analytics", keyOf(analyticsKey))
		root.write(t, "roles/ingest", keyOf(analyticsKey))
		root.remove(t, "roles/new")

		holder := root.as(t, root.server.createToken(t, rules))
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

// TestTeamCannotGetAJWTOfConfigsKey tries to make a role lose its key, as a team that may replace that key.
func TestTeamCannotGetAJWTOfConfigsKey(t *testing.T) {
	t.Parallel()
	policies, root, console := examplePolicies(t)
	root.remove(t, "roles/analytics")
	team := root.as(t, root.server.createToken(t, policies["team"]+policies["team-key"]))
	tries := map[string]func(testing.TB, mount) error{
		"no key":               tryWriting("roles/analytics", fields{}),
		"another field":        tryWriting("roles/analytics", fields{"ttl": "1h"}),
		"half a key":           tryWriting("roles/analytics", fields{"api_key_id": analyticsKey.ID}),
		"null":                 tryWriting("roles/analytics", fields{"api_key_id": nil, "api_key": nil}),
		"empty":                tryWriting("roles/analytics", fields{"api_key_id": "", "api_key": ""}),
		"a version without":    tryWriting("roles/analytics", with(keyOf(analyticsKey), fields{"credentials_version": "v1"})),
		"PATCH null":           tryPatching("roles/analytics", fields{"api_key": nil}),
		"PATCH null, both":     tryPatching("roles/analytics", fields{"api_key_id": nil, "api_key": nil}),
		"deleting the role":    tryDeleting("roles/analytics"),
		"an organization's ID": tryWriting("roles/analytics", with(keyOf(analyticsKey), fields{"organization_id": "another"})),
	}
	for _, exists := range []bool{false, true} {
		if exists {
			_, err := team.tryWrite("roles/analytics", keyOf(analyticsKey))
			require.NoError(t, err)
		}
		for name, try := range tries {
			require.Error(t, try(t, team), name)
			secret, err := team.tryRead("token/analytics")
			if exists {
				require.NoError(t, err, name)
				requireKeyID(t, console, jwtOf(t, secret), analyticsKey.ID)
			} else {
				require.Nil(t, secret, name)
			}
		}
	}
}
