package snowplow

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

func TestTokenIsALease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := consoletest.New()
		m := newMountInBubble(t, server)
		m.mustWrite("config", defaultKey)
		for _, operation := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation} {
			resp := m.must(operation, "token")
			require.NotNil(t, resp.Secret)
			assert.False(t, resp.Secret.Renewable)
			assert.Equal(t, 24*time.Hour, resp.Secret.TTL)

			jwt := resp.Data["access_token"].(string)
			keyID, ok := server.Issued(jwt)
			assert.True(t, ok)
			assert.Equal(t, consoletest.DefaultAPIKeyID, keyID)
			assert.Equal(t, map[string]any{
				"access_token":    jwt,
				"token_type":      "Bearer",
				"expires_at":      timestamp(claimOf(t, resp, "exp")),
				"organization_id": consoletest.DefaultOrganizationID,
				"console_url":     "https://console.snowplowanalytics.com",
			}, resp.Data)
			assert.Empty(t, resp.Warnings)
		}
		time.Sleep(1500 * time.Millisecond)
		assert.Equal(t, 24*time.Hour-2*time.Second, m.mustRead("token").Secret.TTL, "in whole seconds, rounded down")
		assert.Equal(t, 1, server.Exchanges())
	})
}

// claimOf reads a time out of the JWT that a response holds.
func claimOf(t *testing.T, resp *logical.Response, name string) time.Time {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(resp.Data["access_token"].(string), ".")[1])
	require.NoError(t, err)
	var claims map[string]any
	require.NoError(t, json.Unmarshal(payload, &claims))
	return time.Unix(int64(claims[name].(float64)), 0)
}

func TestParametersOfTokenAreIgnoredExceptARole(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	m.mustWrite("roles/ci", scopedKey(console, "scoped"))
	for _, operation := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation} {
		// Vault Secrets Operator sends what its user has set as params.
		resp := m.must(operation, "token", map[string]any{"some": "parameter"})
		assert.Equal(t, consoletest.DefaultAPIKeyID, keyIDOf(t, console, resp))
		resp = m.must(operation, "token/ci", map[string]any{"name": "other", "role": "other"})
		assert.Equal(t, "scoped", keyIDOf(t, console, resp))
	}
	for _, operation := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation, logical.DeleteOperation} {
		for _, parameter := range []string{"role", "name"} {
			for value, path := range map[any]string{"ci": "token/ci", "": "token/<role>", "canary/..": "token/<role>", 7: "token/<role>", nil: "token/<role>"} {
				status, message := m.refused(operation, "token", map[string]any{parameter: value})
				assert.Equal(t, 400, status)
				assert.Equal(t, parameter+" is not a parameter of token: read "+path+" instead", message)
			}
		}
	}
	_, message := m.refused(logical.ReadOperation, "status", map[string]any{"role": "ci"})
	assert.Contains(t, message, "read status/ci instead")
}

func TestLeaseNeverOutlivesTheJWT(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		validity time.Duration
		ttl      int
		claims   func(map[string]any)
		lease    time.Duration
	}{
		"short JWT":            {90 * time.Second, 0, nil, 90 * time.Second},
		"ttl shorter":          {time.Hour, 60, nil, time.Minute},
		"ttl longer":           {time.Minute, 3600, nil, time.Minute},
		"no exp":               {time.Hour, 0, func(c map[string]any) { delete(c, "exp") }, 24 * time.Hour},
		"exp that is a string": {time.Hour, 0, func(c map[string]any) { c["exp"] = "soon" }, 24 * time.Hour},
		"exp out of reach":     {time.Hour, 0, func(c map[string]any) { c["exp"] = 1e300 }, 24 * time.Hour},
		"no iat":               {time.Hour, 0, func(c map[string]any) { delete(c, "iat") }, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := consoletest.New()
				server.SetValidity(test.validity)
				server.SetClaims(test.claims)
				m := newMountInBubble(t, server)
				m.mustWrite("config", defaultKey, map[string]any{"ttl": test.ttl})
				assert.Equal(t, test.lease, m.mustRead("token").Secret.TTL)
			})
		})
	}
}

func TestAJWTTooShortForALeaseIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := consoletest.New()
		server.SetClaims(func(claims map[string]any) { claims["exp"] = float64(time.Now().UnixMilli()+900) / 1000 })
		m := newMountInBubble(t, server)
		m.mustWrite("config", defaultKey, map[string]any{"verify_connection": false})
		resp, err := m.request(t.Context(), logical.ReadOperation, "token")
		status, message := refusal(t, resp, err)
		assert.Equal(t, 502, status, "a TTL of 0 would be the mount's default of 32 days")
		assert.Contains(t, message, "already expired on arrival")
	})
}

func TestWarmReadTouchesNeitherStorageNorNetwork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := consoletest.New()
		m := newMountInBubble(t, server)
		m.mustWrite("config", defaultKey, map[string]any{"verify_connection": false})
		m.mustWrite("roles/analytics", map[string]any{"ttl": 60})
		m.mustRead("token")
		m.mustRead("token/analytics")
		synctest.Wait() // until the JWT is stored
		storage, logged := m.storage.count(), m.logs.String()
		m.storage.fail("get", "put", "delete", "list")
		for range 10 {
			m.mustRead("token")
			m.mustRead("token/analytics")
		}
		synctest.Wait()
		assert.Equal(t, storage, m.storage.count())
		assert.Equal(t, 1, server.Exchanges())
		assert.Equal(t, logged, m.logs.String(), "a warm read is not worth a log line")
	})
}

// giveUpReading reads a token, and gives up while the exchange is under way: it is held until it is released.
func giveUpReading(m *mount, console *consoletest.Server) *consoletest.Hold {
	m.t.Helper()
	hold := console.Hold()
	ctx, cancel := context.WithCancel(m.t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := m.request(ctx, logical.ReadOperation, "token")
		failed <- err
	}()
	<-hold.Started()
	cancel()
	require.ErrorIs(m.t, <-failed, context.Canceled)
	return hold
}

func TestStatusDoesNotCountAReaderThatGivesUpAsAFailure(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t, map[string]any{"reuse_period": 0})
	hold := giveUpReading(m, console)
	hold.Release()
	status := m.mustRead("status").Data
	assert.EqualValues(t, 0, status["exchange_failures"])
	assert.Empty(t, status["last_error"])
	assert.NotContains(t, m.logs.String(), "failed")
}

func TestDeleteForgetsTheCachedJWT(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	first := m.mustRead("token").Data["access_token"]
	assert.Nil(t, m.must(logical.DeleteOperation, "token"))
	assert.NotEqual(t, first, m.mustRead("token").Data["access_token"])
	assert.Equal(t, 2, console.Exchanges())
}

func TestRevokingChangesNothing(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	resp := m.mustRead("token")
	m.must(logical.DeleteOperation, "config")
	console.Close()
	revoked, err := m.backend.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.RevokeOperation, Path: "token", Storage: m.storage, Secret: resp.Secret, Data: resp.Data,
	})
	require.NoError(t, err)
	assert.Nil(t, revoked)
}

func TestRevokingKeepsTheJWTForOtherReaders(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	resp := m.mustRead("token")
	_, err := m.backend.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.RevokeOperation, Path: "token", Storage: m.storage, Secret: resp.Secret,
	})
	require.NoError(t, err)
	assert.Equal(t, resp.Data["access_token"], m.mustRead("token").Data["access_token"])
	assert.Equal(t, 1, console.Exchanges())
}

func TestRenewalIsRefused(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	resp := m.mustRead("token")
	_, err := m.backend.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.RenewOperation, Path: "token", Storage: m.storage, Secret: resp.Secret,
	})
	assert.Error(t, err)
}

func TestAStaleJWTComesWithAWarning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := consoletest.New()
		m := newMountInBubble(t, server)
		m.mustWrite("config", defaultKey)
		first := m.mustRead("token")
		server.FailAlways(consoletest.Status(http.StatusInternalServerError, "", nil))
		time.Sleep(2 * time.Hour)
		stale := m.mustRead("token")
		assert.Equal(t, first.Data["access_token"], stale.Data["access_token"])
		assert.Equal(t, 22*time.Hour, stale.Secret.TTL)
		require.Len(t, stale.Warnings, 1)
		assert.Contains(t, stale.Warnings[0], "could not get a new JWT; serving the one obtained at 2000-01-01T00:00:00Z: Snowplow Console at https://console.snowplowanalytics.com answered with status 500")
		assert.EqualValues(t, 1, m.mustRead("status").Data["stale"])
	})
}

