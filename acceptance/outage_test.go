package acceptance

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// requireCachedJWT holds that a reader gets the JWT that was cached before Console
// went down, without waiting for an exchange to end.
func requireCachedJWT(t testing.TB, m mount, jwt, when string) {
	t.Helper()
	begun := time.Now()
	require.Equal(t, jwt, m.jwt(t, "token"), "%s: the cached JWT is served", when)
	require.Less(t, time.Since(begun), patience, "%s: a reader has waited", when)
}

func TestLeaderIsKilledWhileConsoleIsDown(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	console.AddKey(analyticsKey)
	cluster := startCluster(t)
	leader := server{cluster.Nodes[0]}
	m := leader.mount(t, "snowplow", "")
	m.write(t, "config", with(defaultConfig(console), fields{"reuse_period": "1s"}))
	m.write(t, "roles/analytics", keyOf(analyticsKey)) // its JWT is in storage only
	jwt := m.jwt(t, "token")
	exchanges := console.Exchanges()
	console.FailAlways(consoletest.Silence())

	require.NoError(t, leader.Kill())
	next, err := cluster.Leader(t.Context())
	require.NoError(t, err)
	m = mount{server: server{next}, path: m.path, client: next.Client}
	requireCachedJWT(t, m, jwt, "after the leader was killed")
	require.NotEmpty(t, m.jwt(t, "token/analytics"))
	m.write(t, "config", fields{"ttl": "1h", "request_timeout": "5s"})
	requireCachedJWT(t, m, jwt, "after a write of ttl and request_timeout")

	next, err = cluster.StepDown(t.Context())
	require.NoError(t, err)
	m = mount{server: server{next}, path: m.path, client: next.Client}
	requireCachedJWT(t, m, jwt, "after the next leader stepped down")
	require.Equal(t, "stale", m.read(t, "status").Data["state"])
	require.LessOrEqual(t, console.Exchanges()-exchanges, 8, "at most one exchange for each leader, path and write")
}

func TestVaultAndPluginRestartWhileConsoleIsDown(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	s := startServerWithRaft(t)
	m := s.mount(t, "snowplow", "")
	m.write(t, "config", defaultConfig(console))
	jwt := m.jwt(t, "token")
	before := console.Exchanges()
	console.FailAlways(consoletest.Status(http.StatusServiceUnavailable, "", nil))

	reload, err := s.Client.Logical().Write("sys/plugins/reload/backend", fields{"plugin": pluginName})
	require.NoError(t, err, "%v", reload)
	requireCachedJWT(t, m, jwt, "after the plugin was reloaded")
	require.NoError(t, s.Seal(t.Context()))
	require.NoError(t, s.Unseal(t.Context()))
	requireCachedJWT(t, m, jwt, "after Vault was sealed and unsealed")
	require.NoError(t, s.Restart(t.Context()))
	m = mount{server: s, path: m.path, client: s.Client}
	requireCachedJWT(t, m, jwt, "after Vault was restarted")
	require.Equal(t, before, console.Exchanges(), "a JWT that is still fresh needs no exchange")

	_, err = m.tryDelete("token")
	require.NoError(t, err)
	require.NoError(t, s.Restart(t.Context()))
	m = mount{server: s, path: m.path, client: s.Client}
	_, err = m.tryRead("token")
	require.Error(t, err, "what was forgotten does not come back")
}
