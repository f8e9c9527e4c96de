package snowplow

import (
	"fmt"
	"testing"
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
	}, m.mustRead("status").Data)
	assert.Zero(t, console.Exchanges())

	token := m.mustRead("token")
	m.mustRead("token")
	status := m.mustRead("status").Data
	assert.EqualValues(t, 2, status["reads"])
	assert.EqualValues(t, 1, status["exchanges"])
	assert.EqualValues(t, 1, status["reused"])
	assert.Equal(t, token.Data["expires_at"], status["token_expires_at"])
	issuedAt, _ := jwtTimes(token.Data["access_token"].(string))
	assert.Equal(t, issuedAt.Format(time.RFC3339), status["token_issued_at"])
	assert.NotNil(t, status["last_exchange_at"])

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
	assert.Equal(t, 2, console.Exchanges(), "one of them to verify")
}

func TestNoSecretGetsOut(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 400, 401, 403, 404, 418, 429, 500, 503} {
		for version, config := range map[string]func(*consoletest.Server) map[string]any{"v3": v3Config, "v1": v1Config} {
			t.Run(fmt.Sprint(status, " to ", version), func(t *testing.T) {
				t.Parallel()
				console := consoletest.NewServer(t)
				m := newMount(t)
				m.mustWrite("config", config(console), map[string]any{"verify_connection": false, "request_timeout": 1})
				console.FailAlways(consoletest.Echo(status))
				_, reading := m.refused(logical.ReadOperation, "token")
				_, writing := m.refused(logical.UpdateOperation, "config", map[string]any{"ttl": 60})
				lastError := m.mustRead("status").Data["last_error"].(string)
				require.NotEmpty(t, lastError)

				console.ClearFaults()
				m.mustWrite("config", map[string]any{"ttl": 60})
				jwt := m.mustRead("token").Data["access_token"].(string)
				logs := m.logs.String()
				require.Contains(t, logs, "failed", "the failure is logged")
				require.Contains(t, logs, "valid_until", "the exchange is logged")
				for _, output := range []string{reading, writing, lastError, logs} {
					for _, secret := range []string{consoletest.DefaultAPIKey, consoletest.DefaultPassword, consoletest.DefaultClientSecret, jwt} {
						assert.NotContains(t, output, secret)
					}
				}
			})
		}
	}
}
