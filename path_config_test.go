package snowplow

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestConfigIsReadBackWithoutItsSecrets(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	assert.Equal(t, map[string]any{
		"organization_id":     consoletest.DefaultOrganizationID,
		"credentials_version": "v3",
		"api_key_id":          consoletest.DefaultAPIKeyID,
		"console_url":         console.URL,
		"auth_url":            "https://id.snowplowanalytics.com",
		"ca_cert":             "",
		"request_timeout":     int64(30),
		"ttl":                 int64(0),
		"reuse_period":        int64(3600),
	}, m.settingsAt("config"))

	m.mustWrite("config", v1Config(console))
	data := m.mustRead("config").Data
	assert.Equal(t, consoletest.DefaultUsername, data["username"])
	assert.Equal(t, consoletest.DefaultClientID, data["client_id"])
	for _, absent := range []string{"api_key", "password", "client_secret", "api_key_id"} {
		assert.NotContains(t, data, absent)
	}
}

func TestConfigThatIsNotWritten(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	assert.Nil(t, m.must(logical.ReadOperation, "config"), "Vault answers 404")
	m.must(logical.DeleteOperation, "config")
	for _, path := range []string{"token", "status"} {
		status, message := m.refused(logical.ReadOperation, path)
		assert.Equal(t, 400, status)
		assert.Contains(t, message, "the engine is not configured: run 'vault write snowplow/config organization_id=<UUID> api_key_id=<ID> api_key=@<file>', or ask whoever manages the engine")
	}
	status, message := m.refused(logical.PatchOperation, "config", map[string]any{"ttl": 60})
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "vault write snowplow/config")
}

func TestUpdateKeepsWhatIsLeftOut(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t, map[string]any{"ttl": "15m", "reuse_period": "5m", "request_timeout": "10s"})
	before := m.settingsAt("config")
	m.mustWrite("config", map[string]any{
		"ttl": 60, "reuse_period": nil, "request_timeout": nil, "console_url": nil, "api_key_id": nil, "api_key": nil,
	})
	before["ttl"] = int64(60)
	assert.Equal(t, before, m.settingsAt("config"))
	assert.NotEmpty(t, m.mustRead("token").Data["access_token"], "the key was lost")
}

func TestPatchOfConfig(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t, map[string]any{"ttl": "15m", "reuse_period": "5m", "request_timeout": "10s", "auth_url": "https://auth.example.com"})
	m.must(logical.PatchOperation, "config", map[string]any{"ttl": nil, "reuse_period": nil, "request_timeout": nil, "auth_url": nil})
	data := m.mustRead("config").Data
	assert.EqualValues(t, 0, data["ttl"])
	assert.EqualValues(t, 3600, data["reuse_period"])
	assert.EqualValues(t, 30, data["request_timeout"])
	assert.Equal(t, "https://id.snowplowanalytics.com", data["auth_url"])

	for _, required := range []string{"organization_id", "api_key_id"} {
		status, message := m.refused(logical.PatchOperation, "config", map[string]any{required: nil})
		assert.Equal(t, 400, status)
		assert.Contains(t, message, required+" is missing")
	}
	assert.NotEmpty(t, m.mustRead("token").Data["access_token"])
}

func TestConfigWithoutACredential(t *testing.T) {
	t.Parallel()
	m, server := newConfiguredMount(t)
	m.mustWrite("roles/scoped", scopedKey(server, "scoped"))
	m.mustWrite("roles/bare", map[string]any{"ttl": 60})
	m.mustRead("token")
	resp := m.must(logical.PatchOperation, "config", map[string]any{"api_key": nil})
	assert.Equal(t, []string{"config has no credential: only roles with a credential of their own can serve tokens"}, resp.Warnings)
	assert.Empty(t, m.mustRead("config").Data["api_key_id"])

	assert.Equal(t, "scoped", keyIDOf(t, server, m.mustRead("token/scoped")))
	for path, says := range map[string]string{
		"token":       "config has no credential: read token/<role> of a role that has one, or write one with 'vault write snowplow/config api_key_id=<ID> api_key=@<file>'",
		"status":      "config has no credential",
		"token/bare":  `role "bare" has no credential of its own, and config has none: write one with 'vault write snowplow/roles/bare api_key_id=<ID> api_key=@<file>'`,
		"status/bare": `role "bare" has no credential of its own`,
	} {
		status, message := m.refused(logical.ReadOperation, path)
		assert.Equal(t, 400, status, path)
		assert.Contains(t, message, says, path)
	}
	assert.Len(t, m.mustWrite("roles/bare", map[string]any{"ttl": 30}).Warnings, 1)

	m.must(logical.DeleteOperation, "config")
	resp = m.mustWrite("config", map[string]any{"organization_id": consoletest.DefaultOrganizationID, "console_url": server.URL})
	assert.Len(t, resp.Warnings, 1, "nor does it need one from the start")
	assert.Equal(t, "scoped", keyIDOf(t, server, m.mustRead("token/scoped")))
}

