package acceptance

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// analyticsKey and ingestKey are scoped keys of two teams.
var (
	analyticsKey = consoletest.Key{ID: "analytics-key-id", Secret: "canary-analytics-key-do-not-leak"}
	ingestKey    = consoletest.Key{ID: "ingest-key-id", Secret: "canary-ingest-key-do-not-leak"}
)

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
	require.Equal(t, want, m.read(t, "roles/analytics").Data, "what the role says itself, without its secret")

	m.write(t, "roles/analytics", fields{"reuse_period": "5m"})
	want["reuse_period"] = json.Number("300")
	require.Equal(t, want, m.read(t, "roles/analytics").Data, "an update keeps what it leaves out")
	m.patch(t, "roles/analytics", fields{"ttl": nil, "reuse_period": "1m"})
	delete(want, "ttl")
	want["reuse_period"] = json.Number("60")
	require.Equal(t, want, m.read(t, "roles/analytics").Data, "a patch changes a field, and null takes one back to config's")
	_, err = m.tryPatch(t, "roles/nobody", fields{"ttl": 60})
	requireStatus(t, err, http.StatusBadRequest, `role "nobody" is not known`)

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

func TestRolesWithTheSameCredentialShareItsJWT(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	console.AddKey(analyticsKey)
	m.write(t, "roles/plain", fields{"ttl": "1h"})
	m.write(t, "roles/short", fields{"ttl": "1m"})
	m.write(t, "roles/one", keyOf(analyticsKey))
	m.write(t, "roles/two", with(keyOf(analyticsKey), fields{"ttl": "1m"}))
	m.write(t, "roles/unshared", fields{"reuse_period": 0})
	before := console.Exchanges()

	jwt := m.jwt(t, "token")
	require.Equal(t, jwt, m.jwt(t, "token/plain"))
	require.Equal(t, jwt, m.jwt(t, "token/short"))
	require.Equal(t, before+1, console.Exchanges(), "config's key is exchanged once for three paths")
	scoped := m.jwt(t, "token/one")
	require.NotEqual(t, jwt, scoped, "another key's JWT")
	require.Equal(t, scoped, m.jwt(t, "token/two"))
	require.Equal(t, before+2, console.Exchanges(), "the scoped key is exchanged once for two roles")

	require.NotEqual(t, jwt, m.jwt(t, "token/unshared"), "a role with reuse_period=0 makes an exchange for each read")
	require.Equal(t, jwt, m.jwt(t, "token"), "which is none of the others' business")
}

func TestDeletedRoleGivesNoTokensAndKeepsItsLeasesRevocable(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	console.AddKey(analyticsKey)
	m.write(t, "roles/analytics", keyOf(analyticsKey))
	lease, other := m.read(t, "token/analytics").LeaseID, m.read(t, "token/analytics").LeaseID
	m.remove(t, "roles/analytics")

	_, err := m.tryRead("token/analytics")
	requireStatus(t, err, http.StatusBadRequest, `role "analytics" is not known`, "vault list "+m.at("roles"))
	_, err = m.tryRead("status/analytics")
	requireStatus(t, err, http.StatusBadRequest, `role "analytics" is not known`)
	require.NoError(t, m.client.Sys().Revoke(lease), "revoking a lease of a deleted role")
	require.NoError(t, m.client.Sys().RevokePrefix(m.at("token/analytics")))
	_, err = m.client.Sys().Lookup(other)
	requireStatus(t, err, http.StatusBadRequest, "invalid lease")
}

