package snowplow

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestStatusTellsWithoutAskingSnowplow(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	assert.Equal(t, map[string]any{
		"version":                   Version,
		"credentials_version":       "v3",
		"organization_id":           consoletest.DefaultOrganizationID,
		"api_key_id":                consoletest.DefaultAPIKeyID,
		"console_url":               console.URL,
		"token_issued_at":           nil,
		"token_expires_at":          nil,
		"reads":                     int64(0),
		"exchanges":                 int64(0),
		"exchange_failures":         int64(0),
		"reused":                    int64(0),
		"stale":                     int64(0),
		"last_exchange_at":          nil,
		"last_exchange_duration_ms": int64(0),
		"last_error":                "",
		"last_error_at":             nil,
		"credential_source":         "config",
		"last_success_at":           nil,
		"next_attempt_at":           nil,
		"state":                     "idle",
	}, m.settingsAt("status"))
	assert.Zero(t, console.Exchanges())

	token := m.mustRead("token")
	m.mustRead("token")
	status := m.mustRead("status").Data
	assert.EqualValues(t, 2, status["reads"])
	assert.EqualValues(t, 1, status["exchanges"])
	assert.EqualValues(t, 1, status["reused"])
	assert.Equal(t, token.Data["expires_at"], status["token_expires_at"])
	assert.Equal(t, timestamp(claimOf(t, token, "iat")), status["token_issued_at"])
	assert.NotNil(t, status["last_exchange_at"])
	assert.NotNil(t, status["last_success_at"])
	assert.Equal(t, "ok", status["state"])

	m.must(logical.DeleteOperation, "token")
	assert.Nil(t, m.mustRead("status").Data["token_expires_at"])
}

func TestStatusTellsOfFailures(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	console.RemoveKey(consoletest.DefaultAPIKeyID)
	m.refused(logical.ReadOperation, "token")
	m.refused(logical.ReadOperation, "token")
	status := m.mustRead("status").Data
	assert.EqualValues(t, 2, status["reads"])
	assert.EqualValues(t, 1, status["exchanges"])
	assert.EqualValues(t, 1, status["exchange_failures"])
	assert.Contains(t, status["last_error"], "401")
	assert.NotNil(t, status["last_error_at"])
	assert.NotNil(t, status["next_attempt_at"])
	assert.Nil(t, status["last_success_at"])
	assert.Equal(t, "refused", status["state"])
}

// defaultKey is the default key of a Console, as it is written to config or a role; the URLs stay Snowplow's.
var defaultKey = map[string]any{
	"organization_id": consoletest.DefaultOrganizationID,
	"api_key_id":      consoletest.DefaultAPIKeyID,
	"api_key":         consoletest.DefaultAPIKey,
}

func TestStateIsOneWordToAlertOn(t *testing.T) {
	t.Parallel()
	unavailable := consoletest.Status(http.StatusServiceUnavailable, "", nil)
	synctest.Test(t, func(t *testing.T) {
		server := consoletest.New()
		m := newMountInBubble(t, server)
		m.mustWrite("config", defaultKey, map[string]any{"verify_connection": false})
		m.mustWrite("roles/own", defaultKey)
		m.mustWrite("roles/bare", map[string]any{"ttl": 60})
		for path, source := range map[string]string{"status": "config", "status/own": "role", "status/bare": "config"} {
			assert.Equal(t, source, m.mustRead(path).Data["credential_source"], path)
		}
		// The state after a read, and the seconds to the next attempt at least and at most.
		read := func(after time.Duration, state string, least, most float64) {
			t.Helper()
			time.Sleep(after)
			_, _ = m.request(t.Context(), logical.ReadOperation, "token")
			synctest.Wait()
			status := m.mustRead("status").Data
			assert.Equal(t, state, status["state"])
			if most == 0 {
				assert.Nil(t, status["next_attempt_at"])
				return
			}
			at, err := time.Parse(time.RFC3339, status["next_attempt_at"].(string))
			require.NoError(t, err)
			wait := time.Until(at).Seconds()
			assert.GreaterOrEqual(t, wait, least-1, "cut to the second")
			assert.LessOrEqual(t, wait, most)
		}
		server.FailAlways(unavailable)
		read(0, "failing", 0.8, 1.2)
		server.ClearFaults()
		read(time.Minute, "ok", 0, 0)
		server.FailAlways(unavailable)
		read(55*time.Minute, "ok", 0.8, 1.2) // the JWT is fresh still, and its refresh has failed
		read(time.Hour, "stale", 1.6, 2.4)
		server.FailAlways(consoletest.Silence())
		read(24*time.Hour, "failing", 3.2, 4.8)
		server.ClearFaults()
		server.RemoveKey(consoletest.DefaultAPIKeyID)
		read(time.Hour, "refused", 10, 10)
		time.Sleep(2 * time.Hour)
		m.backend.cache.Sweep(t.Context())
		assert.Equal(t, "refused", m.mustRead("status").Data["state"], "also when nobody has read for long")
		server.AddKey(consoletest.Key{ID: consoletest.DefaultAPIKeyID, Secret: consoletest.DefaultAPIKey})
		read(time.Hour, "ok", 0, 0)
	})
}

