package acceptance

import (
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

// startCluster starts three nodes with the plugin.
func startCluster(t testing.TB) *vaulttest.Cluster {
	t.Helper()
	cluster, err := vaulttest.StartCluster(t.Context(), 3, serverOptions())
	require.NoError(t, err, "starting a cluster")
	for _, node := range cluster.Nodes {
		closeAfter(t, node)
	}
	require.NoError(t, cluster.RegisterPlugin(t.Context(), pluginOf(t, pluginVersion)))
	return cluster
}

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

func TestLeaderOfAClusterChangesUnderLoad(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	cluster := startCluster(t)
	var nodes []server
	for _, node := range cluster.Nodes {
		nodes = append(nodes, server{node})
	}
	leader := nodes[0]
	m := leader.mount(t, "snowplow", "")
	m.write(t, "config", with(defaultConfig(console), fields{"ttl": "90m"}))
	m.write(t, "roles/team", fields{"ttl": "50m"})
	lease := m.read(t, "token/team").LeaseID
	load := startLoad(t, console, m.at("token"), 6, nodes...)
	load.goesOn(t, "by the first leader")

	// change changes config and a role on the leader, and tells what must be true from then on.
	changes := 0
	change := func(on mount) (check func(mount)) {
		changes++
		configTTL, roleTTL := 7200+changes, 600+changes
		id := fmt.Sprintf("key-%d", changes)
		console.AddKey(consoletest.Key{ID: id, Secret: "secret-of-" + id})
		on.write(t, "config", fields{"ttl": configTTL})
		on.write(t, "roles/team", fields{"ttl": roleTTL, "api_key_id": id, "api_key": "secret-of-" + id})
		config, role := on.read(t, "config").Data, on.read(t, "roles/team").Data
		return func(m mount) {
			require.Equal(t, config, m.read(t, "config").Data, "config on the new leader")
			require.Equal(t, role, m.read(t, "roles/team").Data, "a role on the new leader")
			require.Equal(t, configTTL, m.read(t, "token").LeaseDuration, "ttl of the config that was written last")
			secret := m.read(t, "token/team")
			require.Equal(t, roleTTL, secret.LeaseDuration, "ttl of the role that was written last")
			requireKeyID(t, console, jwtOf(t, secret), id)
		}
	}

	load.measured()
	check := change(m)
	require.NoError(t, leader.Kill())
	killed := leader
	next, err := cluster.Leader(t.Context())
	require.NoError(t, err)
	leader = server{next}
	m = mount{server: leader, path: m.path, client: leader.Client}
	check(m)
	requireRevocable(t, m.client, lease)
	load.goesOn(t, "by the leader that followed the one that was killed")
	logLoad(t, load, "leader killed")

	require.NoError(t, killed.Restart(t.Context()), "starting the node that was killed")
	lease = m.read(t, "token/team").LeaseID
	load.goesOn(t, "before the leader steps down")
	load.measured()
	check = change(m)
	old := leader
	next, err = cluster.StepDown(t.Context())
	require.NoError(t, err)
	leader = server{next}
	m = mount{server: leader, path: m.path, client: leader.Client}
	check(m)
	requireRevocable(t, m.client, lease)
	load.goesOn(t, "after the leader stepped down")
	logLoad(t, load, "leader stepped down")
	if program.Product == vaulttest.Vault {
		requirePluginEnds(t, old) // so that it has no older config when it leads again
	} // A standby of OpenBao mounts the engine anew instead, to answer the reads that it can.

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
}
