package acceptance

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

// installPlugin is what docs/operations.md has an operator do with a new version: a file of its own in the plugin
// folder, registered by checksum, file and version.
func (s server) installPlugin(t testing.TB, p vaulttest.Plugin) {
	t.Helper()
	require.NoError(t, s.AddPlugin(p))
	s.register(t, p)
}

// register registers a file that is in the plugin folder.
func (s server) register(t testing.TB, p vaulttest.Plugin) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.PluginDir(), p.Command))
	require.NoError(t, err)
	s.run(t, "plugin", "register", fmt.Sprintf("-sha256=%x", sha256.Sum256(content)), "-command="+p.Command,
		"-version="+p.Version, "secret", p.Name)
}

// The commands are those of docs/operations.md. A rollback is an upgrade to the older version, whose file and entry in
// the catalog are still there. A pin of the cluster wins over what the mount says; OpenBao has none.
func TestPluginIsUpgradedAndDowngradedUnderLoad(t *testing.T) {
	t.Parallel()
	const older, newer = "v0.1.0", "v0.2.0"
	console := consoletest.NewServer(t)
	s := startServerWithRaft(t)
	s.installPlugin(t, pluginOf(t, older))
	m := s.mount(t, "snowplow", older)
	m.write(t, "config", with(defaultConfig(console), fields{"ttl": "2h"}))
	m.write(t, "roles/team", fields{"ttl": "10m", "api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey})
	config, role := m.read(t, "config").Data, m.read(t, "roles/team").Data
	require.Equal(t, older, m.read(t, "status").Data["version"], "the version in status before the upgrade")
	load := startLoad(t, console, m.at("token"), 8, s)
	s.installPlugin(t, pluginOf(t, newer))

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

// Vault lets requests end before it reloads a plugin, and an exchange is part of one.
func TestPluginIsReloadedWhileAnExchangeIsUnderWay(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	s := startServer(t)
	m := s.mount(t, "snowplow", "")
	m.write(t, "config", with(defaultConfig(console), fields{"request_timeout": "80s", "verify_connection": false}))
	pid := pluginProcess(t, s)

	h := holdRead(t, m, console)
	reloaded := make(chan error, 1)
	go func() {
		_, err := s.Client.Sys().ReloadPlugin(&api.ReloadPluginInput{Plugin: pluginName})
		reloaded <- err
	}()
	h.hold.Release()
	require.NoError(t, <-h.end, "the reader whose exchange was under way")
	require.NoError(t, <-reloaded, "reloading the plugin")
	require.NotEmpty(t, m.jwt(t, "token"), "a read after the reload")
	require.NotEqual(t, pid, pluginProcess(t, s), "a new process of the plugin runs")
}

// What happens to an operator who copies a new version over the file of the old one, or takes the version in use out of
// the catalog, and the ways out of it that docs/operations.md gives.
func TestPluginThatCannotStartIsRepaired(t *testing.T) {
	t.Parallel()
	const older, newer = "v0.1.0", "v0.2.0"
	const cause = "checksums did not match"
	console := consoletest.NewServer(t)
	key := with(defaultConfig(console), fields{"ttl": "1h"})
	reload := []string{"plugin", "reload", "-plugin=" + pluginName}
	inOneFile := func(version string) vaulttest.Plugin {
		plugin := pluginOf(t, version)
		plugin.Command = pluginName
		return plugin
	}
	// overwritten is a mount whose plugin has been reloaded from the wrong file.
	overwritten := func(t *testing.T) mount {
		s := startServerWithRaft(t)
		s.installPlugin(t, inOneFile(older))
		m := s.mount(t, "snowplow", older)
		m.write(t, "config", key)
		require.NoError(t, s.AddPlugin(inOneFile(newer)), "copying the new version over the old one")
		require.NotEmpty(t, m.jwt(t, "token"), "the process that runs does not need its file")
		_, err := s.CLI(s.Client.Token(), reload...)
		require.ErrorContains(t, err, cause)
		_, err = m.tryRead("token")
		requireStatus(t, err, http.StatusInternalServerError, cause)
		return m
	}
	repaired := func(t *testing.T, m mount) {
		t.Helper()
		require.NotEmpty(t, m.jwt(t, "token"), "reads after the repair")
		m.write(t, "config", key)
	}

	t.Run("deregistered, by registering it again", func(t *testing.T) {
		t.Parallel()
		s := startServerWithRaft(t)
		plugin := pluginOf(t, older)
		s.installPlugin(t, plugin)
		m := s.mount(t, "snowplow", older)
		m.write(t, "config", key)
		s.run(t, "plugin", "deregister", "-version="+older, "secret", pluginName)
		require.NotEmpty(t, m.jwt(t, "token"), "the process that runs needs no entry in the catalog")
		require.NoError(t, syscall.Kill(pluginProcess(t, s), syscall.SIGKILL))
		requirePluginEnds(t, s)
		_, err := m.tryRead("token")
		requireStatus(t, err, http.StatusInternalServerError, "plugin not found in the catalog")
		s.register(t, plugin)
		repaired(t, m)
	})
	t.Run("by the old file", func(t *testing.T) {
		t.Parallel()
		m := overwritten(t)
		require.NoError(t, m.server.AddPlugin(inOneFile(older)))
		m.server.run(t, reload...)
		repaired(t, m)
		require.Equal(t, older, m.read(t, "status").Data["version"])
	})
	t.Run("by the new version, in a file of its own", func(t *testing.T) {
		t.Parallel()
		m := overwritten(t)
		m.server.installPlugin(t, pluginOf(t, newer))
		m.server.run(t, "secrets", "tune", "-plugin-version="+newer, m.path)
		m.server.run(t, reload...)
		repaired(t, m)
		require.Equal(t, newer, m.read(t, "status").Data["version"])
	})
	t.Run("after Vault was sealed", func(t *testing.T) {
		t.Parallel()
		m := overwritten(t)
		require.NoError(t, m.server.Seal(t.Context()))
		require.NoError(t, m.server.Unseal(t.Context()))
		_, err := m.server.CLI(m.server.Client.Token(), "read", m.at("token"))
		require.ErrorContains(t, err, "No value found at "+m.at("token"), "the mount is skipped")
		_, err = m.tryWrite("config", key)
		requireStatus(t, err, http.StatusNotFound, "route entry found, but backend is nil")

		m.server.installPlugin(t, pluginOf(t, newer))
		m.server.run(t, "secrets", "tune", "-plugin-version="+newer, m.path)
		m.server.run(t, reload...)
		require.NotEmpty(t, m.jwt(t, "token"), "reads after a reload")
		_, err = m.tryWrite("config", key)
		requireStatus(t, err, http.StatusInternalServerError, "cannot write to storage during setup")

		require.NoError(t, m.server.Seal(t.Context()))
		require.NoError(t, m.server.Unseal(t.Context()))
		repaired(t, m)
	})
}
