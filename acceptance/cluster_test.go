package acceptance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"testing"

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
