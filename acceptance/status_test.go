package acceptance

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	console.AddKey(analyticsKey)
	m := newMount(t)
	m.write(t, "config", with(defaultConfig(console), fields{"verify_connection": false}))
	m.write(t, "roles/analytics", with(keyOf(analyticsKey), fields{"verify_connection": false}))
	want := fields{
		"version":             pluginVersion,
		"credentials_version": "v3",
		"organization_id":     consoletest.DefaultOrganizationID,
		"api_key_id":          consoletest.DefaultAPIKeyID,
		"console_url":         console.URL,
		"token_issued_at":     nil,
		"token_expires_at":    nil,
		"reads":               json.Number("0"),
		"exchanges":           json.Number("0"),
		"exchange_failures":   json.Number("0"),
		"reused":              json.Number("0"),
		"stale":               json.Number("0"),
	}
	require.Subset(t, m.read(t, "status").Data, want, "status before the first read")
	want["api_key_id"] = analyticsKey.ID
	require.Subset(t, m.read(t, "status/analytics").Data, want, "status of a role before its first read")
	require.Zero(t, console.Exchanges(), "status asks Snowplow nothing")

	m.jwt(t, "token/analytics")
	m.jwt(t, "token/analytics")
	status := m.read(t, "status/analytics").Data
	require.Subset(t, status, fields{"reads": json.Number("2"), "exchanges": json.Number("1"), "reused": json.Number("1")})
	issuedAt, expiresAt := timeOf(t, status["token_issued_at"]), timeOf(t, status["token_expires_at"])
	require.WithinDuration(t, time.Now(), issuedAt, time.Minute)
	require.Equal(t, consoletest.DefaultValidity, expiresAt.Sub(issuedAt))
	require.WithinDuration(t, time.Now(), timeOf(t, status["last_exchange_at"]), time.Minute)
	require.Equal(t, json.Number("0"), m.read(t, "status").Data["reads"], "reads of a role are not counted elsewhere")
}

func timeOf(t testing.TB, value any) time.Time {
	t.Helper()
	text, _ := value.(string)
	parsed, err := time.Parse("2006-01-02T15:04:05Z", text)
	require.NoError(t, err, "a time in RFC 3339 and UTC")
	return parsed
}
