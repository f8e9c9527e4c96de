package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	const readers = 50
	m, console := configured(t)
	console.AddKey(analyticsKey)
	m.write(t, "roles/analytics", keyOf(analyticsKey))
	atStart := console.Exchanges()
	want := fields{
		"version":                   pluginVersion,
		"credentials_version":       "v3",
		"organization_id":           consoletest.DefaultOrganizationID,
		"api_key_id":                consoletest.DefaultAPIKeyID,
		"console_url":               console.URL,
		"token_issued_at":           nil,
		"token_expires_at":          nil,
		"reads":                     json.Number("0"),
		"exchanges":                 json.Number("0"),
		"exchange_failures":         json.Number("0"),
		"reused":                    json.Number("0"),
		"stale":                     json.Number("0"),
		"last_exchange_at":          nil,
		"last_exchange_duration_ms": json.Number("0"),
		"last_error":                "",
		"last_error_at":             nil,
	}
	require.Equal(t, want, m.read(t, "status").Data, "status before the first read")
	want["api_key_id"] = analyticsKey.ID
	require.Equal(t, want, m.read(t, "status/analytics").Data, "status of a role before its first read")
	require.Equal(t, atStart, console.Exchanges(), "status asks Snowplow nothing")

	var wait sync.WaitGroup
	for range readers {
		wait.Go(func() {
			_, err := m.tryRead("token/analytics")
			assert.NoError(t, err)
		})
	}
	wait.Wait()
	status := m.read(t, "status/analytics").Data
	assert.Equal(t, json.Number(fmt.Sprint(readers)), status["reads"])
	assert.Equal(t, json.Number("1"), status["exchanges"])
	assert.Equal(t, json.Number(fmt.Sprint(readers-1)), status["reused"])
	issuedAt, expiresAt := timeOf(t, status["token_issued_at"]), timeOf(t, status["token_expires_at"])
	assert.WithinDuration(t, time.Now(), issuedAt, time.Minute)
	assert.Equal(t, consoletest.DefaultValidity, expiresAt.Sub(issuedAt))
	assert.WithinDuration(t, time.Now(), timeOf(t, status["last_exchange_at"]), time.Minute)
	assert.Equal(t, json.Number("0"), m.read(t, "status").Data["reads"], "reads of a role are not counted elsewhere")

	console.FailAlways(consoletest.Status(http.StatusUnauthorized, "", nil))
	m.remove(t, "token/analytics")
	for range 3 {
		_, err := m.tryRead("token/analytics")
		requireStatus(t, err, http.StatusBadRequest, "refused the API key")
	}
	status = m.read(t, "status/analytics").Data
	assert.Equal(t, json.Number(fmt.Sprint(readers+3)), status["reads"])
	assert.Equal(t, json.Number("2"), status["exchanges"])
	assert.Equal(t, json.Number("1"), status["exchange_failures"])
	assert.Contains(t, status["last_error"], "refused the API key")
	assert.WithinDuration(t, time.Now(), timeOf(t, status["last_error_at"]), time.Minute)
	assert.Nil(t, status["token_issued_at"], "a refused key's JWT is not kept")
}

func timeOf(t testing.TB, value any) time.Time {
	t.Helper()
	text, _ := value.(string)
	parsed, err := time.Parse("2006-01-02T15:04:05Z", text)
	require.NoError(t, err, "a time in RFC 3339 and UTC")
	return parsed
}
