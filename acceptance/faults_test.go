package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

// logLoad reports what readers saw of a change of leader. Readers may be without a leader for longer than their
// clients repeat, and then go to the next node; but no node may ever take it for the reader's mistake.
func logLoad(t testing.TB, load *constantLoad, what string) {
	t.Helper()
	gap, repeated, failures := load.measured()
	t.Logf("%s: %s at most without a read; repeated by clients: %v; readers who had to go to another node: %d",
		what, gap, repeated, len(failures))
	for _, err := range failures {
		var refused *api.ResponseError
		if errors.As(err, &refused) {
			assert.GreaterOrEqual(t, refused.StatusCode, http.StatusInternalServerError, "%s: a reader got: %v", what, err)
		}
	}
}

func TestLeaderOfAClusterChanges(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	cluster, err := vaulttest.StartCluster(t.Context(), 3, serverOptions())
	require.NoError(t, err, "starting a cluster")
	var nodes []server
	for _, node := range cluster.Nodes {
		closeAfter(t, node)
		nodes = append(nodes, server{node})
	}
	require.NoError(t, cluster.RegisterPlugin(t.Context(), pluginOf(t, pluginVersion)))
	m := nodes[0].mount(t, "snowplow", "")
	m.write(t, "config", defaultConfig(console))

	// change changes config and a role on the leader, and returns what must be true from then on.
	changes := 0
	change := func(on mount) (check func(mount)) {
		changes++
		configTTL, roleTTL := 7200+100*changes, 600+100*changes
		id := fmt.Sprintf("key-%d", changes)
		console.AddKey(consoletest.Key{ID: id, Secret: "secret-of-" + id})
		on.write(t, "config", fields{"ttl": configTTL})
		on.write(t, "roles/team", fields{"ttl": roleTTL, "api_key_id": id, "api_key": "secret-of-" + id})
		config, role := on.read(t, "config").Data, on.read(t, "roles/team").Data
		return func(m mount) {
			require.Equal(t, config, m.read(t, "config").Data, "config on the new leader")
			require.Equal(t, role, m.read(t, "roles/team").Data, "a role on the new leader")
			requireLease(t, m.read(t, "token"), configTTL)
			secret := m.read(t, "token/team")
			requireLease(t, secret, roleTTL)
			requireKeyID(t, console, jwtOf(t, secret), id)
		}
	}
	lead := func(leader *vaulttest.Server, err error) {
		t.Helper()
		require.NoError(t, err)
		m = mount{server: server{leader}, path: m.path, client: leader.Client}
	}
	kill := func(ctx context.Context) (*vaulttest.Server, error) {
		if err := m.server.Kill(); err != nil {
			return nil, err
		}
		return cluster.Leader(ctx)
	}

	change(m)
	load := startLoad(t, console, m.at("token"), 6, nodes...)
	for _, step := range []struct {
		name string
		do   func(context.Context) (*vaulttest.Server, error)
	}{
		{"the leader was killed", kill},
		{"the leader stepped down", cluster.StepDown},
	} {
		lease, old := m.read(t, "token/team").LeaseID, m.server
		load.goesOn(t, "before "+step.name)
		load.measured()
		check := change(m)
		lead(step.do(t.Context()))
		check(m)
		requireRevocable(t, m.client, lease)
		load.goesOn(t, "after "+step.name)
		logLoad(t, load, step.name)
		if !old.Running() {
			require.NoError(t, old.Restart(t.Context()), "starting the node that was killed")
		} else if program.Product == vaulttest.Vault {
			requirePluginEnds(t, old) // so that it has no older config when it leads again
		} // A standby of OpenBao mounts the engine anew instead, to answer the reads that it can.
	}
	load.stop()

	// Every node answers: the leader, standbys that forward to it, and OpenBao's, which read config for themselves.
	config := m.read(t, "config").Data
	for _, node := range nodes {
		m := mount{server: node, path: m.path, client: node.Client}
		eventually(t, patience, "each node has config as it was last written", func() error {
			if got := m.read(t, "config").Data; !reflect.DeepEqual(config, got) {
				return fmt.Errorf("it has %v", got)
			}
			return nil
		})
		require.Equal(t, http.StatusOK, opens(t, console, m.jwt(t, "token")), "a read from each node")
	}

	// With Console down as well, a new leader goes on with the JWTs in storage. On a busy machine, leadership may change
	// again while it is asked.
	jwt, teams, exchanges := m.jwt(t, "token"), m.jwt(t, "token/team"), console.Exchanges()
	requireCached := func(when string) {
		t.Helper()
		eventually(t, patience, "the cached JWTs are served "+when, func() error {
			leader, err := cluster.Leader(t.Context())
			if err != nil {
				return err
			}
			lead(leader, nil)
			for path, want := range map[string]string{"token": jwt, "token/team": teams} {
				secret, err := m.tryRead(path)
				if err != nil {
					return err
				}
				require.Equal(t, want, jwtOf(t, secret), path)
			}
			return nil
		})
	}
	m.write(t, "config", fields{"reuse_period": "1s"})
	console.FailAlways(consoletest.Silence())
	killed := m.server
	lead(kill(t.Context()))
	requireCached("after the leader was killed")
	m.write(t, "config", fields{"ttl": "1h", "request_timeout": "5s"})
	requireCached("after a write that leaves the credential alone")
	require.NoError(t, killed.Restart(t.Context()), "starting the node that was killed")
	lead(cluster.StepDown(t.Context()))
	requireCached("after the next leader stepped down")
	require.Equal(t, "stale", m.read(t, "status").Data["state"])
	require.LessOrEqual(t, console.Exchanges()-exchanges, 8, "at most one exchange for each leader, path and write")
}