func TestConfigRefusesWhatItCannotHold(t *testing.T) {
	t.Parallel()
	const canary = "canary-in-a-bad-field"
	for name, test := range map[string]struct {
		fields map[string]any
		says   []string
	}{
		"unknown field":              {map[string]any{"api_kez": canary}, []string{"unknown field api_kez", "api_key_id"}},
		"unknown version":            {map[string]any{"credentials_version": "v4"}, []string{"credentials_version must be v3, v2 or v1"}},
		"organization of two parts":  {map[string]any{"organization_id": "a/b"}, []string{"organization_id", "one path segment"}},
		"organization that climbs":   {map[string]any{"organization_id": ".."}, []string{"organization_id", "one path segment"}},
		"organization encoded":       {map[string]any{"organization_id": "a%2fb"}, []string{"organization_id"}},
		"organization with a query":  {map[string]any{"organization_id": "a?b"}, []string{"organization_id"}},
		"no organization":            {map[string]any{"organization_id": ""}, []string{"organization_id is missing"}},
		"no key":                     {map[string]any{"api_key": "", "api_key_id": ""}, []string{"api_key_id is empty", "unset variable"}},
		"key in UTF-16":              {map[string]any{"api_key": "c\x00a\x00n\x00"}, []string{"api_key contains a NUL", "UTF-16"}},
		"key of two lines":           {map[string]any{"api_key": canary + "\n" + canary}, []string{"api_key contains"}},
		"key that adds a header":     {map[string]any{"api_key": "x\r\nX-Evil: " + canary}, []string{"api_key contains"}},
		"key that is a list":         {map[string]any{"api_key": []any{canary}}, []string{"api_key must be a single value, not an object or a list"}},
		"key that is an object":      {map[string]any{"api_key": map[string]any{"x": canary}}, []string{"api_key must be a single value, not an object or a list"}},
		"key of another version":     {map[string]any{"password": canary}, []string{"password does not belong to credentials_version v3", "api_key_id, api_key"}},
		"version without its fields": {map[string]any{"credentials_version": "v1", "username": "bot"}, []string{"password, client_id, client_secret is missing", "v1"}},
		"plain http":                 {map[string]any{"console_url": "http://console.example.com"}, []string{"console_url must use https", "loopback"}},
		"international host":         {map[string]any{"console_url": "https://exämple.com"}, []string{"console_url", "xn--"}},
		"URL with a user part":       {map[string]any{"console_url": "https://user:" + canary + "@example.com"}, []string{"console_url", "user part"}},
		"URL with a query":           {map[string]any{"auth_url": "https://example.com?x=" + canary}, []string{"auth_url", "query"}},
		"no URL":                     {map[string]any{"console_url": "console"}, []string{"console_url must be a URL like"}},
		"CA that is none":            {map[string]any{"ca_cert": canary}, []string{"ca_cert", "PEM"}},
		"CA that is a key":           {map[string]any{"ca_cert": "-----BEGIN PRIVATE KEY-----\nMEgC\n-----END PRIVATE KEY-----\n"}, []string{"ca_cert must hold X.509 certificates"}},
		"timeout too short":          {map[string]any{"request_timeout": 0}, []string{"request_timeout must be between 1s and 80s"}},
		"timeout too long":           {map[string]any{"request_timeout": "81s"}, []string{"request_timeout must be between 1s and 80s"}},
		"negative ttl":               {map[string]any{"ttl": "-1s"}, []string{"ttl must be a duration of 0 or more whole seconds", "30s"}},
		"ttl of half a second":       {map[string]any{"ttl": "500ms"}, []string{"ttl must be a duration of 0 or more whole seconds"}},
		"ttl of half a second, JSON": {map[string]any{"ttl": json.Number("0.5")}, []string{"ttl must be a duration of 0 or more whole seconds"}},
		"ttl that is a list":         {map[string]any{"ttl": []any{canary}}, []string{"ttl must be a duration"}},
		"reuse of a word":            {map[string]any{"reuse_period": canary}, []string{"reuse_period must be a duration"}},
		"flag of a word":             {map[string]any{"verify_connection": canary}, []string{"verify_connection must be true or false"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := newConfiguredMount(t)
			before := m.settingsAt("config")
			for _, operation := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
				status, message := m.refused(operation, "config", test.fields)
				assert.Equal(t, 400, status)
				for _, words := range test.says {
					assert.Contains(t, message, words)
				}
				assert.NotContains(t, message, canary)
			}
			assert.Equal(t, before, m.settingsAt("config"))
		})
	}
}

func TestWarningsOfConfig(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	m := newMount(t)
	assert.Nil(t, m.mustWrite("config", v3Config(console)), "nothing to warn of")
	for says, fields := range map[string]map[string]any{
		"not a UUID":       {"organization_id": "acme", "verify_connection": false},
		"v2 is deprecated": {"credentials_version": "v2"},
		"does not use api_key_id: the stored value was deleted": {"credentials_version": "v2"},
		"v1 is deprecated": v1Config(console),
		"console_url has changed: roles with a credential": {"console_url": "http://localhost:1", "api_key": "x", "verify_connection": false},
		"auth_url has changed: roles with a bot user":      {"auth_url": "https://auth.example.com"},
	} {
		m.mustWrite("config", v3Config(console), map[string]any{"credentials_version": "v3"})
		resp := m.mustWrite("config", fields)
		require.NotNil(t, resp, says)
		warnings, _ := json.Marshal(resp.Warnings)
		assert.Contains(t, string(warnings), says)
	}
}

