package snowplow

import (
	"encoding/json"
	"net/http"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/faulttest"
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
	}, m.mustRead("config").Data)

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
		assert.Contains(t, message, "the engine is not configured: run 'vault write snowplow/config organization_id=<UUID> api_key_id=<ID> api_key=@<file>'")
	}
	status, message := m.refused(logical.PatchOperation, "config", map[string]any{"ttl": 60})
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "vault write snowplow/config")
}

func TestUpdateKeepsWhatIsLeftOut(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t, map[string]any{"ttl": "15m", "reuse_period": "5m", "request_timeout": "10s"})
	before := m.mustRead("config").Data
	m.mustWrite("config", map[string]any{"ttl": 60, "api_key_id": nil})
	before["ttl"] = int64(60)
	assert.Equal(t, before, m.mustRead("config").Data)
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
			before := m.mustRead("config").Data
			for _, operation := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
				status, message := m.refused(operation, "config", test.fields)
				assert.Equal(t, 400, status)
				for _, words := range test.says {
					assert.Contains(t, message, words)
				}
				assert.NotContains(t, message, canary)
			}
			assert.Equal(t, before, m.mustRead("config").Data)
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
	before := m.mustRead("config").Data
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

	console.FailAlways(consoletest.Status(http.StatusTeapot, `{"message":"short and stout"}`, nil))
	status, message = m.refused(logical.UpdateOperation, "config", map[string]any{"api_key": consoletest.DefaultAPIKey, "ttl": 60})
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "short and stout")
	assert.NotContains(t, message, "verify_connection=false", "another try would fail the same way")

	console.FailAlways(consoletest.Status(http.StatusServiceUnavailable, "", http.Header{"Retry-After": {"300"}})) // beyond request_timeout, so no retries
	status, message = m.refused(logical.UpdateOperation, "config", map[string]any{"api_key": consoletest.DefaultAPIKey})
	assert.Equal(t, 502, status)
	assert.Contains(t, message, "to store the new values without this check, add verify_connection=false")

	assert.Equal(t, before, m.mustRead("config").Data)
	assert.Equal(t, served, m.mustRead("token").Data["access_token"], "a refused write must not touch what readers get")
	assert.EqualValues(t, 0, m.mustRead("status").Data["exchange_failures"])
}

func TestAVerificationThatIsRefusedDropsTheCachedJWTOfTheSameKey(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	m.mustWrite("roles/own", scopedKey(console, "scoped"))
	for path, key := range map[string]map[string]any{
		"config":    {"api_key": consoletest.DefaultAPIKey},
		"roles/own": {"api_key": "secret-of-scoped"},
	} {
		token := map[string]string{"config": "token", "roles/own": "token/own"}[path]
		m.mustRead(token)
		_, message := m.refused(logical.UpdateOperation, path, map[string]any{"api_key": "mistyped"})
		assert.Contains(t, message, "401")
		m.mustRead(token) // another key's refusal says nothing of this one

		console.FailNext(1, consoletest.Status(http.StatusUnauthorized, "", nil))
		m.refused(logical.UpdateOperation, path, key)
		exchanges := console.Exchanges()
		_, message = m.refused(logical.ReadOperation, token)
		assert.Contains(t, message, "401")
		assert.Equal(t, exchanges, console.Exchanges())
	}
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
		{"ca_cert", map[string]any{"ca_cert": faulttest.NewAuthority(t).PEM()}, 1},
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
		"ttl": 60, "reuse_period": "2h", "request_timeout": "20s", "ca_cert": faulttest.NewAuthority(t).PEM(), "verify_connection": false,
	})
	assert.Equal(t, first, m.mustRead("token").Data["access_token"])
	assert.Equal(t, 1, console.Exchanges())

	m.mustWrite("config", map[string]any{"api_key": consoletest.DefaultAPIKey, "verify_connection": false})
	assert.NotEqual(t, first, m.mustRead("token").Data["access_token"], "a credential that was written again is a new one")
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

func TestALineBreakAtTheEndOfAKeyIsTakenOff(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	m.mustWrite("config", map[string]any{"api_key": consoletest.DefaultAPIKey + "\n", "organization_id": consoletest.DefaultOrganizationID + "\n"})
	v1 := v1Config(console)
	v1["password"] = consoletest.DefaultPassword + "\r\n"
	m.mustWrite("config", v1)
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

func TestConcurrentWritesLoseNothing(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	var writers sync.WaitGroup
	for _, fields := range []map[string]any{{"ttl": 60}, {"reuse_period": 61}, {"request_timeout": 62}} {
		writers.Go(func() { m.mustWrite("config", fields) })
	}
	writers.Wait()
	data := m.mustRead("config").Data
	assert.EqualValues(t, 60, data["ttl"])
	assert.EqualValues(t, 61, data["reuse_period"])
	assert.EqualValues(t, 62, data["request_timeout"])
}