func TestOnlyARoleWithACredentialOfItsOwnCanForgetItsJWT(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	m.mustWrite("roles/bare", map[string]any{"ttl": 60})
	m.mustWrite("roles/own", scopedKey(console, "scoped"))
	first := m.mustRead("token/bare").Data["access_token"]
	status, message := m.refused(logical.DeleteOperation, "token/bare")
	assert.Equal(t, 400, status)
	assert.Contains(t, message, `role "bare" has no credential of its own: its tokens are those of config's key, which 'vault delete snowplow/token' forgets`)
	assert.Equal(t, first, m.mustRead("token/bare").Data["access_token"])

	own := m.mustRead("token/own").Data["access_token"]
	m.must(logical.DeleteOperation, "token/own")
	assert.NotEqual(t, own, m.mustRead("token/own").Data["access_token"])
	status, _ = m.refused(logical.DeleteOperation, "token/unknown")
	assert.Equal(t, 400, status)
}

func TestForgettingSaysThatTheStoredCopyRemains(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		m.storage.fail("delete")
		status, message := m.refused(logical.DeleteOperation, "token")
		assert.Equal(t, 500, status)
		assert.Contains(t, message, "its stored copy could not be deleted")
	})
}

func TestAJWTThatExpiresOnItsWayToTheReaderGetsNoLease(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	role, err := m.backend.current.Load().role(t.Context(), &logical.Request{Storage: m.storage}, "")
	require.NoError(t, err)
	status, message := refusal(t, nil, func() error {
		_, err := lease(role, tokencache.Served{Token: console.Token{Bearer: redact.NewSecret("jwt"), ObtainedAt: time.Now(), Validity: 900 * time.Millisecond}})
		return err
	}())
	assert.Equal(t, http.StatusBadGateway, status, "to Vault, a lease of 0 seconds is one of the mount's default length")
	assert.Contains(t, message, "expired before it could be served")
}

func TestACredentialWithoutAUsableTransport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		works := m.backend.newTransport
		m.backend.newTransport = func(string) (http.RoundTripper, error) { return nil, errors.New("no CA certificates") }
		m.mustWrite("config", map[string]any{"ttl": "1h"}) // makes a new client
		for _, failing := range []func() (int, string){
			func() (int, string) { return m.refused(logical.ReadOperation, "token") },
			func() (int, string) {
				return m.refused(logical.UpdateOperation, "config", map[string]any{"api_key": consoletest.DefaultAPIKey})
			},
		} {
			status, message := failing()
			assert.Equal(t, http.StatusInternalServerError, status)
			assert.Contains(t, message, "connecting to Snowplow Console: no CA certificates")
		}
		m.backend.newTransport = works
		m.mustRead("token")
	})
}

func TestARateLimitedReaderIsToldWhenTheEngineTriesAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		m.must(logical.DeleteOperation, "token")
		console.FailAlways(consoletest.Status(http.StatusTooManyRequests, "", nil))
		for range 6 {
			status, message := m.refused(logical.ReadOperation, "token")
			assert.Equal(t, 429, status)
			_, at, _ := strings.Cut(message, "try again after ")
			said, err := time.Parse(time.RFC3339, at)
			require.NoError(t, err, message)
			next, err := time.Parse(time.RFC3339, m.mustRead("status").Data["next_attempt_at"].(string))
			require.NoError(t, err)
			assert.WithinRange(t, said, next, next.Add(time.Second))
			time.Sleep(15 * time.Second)
		}
	})
}

// hungEvents is an event bus that answers when the context ends.
type hungEvents struct{}

func (hungEvents) SendEvent(ctx context.Context, _ logical.EventType, _ *logical.EventData) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestAReadWaitsForNoEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		m.events = hungEvents{}
		m.restart()
		m.must(logical.DeleteOperation, "token")
		down(console)
		m.refused(logical.ReadOperation, "token")
	})
}