func TestAFailedVerificationStoresNothing(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	before := m.settingsAt("config")
	served := m.mustRead("token").Data["access_token"]

	status, message := m.refused(logical.UpdateOperation, "config", map[string]any{"api_key": "wrong", "ttl": 60})
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "nothing was stored")
	assert.Contains(t, message, "401")
	assert.Contains(t, message, "API keys", "where a new key is made")
	assert.Contains(t, message, "vault write snowplow/config", "how it is written")

	status, message = m.refused(logical.UpdateOperation, "config", map[string]any{"organization_id": "22222222-2222-4222-8222-222222222222"})
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "22222222-2222-4222-8222-222222222222")

	_, message = m.refused(logical.UpdateOperation, "config", map[string]any{"console_url": console.URL + "/path"})
	assert.Contains(t, message, "check console_url, which has a path")

	console.FailAlways(consoletest.Status(http.StatusTeapot, `{"message":"short and stout"}`, nil))
	status, message = m.refused(logical.UpdateOperation, "config", map[string]any{"api_key": consoletest.DefaultAPIKey, "ttl": 60})
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "short and stout")
	assert.NotContains(t, message, "verify_connection=false", "another try would fail the same way")

	console.FailAlways(consoletest.Status(http.StatusServiceUnavailable, "", http.Header{"Retry-After": {"300"}})) // beyond request_timeout, so no retries
	status, message = m.refused(logical.UpdateOperation, "config", map[string]any{"api_key": consoletest.DefaultAPIKey})
	assert.Equal(t, 502, status)
	assert.Contains(t, message, "to store the new values without this check, add verify_connection=false")

	assert.Equal(t, before, m.settingsAt("config"))
	assert.Equal(t, served, m.mustRead("token").Data["access_token"], "a refused write must not touch what readers get")
	assert.EqualValues(t, 0, m.mustRead("status").Data["exchange_failures"])
}

func TestOnlyAWriteThatAnExchangeDependsOnIsVerified(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	v2 := map[string]any{"credentials_version": "v2"}
	for _, test := range []struct {
		name      string
		fields    map[string]any
		exchanges int
	}{
		{"lease and timeout", map[string]any{"ttl": 60, "reuse_period": 61, "request_timeout": 62}, 0},
		{"nothing new", map[string]any{"console_url": console.URL, "organization_id": consoletest.DefaultOrganizationID}, 0},
		{"a key", map[string]any{"api_key": consoletest.DefaultAPIKey}, 1},
		{"a key, unverified", map[string]any{"api_key": consoletest.DefaultAPIKey, "verify_connection": false}, 0},
		{"a key again: verify_connection is not stored", map[string]any{"api_key": consoletest.DefaultAPIKey}, 1},
		{"console_url", map[string]any{"console_url": console.URL + "/"}, 0},
		{"auth_url", map[string]any{"auth_url": console.URL}, 1},
		{"ca_cert", map[string]any{"ca_cert": consoletest.NewAuthority(t).PEM()}, 1},
		{"credentials_version", v2, 1},
		{"the same credentials_version", v2, 0},
	} {
		before := console.Exchanges()
		m.mustWrite("config", test.fields)
		assert.Equal(t, test.exchanges, console.Exchanges()-before, test.name)
	}
	status, message := m.refused(logical.UpdateOperation, "config", map[string]any{"organization_id": "22222222-2222-4222-8222-222222222222"})
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "does not know the organization")
}

func TestTheJWTOfAVerificationIsCached(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	m := newMount(t)
	m.mustWrite("config", v3Config(console))
	m.mustWrite("roles/own", scopedKey(console, "scoped"))
	for path, id := range map[string]string{"token": consoletest.DefaultAPIKeyID, "token/own": "scoped"} {
		assert.Equal(t, id, keyIDOf(t, console, m.mustRead(path)))
		assert.Equal(t, 1, console.ExchangesOf(id), "a mount is warm after its key was written")
	}
	m.mustWrite("config", map[string]any{"api_key": consoletest.DefaultAPIKey})
	m.mustRead("token")
	assert.Equal(t, 2, console.ExchangesOf(consoletest.DefaultAPIKeyID), "one that replaces the older one's")

	m.mustWrite("config", map[string]any{"api_key": consoletest.DefaultAPIKey, "reuse_period": 0})
	m.mustRead("token")
	assert.Equal(t, 4, console.ExchangesOf(consoletest.DefaultAPIKeyID), "nothing is cached where nothing may be")
	keys, err := logical.CollectKeys(t.Context(), m.storage)
	require.NoError(t, err)
	assert.NotContains(t, keys, "tokens/config", "nor stored")
}

