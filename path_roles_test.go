package snowplow

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

func TestRolesAreWrittenReadListedAndDeleted(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	assert.Empty(t, m.must(logical.ListOperation, "roles/").Data["keys"])
	assert.Nil(t, m.must(logical.ReadOperation, "roles/analytics"), "Vault answers 404")

	m.mustWrite("roles/analytics", scopedKey(console, "scoped"), map[string]any{"ttl": "1h"})
	m.mustWrite("roles/ci", map[string]any{"reuse_period": 0})
	assert.Equal(t, []string{"analytics", "ci"}, m.must(logical.ListOperation, "roles/").Data["keys"])
	assert.Equal(t, map[string]any{"credential_source": "role", "credentials_version": "v3", "api_key_id": "scoped", "ttl": int64(3600)}, m.settingsAt("roles/analytics"))
	assert.Equal(t, map[string]any{"credential_source": "config", "reuse_period": int64(0)}, m.settingsAt("roles/ci"))

	m.mustWrite("roles/analytics", map[string]any{"reuse_period": "5m"})
	assert.Equal(t, map[string]any{"credential_source": "role", "credentials_version": "v3", "api_key_id": "scoped", "ttl": int64(3600), "reuse_period": int64(300)}, m.settingsAt("roles/analytics"))

	assert.Equal(t, "scoped", keyIDOf(t, console, m.mustRead("token/analytics")))
	assert.Equal(t, consoletest.DefaultAPIKeyID, keyIDOf(t, console, m.mustRead("token/ci")))

	m.must(logical.DeleteOperation, "roles/analytics")
	assert.Equal(t, []string{"ci"}, m.must(logical.ListOperation, "roles/").Data["keys"])
	for _, path := range []string{"token/analytics", "status/analytics"} {
		status, message := m.refused(logical.ReadOperation, path)
		assert.Equal(t, 400, status)
		assert.Contains(t, message, `unknown role "analytics"; list roles with 'vault list snowplow/roles'`)
	}
}

func TestRoleTakesFromConfigWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t, map[string]any{"ttl": "15m"})
	m.mustWrite("roles/inherits", scopedKey(console, "scoped"))
	m.mustWrite("roles/unbounded", map[string]any{"ttl": 0})
	assert.Equal(t, 15*time.Minute, m.mustRead("token/inherits").Secret.TTL)
	assert.Equal(t, consoletest.DefaultOrganizationID, m.mustRead("token/inherits").Data["organization_id"])
	assert.Greater(t, m.mustRead("token/unbounded").Secret.TTL, 23*time.Hour)

	m.mustWrite("config", map[string]any{"ttl": "5m"})
	assert.Equal(t, 5*time.Minute, m.mustRead("token/inherits").Secret.TTL)
}

func TestRoleOfAnotherOrganization(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	const other = "99999999-2222-4333-8444-555555555555"
	console.AddKey(consoletest.Key{OrganizationID: other, ID: "theirs", Secret: "their-secret"})
	m.mustWrite("roles/theirs", map[string]any{"organization_id": other, "api_key_id": "theirs", "api_key": "their-secret"})
	assert.Equal(t, other, m.mustRead("roles/theirs").Data["organization_id"])
	resp := m.mustRead("token/theirs")
	assert.Equal(t, other, resp.Data["organization_id"])
	assert.Equal(t, "theirs", keyIDOf(t, console, resp))
	assert.Equal(t, other, m.mustRead("status/theirs").Data["organization_id"])
}

