package acceptance

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

// install is what docs/operations.md has an operator do with a new version: a file of its own in the plugin folder,
// registered by checksum, file and version.
func (s server) install(t testing.TB, p vaulttest.Plugin) {
	t.Helper()
	require.NoError(t, s.AddPlugin(p))
	s.run(t, "plugin", "register", "-sha256="+sha256Of(t, p.Program), "-command="+p.Command, "-version="+p.Version, "secret", p.Name)
}

// The commands are those of docs/operations.md. A rollback is an upgrade to the older version, whose file and entry in
// the catalog are still there. A pin of the cluster wins over what the mount says; OpenBao has none.
func TestPluginIsUpgradedAndDowngradedUnderLoad(t *testing.T) {
	t.Parallel()
	const older, newer = "v0.1.0", "v0.2.0"
	console := consoletest.NewServer(t)
	s := startServer(t, onRaft)
	s.install(t, pluginOf(t, older))
	m := s.mount(t, "snowplow", older)
	m.write(t, "config", with(defaultConfig(console), fields{"ttl": "2h"}))
	m.write(t, "roles/team", fields{"ttl": "10m", "api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey})
	config, role := m.read(t, "config").Data, m.read(t, "roles/team").Data
	require.Equal(t, older, m.read(t, "status").Data["version"], "the version in status before the upgrade")
	load := startLoad(t, console, m.at("token"), 8, s)
	s.install(t, pluginOf(t, newer))

	tune := func(version string) { s.run(t, "secrets", "tune", "-plugin-version="+version, m.path) }
	pin := func(version string) {
		s.run(t, "write", "sys/plugins/pins/secret/"+pluginName, "version="+version)
		for _, refused := range [][]string{
			{"secrets", "tune", "-plugin-version=" + older, m.path},
			{"secrets", "enable", "-plugin-version=" + older, "-path=another", pluginName},
		} {
			_, err := s.CLI(s.Client.Token(), refused...)
			require.ErrorContains(t, err, "pinned")
		}
	}
	type step struct {
		name, version string
		decide        func(version string)
	}
	steps := []step{{"upgraded", newer, tune}, {"rolled back", older, tune}}
	if program.Product == vaulttest.Vault {
		steps = append(steps, step{"pinned", newer, pin}, step{"pinned again", older, pin})
	}
	for _, step := range steps {
		lease, roleLease := m.read(t, "token").LeaseID, m.read(t, "token/team").LeaseID
		load.goesOn(t, "before the plugin is "+step.name)
		pid, exchanges := pluginProcess(t, s), console.Exchanges()
		load.measured()

		step.decide(step.version)
		require.NotEqual(t, step.version, m.read(t, "status").Data["version"], "without a reload the old process runs on")
		s.run(t, "plugin", "reload", "-plugin="+pluginName)
		load.goesOn(t, "after the plugin was "+step.name)

		gap, repeated, failures := load.measured()
		t.Logf("%s: %s at most without a read", step.name, gap)
		require.Empty(t, failures, "readers while the plugin is %s", step.name)
		// Vault lets requests under way end before it stops the old process, and later ones wait for the new one.
		require.Empty(t, repeated, "answers that clients had to repeat a request for while the plugin is %s", step.name)

		require.Equal(t, step.version, m.read(t, "status").Data["version"], "the version in status")
		mounts, err := s.Client.Sys().ListMounts()
		require.NoError(t, err)
		require.Equal(t, step.version, mounts[m.path+"/"].RunningVersion, "the version that Vault says is running")
		require.NotEqual(t, pid, pluginProcess(t, s), "only the process of the new version runs")
		require.LessOrEqual(t, console.Exchanges(), exchanges+1, "exchanges by the new process")

		require.Equal(t, config, m.read(t, "config").Data, "config after the plugin was %s", step.name)
		require.Equal(t, role, m.read(t, "roles/team").Data, "the role after the plugin was %s", step.name)
		requireLease(t, m.read(t, "token"), 7200)
		secret := m.read(t, "token/team")
		requireLease(t, secret, 600)
		require.Equal(t, http.StatusOK, opens(t, console, jwtOf(t, secret)), "the role's own key after the plugin was %s", step.name)
		requireRevocable(t, m.client, lease)
		requireRevocable(t, m.client, roleLease)
	}
}