func TestAWriteThatLeavesTheCredentialAloneKeepsTheCachedJWT(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	first := m.mustRead("token").Data["access_token"]
	m.mustWrite("config", map[string]any{
		"ttl": 60, "reuse_period": "2h", "request_timeout": "20s", "ca_cert": consoletest.NewAuthority(t).PEM(), "verify_connection": false,
	})
	assert.Equal(t, first, m.mustRead("token").Data["access_token"])
	assert.Equal(t, 1, console.Exchanges())

	m.mustWrite("config", map[string]any{"api_key": consoletest.DefaultAPIKey, "verify_connection": false})
	assert.NotEqual(t, first, m.mustRead("token").Data["access_token"], "a credential that was written again is a new one")
}

func TestAWriteThatWasStoredButReportedAsFailedIsRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := mountWithTeam(t)
		m.storage.stores = true
		m.storage.fail("put", "delete")
		for _, on := range []struct{ entry, status string }{{"roles/team", "status/team"}, {"config", "status"}} {
			m.mustRead(on.status)
			code, _ := m.refused(logical.UpdateOperation, on.entry, map[string]any{"api_key_id": "new", "api_key": "new-secret", "verify_connection": false})
			assert.Equal(t, 500, code)
			assert.Equal(t, "new", m.mustRead(on.status).Data["api_key_id"])
			code, _ = m.refused(logical.DeleteOperation, on.entry)
			assert.Equal(t, 500, code)
			code, _ = m.refused(logical.ReadOperation, on.status)
			assert.Equal(t, 400, code)
		}
	})
}

func TestAVerificationIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		console.FailNext(2, consoletest.Status(http.StatusServiceUnavailable, "", nil))
		m.mustWrite("config", map[string]any{"api_key": consoletest.DefaultAPIKey})
	})
}

func TestTheAgeOfAKeyCountsFromItsLastNewSecret(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := mountWithTeam(t)
		fake.AddKey(consoletest.Key{ID: "new", Secret: "new-secret"})
		first := time.Now()
		written := func() []any {
			var times []any
			for _, path := range []string{"config", "status", "roles/team", "status/team"} {
				times = append(times, m.mustRead(path).Data["credential_written_at"])
			}
			return times
		}
		at := func(config, team time.Time) []any {
			return []any{timestamp(config), timestamp(config), timestamp(team), timestamp(team)}
		}
		assert.Equal(t, at(first, first), written())

		time.Sleep(time.Hour)
		m.mustWrite("config", map[string]any{"api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey, "ttl": 60})
		m.mustWrite("roles/team", map[string]any{"api_key": "team-secret", "organization_id": consoletest.DefaultOrganizationID})
		assert.Equal(t, at(first, first), written(), "the same key again is no newer")

		fake.SetDelay(5 * time.Second)
		second := time.Now()
		m.mustWrite("roles/team", map[string]any{"api_key_id": "new", "api_key": "new-secret"})
		assert.Equal(t, at(first, second), written(), "when the request came, not when it was verified")
		m.mustRead("token/team")
		assert.Contains(t, m.metrics(), fmt.Sprintf("snowplow_credential_written_timestamp_seconds{path=\"token/team\"} %v\n", float64(second.Unix())))

		m.must(logical.PatchOperation, "roles/team", map[string]any{"api_key": nil})
		assert.NotContains(t, m.mustRead("roles/team").Data, "credential_written_at")
		assert.Equal(t, timestamp(first), m.mustRead("status/team").Data["credential_written_at"], "that of config's key")
	})
}

func TestAnEmptyValueDoesNotSwitchVerificationOff(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	for _, operation := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
		for _, empty := range []any{nil, ""} {
			_, message := m.refused(operation, "config", map[string]any{"api_key": "wrong", "verify_connection": empty})
			assert.Contains(t, message, "nothing was stored")
		}
	}
}

func TestDurationsAreTakenInEveryForm(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	for _, hour := range []any{"1h", "3600", "3600s", 3600, json.Number("3600"), 3600.0} {
		m.mustWrite("config", map[string]any{"ttl": 0})
		m.mustWrite("config", map[string]any{"ttl": hour})
		assert.EqualValues(t, 3600, m.mustRead("config").Data["ttl"], "%T", hour)
	}
	m.mustWrite("config", map[string]any{"ttl": 4e6})
	assert.EqualValues(t, 4_000_000, m.mustRead("config").Data["ttl"])
	m.refused(logical.UpdateOperation, "config", map[string]any{"ttl": 1.5})
}

func TestAnEmptyValueIsTheDefault(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t, map[string]any{"ttl": "15m", "reuse_period": "5m", "request_timeout": "10s"})
	m.mustWrite("config", map[string]any{"ttl": "", "reuse_period": "", "request_timeout": "", "auth_url": ""})
	data := m.mustRead("config").Data
	assert.EqualValues(t, 0, data["ttl"])
	assert.EqualValues(t, 3600, data["reuse_period"])
	assert.EqualValues(t, 30, data["request_timeout"])
}

func TestLineBreaksAtTheEndOfAFieldAreDropped(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	for _, fields := range []map[string]any{v3Config(console), v1Config(console)} {
		want := m.mustWrite("config", fields)
		before := m.settingsAt("config")
		for name, value := range fields {
			fields[name] = value.(string) + "\r\n\n"
		}
		assert.Equal(t, want, m.mustWrite("config", fields))
		assert.Equal(t, before, m.settingsAt("config"))
		m.must(logical.DeleteOperation, "config")
	}
	pem := consoletest.NewAuthority(t).PEM() + "\n"
	m.mustWrite("config", v3Config(console), map[string]any{"ca_cert": pem})
	assert.Equal(t, pem, m.mustRead("config").Data["ca_cert"], "PEM ends with one")
}

