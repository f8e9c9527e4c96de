package acceptance

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

// Two mounts, in one process of the plugin, go on where they were after whatever starts it anew, also with Console down.
func TestRestarts(t *testing.T) {
	t.Parallel()
	s := startServer(t, onRaft, func(options *vaulttest.Options) {
		options.Audit = false // OpenBao 2.6 ends if an older version has enabled the declared audit log
	})
	type state struct {
		mount
		console      *consoletest.Server
		config, role fields
		jwt, lease   string
		exchanges    int
	}
	var mounts []*state
	for _, organization := range []string{"11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"} {
		console := consoletest.NewServer(t, consoletest.WithOrganization(organization))
		m := &state{mount: s.mount(t, unique("snowplow"), ""), console: console}
		m.write(t, "config", with(defaultConfig(console), fields{"organization_id": organization}))
		m.write(t, "roles/short", fields{"ttl": "1m"})
		secret := m.read(t, "token")
		require.Equal(t, organization, secret.Data["organization_id"])
		requireKeyID(t, console, jwtOf(t, secret), consoletest.DefaultAPIKeyID)
		m.config, m.role = m.read(t, "config").Data, m.read(t, "roles/short").Data
		m.jwt, m.lease, m.exchanges = jwtOf(t, secret), secret.LeaseID, console.Exchanges()
		console.FailAlways(consoletest.Status(http.StatusServiceUnavailable, "", nil))
		mounts = append(mounts, m)
	}

	type step struct {
		name string
		do   func(context.Context) error
	}
	steps := []step{
		{"the plugin was reloaded", func(context.Context) error {
			_, err := s.CLI(s.Client.Token(), "plugin", "reload", "-plugin="+pluginName)
			return err
		}},
		{"Vault was sealed and unsealed", func(ctx context.Context) error {
			if err := s.Seal(ctx); err != nil {
				return err
			}
			if _, err := mounts[0].tryRead("token"); err == nil {
				return errors.New("a sealed Vault has answered a read")
			}
			return s.Unseal(ctx)
		}},
		{"Vault was restarted", s.Restart},
	}
	if next.Path != "" {
		upgrade := func(ctx context.Context) error { return s.RestartWith(ctx, next) }
		steps = append(steps, step{"the server was upgraded to " + next.String(), upgrade})
	}
	for _, step := range steps {
		require.NoError(t, step.do(t.Context()), step.name)
		for _, m := range mounts {
			m.client = s.Client
			require.Equal(t, m.config, m.read(t, "config").Data, "config after %s", step.name)
			require.Equal(t, m.role, m.read(t, "roles/short").Data, "the role after %s", step.name)
			begun := time.Now()
			require.Equal(t, m.jwt, m.mount.jwt(t, "token"), "the cached JWT after %s", step.name)
			require.Less(t, time.Since(begun), patience, "a reader has waited for an exchange after %s", step.name)
			requireLease(t, m.read(t, "token/short"), 60)
			_, err := s.Client.Sys().Lookup(m.lease)
			require.NoError(t, err, "the lease after %s", step.name)
			require.Equal(t, m.exchanges, m.console.Exchanges(), "a JWT that is still fresh needs no exchange")
		}
		pluginProcess(t, s)
	}
	requireRevocable(t, s.Client, mounts[0].lease)

	mounts[0].remove(t, "token")
	require.NoError(t, s.Restart(t.Context()))
	mounts[0].client = s.Client
	_, err := mounts[0].tryRead("token")
	requireStatus(t, err, http.StatusBadGateway) // what was forgotten does not come back
}

// Nobody asks the plugin to end then.
func TestPluginEndsWithAKilledVault(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.mount(t, "snowplow", "")
	pluginProcess(t, s)
	s.Process.Kill()
	killed := time.Now()
	requirePluginEnds(t, s)
	assert.Less(t, time.Since(killed), 5*time.Second)
}

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
