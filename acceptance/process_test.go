package acceptance

import (
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestTwoMountsInOnePluginProcess(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	organizations := []string{"11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"}
	jwts := map[string]bool{}
	for _, organization := range organizations {
		console := consoletest.NewServer(t, consoletest.WithOrganization(organization))
		m := s.mount(t, unique("snowplow"), "")
		m.write(t, "config", with(defaultConfig(console), fields{"organization_id": organization}))
		secret := m.read(t, "token")
		require.Equal(t, organization, secret.Data["organization_id"])
		requireKeyID(t, console, jwtOf(t, secret), consoletest.DefaultAPIKeyID)
		jwts[jwtOf(t, secret)] = true
	}
	require.Len(t, jwts, 2, "each mount has a JWT of its own")
	pids, err := s.pluginPIDs()
	require.NoError(t, err)
	require.Len(t, pids, 1, "processes of the plugin")
}

func TestConfigurationIsThereAfterVaultWasSealedAndRestarted(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	s := startServerWithRaft(t)
	m := s.mount(t, "snowplow", "")
	m.write(t, "config", with(defaultConfig(console), fields{"ttl": "1h"}))
	m.write(t, "roles/short", fields{"ttl": "1m"})
	config, role := m.read(t, "config").Data, m.read(t, "roles/short").Data
	lease := m.read(t, "token").LeaseID

	for _, again := range []struct {
		name string
		do   func() error
	}{
		{"sealed and unsealed", func() error {
			if err := s.Seal(t.Context()); err != nil {
				return err
			}
			if _, err := m.tryRead("token"); err == nil {
				return errors.New("a sealed Vault has answered a read")
			}
			return s.Unseal(t.Context())
		}},
		{"restarted", func() error { return s.Restart(t.Context()) }},
	} {
		require.NoError(t, again.do(), "Vault is %s", again.name)
		m = mount{server: s, path: m.path, client: s.Client}
		require.Equal(t, config, m.read(t, "config").Data, "config after Vault was %s", again.name)
		require.Equal(t, role, m.read(t, "roles/short").Data, "the role after Vault was %s", again.name)
		require.Equal(t, http.StatusOK, opens(t, console, m.jwt(t, "token/short")), "a read after Vault was %s", again.name)
		_, err := s.Client.Sys().Lookup(lease)
		require.NoError(t, err, "the lease after Vault was %s", again.name)
	}
	require.NoError(t, s.Client.Sys().Revoke(lease))
}

func TestRegisteredWithAndWithoutAVersion(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	for name, registered := range map[string]string{"with": pluginVersion, "without": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServerWithoutPlugin(t, serverOptions())
			plugin := pluginOf(t, pluginVersion)
			plugin.Version = registered
			require.NoError(t, s.RegisterPlugin(t.Context(), plugin), "registering the plugin %s a version", name)
			m := s.mount(t, "snowplow", registered)
			m.write(t, "config", defaultConfig(console))
			require.Equal(t, http.StatusOK, opens(t, console, m.jwt(t, "token")))

			mounts, err := s.Client.Sys().ListMounts()
			require.NoError(t, err)
			require.Equal(t, pluginVersion, mounts["snowplow/"].RunningVersion, "the version that runs")
			require.Equal(t, pluginVersion, m.read(t, "status").Data["version"], "the version in status")
		})
	}
	t.Run("with another", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		plugin := pluginOf(t, pluginVersion)
		plugin.Version = "v9.9.9"
		err := s.RegisterPlugin(t.Context(), plugin)
		require.ErrorContains(t, err, "reported version ("+pluginVersion+")")
	})
}