func TestPatchTakesTheVersionBackToItsDefault(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	m.mustWrite("config", map[string]any{"credentials_version": "v2"})
	m.mustWrite("roles/legacy", map[string]any{"api_key": consoletest.DefaultAPIKey})
	m.must(logical.PatchOperation, "config", map[string]any{"credentials_version": nil, "api_key_id": consoletest.DefaultAPIKeyID})
	assert.Equal(t, "v3", m.mustRead("config").Data["credentials_version"])
	m.must(logical.PatchOperation, "roles/legacy", map[string]any{"credentials_version": nil, "api_key_id": consoletest.DefaultAPIKeyID})
	assert.Equal(t, "v3", m.mustRead("roles/legacy").Data["credentials_version"])
	assert.Equal(t, consoletest.DefaultAPIKeyID, keyIDOf(t, console, m.mustRead("token/legacy")))
}

func TestFromV2ToV3WithOneWrite(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	m.mustWrite("config", map[string]any{"credentials_version": "v2"})
	m.mustRead("token")
	assert.Empty(t, console.LastRequest().Header.Get("X-API-Key-ID"))
	m.mustWrite("config", map[string]any{"credentials_version": "v3", "api_key_id": consoletest.DefaultAPIKeyID})
	m.mustRead("token")
	assert.Equal(t, consoletest.DefaultAPIKeyID, console.LastRequest().Header.Get("X-API-Key-ID"))
}

func TestAKeyInTheWrongFieldIsRefusedWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	const key = "canary-pasted-key"
	for _, field := range []string{"organization_id", "api_key_id"} {
		synctest.Test(t, func(t *testing.T) {
			m, _ := warmMount(t, nil)
			m.mustWrite("config", map[string]any{"api_key": key, "verify_connection": false})
			for _, fields := range []map[string]any{
				{field: key}, // it is stored already
				{field: "canary-2", "api_key": "canary-2"}, // both in one write
			} {
				status, message := m.refused(logical.UpdateOperation, "config", fields)
				assert.Equal(t, 400, status)
				assert.Contains(t, message, field+" has the same value as a secret")
				assert.NotContains(t, message, "canary")
			}
			assert.NotContains(t, m.logs.String(), "canary")
			assert.NotContains(t, fmt.Sprint(m.settingsAt("config")), "canary")
		})
	}
}

func TestFieldsHaveAnEnd(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	for field, length := range map[string]int{"api_key": 4097, "api_key_id": 4097, "organization_id": 257, "ca_cert": 64<<10 + 1} {
		status, message := m.refused(logical.UpdateOperation, "config", map[string]any{field: strings.Repeat("x", length), "verify_connection": false})
		assert.Equal(t, 400, status)
		assert.Contains(t, message, field+" must be")
		assert.Less(t, len(message), 300)
	}
	m.mustWrite("config", map[string]any{"api_key": strings.Repeat("x", 4096), "organization_id": strings.Repeat("x", 256), "verify_connection": false})
}

func TestAJWTIsNotCarriedOverToAnotherURLOrOrganization(t *testing.T) {
	t.Parallel()
	v1 := map[string]any{
		"credentials_version": "v1", "username": consoletest.DefaultUsername, "password": consoletest.DefaultPassword,
		"client_id": consoletest.DefaultClientID, "client_secret": consoletest.DefaultClientSecret,
	}
	for name, test := range map[string]struct{ before, fields map[string]any }{
		"path":             {nil, map[string]any{"console_url": console.DefaultConsoleURL + "/path"}},
		"path of auth_url": {v1, map[string]any{"auth_url": console.DefaultAuthURL + "/path"}},
		"organization":     {nil, map[string]any{"organization_id": "22222222-2222-4222-8222-222222222222"}},
		"version":          {nil, map[string]any{"credentials_version": "v2"}},
		"key":              {nil, map[string]any{"api_key": consoletest.DefaultAPIKey}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, fake := warmMount(t, nil)
				if test.before != nil {
					m.mustWrite("config", test.before)
				}
				down(fake)
				m.mustWrite("config", test.fields, map[string]any{"verify_connection": false})
				m.refused(logical.ReadOperation, "token")
				assert.Empty(t, m.storedTokens())
				// And back: what was dropped is gone.
				back := map[string]any{"console_url": "", "auth_url": "", "organization_id": consoletest.DefaultOrganizationID, "verify_connection": false}
				if test.before == nil {
					back["credentials_version"], back["api_key_id"] = "v3", consoletest.DefaultAPIKeyID
				}
				m.mustWrite("config", back)
				m.refused(logical.ReadOperation, "token")
			})
		})
	}
}

