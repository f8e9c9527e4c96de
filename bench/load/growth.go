package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

// turns is how often what takes minutes is measured.
func (b *bench) turns() int { return max(1, b.rounds/12) }

// leases measures what leases cost Vault, each plugin's on a server without the other's.
func (b *bench) leases(ctx context.Context) error {
	const step, all, unseals = 10_000, 50_000, 5
	memory, database, audit, revoked, disabled := series{}, series{}, series{}, series{}, series{}
	unsealed := map[int]series{0: {}, step: {}, all: {}}
	measure := func(v *vault, plugin string) error {
		mount := v.programs[plugin].Name
		var before, after footprint
		look := func(f *footprint) func() (err error) {
			return func() (err error) { *f, err = v.footprint(); return err }
		}
		lease := func(mount string, leases int) func() error {
			return func() error { _, err := v.readTimes(ctx, mount+"/token", 16, leases); return err }
		}
		unseal := func(leases int) func() error {
			return func() error {
				for range unseals {
					if err := v.Seal(ctx); err != nil {
						return err
					}
					if err := unsealed[leases].time(plugin, func() error {
						return inTurn(func() error { return v.Unseal(ctx) }, func() error { return v.request(ctx, mount+"/token") })
					}); err != nil {
						return err
					}
				}
				return nil
			}
		}
		return inTurn(
			func() error { return v.mount(ctx, plugin, "disabled") },
			func() error { return v.mount(ctx, plugin, "kept") },
			unseal(0),
			look(&before),
			lease(mount, step),
			unseal(step),
			lease("disabled", step), lease("kept", all-2*step),
			look(&after),
			unseal(all),
			func() error { return revoked.time(plugin, func() error { return v.revoke(ctx, mount) }) },
			func() error {
				return disabled.time(plugin, func() error { return v.Client.Sys().UnmountWithContext(ctx, "disabled") })
			},
			func() error {
				memory.add(plugin, (after.memory-before.memory)*step/all)
				database.add(plugin, (after.database-before.database)*step/all)
				audit.add(plugin, (after.audit-before.audit)*step/all)
				return nil
			},
		)
	}
	for turn := range b.turns() {
		for _, plugin := range rotated(turn, engine, baseline) {
			fmt.Fprintf(os.Stderr, "  turn %d of %d: %s\n", turn+1, b.turns(), plugin)
			if err := b.onVault(ctx, []string{plugin}, func(v *vault) error { return measure(v, plugin) }); err != nil {
				return err
			}
		}
	}
	b.table.compare("Vault's memory for each 10,000 leases", memory, megabytes, -1.1)
	b.table.compare("Vault's database for each 10,000 leases", database, megabytes, -1.1)
	b.table.compare("audit log for each 10,000 reads", audit, megabytes, -1.1)
	b.table.compare("revoking 10,000 leases by prefix", revoked, seconds, -1.1)
	b.table.compare("disabling a mount with 10,000 leases", disabled, seconds, -1.1)
	for _, leases := range []int{0, step, all} {
		b.table.compare(fmt.Sprintf("from unseal to the first read, %d leases", leases), unsealed[leases], seconds, -1.1)
	}
	return nil
}