func TestBadRolesAreRefusedAndNotStored(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	for name, test := range map[string]struct {
		role fields
		says []string
	}{
		"wrong key":                 {fields{"api_key_id": consoletest.DefaultAPIKeyID, "api_key": "wrong"}, []string{"refused the API key with status 401", "nothing was stored"}},
		"ID without its key":        {fields{"api_key_id": consoletest.DefaultAPIKeyID}, []string{"api_key is missing"}},
		"key without its ID":        {fields{"api_key": "x"}, []string{"api_key_id is missing"}},
		"organization alone":        {fields{"organization_id": consoletest.DefaultOrganizationID}, []string{"organization_id on a role needs a credential"}},
		"unknown field":             {fields{"console_url": console.URL}, []string{"unknown field console_url"}},
		"key as an object":          {fields{"api_key": fields{"x": "y"}}, []string{"api_key is an object or a list"}},
		"foreign to v3":             {with(keyOf(analyticsKey), fields{"password": "x"}), []string{"password does not belong to credentials_version v3"}},
		"bad ttl":                   {fields{"ttl": "soon"}, []string{"ttl"}},
		"another's organization ID": {with(fields{"api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey}, fields{"organization_id": "66666666-2222-4333-8444-555555555555"}), []string{"66666666-2222-4333-8444-555555555555", "nothing was stored"}},
	} {
		_, err := m.tryWrite("roles/bad", test.role)
		requireStatus(t, err, http.StatusBadRequest, test.says...)
		secret, err := m.tryRead("roles/bad")
		require.NoError(t, err)
		require.Nil(t, secret, "a role is stored after: %s", name)
	}

	// What is there already stays as it was.
	console.AddKey(analyticsKey)
	m.write(t, "roles/good", keyOf(analyticsKey))
	before, jwt := m.read(t, "roles/good").Data, m.jwt(t, "token/good")
	_, err := m.tryWrite("roles/good", fields{"api_key": "wrong", "ttl": 60})
	requireStatus(t, err, http.StatusBadRequest, "nothing was stored")
	_, err = m.tryPatch(t, "roles/good", fields{"api_key": "wrong", "ttl": 60})
	requireStatus(t, err, http.StatusBadRequest, "nothing was stored")
	require.Equal(t, before, m.read(t, "roles/good").Data)
	require.Equal(t, jwt, m.jwt(t, "token/good"), "the kept JWT after writes that failed")

	m.write(t, "roles/later", fields{"api_key_id": "later", "api_key": "not-yet-known", "verify_connection": false})
	_, err = m.tryRead("token/later")
	requireStatus(t, err, http.StatusBadRequest, "refused the API key", "vault write "+m.at("roles/later"))
	m.jwt(t, "token") // one role's bad key is no other path's business
}

// Each exchange that Snowplow has offered, on config and on a role, and the way from the older ones to v3.
func TestOlderExchangesAndTheWayToV3(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		credential fields
		keyID      string
		warning    string
		readable   fields
	}{
		"v2": {
			fields{"credentials_version": "v2", "api_key": analyticsKey.Secret},
			analyticsKey.ID, "credentials_version v2 is deprecated", fields{"credentials_version": "v2"},
		},
		"v1": {
			fields{
				"credentials_version": "v1",
				"username":            consoletest.DefaultUsername, "password": consoletest.DefaultPassword,
				"client_id": consoletest.DefaultClientID, "client_secret": consoletest.DefaultClientSecret,
			},
			consoletest.DefaultUsername, "credentials_version v1 is deprecated",
			fields{"credentials_version": "v1", "username": consoletest.DefaultUsername, "client_id": consoletest.DefaultClientID},
		},
	} {
		for path, token := range map[string]string{"config": "token", "roles/old": "token/old"} {
			t.Run(name+" on "+path, func(t *testing.T) {
				t.Parallel()
				console := consoletest.NewServer(t)
				console.AddKey(analyticsKey)
				console.AddKey(ingestKey)
				m := newMount(t)
				endpoints := fields{"organization_id": consoletest.DefaultOrganizationID, "console_url": console.URL, "auth_url": console.URL}
				write := test.credential
				if path == "config" {
					write = with(endpoints, write)
				} else {
					m.write(t, "config", with(defaultConfig(console), endpoints))
				}

				for _, change := range []fields{write, {"ttl": "1h"}} {
					answer := m.write(t, path, change)
					require.NotNil(t, answer, "a write of an older exchange has warnings")
					require.Len(t, answer.Warnings, 1)
					require.Contains(t, answer.Warnings[0], test.warning)
				}
				stored := m.read(t, path).Data
				for field, value := range test.readable {
					require.Equal(t, value, stored[field])
				}
				for _, field := range []string{"api_key", "password", "client_secret", "api_key_id"} {
					require.NotContains(t, stored, field)
				}
				requireKeyID(t, console, m.jwt(t, token), test.keyID)

				// One write. What v1 has and v3 has no use for is not kept, and the answer says so.
				answer := m.write(t, path, with(keyOf(ingestKey), fields{"credentials_version": "v3"}))
				if name == "v1" {
					require.Contains(t, answer.Warnings[0], "has no use for username, password, client_id, client_secret")
				} else {
					require.Nil(t, answer, "v3 has no warning")
				}
				require.Equal(t, ingestKey.ID, m.read(t, path).Data["api_key_id"])
				require.NotContains(t, m.read(t, path).Data, "username")
				requireKeyID(t, console, m.jwt(t, token), ingestKey.ID)
			})
		}
	}
}

func TestV2BecomesV3WithTheIDAlone(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	m := newMount(t)
	config := defaultConfig(console)
	delete(config, "api_key_id")
	m.write(t, "config", with(config, fields{"credentials_version": "v2"}))
	m.write(t, "config", fields{"credentials_version": "v3", "api_key_id": consoletest.DefaultAPIKeyID})
	requireKeyID(t, console, m.jwt(t, "token"), consoletest.DefaultAPIKeyID)
	require.Contains(t, console.LastRequest().URL.Path, "/credentials/v3/")
}