func TestWritesAndDeletesDoNotWaitForAVerification(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"config", "roles/team"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, fake := mountWithTeam(t)
				fake.SetDelay(10 * time.Second)
				said := make(chan string)
				go func() {
					_, message := m.refused(logical.UpdateOperation, path, map[string]any{"api_key_id": "team", "api_key": "team-secret"})
					said <- message
				}()
				time.Sleep(time.Second)
				begun := time.Now()
				m.mustWrite("roles/other", map[string]any{"ttl": 60})
				m.must(logical.DeleteOperation, path)
				assert.Zero(t, time.Since(begun))
				assert.Contains(t, <-said, path+" was deleted while the new values were being verified, so nothing was stored")
				assert.Nil(t, m.must(logical.ReadOperation, path))
			})
		})
	}
}

func TestConcurrentWritesLoseNoFields(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := mountWithTeam(t)
		fake.AddKey(consoletest.Key{ID: "new", Secret: "new-secret"})
		fake.SetDelay(time.Second)
		for _, path := range []string{"config", "roles/team"} {
			before := fake.Exchanges()
			var writers sync.WaitGroup
			writers.Go(func() { m.mustWrite(path, map[string]any{"api_key_id": "new", "api_key": "new-secret"}) })
			writers.Go(func() { time.Sleep(500 * time.Millisecond); m.mustWrite(path, map[string]any{"ttl": 77}) })
			writers.Wait()
			data := m.mustRead(path).Data
			assert.EqualValues(t, 77, data["ttl"])
			assert.Equal(t, "new", data["api_key_id"])
			assert.Equal(t, before+1, fake.Exchanges(), "what was verified is not verified again")
		}
	})
}

func TestAnotherConsoleForV1NeedsTheSecrets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		v1 := map[string]any{
			"credentials_version": "v1", "username": consoletest.DefaultUsername, "password": consoletest.DefaultPassword,
			"client_id": consoletest.DefaultClientID, "client_secret": consoletest.DefaultClientSecret,
		}
		m.mustWrite("config", v1)
		m.mustWrite("roles/team", v1)
		evil := map[string]any{"console_url": "https://evil.example", "verify_connection": false}
		_, message := m.refused(logical.UpdateOperation, "config", evil)
		assert.Contains(t, message, "console_url is now https://evil.example:443: write password, client_secret again")
		m.mustWrite("config", v1, evil)
		_, message = m.refused(logical.ReadOperation, "token/team")
		assert.Contains(t, message, "the credential of roles/team cannot be used")
		status := m.mustRead("status/team").Data
		assert.Equal(t, "refused", status["state"])
	})
}

func TestARefusedVerificationOfTheSameKeyDropsItsJWT(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"config", "roles/team"} {
		synctest.Test(t, func(t *testing.T) {
			m, fake := mountWithTeam(t)
			token := map[string]string{"config": "token", "roles/team": "token/team"}[path]
			id := m.mustRead(path).Data["api_key_id"].(string)
			secret := map[string]string{"config": consoletest.DefaultAPIKey, "roles/team": "team-secret"}[path]
			m.mustRead(token)
			fake.RemoveKey(id)
			m.refused(logical.UpdateOperation, path, map[string]any{"api_key": "another"})
			m.mustRead(token) // what Snowplow says of another key is no matter
			m.refused(logical.UpdateOperation, path, map[string]any{"api_key": secret})
			_, message := m.refused(logical.ReadOperation, token)
			assert.Contains(t, message, "401")
			m.restart()
			m.refused(logical.ReadOperation, token)
		})
	}
}

// A write that changes only ca_cert is verified with the key of its time. If another write replaces the key meanwhile,
// the JWT of the old key is nobody's.
func TestTheJWTOfAVerificationIsNotServedForAnotherKey(t *testing.T) {
	t.Parallel()
	certificate := consoletest.NewTLSServer(t).CACert()
	synctest.Test(t, func(t *testing.T) {
		m, fake := warmMount(t, nil)
		fake.AddKey(consoletest.Key{ID: "new", Secret: "new-secret"})
		hold := fake.Hold()
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.mustWrite("config", map[string]any{"ca_cert": certificate})
		}()
		<-hold.Started()
		m.mustWrite("config", map[string]any{"api_key_id": "new", "api_key": "new-secret", "ca_cert": certificate, "verify_connection": false})
		hold.Release()
		<-done
		id, _ := fake.Issued(m.accessToken("token"))
		assert.Equal(t, "new", id)
	})
}

func TestAVerifiedWriteEndsTheRefusal(t *testing.T) {
	t.Parallel()
	certificate := consoletest.NewTLSServer(t).CACert()
	synctest.Test(t, func(t *testing.T) {
		m, fake := warmMount(t, nil)
		m.must(logical.DeleteOperation, "token")
		fake.FailAlways(consoletest.Status(http.StatusForbidden, "", nil))
		m.refused(logical.ReadOperation, "token")
		fake.ClearFaults()
		m.mustWrite("config", map[string]any{"ca_cert": certificate})
		m.mustRead("token")
		assert.Equal(t, "ok", m.mustRead("status").Data["state"])
	})
}