// pluginProcesses waits until a server has so many processes of the plugin, and returns them.
func pluginProcesses(t testing.TB, s server, number int) (pids []int) {
	t.Helper()
	eventually(t, patience, fmt.Sprintf("processes of the plugin that run: %d", number), func() (err error) {
		if pids, err = s.PluginPIDs(""); err == nil && len(pids) != number {
			err = fmt.Errorf("these run: %v", pids)
		}
		return err
	})
	return pids
}

// pluginProcess is the one process of the plugin that a server must have, once those that ended are gone.
func pluginProcess(t testing.TB, s server) int {
	t.Helper()
	return pluginProcesses(t, s, 1)[0]
}

// requirePluginEnds waits until a server has no process of the plugin.
func requirePluginEnds(t testing.TB, s server) {
	t.Helper()
	pluginProcesses(t, s, 0)
}

// requireRevocable demands that a lease is known, and that revoking ends it.
func requireRevocable(t testing.TB, client *api.Client, lease string) {
	t.Helper()
	_, err := client.Sys().Lookup(lease)
	require.NoError(t, err, "looking up a lease")
	require.NoError(t, client.Sys().Revoke(lease), "revoking a lease")
	_, err = client.Sys().Lookup(lease)
	requireStatus(t, err, http.StatusBadRequest, "invalid lease")
}

func TestPluginIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	m, console := configuredAlone(t)
	s := m.server
	m.write(t, "config", fields{"ttl": "2h"})
	lease := m.read(t, "token").LeaseID
	load := startLoad(t, console, m.at("token"), 8, s)
	load.goesOn(t, "before the plugin is killed")
	load.measured()

	pid := pluginProcess(t, s)
	for kill := 1; kill <= 10; kill++ {
		exchanges := console.Exchanges()
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		load.goesOn(t, fmt.Sprintf("after the plugin was killed %d times", kill))
		again := pluginProcess(t, s)
		require.NotEqual(t, pid, again, "Vault must have started the plugin anew")
		pid = again
		require.LessOrEqual(t, console.Exchanges(), exchanges+1, "exchanges by the new process")
	}
	load.stop()
	gap, repeated, failures := load.measured()
	t.Logf("plugin killed 10 times: %s at most without a read; repeated by clients: %v", gap, repeated)
	require.Empty(t, failures, "a reader whose client repeats as it does by default")
	// A request that the plugin had when it was killed is answered with 500: Vault cannot know whether it took
	// effect. Those that come later wait until Vault has started the plugin.
	delete(repeated, "500")
	require.Empty(t, repeated, "other answers that clients had to repeat a request for")
	requireLease(t, m.read(t, "token"), 7200)
	requireRevocable(t, m.client, lease)
}

// holdRead starts a read that waits for an exchange which Console does not answer, until release. What the reader gets
// is sent to end.
func holdRead(t testing.TB, m mount, console *consoletest.Server) (release func(), end <-chan error) {
	t.Helper()
	hold, ended := console.Hold(), make(chan error, 1)
	t.Cleanup(hold.Release)
	go func() {
		_, err := m.tryRead("token")
		ended <- err
	}()
	select {
	case <-hold.Started():
	case err := <-ended:
		require.FailNow(t, "the read ended without an exchange", "%v", err)
	}
	return hold.Release, ended
}

