package acceptance

import (
	"net/http"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// The steps of an operator: register, tune, reload. Then back to the older version in the same way.
func TestPluginIsUpgradedAndDowngradedUnderLoad(t *testing.T) {
	t.Parallel()
	const older, newer = "v0.1.0", "v0.2.0"
	console := consoletest.NewServer(t)
	s := startServerWithRaft(t)
	require.NoError(t, s.RegisterPlugin(t.Context(), pluginOf(t, older)))
	m := s.mount(t, "snowplow", older)
	m.write(t, "config", with(defaultConfig(console), fields{"ttl": "2h"}))
	m.write(t, "roles/team", fields{"ttl": "10m", "api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey})
	config, role := m.read(t, "config").Data, m.read(t, "roles/team").Data
	require.Equal(t, older, m.read(t, "status").Data["version"], "the version in status before the upgrade")
	load := startLoad(t, console, m.at("token"), 8, s)
	require.NoError(t, s.RegisterPlugin(t.Context(), pluginOf(t, newer)), "registering the new version beside the one that runs")

	for _, step := range []struct {
		name, version string
		reload        *api.ReloadPluginInput
	}{
		{"upgraded, and reloaded by name", newer, &api.ReloadPluginInput{Plugin: pluginName}},
		{"downgraded, and reloaded by mount", older, &api.ReloadPluginInput{Mounts: []string{m.path + "/"}}},
	} {
		lease, roleLease := m.read(t, "token").LeaseID, m.read(t, "token/team").LeaseID
		load.goesOn(t, "before the plugin is "+step.name)
		pid, exchanges := pluginProcess(t, s), console.Exchanges()
		load.measured()

		require.NoError(t, s.Client.Sys().TuneMount(m.path, api.MountConfigInput{PluginVersion: step.version}))
		require.NotEqual(t, step.version, m.read(t, "status").Data["version"], "without a reload the old process runs on")
		_, err := s.Client.Sys().ReloadPlugin(step.reload)
		require.NoError(t, err, "the plugin is %s", step.name)
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
		require.Equal(t, 7200, m.read(t, "token").LeaseDuration, "ttl in config after the plugin was %s", step.name)
		secret := m.read(t, "token/team")
		require.Equal(t, 600, secret.LeaseDuration, "ttl of the role after the plugin was %s", step.name)
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
	m.write(t, "config", with(defaultConfig(console), slowExchanges))
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