func TestANewKeyIsNotRefusedForTheOldOne(t *testing.T) {
	t.Parallel()
	for _, fields := range []map[string]any{{"verify_connection": false}, {"reuse_period": 0}} {
		synctest.Test(t, func(t *testing.T) {
			m, fake := warmMount(t, nil)
			fake.AddKey(consoletest.Key{ID: "new", Secret: "new-secret"})
			fake.RemoveKey(consoletest.DefaultAPIKeyID)
			m.must(logical.DeleteOperation, "token")
			m.refused(logical.ReadOperation, "token")
			require.Equal(t, "refused", m.mustRead("status").Data["state"])
			m.mustWrite("config", map[string]any{"api_key_id": "new", "api_key": "new-secret"}, fields)
			assert.Equal(t, "ok", m.mustRead("status").Data["state"])
		})
	}
}

func TestNullForAFieldThatIsEmptyAnywayWritesNoCredential(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := warmMount(t, nil)
		first := m.accessToken("token")
		down(fake)
		m.must(logical.PatchOperation, "config", map[string]any{
			"ttl": 60, "username": nil, "password": nil, "client_id": nil, "client_secret": nil,
		})
		assert.Equal(t, first, m.accessToken("token"))
	})
}

func TestAWriteWaitsForAnotherOnlyAsLongAsItsRequestLasts(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]struct {
		operation logical.Operation
		path      string
		fields    map[string]any
	}{
		"write config":  {logical.UpdateOperation, "config", map[string]any{"ttl": 60}},
		"write role":    {logical.UpdateOperation, "roles/analytics", map[string]any{"ttl": 60}},
		"delete config": {logical.DeleteOperation, "config", nil},
		"delete role":   {logical.DeleteOperation, "roles/analytics", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, _ := warmMount(t, nil)
				m.mustWrite("roles/analytics", map[string]any{"ttl": 30})
				unlock, err := m.backend.lockWrites(t.Context())
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err = m.request(ctx, write.operation, write.path, write.fields)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Contains(t, err.Error(), "waiting for another write")
				assert.EqualValues(t, 0, m.mustRead("config").Data["ttl"])
				assert.EqualValues(t, 30, m.mustRead("roles/analytics").Data["ttl"])
				unlock()
				m.must(write.operation, write.path, write.fields)
			})
		})
	}
}

func TestARefusalAtAnotherURLSaysNothingOfTheStoredKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		first := m.accessToken("token")
		console.FailNext(1, consoletest.Status(http.StatusUnauthorized, "", nil))
		status, _ := m.refused(logical.UpdateOperation, "config", map[string]any{
			"console_url": "https://other.example", "api_key": consoletest.DefaultAPIKey,
		})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, first, m.accessToken("token"))
	})
}

func TestAWriteThatWasRateLimitedSaysWhenToTryAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		console.FailAlways(consoletest.Status(http.StatusTooManyRequests, "", nil))
		status, message := m.refused(logical.UpdateOperation, "config", map[string]any{"api_key": consoletest.DefaultAPIKey})
		assert.Equal(t, http.StatusTooManyRequests, status)
		_, after, _ := strings.Cut(message, "try again after ")
		retryAt, err := time.Parse(time.RFC3339, strings.SplitN(after, ";", 2)[0])
		require.NoError(t, err, message)
		assert.False(t, retryAt.Before(time.Now().Add(firstBackOff)), message)
	})
}

