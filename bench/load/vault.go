package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

// vault is a server with storage in memory, and what the measurements ask of it.
type vault struct{ *vaulttest.Server }

func startVault(ctx context.Context, path string) (*vault, error) {
	if err := vaulttest.ForgetEnvironment(); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("finding the vault program: %w", err)
	}
	program, err := vaulttest.Find(ctx, path)
	if err != nil {
		return nil, err
	}
	server, err := vaulttest.Start(ctx, vaulttest.Options{Program: program, LogLevel: "warn"})
	if err != nil {
		return nil, err
	}
	return &vault{server}, nil
}

// mount registers a plugin's program under a name, and mounts it under the same one.
func (v *vault) mount(ctx context.Context, name, program string) error {
	plugin := vaulttest.Plugin{Name: name, Program: program}
	// What the plugin reports as its version has to be what it is registered with.
	if name == engineMount {
		printed, err := exec.CommandContext(ctx, program, "--version").Output()
		if err != nil {
			return fmt.Errorf("asking the plugin for its version: %w", err)
		}
		words := strings.Fields(string(printed))
		if len(words) < 2 {
			return fmt.Errorf("the plugin says no version: %q", printed)
		}
		plugin.Version = words[1]
	}
	if err := v.RegisterPlugin(ctx, plugin); err != nil {
		return err
	}
	if err := v.Client.Sys().MountWithContext(ctx, name, &api.MountInput{Type: name}); err != nil {
		return fmt.Errorf("mounting the plugin %s: %w", name, err)
	}
	return nil
}

func (v *vault) write(ctx context.Context, path string, data map[string]any) error {
	if _, err := v.Client.Logical().WriteWithContext(ctx, path, data); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
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