func TestRoleRefusesWhatItCannotHold(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fields map[string]any
		says   string
	}{
		"organization without a credential": {map[string]any{"organization_id": consoletest.DefaultOrganizationID}, "organization_id on a role needs a credential"},
		"version without a credential":      {map[string]any{"credentials_version": "v3"}, "credentials_version on a role needs a credential"},
		"half a credential":                 {map[string]any{"api_key_id": "scoped"}, "api_key is missing"},
		"credential that is empty":          {map[string]any{"api_key_id": "", "api_key": ""}, "api_key_id is empty"},
		"key that is empty":                 {map[string]any{"api_key_id": "scoped", "api_key": ""}, "api_key is empty"},
		"URL of its own":                    {map[string]any{"console_url": "https://evil.example.com"}, "unknown field console_url"},
		"field of another version":          {map[string]any{"api_key_id": "a", "api_key": "b", "username": "c"}, "username does not belong"},
		"wrong key":                         {map[string]any{"api_key_id": "a", "api_key": "b"}, "nothing was stored"},
		"negative ttl":                      {map[string]any{"ttl": -1}, "ttl must be a duration"},
		"ttl of half a second":              {map[string]any{"ttl": "500ms"}, "ttl must be a duration"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := newConfiguredMount(t)
			status, message := m.refused(logical.UpdateOperation, "roles/analytics", test.fields)
			assert.Equal(t, 400, status)
			assert.Contains(t, message, test.says)
			assert.Nil(t, m.must(logical.ReadOperation, "roles/analytics"))
		})
	}
}

func TestRoleWithoutConfig(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.mustWrite("roles/shorter", map[string]any{"ttl": 60})
	status, message := m.refused(logical.UpdateOperation, "roles/own", map[string]any{"api_key_id": "a", "api_key": "b", "verify_connection": false})
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "the engine is not configured")
	status, message = m.refused(logical.ReadOperation, "token/shorter")
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "the engine is not configured")
}

func TestPatchOfRole(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	status, message := m.refused(logical.PatchOperation, "roles/analytics", map[string]any{"ttl": 60})
	assert.Equal(t, 400, status)
	assert.Contains(t, message, `unknown role "analytics"`)

	m.mustWrite("roles/analytics", scopedKey(console, "scoped"), map[string]any{"ttl": 60, "reuse_period": 60, "organization_id": consoletest.DefaultOrganizationID})
	m.must(logical.PatchOperation, "roles/analytics", map[string]any{"ttl": nil, "organization_id": nil})
	assert.Equal(t, map[string]any{"credential_source": "role", "credentials_version": "v3", "api_key_id": "scoped", "reuse_period": int64(60)}, m.settingsAt("roles/analytics"))

	status, message = m.refused(logical.PatchOperation, "roles/analytics", map[string]any{"api_key_id": nil})
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "api_key_id is missing")
}

const warnsOfConfigsKey = "the role has no credential of its own: its tokens are those of config's key"

func TestARoleLosesItsCredentialOnlyByAPatchThatNullsItsSecrets(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string]map[string]any{
		"the secret alone":         {"api_key": nil},
		"the pair":                 {"api_key": nil, "api_key_id": nil},
		"the pair and its version": {"api_key": nil, "api_key_id": nil, "credentials_version": nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, console := newConfiguredMount(t)
			own := map[string]any{"reuse_period": 60, "organization_id": consoletest.DefaultOrganizationID}
			m.mustWrite("roles/analytics", scopedKey(console, "scoped"), own)
			assert.Equal(t, "scoped", keyIDOf(t, console, m.mustRead("token/analytics")))
			resp := m.must(logical.PatchOperation, "roles/analytics", fields)
			assert.Equal(t, []string{warnsOfConfigsKey}, resp.Warnings)
			assert.Equal(t, map[string]any{"credential_source": "config", "reuse_period": int64(60)}, m.settingsAt("roles/analytics"))
			assert.Equal(t, consoletest.DefaultAPIKeyID, keyIDOf(t, console, m.mustRead("token/analytics")))
		})
	}
}

func TestEachWriteThatLeavesARoleWithoutACredentialSaysSo(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	for _, fields := range []map[string]any{{"ttl": 60}, {"ttl": 30}, {}} {
		resp := m.mustWrite("roles/bare", fields)
		require.NotNil(t, resp)
		assert.Equal(t, []string{warnsOfConfigsKey}, resp.Warnings)
	}
	assert.Nil(t, m.mustWrite("roles/bare", scopedKey(console, "scoped")), "nothing to warn of any more")
	m.mustWrite("roles/plain", map[string]any{"ttl": 60})
	m.must(logical.DeleteOperation, "config")
	assert.Contains(t, m.mustWrite("roles/plain", map[string]any{"ttl": 30}).Warnings[0], "reads of its token fail")
}

