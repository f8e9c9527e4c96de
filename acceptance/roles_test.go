package acceptance

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// analyticsKey is the scoped key of a team.
var analyticsKey = consoletest.Key{ID: "analytics-key-id", Secret: "canary-analytics-key-do-not-leak"}

func keyOf(key consoletest.Key) fields { return fields{"api_key_id": key.ID, "api_key": key.Secret} }

func TestRoleIsWrittenReadUpdatedListedAndDeleted(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	console.AddKey(analyticsKey)
	m.absent(t, "roles/analytics")
	none, err := m.tryList("roles")
	require.NoError(t, err)
	require.Nil(t, none, "no roles are there")

	m.write(t, "roles/analytics", with(keyOf(analyticsKey), fields{"ttl": "1h"}))
	want := fields{"credentials_version": "v3", "api_key_id": analyticsKey.ID, "ttl": json.Number("3600")}
	role := m.read(t, "roles/analytics").Data
	require.Subset(t, role, want, "what the role says itself")
	require.NotContains(t, role, "api_key", "a role's secret")

	m.write(t, "roles/analytics", fields{"reuse_period": "5m"})
	want["reuse_period"] = json.Number("300")
	require.Subset(t, m.read(t, "roles/analytics").Data, want, "an update keeps what it leaves out")
	m.patch(t, "roles/analytics", fields{"ttl": nil, "reuse_period": "1m"})
	delete(want, "ttl")
	want["reuse_period"] = json.Number("60")
	role = m.read(t, "roles/analytics").Data
	require.Subset(t, role, want, "a patch changes a field")
	require.NotContains(t, role, "ttl", "null takes a field back to config's")
	_, err = m.tryPatch(t, "roles/nobody", fields{"ttl": 60})
	requireStatus(t, err, http.StatusBadRequest)

	m.write(t, "roles/short", fields{"ttl": "1m"})
	list, err := m.tryList("roles")
	require.NoError(t, err)
	require.Equal(t, []any{"analytics", "short"}, list.Data["keys"])

	requireKeyID(t, console, m.jwt(t, "token/analytics"), analyticsKey.ID)
	requireKeyID(t, console, m.jwt(t, "token/short"), consoletest.DefaultAPIKeyID)
	require.Equal(t, 60, m.read(t, "token/short").LeaseDuration)

	m.remove(t, "roles/analytics")
	m.absent(t, "roles/analytics")
}

func TestDeletedRoleGivesNoTokensAndKeepsItsLeasesRevocable(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	console.AddKey(analyticsKey)
	m.write(t, "roles/analytics", keyOf(analyticsKey))
	lease, other := m.read(t, "token/analytics").LeaseID, m.read(t, "token/analytics").LeaseID
	m.remove(t, "roles/analytics")

	_, err := m.tryRead("token/analytics")
	requireStatus(t, err, http.StatusBadRequest)
	_, err = m.tryRead("status/analytics")
	requireStatus(t, err, http.StatusBadRequest)
	require.NoError(t, m.client.Sys().Revoke(lease), "revoking a lease of a deleted role")
	require.NoError(t, m.client.Sys().RevokePrefix(m.at("token/analytics")))
	_, err = m.client.Sys().Lookup(other)
	requireStatus(t, err, http.StatusBadRequest, "invalid lease")
}
