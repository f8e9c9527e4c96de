package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// writers is how many requests are made at once where many are made that nobody times.
const writers = 8

// roles measures what depends on how many roles there are, first with few and then with many. Each has a key of its
// own, and so a JWT of its own.
func (b *bench) roles(ctx context.Context) error {
	const few, many = 10, 10_000
	if err := b.writeRoles(ctx, 0, few); err != nil {
		return err
	}
	if err := b.atRoles(ctx, "10 roles"); err != nil {
		return err
	}
	if err := b.writeRoles(ctx, few, many); err != nil {
		return err
	}
	if err := b.compareMemory("memory with 10,000 roles, each verified and none read (baseline: none)", memoryGoal); err != nil {
		return err
	}
	if err := b.atRoles(ctx, "10,000 roles"); err != nil {
		return err
	}
	if err := b.each(ctx, 0, many, b.readRoleToken); err != nil {
		return err
	}
	// No goal: the baseline keeps nothing that these JWTs could be compared with.
	if err := b.compareMemory("memory with 10,000 roles and a cached JWT of each in memory (baseline: none)", 0); err != nil {
		return err
	}
	return b.restart(ctx, 1000)
}

func roleName(i int) string { return fmt.Sprintf("role-%05d", i) }

func (b *bench) writeRoles(ctx context.Context, from, to int) error {
	return b.each(ctx, from, to, func(ctx context.Context, i int) error {
		key := consoletest.Key{ID: "key-of-" + roleName(i), Secret: "secret-of-" + roleName(i)}
		b.console.AddKey(key)
		return b.vault.write(ctx, engineMount+"/roles/"+roleName(i), map[string]any{
			"api_key_id": key.ID, "api_key": key.Secret,
		})
	})
}

func (b *bench) readRoleToken(ctx context.Context, i int) error {
	path := engineMount + "/token/" + roleName(i)
	if _, err := b.vault.Client.Logical().ReadWithContext(ctx, path); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

func (b *bench) each(ctx context.Context, from, to int, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := from; i < to && ctx.Err() == nil; i++ {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// atRoles adds the median time of some requests to the engine; the baseline has no roles.
func (b *bench) atRoles(ctx context.Context, roles string) error {
	const times = 101
	list, err := b.vault.newReader(engineMount + "/roles?list=true")
	if err != nil {
		return err
	}
	defer list.connection.Close()
	token, err := b.vault.newReader(engineMount + "/token/" + roleName(0))
	if err != nil {
		return err
	}
	defer token.connection.Close()
	for _, figure := range []struct {
		what string
		do   func() error
	}{
		{"listing roles", func() error { _, err := list.read(); return err }},
		{"warm read of a role's token", func() error { _, err := token.read(); return err }},
		{"rewriting config", func() error { return b.writeConfig(ctx) }},
	} {
		took := series{}
		for range times {
			from := time.Now()
			if err := figure.do(); err != nil {
				return err
			}
			took.add(engineMount, inMilliseconds(time.Since(from)))
		}
		b.table.add(figure.what+", "+roles, milliseconds(took.median(engineMount)), "-", "-", "")
	}
	return nil
}