func TestRolesWithoutACredentialShareTheJWTOfConfig(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	for _, name := range []string{"a", "b"} {
		m.mustWrite("roles/own-"+name, scopedKey(console, "scoped"), map[string]any{"verify_connection": false})
		m.mustWrite("roles/bare-"+name, map[string]any{"ttl": 60})
	}
	bare := m.mustRead("token/bare-a").Data["access_token"]
	assert.Equal(t, bare, m.mustRead("token/bare-b").Data["access_token"])
	assert.Equal(t, bare, m.mustRead("token").Data["access_token"])
	own := m.mustRead("token/own-a").Data["access_token"]
	assert.NotEqual(t, bare, own)
	assert.NotEqual(t, own, m.mustRead("token/own-b").Data["access_token"], "each write of a key is a credential of its own")
	assert.Equal(t, 3, console.Exchanges())
}

func TestRotationOfARoleWhileAnExchangeOfItsOldKeyIsUnderWay(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*mount, *consoletest.Server){
		"new key": func(m *mount, c *consoletest.Server) { m.mustWrite("roles/analytics", scopedKey(c, "new")) },
		"replicated new key": func(m *mount, c *consoletest.Server) {
			entry, err := loadRole(m.t.Context(), m.storage, "analytics")
			require.NoError(m.t, err)
			entry.Credential.ID = "replicated"
			entry.Credential.APIKeyID, entry.Credential.APIKey = redact.NewSecret("new"), redact.NewSecret(scopedKey(c, "new")["api_key"].(string))
			require.NoError(m.t, store(m.t.Context(), m.storage, "roles/analytics", entry))
			m.backend.InvalidateKey(m.t.Context(), "roles/analytics")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, console := newConfiguredMount(t)
			m.mustWrite("roles/analytics", scopedKey(console, "old"), map[string]any{"verify_connection": false})
			hold := console.Hold()
			old := readLater(m, console, "token/analytics")
			<-hold.Started()
			change(m, console)
			assert.Equal(t, "new", keyIDOf(t, console, m.mustRead("token/analytics")))
			hold.Release()
			assert.Equal(t, "old", <-old)
			assert.Equal(t, "new", keyIDOf(t, console, m.mustRead("token/analytics")))
			exchanges := console.ExchangesOf("old")
			m.mustWrite("roles/analytics", scopedKey(console, "old"), map[string]any{"verify_connection": false})
			m.mustRead("token/analytics")
			assert.Equal(t, exchanges+1, console.ExchangesOf("old"), "the JWT of the older exchange was cached")
		})
	}
}

func TestAWriteEndsTheWaitOfItsOwnCredential(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	m.mustWrite("roles/own", scopedKey(console, "scoped"), map[string]any{"verify_connection": false})
	console.RemoveKey("scoped")
	console.RemoveKey(consoletest.DefaultAPIKeyID)
	for path, writes := range map[string][]string{"token/own": {"roles/own", "config"}, "token": {"config"}} {
		for _, write := range writes {
			_, message := m.refused(logical.ReadOperation, path)
			assert.Contains(t, message, "vault write snowplow/"+writes[0]+" ", "where the key is written")
			before := console.Exchanges()
			m.refused(logical.ReadOperation, path)
			assert.Equal(t, before, console.Exchanges())
			m.mustWrite(write, map[string]any{"ttl": 30})
			m.refused(logical.ReadOperation, path)
			assert.Equal(t, before+1, console.Exchanges(), "%s after a write to %s", path, write)
		}
	}
}

