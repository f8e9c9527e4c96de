package acceptance

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// attempts are everything that one can do to the engine, and the holders of which example policies may do it. The
// order matters: what takes something away is last.
var attempts = []struct {
	operation, path string
	data            fields
	may             string
}{
	{"write", "config", fields{"ttl": "1h"}, "operator"},
	{"patch", "config", fields{"ttl": "1h"}, "operator"},
	{"read", "config", nil, "operator"},
	{"list", "roles", nil, "operator auditor"},
	{"write", "roles/new", fields{"ttl": "1h"}, "operator"},
	{"write", "roles/analytics", fields{"ttl": "1h"}, "operator"},
	{"write", "roles/analytics", keyOf(analyticsKey), "operator team-key"},
	{"write", "roles/ingest", keyOf(analyticsKey), "operator"},
	{"patch", "roles/analytics", fields{"ttl": "1h"}, "operator"},
	{"read", "roles/analytics", nil, "operator"},
	{"read", "status", nil, "operator auditor"},
	{"read", "status/analytics", nil, "operator auditor team"},
	{"read", "status/ingest", nil, "operator auditor"},
	{"read", "metrics", nil, "operator auditor"},
	{"read", "token", nil, "token"},
	{"write", "token", nil, ""},
	{"delete", "token", nil, "operator"},
	{"read", "token/analytics", nil, "team"},
	{"delete", "token/analytics", nil, "operator"},
	{"read", "token/ingest", nil, ""},
	{"delete", "token/ingest", nil, "operator"},
	{"delete", "roles/analytics", nil, "operator"},
	{"delete", "config", nil, "operator"},
}

func TestExamplePolicies(t *testing.T) {
	t.Parallel()
	policies := map[string]string{"token": `path "snowplow/token" { capabilities = ["read"] }`}
	files, err := filepath.Glob("../examples/policies/*.hcl")
	require.NoError(t, err)
	for _, file := range files {
		policies[strings.TrimSuffix(filepath.Base(file), ".hcl")] = examples.file(t, "policies/"+filepath.Base(file))
	}
	root, console := configuredAlone(t)
	require.Equal(t, []string{"auditor", "operator", "team", "team-key", "token"}, slices.Sorted(maps.Keys(policies)), "each is tried here")
	for policy, rules := range policies {
		root.write(t, "config", defaultConfig(console))
		root.write(t, "roles/analytics", keyOf(analyticsKey))
		root.write(t, "roles/ingest", keyOf(analyticsKey))
		root.remove(t, "roles/new")

		holder := root.as(t, root.server.createToken(t, rules))
		for _, attempt := range attempts {
			_, err := holder.try(t, attempt.operation, attempt.path, attempt.data)
			if !slices.Contains(strings.Fields(attempt.may), policy) {
				assert.True(t, isDenied(err), "%s may not: %v", policy, attempt)
			} else if attempt.path == "metrics" { // text, which is no answer to this client
				assert.False(t, isDenied(err), "%s may: %v", policy, attempt)
			} else {
				assert.NoError(t, err, "%s may: %v", policy, attempt)
			}
		}
	}
}

// TestTeamCannotGetAJWTOfConfigsKey tries to make a role lose its key, as a team that may replace that key.
func TestTeamCannotGetAJWTOfConfigsKey(t *testing.T) {
	t.Parallel()
	root, console := configuredAlone(t)
	root.remove(t, "roles/analytics")
	rules := examples.file(t, "policies/team.hcl") + examples.file(t, "policies/team-key.hcl")
	team := root.as(t, root.server.createToken(t, rules))
	tries := []fields{
		{},
		{"ttl": "1h"},
		{"api_key_id": analyticsKey.ID},
		{"api_key_id": nil, "api_key": nil},
		{"api_key_id": "", "api_key": ""},
		with(keyOf(analyticsKey), fields{"credentials_version": "v1"}),
		with(keyOf(analyticsKey), fields{"organization_id": "another"}),
	}
	for _, exists := range []bool{false, true} {
		if exists {
			_, err := team.tryWrite("roles/analytics", keyOf(analyticsKey))
			require.NoError(t, err)
		}
		for _, data := range tries {
			for _, operation := range []string{"write", "patch", "delete"} {
				_, err := team.try(t, operation, "roles/analytics", data)
				require.Error(t, err, "%s %v", operation, data)
				secret, err := team.tryRead("token/analytics")
				if exists {
					require.NoError(t, err, "%s %v", operation, data)
					requireKeyID(t, console, jwtOf(t, secret), analyticsKey.ID)
				} else {
					require.Nil(t, secret, "%s %v", operation, data)
				}
			}
		}
	}
}
