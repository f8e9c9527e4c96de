package acceptance

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// analyticsKey is the scoped key of a team.
var analyticsKey = consoletest.Key{ID: "analytics-key-id", Secret: "canary-analytics-key-do-not-leak"}

func keyOf(key consoletest.Key) fields { return fields{"api_key_id": key.ID, "api_key": key.Secret} }

// check stands for a value that is not known beforehand.
type check func(value any) bool

var (
	someTime check = func(value any) bool {
		text, _ := value.(string)
		_, err := time.Parse("2006-01-02T15:04:05Z", text) // RFC 3339 in UTC
		return err == nil
	}
	someNumber check = func(value any) bool {
		number, _ := value.(json.Number)
		_, err := number.Int64()
		return err == nil
	}
)

// resolve replaces the checks in want that a value passes by the value.
func resolve(want, got fields) fields {
	want = maps.Clone(want)
	for name, value := range want {
		if passes, ok := value.(check); ok && passes(got[name]) {
			want[name] = got[name]
		}
	}
	return want
}

// ofCredential is what config, roles and status show of a credential.
func ofCredential(keyID string, more fields) fields {
	return with(more, fields{"credentials_version": "v3", "api_key_id": keyID, "credential_written_at": someTime})
}

// Each path as a client of a real server sees it: fields, their JSON types, leases, warnings and refusals.
func TestEveryPath(t *testing.T) {
	t.Parallel()
	const day = 24 * 3600
	console := consoletest.NewServer(t)
	console.AddKey(analyticsKey)
	m := newMount(t)
	token := func(keyID string) fields {
		return fields{
			"access_token": check(func(value any) bool {
				jwt, _ := value.(string)
				issuedTo, _ := console.Issued(jwt)
				return issuedTo == keyID && opens(t, console, jwt) == http.StatusOK
			}),
			"token_type":      "Bearer",
			"expires_at":      someTime,
			"organization_id": consoletest.DefaultOrganizationID,
			"console_url":     console.URL,
		}
	}
	config := ofCredential(consoletest.DefaultAPIKeyID, fields{
		"organization_id": consoletest.DefaultOrganizationID,
		"console_url":     console.URL,
		"auth_url":        "https://id.snowplowanalytics.com",
		"ca_cert":         "",
		"request_timeout": json.Number("30"),
		"ttl":             json.Number("600"),
		"reuse_period":    json.Number("3600"),
	})
	role := ofCredential(analyticsKey.ID, fields{"credential_source": "role", "ttl": json.Number("3600")})
	status := func(keyID string, more fields) fields {
		return with(ofCredential(keyID, fields{
			"version": pluginVersion, "organization_id": consoletest.DefaultOrganizationID, "console_url": console.URL,
			"credential_source": "config", "state": "idle", "next_attempt_at": nil,
			"token_issued_at": nil, "token_expires_at": nil,
			"reads": json.Number("0"), "reused": json.Number("0"), "stale": json.Number("0"),
			"exchanges": json.Number("0"), "exchange_failures": json.Number("0"),
			"last_exchange_at": nil, "last_exchange_duration_ms": json.Number("0"), "last_success_at": nil,
			"last_error": "", "last_error_at": nil,
		}), more)
	}
	untried := fields{"verify_connection": false}

	for i, step := range []struct {
		operation, path string
		data            fields
		want            fields // nil: no content, or nothing there
		lease           int    // in seconds
		refused         string // with 400, and this in the message
	}{
		{operation: "read", path: "config"},
		{operation: "read", path: "token", refused: m.at("config")},
		{operation: "read", path: "status", refused: m.at("config")},
		{operation: "write", path: "config", data: with(defaultConfig(console), untried)},
		{operation: "write", path: "config", data: fields{"ttl": "1h"}},
		{operation: "patch", path: "config", data: fields{"ttl": 600, "reuse_period": nil}},
		{operation: "read", path: "config", want: config},
		{operation: "write", path: "config", data: fields{"api_keey": "x"}, refused: "api_keey"},
		{operation: "patch", path: "config", data: fields{"api_key": []string{"x"}}, refused: "api_key"},
		{operation: "write", path: "config", data: fields{"api_key": "wrong", "ttl": 60}, refused: "401"},
		{operation: "read", path: "config", want: config},

		{operation: "list", path: "roles"},
		{operation: "read", path: "roles/own"},
		{operation: "patch", path: "roles/own", data: fields{"ttl": 60}, refused: "own"},
		{operation: "write", path: "roles/own", data: with(with(keyOf(analyticsKey), untried), fields{"reuse_period": 60})},
		{operation: "patch", path: "roles/own", data: fields{"ttl": "1h", "reuse_period": nil}},
		{operation: "read", path: "roles/own", want: role},
		{operation: "write", path: "roles/short", data: fields{"ttl": "1m"}, want: fields{}}, // a warning
		{operation: "read", path: "roles/short", want: fields{"credential_source": "config", "ttl": json.Number("60")}},
		{operation: "list", path: "roles", want: fields{"keys": []any{"own", "short"}}},

		{operation: "read", path: "status", want: status(consoletest.DefaultAPIKeyID, nil)},
		{operation: "read", path: "status/own", want: status(analyticsKey.ID, fields{"credential_source": "role"})},
		{operation: "read", path: "token", want: token(consoletest.DefaultAPIKeyID), lease: 600},
		{operation: "write", path: "token", want: token(consoletest.DefaultAPIKeyID), lease: 600},
		{operation: "read", path: "token/own", want: token(analyticsKey.ID), lease: 3600},
		{operation: "write", path: "token/short", want: token(consoletest.DefaultAPIKeyID), lease: 60},
		{operation: "patch", path: "config", data: fields{"ttl": nil}},
		{operation: "read", path: "token", want: token(consoletest.DefaultAPIKeyID), lease: day},
		{operation: "read", path: "status", want: status(consoletest.DefaultAPIKeyID, fields{
			"state": "ok", "token_issued_at": someTime, "token_expires_at": someTime,
			"reads": json.Number("3"), "reused": json.Number("2"), "exchanges": json.Number("1"),
			"last_exchange_at": someTime, "last_exchange_duration_ms": someNumber, "last_success_at": someTime,
		})},

		{operation: "delete", path: "token"},
		{operation: "read", path: "token", want: token(consoletest.DefaultAPIKeyID), lease: day},
		{operation: "delete", path: "token/short", refused: m.at("token")},
		{operation: "delete", path: "roles/own"},
		{operation: "read", path: "roles/own"},
		{operation: "read", path: "token/own", refused: "own"},
		{operation: "read", path: "status/own", refused: "own"},
		{operation: "delete", path: "config"},
		{operation: "read", path: "config"},
		{operation: "read", path: "token", refused: m.at("config")},
	} {
		secret, err := m.try(t, step.operation, step.path, step.data)
		if step.refused != "" {
			requireStatus(t, err, http.StatusBadRequest, step.refused)
			continue
		}
		require.NoError(t, err, "step %d: %s %s", i, step.operation, step.path)
		if step.want == nil {
			require.Nil(t, secret, "step %d: %s %s", i, step.operation, step.path)
			continue
		}
		require.NotNil(t, secret, "step %d: %s %s", i, step.operation, step.path)
		if len(step.want) == 0 {
			require.Empty(t, secret.Data)
			require.Len(t, secret.Warnings, 1, "step %d: %s %s", i, step.operation, step.path)
			continue
		}
		require.Equal(t, resolve(step.want, secret.Data), secret.Data, "step %d: %s %s", i, step.operation, step.path)
		requireLease(t, secret, step.lease)
		require.False(t, secret.Renewable)
	}

	response, err := m.client.Logical().ReadRawWithContext(t.Context(), m.at("metrics"))
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Contains(t, response.Header.Get("Content-Type"), "text/plain")
	require.Contains(t, string(text), "snowplow_token_reads_total{path=\"token\"} ")
}