func TestLegacyCredentials(t *testing.T) {
	t.Parallel()
	for version, fields := range map[string]func(*consoletest.Server) map[string]any{
		"v2": func(*consoletest.Server) map[string]any {
			return map[string]any{"credentials_version": "v2", "api_key": consoletest.DefaultAPIKey}
		},
		"v1": func(c *consoletest.Server) map[string]any {
			fields := v1Config(c)
			delete(fields, "console_url")
			delete(fields, "auth_url")
			return fields
		},
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			console := consoletest.NewServer(t)
			m := newMount(t)
			urls := map[string]any{"console_url": console.URL, "auth_url": console.URL}
			organization := map[string]any{"organization_id": consoletest.DefaultOrganizationID}
			resp := m.mustWrite("config", fields(console), urls, organization)
			require.Len(t, resp.Warnings, 1)
			assert.Contains(t, resp.Warnings[0], version+" is deprecated")
			assert.NotEmpty(t, m.mustRead("token").Data["access_token"])
			assert.Equal(t, version, m.mustRead("status").Data["credentials_version"])

			m.mustWrite("config", v3Config(console), map[string]any{"credentials_version": "v3"})
			resp = m.mustWrite("roles/legacy", fields(console))
			require.Len(t, resp.Warnings, 1)
			assert.Contains(t, resp.Warnings[0], version+" is deprecated")
			assert.NotEmpty(t, m.mustRead("token/legacy").Data["access_token"])
			assert.Len(t, m.mustWrite("roles/legacy", map[string]any{"ttl": 60}).Warnings, 1, "at each write")
		})
	}
}

func TestRoleKeepsItsVersionWhenConfigMovesOn(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t, map[string]any{"credentials_version": "v3"})
	m.mustWrite("config", map[string]any{"credentials_version": "v2"})
	m.mustWrite("roles/legacy", map[string]any{"api_key": consoletest.DefaultAPIKey})
	m.mustWrite("config", v3Config(console), map[string]any{"credentials_version": "v3"})
	assert.Equal(t, "v2", m.mustRead("status/legacy").Data["credentials_version"])
	assert.NotEmpty(t, m.mustRead("token/legacy").Data["access_token"])
}

func TestANameThatNoRoleCanHaveIsRefusedWithWhatItMayHold(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	for _, name := range []string{"a b", "-a", "a.", ".a", "a..b", "a-..b", "a/b", "ä", "a\n"} {
		for _, path := range []string{"token/", "status/", "roles/"} {
			for _, operation := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation, logical.DeleteOperation} {
				status, message := m.refused(operation, path+name)
				assert.Equal(t, 400, status)
				assert.Contains(t, message, "cannot be the name of a role: it must consist of letters, digits", "%s %s%q", operation, path, name)
			}
		}
	}
	for _, name := range []string{"a", "_", "a.b", "a-.b", "a.-b", "a--b", "0.1_x"} {
		m.mustWrite("roles/"+name, map[string]any{"ttl": 60})
		m.mustRead("token/" + name)
	}
	for _, path := range []string{"token/", "nothing/here"} {
		_, err := m.request(t.Context(), logical.ReadOperation, path, map[string]any{"ttl": 60})
		require.ErrorIs(t, err, logical.ErrUnsupportedPath, path)
	}
}

func TestUnknownRolesLeaveNothingInMemory(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	for _, name := range []string{"a", "b", "c"} {
		m.refused(logical.ReadOperation, "token/"+name)
	}
	m.backend.current.Load().roles.Range(func(name, _ any) bool {
		assert.Fail(t, "kept", name)
		return true
	})
}

func TestARoleLosesItsOwnCredentialOnlyOnPurpose(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		operation logical.Operation
		fields    map[string]any
		says      string
	}{
		"empty variables":                {logical.UpdateOperation, map[string]any{"api_key_id": "", "api_key": ""}, "api_key_id is empty"},
		"an empty file":                  {logical.UpdateOperation, map[string]any{"api_key": "\n"}, "api_key is empty"},
		"empty values in a patch":        {logical.PatchOperation, map[string]any{"api_key": ""}, "api_key is empty"},
		"another version":                {logical.UpdateOperation, map[string]any{"credentials_version": "v1"}, "username, password, client_id, client_secret is missing"},
		"the version of config":          {logical.PatchOperation, map[string]any{"credentials_version": nil}, "is missing: credentials_version v1 needs"},
		"an empty version":               {logical.UpdateOperation, map[string]any{"credentials_version": ""}, "is missing: credentials_version v1 needs"},
		"half of it":                     {logical.PatchOperation, map[string]any{"api_key_id": nil}, "api_key_id is missing"},
		"the key, with an ID beside it":  {logical.PatchOperation, map[string]any{"api_key": nil, "api_key_id": "x"}, "api_key is missing"},
		"everything, but in another way": {logical.PatchOperation, map[string]any{"api_key": nil, "api_key_id": nil, "password": "x"}, "password does not belong"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, console := mountWithTeam(t)
				m.mustWrite("config", map[string]any{
					"credentials_version": "v1", "username": consoletest.DefaultUsername, "password": consoletest.DefaultPassword,
					"client_id": consoletest.DefaultClientID, "client_secret": consoletest.DefaultClientSecret,
				})
				status, message := m.refused(test.operation, "roles/team", test.fields)
				assert.Equal(t, 400, status)
				assert.Contains(t, message, test.says)
				m.must(logical.DeleteOperation, "token/team")
				id, _ := console.Issued(m.accessToken("token/team"))
				assert.Equal(t, "team", id)
			})
		})
	}
}