// Vault lets requests end before it seals itself, so that sealing takes as long as an exchange at most.
func TestVaultIsSealedWhileAnExchangeIsUnderWay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reuse, timeout any
		answered       bool
	}{
		"shared, answered":          {"1h", "80s", true},
		"shared, unanswered":        {"1h", "2s", false},
		"of one reader, answered":   {0, "80s", true},
		"of one reader, unanswered": {0, "2s", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, console := configuredAlone(t)
			s := m.server
			m.write(t, "config", fields{"reuse_period": test.reuse, "request_timeout": test.timeout})
			lease := m.read(t, "token").LeaseID
			m.remove(t, "token")

			release, end := holdRead(t, m, console)
			began, sealed := time.Now(), make(chan error, 1)
			go func() { sealed <- s.Seal(t.Context()) }()
			eventually(t, patience, "Vault begins to seal itself", func() error { // it answers no request that asks
				if log, err := os.ReadFile(s.Log()); err != nil || !bytes.Contains(log, []byte("marked as sealed")) {
					return errors.Join(err, errors.New("its log does not say so"))
				}
				return nil
			})
			if test.answered {
				release()
			}
			require.NoError(t, <-sealed, "sealing Vault")
			if err := <-end; test.answered {
				require.NoError(t, err, "the read that Vault was sealed under")
			} else {
				requireStatus(t, err, http.StatusGatewayTimeout)
			}
			require.Less(t, time.Since(began), patience, "sealing Vault and ending the read")
			requirePluginEnds(t, s)

			release()
			require.NoError(t, s.Unseal(t.Context()))
			require.Equal(t, http.StatusOK, opens(t, console, m.jwt(t, "token")), "a read after Vault was unsealed")
			requireRevocable(t, m.client, lease)
		})
	}
}

// Another mount keeps the plugin's process running, so that it is not its end that ends the exchange.
func TestMountIsDisabledWhileAnExchangeIsUnderWay(t *testing.T) {
	t.Parallel()
	timeout := "80s" // longer than disabling may take
	if program.Product == vaulttest.OpenBao {
		// It lets requests under way end before it disables a mount, and answers no others meanwhile (seen with 2.5.5):
		// that takes as long as an exchange at most.
		timeout = "2s"
	}
	for name, reuse := range map[string]any{"shared": "1h", "of one reader": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, console := configuredAlone(t) // other tests could not use the server meanwhile
			s, other := m.server, m.server.mount(t, "other", "")
			other.write(t, "config", defaultConfig(console))
			m.write(t, "config", fields{"request_timeout": timeout, "reuse_period": reuse})
			m.remove(t, "token")

			_, end := holdRead(t, m, console)
			began := time.Now()
			require.NoError(t, s.Client.Sys().Unmount(m.path), "disabling the mount")
			require.Error(t, <-end, "the read that the mount was disabled under")
			require.Less(t, time.Since(began), patience, "disabling the mount and ending the read")

			require.NotEmpty(t, other.jwt(t, "token"), "the other mount is not affected")
		})
	}
}

func TestMountWithTenThousandLeasesIsDisabled(t *testing.T) {
	t.Parallel()
	const leases, readers = 10_000, 16
	m, console := configuredAlone(t)
	s := m.server
	var asked atomic.Int64
	var wait sync.WaitGroup
	for range readers {
		wait.Go(func() {
			for asked.Add(1) <= leases {
				if _, err := m.tryRead("token"); !assert.NoError(t, err, "a read") {
					return
				}
			}
		})
	}
	wait.Wait()
	known, err := s.Client.Logical().List("sys/leases/lookup/" + m.at("token"))
	require.NoError(t, err)
	require.Len(t, known.Data["keys"], leases, "leases before the mount is disabled")

	console.Close() // revoking asks Snowplow nothing
	require.NoError(t, s.Client.Sys().Unmount(m.path), "disabling a mount with %d leases", leases)
	known, err = s.Client.Logical().List("sys/leases/lookup/" + m.at("token"))
	require.NoError(t, err)
	require.Nil(t, known, "leases after the mount was disabled")
	count, err := s.Client.Logical().ReadWithData("sys/leases/count", map[string][]string{"type": {"irrevocable"}})
	require.NoError(t, err)
	require.Equal(t, "0", fmt.Sprint(count.Data["lease_count"]), "leases that cannot be revoked")
	requirePluginEnds(t, s)
}

func TestMountIsMoved(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	s := shared(t)
	from := s.mount(t, unique("teams/data/snowplow"), "")
	from.write(t, "config", defaultConfig(console))
	from.write(t, "roles/team", fields{"ttl": "10m"})
	config, lease := from.read(t, "config").Data, from.read(t, "token/team").LeaseID

	m := mount{server: s, path: unique("moved"), client: s.Client}
	require.NoError(t, s.Client.Sys().Remount(from.path, m.path), "moving the mount")
	require.Equal(t, config, m.read(t, "config").Data, "config after the move")
	secret := m.read(t, "token/team")
	requireLease(t, secret, 600)
	requireRevocable(t, m.client, secret.LeaseID)
	_, err := m.client.Sys().Lookup(lease)
	requireStatus(t, err, http.StatusBadRequest, "invalid lease") // Vault revokes all leases of a mount that it moves

	m.remove(t, "config")
	_, err = m.tryRead("token")
	requireStatus(t, err, http.StatusBadRequest, m.at("config")) // the new path, not the old one
	require.NoError(t, s.Client.Sys().Unmount(m.path))
}
