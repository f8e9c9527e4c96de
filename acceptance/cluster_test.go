package acceptance

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// startCluster starts three nodes with integrated storage, each with the plugin in its plugin folder. The first is
// the leader.
func startCluster(t testing.TB) []*server {
	t.Helper()
	// The shortest times to see that a leader is gone.
	options := serverOptions{storage: "raft", raft: "  performance_multiplier = 1"}
	first := startVault(t, options)
	// How long a node must be there before it may vote; the 10 s of a usual cluster have no part in these tests.
	_, err := first.client.Logical().Write("sys/storage/raft/autopilot/configuration", fields{"server_stabilization_time": "1s"})
	require.NoError(t, err)

	nodes := []*server{first}
	for range 2 {
		node, err := launch(options)
		require.NoError(t, err, "starting a node")
		endWith(t, node)
		_, _, err = node.place(pluginVersion)
		require.NoError(t, err)
		node.client.SetToken(first.client.Token())
		_, err = node.client.Sys().RaftJoin(&api.RaftJoinRequest{LeaderAPIAddr: first.address})
		require.NoError(t, err, "joining the cluster")
		unsealNode(t, node, first.keys)
		nodes = append(nodes, node)
	}
	requireVoters(t, first, len(nodes))
	return nodes
}

// unsealNode unseals a node with the keys of its cluster, and waits until it is part of that. The keys are given once:
// a node that gets them again while it joins does not step down later.
func unsealNode(t testing.TB, node *server, keys []string) {
	t.Helper()
	for _, key := range keys {
		_, err := node.client.Sys().Unseal(key)
		require.NoError(t, err, "unsealing a node of the cluster")
	}
	eventually(t, patience, "a node of the cluster is unsealed", func() error {
		health, err := node.client.Sys().Health()
		if err == nil && health.Sealed {
			err = errors.New("it is sealed")
		}
		return err
	})
}

func requireVoters(t testing.TB, node *server, want int) {
	t.Helper()
	eventually(t, patience, "every node of the cluster may vote", func() error {
		secret, err := node.client.Logical().Read("sys/storage/raft/configuration")
		if err != nil {
			return err
		}
		config, _ := secret.Data["config"].(map[string]any)
		servers, _ := config["servers"].([]any)
		voters := 0
		for _, server := range servers {
			if voter, _ := server.(map[string]any)["voter"].(bool); voter {
				voters++
			}
		}
		if voters != want {
			return fmt.Errorf("%d of %d may", voters, want)
		}
		return nil
	})
}

// leaderOf waits until one of the nodes leads, and all agree on it.
func leaderOf(t testing.TB, nodes []*server) *server {
	t.Helper()
	var leader *server
	eventually(t, patience, "the cluster has a leader", func() error {
		leader = nil
		for _, node := range nodes {
			status, err := node.client.Sys().Leader()
			if err != nil {
				return err
			}
			if status.IsSelf {
				leader = node
			}
		}
		if leader == nil {
			return errors.New("no node leads")
		}
		for _, node := range nodes {
			if status, err := node.client.Sys().Leader(); err != nil || status.LeaderAddress != leader.address {
				return fmt.Errorf("a node does not follow the leader yet: %w", err)
			}
		}
		_, err := leader.client.Sys().ListMounts()
		return err
	})
	return leader
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
	nodes := startCluster(t)
	leader := nodes[0]
	m := leader.mount(t, "snowplow", "")
	m.write(t, "config", with(defaultConfig(console), fields{"ttl": "90m"}))
	m.write(t, "roles/team", fields{"ttl": "50m"})
	lease := m.read(t, "token/team").LeaseID
	load := startLoad(t, console, m.at("token"), 6, nodes...)
	load.goesOn(t, patience, "by the first leader")

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

	pid := pluginProcess(t, leader)
	load.measured()
	check := change(m)
	leader.kill()
	_ = syscall.Kill(pid, syscall.SIGKILL) // a Vault that is killed leaves its plugin running; fails if it has ended
	killed := leader
	leader = leaderOf(t, slices.DeleteFunc(slices.Clone(nodes), func(node *server) bool { return node == killed }))
	m = mount{server: leader, path: m.path, client: leader.client}
	check(m)
	requireRevocable(t, m.client, lease)
	load.goesOn(t, patience, "by the leader that followed the one that was killed")
	logLoad(t, load, "leader killed")

	require.NoError(t, killed.start(), "starting the node that was killed")
	unsealNode(t, killed, nodes[0].keys)
	lease = m.read(t, "token/team").LeaseID
	load.goesOn(t, patience, "before the leader steps down")
	load.measured()
	check = change(m)
	require.NoError(t, leader.client.Sys().StepDown())
	old := leader
	eventually(t, patience, "another node leads", func() error {
		if leader = leaderOf(t, nodes); leader == old {
			return errors.New("it is still the old one")
		}
		return nil
	})
	m = mount{server: leader, path: m.path, client: leader.client}
	check(m)
	requireRevocable(t, m.client, lease)
	load.goesOn(t, patience, "after the leader stepped down")
	logLoad(t, load, "leader stepped down")
	requirePluginEnds(t, old) // so that it has no older config when it leads again

	// Every node answers, whether it leads or forwards.
	for _, node := range nodes {
		m := mount{server: node, path: m.path, client: node.client}
		require.Equal(t, http.StatusOK, opens(t, console, m.jwt(t, "token")), "a read from each node")
	}
}