// roundTripper is a transport that is a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// FuzzConfigFields writes config. What is accepted can lead a key nowhere but below the URL that was written.
func FuzzConfigFields(f *testing.F) {
	const id, home = consoletest.DefaultOrganizationID, "https://console.example.com"
	for _, organizationID := range []string{id, "", ".", "..", "...", "a/b", "a%2fb", "a\\b", "a?b", "a#b", "a;b", "a b", "a\n", "~", "ä", "\xff", "a@b", "a:b"} {
		f.Add(organizationID, home, home, "v3", "id", "0", int64(0), "30s", "")
	}
	for _, target := range []string{
		"", "https://x/", "https://x/y/../z", "https://x/%2e%2e/", "https://x/%zz", "https://x:0", "https://x:65536", "https://x:", "https://", "https:///x",
		"http://x", "http://127.0.0.1:1", "http://[::1]", "http://[::1%25lo]", "http://localhost", "http://localhost.", "http://127.1", "https://a@b",
		"https://a:canary@b", "https://x?y", "https://x#y", "https://x\\y", "https://x y", "https://x/y z", "https://ex%41mple", "https://ä", "HTTPS://X",
		"https:x", "//x", "x", "ftp://x", "https://x\r\n", "https://[::1", "https://\u212a.com", "https://x/;y", "https://x//..//", "https://x/\\..\\",
	} {
		f.Add(id, target, target, "v3", "id", "1h", int64(3600), "1s", "")
		f.Add(id, target, target, "v1", "", "1h", int64(3600), "1s", "")
	}
	for _, duration := range []string{"0", "-1", "1.5", "500ms", "1d", "1e9", "9223372036854775807", "36028797018963973", "NaN", "ä", " 1", "80s", "81s", "2562047h47m16s"} {
		f.Add(id, home, home, "v2", "", duration, int64(-1), duration, "")
	}
	for _, seconds := range []int64{1, -1, 1 << 33, 1 << 55, 1<<55 + 5, 1<<63 - 1, -1 << 63} {
		f.Add(id, home, home, "v3", "id", "", seconds, "", "")
	}
	f.Add(id, home, home, "v4", "id\r\nX: canary", "0", int64(0), "30s", "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n")

	// One for all inputs: each has a storage of its own, and a write begins anew in memory.
	made, err := Factory(f.Context(), &logical.BackendConfig{System: &logical.StaticSystemView{}, StorageView: &logical.InmemStorage{}})
	require.NoError(f, err)
	f.Cleanup(func() { made.Cleanup(context.Background()) })
	var sent []*url.URL
	made.(*backend).newTransport = func(string) (http.RoundTripper, error) {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.URL)
			return &http.Response{StatusCode: http.StatusTeapot, Body: http.NoBody}, nil
		}), nil
	}

	f.Fuzz(func(t *testing.T, organizationID, consoleURL, authURL, version, keyID, ttl string, reuse int64, timeout, caCert string) {
		fields := map[string]any{
			"organization_id": organizationID, "console_url": consoleURL, "auth_url": authURL, "credentials_version": version,
			"ttl": ttl, "reuse_period": reuse, "request_timeout": timeout, "ca_cert": caCert, "verify_connection": false,
		}
		switch version {
		case "v1":
			fields["username"], fields["client_id"] = keyID+"bot", "client"
			fields["password"], fields["client_secret"] = consoletest.CanaryPassword, consoletest.CanaryClientSecret
		case "v2":
			fields["api_key"] = consoletest.CanaryKey
		default:
			fields["api_key_id"], fields["api_key"] = keyID, consoletest.CanaryKey
		}
		storage := &logical.InmemStorage{}
		request := func(operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
			resp, err := made.HandleRequest(t.Context(), &logical.Request{
				Operation: operation, Path: path, Data: data, Storage: storage, MountPoint: "snowplow/",
			})
			for _, secret := range []string{consoletest.CanaryKey, consoletest.CanaryPassword, consoletest.CanaryClientSecret} {
				assert.NotContains(t, fmt.Sprintf("%+v %v", resp, err), secret)
			}
			return resp, err
		}
		resp, err := request(logical.CreateOperation, "config", fields)
		if err != nil || resp.IsError() {
			return
		}

		stored, err := loadConfig(t.Context(), storage)
		require.NoError(t, err)
		require.NotNil(t, stored)
		cred := stored.Credential
		assert.Regexp(t, `^[A-Za-z0-9._~-]+$`, cred.OrganizationID)
		assert.NotContains(t, []string{".", ".."}, cred.OrganizationID)
		assert.Equal(t, time.Duration(reuse)*time.Second, stored.ReusePeriod)
		assert.GreaterOrEqual(t, stored.TTL, time.Duration(0))
		assert.Zero(t, stored.TTL%time.Second)
		assert.GreaterOrEqual(t, stored.RequestTimeout, minRequestTimeout)
		assert.LessOrEqual(t, stored.RequestTimeout, maxRequestTimeout)
		for _, target := range []string{stored.ConsoleURL, stored.AuthURL} {
			u, err := url.Parse(target)
			require.NoError(t, err)
			require.NotEmpty(t, console.Origin(target))
			assert.True(t, strings.EqualFold(u.Scheme, "https") || isLoopbackURL(u), target)
			assert.Nil(t, u.User)
			assert.Empty(t, u.RawQuery+u.Fragment)
		}

		// Where the key goes.
		sent = nil
		_, _ = request(logical.ReadOperation, "token", nil)
		require.Len(t, sent, 1)
		target, below, end := stored.ConsoleURL, "/api/msc/v1/organizations/", "/credentials/"+cred.Version+"/token"
		if cred.Version == "v1" {
			target, below, end = stored.AuthURL, "/oauth/", "/oauth/token"
		}
		assert.Equal(t, console.Origin(target), cred.WrittenFor)
		assert.Equal(t, console.Origin(target), console.Origin(sent[0].String()))
		base, err := url.Parse(target)
		require.NoError(t, err)
		assert.Equal(t, base.Host, sent[0].Host)
		assert.Empty(t, sent[0].RawQuery)
		// As the least careful server on the way reads it.
		cleaned := path.Clean(sent[0].Path)
		assert.True(t, strings.HasPrefix(cleaned, path.Clean(base.Path+below)+"/"), "%s is not below %s", cleaned, base.Path+below)
		assert.True(t, strings.HasSuffix(cleaned, end), cleaned)
		if cred.Version != "v1" {
			assert.Equal(t, cred.OrganizationID, path.Base(strings.TrimSuffix(cleaned, end)))
		}

		for _, path := range []string{"config", "status"} {
			resp, err := request(logical.ReadOperation, path, nil)
			require.NoError(t, err)
			require.False(t, resp.IsError(), "%v", resp)
		}
	})
}

// isLoopbackURL reports whether a URL names this machine in a way that needs no look-up.
func isLoopbackURL(u *url.URL) bool {
	host := strings.ToLower(u.Hostname())
	return host == "localhost" || host == "::1" || strings.HasPrefix(host, "127.") || strings.HasPrefix(host, "::ffff:")
}