func TestCountersOutlastWritesAndAreOnePathsOwn(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	m.mustWrite("roles/analytics", map[string]any{"ttl": 60})
	m.mustRead("token")
	m.mustRead("token/analytics")
	m.mustWrite("config", map[string]any{"ttl": 60})
	m.mustWrite("roles/analytics", map[string]any{"ttl": 30})
	for path, want := range map[string][3]int{"status": {1, 1, 0}, "status/analytics": {1, 0, 1}} {
		status := m.mustRead(path).Data
		assert.EqualValues(t, want[0], status["reads"], path)
		assert.EqualValues(t, want[1], status["exchanges"], path)
		assert.EqualValues(t, want[2], status["reused"], path)
	}
	m.must(logical.DeleteOperation, "roles/analytics")
	m.mustWrite("roles/analytics", map[string]any{"ttl": 60})
	assert.EqualValues(t, 0, m.mustRead("status/analytics").Data["reads"], "another role of the same name")
	assert.Equal(t, 1, console.Exchanges())
}

// In fake time, so that a busy machine does not change what an exchange comes to.
func TestNoSecretGetsOut(t *testing.T) {
	t.Parallel()
	for _, code := range []int{200, 302, 400, 401, 403, 404, 418, 429, 500, 503} {
		for _, version := range []string{"v3", "v2", "v1"} {
			t.Run(fmt.Sprint(code, " to ", version), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					server := consoletest.NewCanaryConsole()
					m := newMountInBubble(t, server)
					config := canaryConfig(version, "https://console.example.com")
					m.mustWrite("config", config, map[string]any{"verify_connection": false})
					server.FailAlways(consoletest.Echo(code))
					resp, err := m.request(t.Context(), logical.ReadOperation, "token")
					_, reading := refusal(t, resp, err)
					resp, err = m.request(t.Context(), logical.UpdateOperation, "config", config)
					_, writing := refusal(t, resp, err)
					assert.Contains(t, writing, "nothing was stored")
					requireNoSecret(t, m, reading, writing, fmt.Sprintf("%+v %v %#v", resp, err, err))
					require.NotEmpty(t, m.mustRead("status").Data["last_error"])

					server.ClearFaults()
					m.mustWrite("config", config)
					m.must(logical.DeleteOperation, "token")
					m.mustRead("token")
					require.Contains(t, m.logs.String(), "failed", "the failure is logged")
					require.Contains(t, m.logs.String(), "valid_until", "the exchange is logged")
					requireNoSecret(t, m)
				})
			})
		}
	}
}

func TestStateSaysWhoHasToAct(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, map[string]any{"reuse_period": "1m"})
		state := func(path string) any { return m.mustRead(path).Data["state"] }
		console.AddKey(consoletest.Key{ID: "team", Secret: "team-secret"})
		m.mustWrite("roles/team", map[string]any{"api_key_id": "team", "api_key": "team-secret"})
		assert.Equal(t, "idle", state("status/team"))
		assert.Equal(t, "role", m.mustRead("status/team").Data["credential_source"])
		m.mustRead("token/team")
		assert.Equal(t, "ok", state("status/team"))
		m.must(logical.DeleteOperation, "token/team")
		down(console)
		m.refused(logical.ReadOperation, "token/team")
		assert.Equal(t, "failing", state("status/team"))
		time.Sleep(2 * time.Hour)
		m.sweep()
		assert.Equal(t, "failing", state("status/team"), "also when the cache has forgotten it")
		console.ClearFaults()
		m.mustRead("token/team")
		assert.NotNil(t, m.mustRead("status/team").Data["last_success_at"])
		console.RemoveKey("team")
		m.must(logical.DeleteOperation, "token/team")
		m.refused(logical.ReadOperation, "token/team")
		assert.Equal(t, "refused", state("status/team"))
		m.mustWrite("config", map[string]any{"console_url": "https://elsewhere.example", "api_key": "x", "verify_connection": false})
		m.restart()
		assert.Equal(t, "refused", state("status/team"), "its key may not go to the new URL")
	})
}
