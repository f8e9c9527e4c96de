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
