package acceptance

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestTokenIsALeasedJWT(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	secret := m.read(t, "token")
	jwt := jwtOf(t, secret)
	require.Equal(t, http.StatusOK, opens(t, console, jwt), "Console's answer to a request with the JWT")
	requireKeyID(t, console, jwt, consoletest.DefaultAPIKeyID)

	expiresAt, err := time.Parse("2006-01-02T15:04:05Z", secret.Data["expires_at"].(string))
	require.NoError(t, err, "expires_at must be RFC 3339 in UTC")
	assert.WithinDuration(t, time.Now().Add(24*time.Hour), expiresAt, time.Minute)
	delete(secret.Data, "access_token")
	delete(secret.Data, "expires_at")
	assert.Equal(t, fields{
		"token_type":      "Bearer",
		"organization_id": consoletest.DefaultOrganizationID,
		"console_url":     console.URL,
	}, secret.Data)

	assert.False(t, secret.Renewable, "a JWT cannot be made to last longer")
	assert.LessOrEqual(t, secret.LeaseDuration, int(time.Until(expiresAt).Seconds())+1, "a lease may not outlive its JWT")
	assert.Greater(t, secret.LeaseDuration, int((24*time.Hour - time.Minute).Seconds()))

	lease, err := m.client.Sys().Lookup(secret.LeaseID)
	require.NoError(t, err, "looking up the lease")
	assert.Equal(t, false, lease.Data["renewable"])
	ttl, err := lease.Data["ttl"].(json.Number).Int64()
	require.NoError(t, err)
	assert.InDelta(t, secret.LeaseDuration, ttl, 60, "the TTL of the lease, looked up")

	_, err = m.client.Sys().Renew(secret.LeaseID, 0)
	requireStatus(t, err, http.StatusBadRequest, "lease is not renewable")
}

func TestTokenLeasesAreRevoked(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	one, two, three := m.read(t, "token"), m.read(t, "token"), m.read(t, "token")
	leases := "sys/leases/lookup/" + m.at("token")
	requireLeases := func(want int) {
		t.Helper()
		list, err := m.client.Logical().List(leases)
		require.NoError(t, err)
		if want == 0 {
			require.Nil(t, list, "leases that are left")
			return
		}
		require.Len(t, list.Data["keys"], want, "leases that are left")
	}
	requireLeases(3)

	require.NoError(t, m.client.Sys().Revoke(one.LeaseID))
	_, err := m.client.Sys().Lookup(one.LeaseID)
	requireStatus(t, err, http.StatusBadRequest, "invalid lease")
	requireLeases(2)

	require.NoError(t, m.client.Sys().RevokePrefix(m.at("token")))
	requireLeases(0)

	jwt := jwtOf(t, one)
	assert.Equal(t, http.StatusOK, opens(t, console, jwt), "Snowplow has no way to revoke a JWT")
	assert.Equal(t, jwt, m.jwt(t, "token"), "other readers hold the cached JWT as well")
	assert.Equal(t, jwt, jwtOf(t, two))
	assert.Equal(t, jwt, jwtOf(t, three))
}

func TestTokenIsReusedUntilItIsForgotten(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	kept := m.jwt(t, "token")
	require.Equal(t, kept, m.jwt(t, "token"), "a further reader shares the JWT")

	updated, err := m.tryWrite("token", nil)
	require.NoError(t, err, "clients that can only PUT read with an update")
	require.Equal(t, kept, jwtOf(t, updated))
	require.NotEmpty(t, updated.LeaseID, "an update answers a lease as a read does")

	m.remove(t, "token")
	fresh := m.jwt(t, "token")
	require.NotEqual(t, kept, fresh, "a read after the JWT was forgotten makes an exchange")
	require.Equal(t, http.StatusOK, opens(t, console, fresh))
}

func TestWrappedTokenIsUnwrappedOnce(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	reader := m.as(t, m.client.Token())
	reader.client.SetWrappingLookupFunc(func(string, string) string { return "60s" })
	wrapped := reader.read(t, "token")
	require.NotNil(t, wrapped.WrapInfo, "a read with a wrap TTL is answered with a wrapping token")
	require.Empty(t, wrapped.Data, "the answer itself is in the wrapping alone")

	secret, err := m.client.Logical().Unwrap(wrapped.WrapInfo.Token)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, opens(t, console, jwtOf(t, secret)))
	require.NotEmpty(t, secret.LeaseID, "the lease is that of the JWT")
	_, err = m.client.Logical().Unwrap(wrapped.WrapInfo.Token)
	requireStatus(t, err, http.StatusBadRequest, "wrapping token is not valid")
}

// The status and the error of the plugin arrive through the server as they are.
func TestFailedExchangesAreAnsweredWithTheRightStatus(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault  http.Handler
		status int
	}{
		"refused":      {consoletest.Status(http.StatusUnauthorized, "", nil), http.StatusBadRequest},
		"rate-limited": {consoletest.Status(http.StatusTooManyRequests, "", http.Header{"Retry-After": {"120"}}), http.StatusTooManyRequests},
		"unavailable":  {consoletest.Status(http.StatusServiceUnavailable, "", nil), http.StatusBadGateway},
		"silent":       {consoletest.Silence(), http.StatusGatewayTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			console := consoletest.NewServer(t)
			console.FailAlways(test.fault)
			m := newMount(t)
			m.write(t, "config", with(defaultConfig(console), fields{"request_timeout": "2s", "verify_connection": false}))
			_, err := m.tryRead("token")
			requireStatus(t, err, test.status)
		})
	}
}