// A role that is written while config moves elsewhere is verified and bound for where config points in the end.
func TestARoleWrittenWhileConfigMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := mountWithTeam(t)
		fake.SetDelay(5 * time.Second)
		before := fake.Exchanges()
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.mustWrite("roles/team", map[string]any{"api_key_id": "team", "api_key": "team-secret"})
		}()
		time.Sleep(time.Second)
		m.mustWrite("config", map[string]any{"console_url": "https://elsewhere.example", "api_key": consoletest.DefaultAPIKey, "verify_connection": false})
		<-done
		assert.Equal(t, before+2, fake.Exchanges(), "a key that was verified at one Console was stored for another")
		assert.Equal(t, "https://elsewhere.example", m.mustRead("token/team").Data["console_url"])
	})
}

func TestARoleWithoutAKeyLeavesTheJWTAndTheWaitOfConfigAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := warmMount(t, nil)
		m.mustWrite("roles/plain", map[string]any{"ttl": 60})
		first := m.accessToken("token")
		status, message := m.refused(logical.DeleteOperation, "token/plain")
		assert.Equal(t, 400, status)
		assert.Contains(t, message, "vault delete snowplow/token")
		assert.Equal(t, first, m.accessToken("token"))

		// A role with the same key as config has a credential of its own.
		m.mustWrite("roles/same", map[string]any{"api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey})
		m.mustRead("token/same")
		m.must(logical.DeleteOperation, "roles/same")
		down(fake)
		assert.Equal(t, first, m.accessToken("token"))

		m.must(logical.DeleteOperation, "token")
		fake.FailAlways(consoletest.Status(http.StatusTooManyRequests, "", http.Header{"Retry-After": {"300"}}))
		m.refused(logical.ReadOperation, "token")
		before := fake.Exchanges()
		m.mustWrite("roles/plain", map[string]any{"ttl": 61})
		m.mustWrite("roles/same", map[string]any{"api_key_id": "x", "api_key": "y", "verify_connection": false})
		m.refused(logical.ReadOperation, "token")
		assert.Equal(t, before, fake.Exchanges())
		m.mustWrite("config", map[string]any{"ttl": 61})
		m.refused(logical.ReadOperation, "token")
		assert.Equal(t, before+1, fake.Exchanges(), "a write to config ends the wait")
	})
}

// A reader that has taken the placeholder of a role, and reads storage while the role is written, must not leave the
// old key for later readers.
func TestAReaderThatRacesAWriteOfItsRole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := mountWithTeam(t)
		fake.AddKey(consoletest.Key{ID: "new", Secret: "new-secret"})
		m.restart()
		m.storage.slowAfter("get", "roles/team", time.Second)
		done := make(chan string)
		go func() { done <- m.accessToken("token/team") }()
		synctest.Wait() // it has read the old role, and is held there
		m.storage.slowAfter("", "", 0)
		m.mustWrite("roles/team", map[string]any{"api_key_id": "new", "api_key": "new-secret"})
		<-done
		id, _ := fake.Issued(m.accessToken("token/team"))
		assert.Equal(t, "new", id)
	})
}