// inTurn takes steps until one fails.
func inTurn(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// mounts measures processes that serve many mounts. Each mount has a configuration and a cached JWT.
func (b *bench) mounts(ctx context.Context) error {
	numbers := []int{1, 10, 50}
	memory, reads := map[int]series{}, map[int]warm{}
	for _, n := range numbers {
		memory[n], reads[n] = series{}, warm{series{}, series{}, series{}}
	}
	for turn := range b.turns() {
		if err := b.onVault(ctx, []string{engine, baseline}, func(v *vault) error {
			mounted := 1
			last := map[string]string{engine: paths[engine], baseline: paths[baseline]}
			for _, n := range numbers {
				for ; mounted < n; mounted++ {
					for _, plugin := range []string{engine, baseline} {
						path := fmt.Sprintf("%s-%d", plugin, mounted)
						last[plugin] = path + "/token"
						if err := v.mount(ctx, plugin, path); err != nil {
							return err
						}
					}
				}
				if err := v.addMemory(memory[n], engine, baseline); err != nil {
					return err
				}
				if err := reads[n].add(ctx, v, last, 1, rotated(turn, engine, baseline)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for _, n := range numbers {
		b.table.compare("memory of the process, "+plural(n, "mount"), memory[n], megabytes, -1.1)
		b.table.compare("median of a read, "+plural(n, "mount"), reads[n].middle, inMilliseconds, -1.1)
	}
	return nil
}

// roles measures what depends on how many roles there are. Each has a key, and so a JWT, of its own. The baseline has
// none to compare with.
func (b *bench) roles(ctx context.Context) error {
	const many = 10_000
	return b.onVault(ctx, []string{engine}, func(v *vault) error {
		written := 0
		for _, n := range []int{1, 100, many} {
			before, err := v.footprint()
			if err != nil {
				return err
			}
			if err := v.writeRoles(ctx, written, n); err != nil {
				return err
			}
			after, err := v.footprint()
			if err != nil {
				return err
			}
			if n == many {
				v.figure("Vault's database for 10,000 roles, each with a stored JWT", megabytes, after.database-before.database)
			}
			written = n
			if err := v.atRoles(ctx, n); err != nil {
				return err
			}
		}
		if err := v.write(ctx, "sys/plugins/reload/backend", map[string]any{"plugin": engine}); err != nil {
			return err
		}
		exchanges := v.console.Exchanges()
		for _, n := range []int{1000, many} {
			took := series{}
			if err := took.time(engine, func() error { return each(ctx, 0, n, v.readRole) }); err != nil {
				return err
			}
			v.table.compare(fmt.Sprintf("after a restart of the plugin, reads of %d roles", n), took, seconds, 0)
			if err := v.memoryNow("memory of the process after them"); err != nil {
				return err
			}
		}
		exchanges = v.console.Exchanges() - exchanges
		v.figure("exchanges for them", count, float64(exchanges))
		if exchanges != 0 {
			v.table.missed("a restart costs no exchange")
		}
		return nil
	})
}

// atRoles adds what it takes with n roles, of which none but the first is read.
func (v *vault) atRoles(ctx context.Context, n int) error {
	list, err := v.newReader(engine + "/roles?list=true")
	if err != nil {
		return err
	}
	defer list.connection.Close()
	token, err := v.newReader(engine + "/token/" + roleName(0))
	if err != nil {
		return err
	}
	defer token.connection.Close()
	for _, figure := range []struct {
		what string
		do   func() error
	}{
		{"listing roles", list.read},
		{"read of a role's token", token.read},
		{"write of config", func() error { return v.writeConfig(ctx, engine) }},
	} {
		took := series{}
		for range 101 {
			if err := took.time(engine, figure.do); err != nil {
				return err
			}
		}
		v.table.compare(figure.what+", "+plural(n, "role"), took, inMilliseconds, 0)
	}
	return v.memoryNow("memory of the process, " + plural(n, "role") + " just written")
}

// memoryNow adds the memory that the engine's process has now.
func (v *vault) memoryNow(what string) error {
	memory := series{}
	if err := v.addMemory(memory, engine); err != nil {
		return err
	}
	v.figure(what, megabytes, memory[engine]...)
	return nil
}

// figure adds the median of what was measured of the engine alone.
func (v *vault) figure(what string, write func(float64) string, measured ...float64) {
	v.table.compare(what, series{engine: measured}, write, 0)
}

// failover measures how long reads through a standby fail once the leader steps down, or is killed.
func (b *bench) failover(ctx context.Context) (err error) {
	cluster, err := vaulttest.StartCluster(ctx, 3, b.options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	for _, plugin := range []string{engine, baseline} {
		if err := cluster.RegisterPlugin(ctx, b.programs[plugin]); err != nil {
			return err
		}
		if err := (&vault{cluster.Nodes[0], b}).mount(ctx, plugin, plugin); err != nil {
			return err
		}
	}
	steppedDown, killed := series{}, series{}
	for turn := range 2 * b.turns() {
		for _, plugin := range rotated(turn, engine, baseline) {
			for _, way := range []struct {
				measured series
				end      func(*vaulttest.Server) error
			}{
				{steppedDown, func(s *vaulttest.Server) error { return s.Client.Sys().StepDownWithContext(ctx) }},
				{killed, (*vaulttest.Server).Kill},
			} {
				leader, err := cluster.Leader(ctx)
				if err != nil {
					return err
				}
				standby := cluster.Nodes[0]
				if standby == leader {
					standby = cluster.Nodes[1]
				}
				if err := way.measured.time(plugin, func() error {
					if err := way.end(leader); err != nil {
						return err
					}
					return (&vault{standby, b}).await(ctx, plugin+"/token")
				}); err != nil {
					return err
				}
				if !leader.Running() {
					if err := leader.Restart(ctx); err != nil {
						return err
					}
				}
			}
		}
	}
	b.table.compare("from a step-down to the next read", steppedDown, seconds, 0)
	b.table.compare("from the death of the leader to the next read", killed, seconds, 0)
	return nil
}

// await reads a path until that succeeds.
func (v *vault) await(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		try, cancelTry := context.WithTimeout(ctx, time.Second)
		err := v.request(try, path)
		cancelTry()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
