package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

// vault is a server, and what the measurements ask of it.
type vault struct {
	*vaulttest.Server
	*bench
}

// onVault starts a new server, mounts each of these plugins under its own name, and lets do measure it.
func (b *bench) onVault(ctx context.Context, plugins []string, do func(*vault) error) (err error) {
	server, err := vaulttest.Start(ctx, b.options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	v := &vault{server, b}
	v.Client.SetClientTimeout(time.Hour)
	for _, plugin := range plugins {
		if err := v.RegisterPlugin(ctx, b.programs[plugin]); err != nil {
			return err
		}
		if err := v.mount(ctx, plugin, b.programs[plugin].Name); err != nil {
			return err
		}
	}
	return do(v)
}

// mount mounts a plugin, and makes it ready to answer.
func (v *vault) mount(ctx context.Context, plugin, path string) error {
	if err := v.Client.Sys().MountWithContext(ctx, path, &api.MountInput{Type: v.programs[plugin].Name}); err != nil {
		return fmt.Errorf("mounting %s: %w", path, err)
	}
	if plugin == engine {
		if err := v.writeConfig(ctx, path); err != nil {
			return err
		}
	}
	return v.request(ctx, path+"/token")
}

func (v *vault) write(ctx context.Context, path string, data map[string]any) error {
	if _, err := v.Client.Logical().WriteWithContext(ctx, path, data); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// request reads a path once, and is not timed.
func (v *vault) request(ctx context.Context, path string) error {
	if _, err := v.Client.Logical().ReadWithContext(ctx, path); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// revoke ends all leases of a mount's token, and returns when they have ended.
func (v *vault) revoke(ctx context.Context, mount string) error {
	err := v.Client.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{LeaseID: mount + "/token", Prefix: true, Sync: true})
	if err != nil {
		return fmt.Errorf("revoking the leases of %s: %w", mount, err)
	}
	return nil
}

func (v *vault) writeConfig(ctx context.Context, mount string) error {
	return v.write(ctx, mount+"/config", map[string]any{
		"organization_id":   consoletest.DefaultOrganizationID,
		"api_key_id":        consoletest.DefaultAPIKeyID,
		"api_key":           consoletest.DefaultAPIKey,
		"console_url":       v.consoleURL,
		"verify_connection": false,
	})
}

func roleName(i int) string { return fmt.Sprintf("role-%05d", i) }

// writeRoles writes roles with a key, and so a JWT, of each.
func (v *vault) writeRoles(ctx context.Context, from, to int) error {
	return each(ctx, from, to, func(ctx context.Context, i int) error {
		key := consoletest.Key{ID: "key-of-" + roleName(i), Secret: "secret-of-" + roleName(i)}
		v.console.AddKey(key)
		return v.write(ctx, engine+"/roles/"+roleName(i), map[string]any{"api_key_id": key.ID, "api_key": key.Secret})
	})
}

func (v *vault) readRole(ctx context.Context, i int) error {
	return v.request(ctx, engine+"/token/"+roleName(i))
}

// each makes requests that nobody times, some at once.
func each(ctx context.Context, from, to int, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := from; i < to && ctx.Err() == nil; i++ {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// settle is how long a process is left alone before its memory is read.
const settle = 3 * time.Second

// addMemory adds the memory of the plugins' processes once they have come to rest.
func (v *vault) addMemory(measured series, plugins ...string) error {
	time.Sleep(settle)
	for _, plugin := range plugins {
		p, err := v.plugin(v.programs[plugin].Name)
		if err != nil {
			return err
		}
		measured.add(plugin, float64(p.rss))
	}
	return nil
}

// footprint is what Vault itself takes, in KiB.
type footprint struct{ memory, database, audit float64 }

func (v *vault) footprint() (footprint, error) {
	time.Sleep(settle)
	memory, err := rss(v.PID())
	if err != nil {
		return footprint{}, err
	}
	// The other files of integrated storage are a log of the last writes, whatever they were.
	database, err := os.Stat(filepath.Join(v.StorageDir(), "vault.db"))
	if err != nil {
		return footprint{}, fmt.Errorf("looking at Vault's database: %w", err)
	}
	audit, err := os.Stat(v.AuditLog())
	if err != nil {
		return footprint{}, fmt.Errorf("looking at the audit log: %w", err)
	}
	return footprint{float64(memory), float64(database.Size()) / 1024, float64(audit.Size()) / 1024}, nil
}
