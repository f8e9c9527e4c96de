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
	assert.Equal(t, jwt, m.jwt(t, "token"), "the kept JWT is other readers' as well")
	assert.Equal(t, jwt, jwtOf(t, two))
	assert.Equal(t, jwt, jwtOf(t, three))
	assert.Equal(t, 2, console.Exchanges(), "one for the write, one for all readers")
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

	m.write(t, "config", fields{"reuse_period": 0, "verify_connection": false})
	before := console.Exchanges()
	require.NotEqual(t, m.jwt(t, "token"), m.jwt(t, "token"), "with reuse_period=0 every read makes an exchange")
	require.Equal(t, before+2, console.Exchanges())
}

func TestLeaseIsNoLongerThanTTLAndJWT(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	m.write(t, "config", fields{"ttl": "10m"})
	require.Equal(t, 600, m.read(t, "token").LeaseDuration, "ttl is shorter than the JWT is valid")

	console.SetValidity(5 * time.Minute)
	m.remove(t, "token")
	assert.LessOrEqual(t, m.read(t, "token").LeaseDuration, 300, "the JWT is valid for less than ttl")

	// The mount's maximum is Vault's to enforce.
	console.SetValidity(consoletest.DefaultValidity)
	m.write(t, "config", fields{"ttl": 0})
	m.server.run(t, "secrets", "tune", "-max-lease-ttl=1h", m.path)
	secret := m.read(t, "token")
	assert.Equal(t, 3600, secret.LeaseDuration)
	assert.Contains(t, secret.Warnings[0], "TTL of")
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

// What a reader gets when an exchange fails, as it arrives through Vault.
func TestFailedExchangesAreAnsweredWithTheRightStatus(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault  http.Handler
		status int
		says   []string
	}{
		"401":       {consoletest.Status(401, "", nil), 400, []string{"refused the API key with status 401", "vault write"}},
		"403":       {consoletest.Status(403, "", nil), 400, []string{"refused the API key with status 403", "vault write"}},
		"404":       {consoletest.Status(404, "", nil), 400, []string{consoletest.DefaultOrganizationID, "Manage organization"}},
		"418":       {consoletest.Status(418, "short and stout", nil), 400, []string{"418", "short and stout"}},
		"429":       {consoletest.Status(429, "", http.Header{"Retry-After": {"120"}}), 429, []string{"too many requests", "try again after"}},
		"503":       {consoletest.Status(503, "", nil), 502, []string{"503"}},
		"redirect":  {http.RedirectHandler("https://example.com/", http.StatusFound), 502, []string{"redirect"}},
		"malformed": {consoletest.Status(200, "<html>", nil), 502, []string{"malformed"}},
		"oversized": {consoletest.Status(200, string(make([]byte, 2<<20)), nil), 502, []string{"oversized"}},
		"broken":    {consoletest.Disconnect(), 502, []string{"malformed answer, or broke the connection"}},
		"silent":    {consoletest.Silence(), 504, []string{"request_timeout (2s)"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, console := configured(t)
			if name == "silent" {
				m.write(t, "config", fields{"request_timeout": "2s"})
			}
			console.FailAlways(test.fault)
			_, err := m.tryRead("token")
			requireStatus(t, err, test.status, test.says...)
			exchanges := console.Exchanges()
			_, err = m.tryRead("token")
			requireStatus(t, err, test.status, test.says...)
			require.Equal(t, exchanges, console.Exchanges(), "the next reader gets the same error at once")

			console.ClearFaults()
			m.write(t, "config", fields{})
			require.Equal(t, http.StatusOK, opens(t, console, m.jwt(t, "token")), "a write ends the wait after a failure")
		})
	}
}

func TestExpiredJWTIsNeverLeased(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	console.SetValidity(-time.Minute)
	_, err := m.tryRead("token")
	requireStatus(t, err, http.StatusBadGateway, "already expired on arrival", "one of them may be wrong")
}

func TestKeptJWTStandsInWhileConsoleIsDown(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	m.write(t, "config", fields{"reuse_period": "1s", "request_timeout": "1s"})
	kept := m.jwt(t, "token")
	console.FailAlways(consoletest.Status(http.StatusServiceUnavailable, "", nil))
	eventually(t, patience, "a read that is answered with the kept JWT and a warning", func() error {
		secret := m.read(t, "token")
		require.Equal(t, kept, jwtOf(t, secret))
		if len(secret.Warnings) == 0 {
			return assert.AnError // the kept JWT is still young enough
		}
		require.Contains(t, secret.Warnings[0], "no new JWT could be had")
		return nil
	})

	console.FailAlways(consoletest.Status(http.StatusUnauthorized, "", nil))
	eventually(t, patience, "a read that is refused once Console refuses the key", func() error {
		_, err := m.tryRead("token")
		if err == nil {
			return assert.AnError // the wait after the last failure is not over
		}
		requireStatus(t, err, http.StatusBadRequest, "refused the API key")
		return nil
	})
}