// What Vault does with the lease of a token, and what that does to the JWT: nothing.
func TestLeasesOfTokens(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	m.write(t, "roles/team", fields{"ttl": "1h"})
	one, two, other := m.read(t, "token"), m.read(t, "token"), m.read(t, "token/team")
	requireNoLease := func(lease string) {
		t.Helper()
		_, err := m.client.Sys().Lookup(lease)
		requireStatus(t, err, http.StatusBadRequest, "invalid lease")
	}

	_, err := m.client.Sys().Renew(one.LeaseID, 0)
	requireStatus(t, err, http.StatusBadRequest, "lease is not renewable")
	requireRevocable(t, m.client, one.LeaseID)
	require.NoError(t, m.client.Sys().RevokePrefix(m.at("token")))
	requireNoLease(two.LeaseID)
	requireNoLease(other.LeaseID)
	require.Equal(t, http.StatusOK, opens(t, console, jwtOf(t, one)), "Snowplow has no way to revoke a JWT")
	require.Equal(t, jwtOf(t, one), m.jwt(t, "token"), "other readers have the cached JWT as well")

	other = m.read(t, "token/team")
	m.remove(t, "roles/team")
	requireRevocable(t, m.client, other.LeaseID)

	wrapping := m.as(t, m.client.Token())
	wrapping.client.SetWrappingLookupFunc(func(string, string) string { return "60s" })
	wrapped := wrapping.read(t, "token")
	require.NotNil(t, wrapped.WrapInfo)
	require.Empty(t, wrapped.Data, "the JWT is in the wrapping alone")
	secret, err := m.client.Logical().Unwrap(wrapped.WrapInfo.Token)
	require.NoError(t, err)
	require.Equal(t, jwtOf(t, one), jwtOf(t, secret))
	requireRevocable(t, m.client, secret.LeaseID)
	_, err = m.client.Logical().Unwrap(wrapped.WrapInfo.Token)
	requireStatus(t, err, http.StatusBadRequest, "wrapping token is not valid")

	// The mount's maximum limits a lease. Its default does not: every JWT has an end of its own.
	for _, limits := range []struct {
		longest         string
		lease, warnings int
	}{
		{"2h", 7200, 1},
		{"240h", 24 * 3600, 0},
	} {
		m.server.run(t, "secrets", "tune", "-default-lease-ttl=1h", "-max-lease-ttl="+limits.longest, m.path)
		m.remove(t, "token") // a JWT that is valid for the whole day
		secret := m.read(t, "token")
		requireLease(t, secret, limits.lease)
		assert.Len(t, secret.Warnings, limits.warnings, "%v", secret.Warnings)
	}
}
