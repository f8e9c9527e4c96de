package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// paths are what readers read.
var paths = map[string]string{
	engine: engine + "/token", baseline: baseline + "/token", again: "again/token", plain: baseline + "/plain",
}

// rotated is the order of a turn: who goes first changes from turn to turn.
func rotated(turn int, names ...string) []string {
	first := turn % len(names)
	return slices.Concat(names[first:], names[:first])
}

// mirrored has everyone twice, so that what changes steadily changes alike for all.
func mirrored(names []string) []string {
	back := slices.Clone(names)
	slices.Reverse(back)
	return slices.Concat(names, back)
}

// roundsEach is how many rounds of reads one server serves: then there is a new one, without leases.
const roundsEach = 3

func (b *bench) reads(ctx context.Context) error {
	if err := b.compareBinaries(); err != nil {
		return err
	}
	numbers := []int{1, 16, 64}
	measured := map[int]warm{}
	for _, n := range numbers {
		measured[n] = warm{series{}, series{}, series{}}
	}
	rest, after := series{}, series{}
	plugins := []string{engine, baseline, again}
	for round := 0; round < b.rounds; round += roundsEach {
		fmt.Fprintf(os.Stderr, "  round %d of %d\n", round+1, b.rounds)
		if err := b.onVault(ctx, plugins, func(v *vault) error {
			if err := errors.Join(v.compareAnswers(ctx), v.addMemory(rest, plugins...)); err != nil {
				return err
			}
			for i := round; i < min(round+roundsEach, b.rounds); i++ {
				for _, n := range numbers {
					if err := measured[n].add(ctx, v, paths, n, rotated(i, engine, baseline, again, plain)); err != nil {
						return err
					}
				}
			}
			return v.addMemory(after, plugins...)
		}); err != nil {
			return err
		}
	}
	b.table.compare("memory of the process at rest", rest, megabytes, -1.1)
	b.table.compare("memory of the process after these reads", after, megabytes, -1.1)
	for _, n := range numbers {
		measured[n].compare(&b.table, ", "+plural(n, "reader"))
	}
	return b.onVault(ctx, []string{engine, baseline}, func(v *vault) error {
		if err := v.burst(ctx); err != nil {
			return err
		}
		return v.slowConsole(ctx)
	})
}

func (b *bench) compareBinaries() error {
	size := series{}
	for _, plugin := range []string{engine, baseline} {
		info, err := os.Stat(b.programs[plugin].Program)
		if err != nil {
			return fmt.Errorf("looking at the program: %w", err)
		}
		size.add(plugin, float64(info.Size())/1024)
	}
	b.table.compare("program", size, megabytes, -1.15)
	return nil
}

// compareAnswers makes sure that what the two answer costs Vault the same.
func (v *vault) compareAnswers(ctx context.Context) error {
	size, fields := map[string]float64{}, map[string]int{}
	for _, plugin := range []string{engine, baseline} {
		secret, err := v.Client.Logical().ReadWithContext(ctx, paths[plugin])
		if err != nil {
			return fmt.Errorf("reading %s: %w", paths[plugin], err)
		}
		data, err := json.Marshal(secret.Data)
		if err != nil {
			return fmt.Errorf("encoding the answer: %w", err)
		}
		size[plugin], fields[plugin] = float64(len(data)), len(secret.Data)
	}
	if ratio := size[engine] / size[baseline]; fields[engine] != fields[baseline] || ratio < 0.97 || ratio > 1.03 {
		return fmt.Errorf("the baseline no longer answers as the engine does: %v bytes, %v fields", size, fields)
	}
	return nil
}

// warm is reads that need no exchange.
type warm struct{ rate, middle, tail series }

// add lets n readers read each of these paths, in this order and back.
func (w warm) add(ctx context.Context, v *vault, paths map[string]string, n int, order []string) error {
	all := map[string]readers{}
	for _, name := range order {
		some, err := v.newReaders(n, paths[name])
		if err != nil {
			return err
		}
		defer some.close()
		all[name] = some
	}
	took, whole := map[string][]time.Duration{}, map[string]time.Duration{}
	for _, name := range mirrored(order) {
		each, together, err := all[name].together(func(started time.Time, _, _ int) bool {
			return ctx.Err() == nil && time.Since(started) < v.slice
		})
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		took[name] = append(took[name], each...)
		whole[name] += together
	}
	for _, name := range order {
		w.rate.add(name, float64(len(took[name]))/whole[name].Seconds())
		w.middle.add(name, percentile(took[name], 0.5).Seconds())
		w.tail.add(name, percentile(took[name], 0.99).Seconds())
	}
	return nil
}

func (w warm) compare(t *table, at string) {
	t.compare("reads per second"+at, w.rate, count, 0.97)
	t.compare("median of a read"+at, w.middle, inMilliseconds, 0)
	t.compare("99th percentile"+at, w.tail, inMilliseconds, -1.05)
}

// burst is many readers at once, when the engine has nothing in memory: a write of config takes it back to that.
func (v *vault) burst(ctx context.Context) error {
	const (
		bursts, readers = 6, 1000
		exchange        = 100 * time.Millisecond
	)
	v.console.SetDelay(exchange)
	defer v.console.SetDelay(0)
	last := series{}
	most := 0
	for turn := range bursts {
		for _, plugin := range rotated(turn, engine, baseline) {
			if err := v.writeConfig(ctx, engine); err != nil {
				return err
			}
			before := v.console.Exchanges()
			whole, err := v.readTimes(ctx, paths[plugin], readers, readers)
			if err != nil {
				return err
			}
			last.add(plugin, whole.Seconds())
			most = max(most, v.console.Exchanges()-before)
		}
	}
	v.figure("exchanges for 1,000 readers at once on a cold mount", count, float64(most))
	v.table.compare("last of them answered, an exchange taking 100 ms", last, inMilliseconds, 0)
	if most != 1 || median(last[engine]) > median(last[baseline])+1.5*exchange.Seconds() {
		v.table.missed("a cold burst takes one exchange, and 1.5 times its duration more than the baseline's")
	}
	return nil
}

// slowConsole lets readers read both, evenly spread, over three reuse periods with a Console that takes 2 s for an
// exchange, and compares the longest that one of them waited.
func (v *vault) slowConsole(ctx context.Context) error {
	const (
		reuse    = 20 * time.Second
		exchange = 2 * time.Second
		readers  = 4
		every    = 200 * time.Millisecond
	)
	if err := v.write(ctx, engine+"/config", map[string]any{"reuse_period": int(reuse.Seconds())}); err != nil {
		return err
	}
	if err := v.request(ctx, paths[engine]); err != nil {
		return err
	}
	before := v.console.Exchanges()
	v.console.SetDelay(exchange)
	defer v.console.SetDelay(0)

	waited := series{}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	for _, plugin := range []string{engine, baseline} {
		all, err := v.newReaders(readers, paths[plugin])
		if err != nil {
			return err
		}
		defer all.close()
		group.Go(func() error {
			each, _, err := all.together(func(started time.Time, i, done int) bool {
				time.Sleep(time.Until(started.Add(every*time.Duration(done) + every/readers*time.Duration(i))))
				return ctx.Err() == nil && time.Since(started) < 3*reuse
			})
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				waited.add(plugin, slices.Max(each).Seconds())
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	made := v.console.Exchanges() - before
	v.table.compare(fmt.Sprintf("longest wait over %d refreshes, an exchange taking 2 s", made), waited, inMilliseconds, 0)
	if median(waited[engine]) >= exchange.Seconds()/2 {
		v.table.missed("no reader waits for a refresh")
	}
	return nil
}
