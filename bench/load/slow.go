package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// slowConsole lets readers read both, evenly spread, over three reuse periods with a Console that takes 2 s for an
// exchange, and compares the longest that one of them waited.
func (b *bench) slowConsole(ctx context.Context) error {
	const (
		reuse    = 20 * time.Second
		exchange = 2 * time.Second
		readers  = 4
		every    = 200 * time.Millisecond
	)
	path := engineMount + "/config"
	if err := b.vault.write(ctx, path, map[string]any{"reuse_period": int(reuse.Seconds())}); err != nil {
		return err
	}
	first, err := b.vault.newReader(engineMount + "/token")
	if err != nil {
		return err
	}
	defer first.connection.Close()
	if _, err := first.read(); err != nil {
		return err
	}
	before := b.console.Exchanges()
	b.console.SetDelay(exchange)
	defer b.console.SetDelay(0)

	var wg sync.WaitGroup
	longest := map[string]time.Duration{}
	var failed error
	var mu sync.Mutex
	for _, mount := range turns(0) {
		all, err := b.vault.newReaders(readers, mount+"/token")
		if err != nil {
			return err
		}
		defer all.close()
		for i, reader := range all {
			wg.Go(func() {
				tick := time.NewTicker(every)
				defer tick.Stop()
				time.Sleep(every / readers * time.Duration(i))
				for end := time.Now().Add(3 * reuse); time.Now().Before(end) && ctx.Err() == nil; <-tick.C {
					begun := time.Now()
					_, err := reader.read()
					mu.Lock()
					longest[mount] = max(longest[mount], time.Since(begun))
					if err != nil {
						failed = err
					}
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if failed != nil {
		return failed
	}
	engine, baseline := longest[engineMount], longest[baselineMount]
	b.table.add("longest wait over three reuse periods, an exchange taking 2 s",
		milliseconds(inMilliseconds(engine)), milliseconds(inMilliseconds(baseline)), fmt.Sprintf("%.3f", float64(engine)/float64(baseline)),
		"no reader waits for an exchange, "+fmt.Sprint(b.console.Exchanges()-before)+" of them: "+met(engine < exchange/2))
	return b.vault.write(ctx, path, map[string]any{"reuse_period": 3600})
}

// restart reloads the plugin, and counts what readers of this many roles cost Console.
func (b *bench) restart(ctx context.Context, roles int) error {
	if err := b.vault.write(ctx, "sys/plugins/reload/backend", map[string]any{"plugin": engineMount}); err != nil {
		return err
	}
	before := b.console.Exchanges()
	begun := time.Now()
	if err := b.each(ctx, 0, roles, b.readRoleToken); err != nil {
		return err
	}
	made := b.console.Exchanges() - before
	b.table.add(fmt.Sprintf("exchanges after a restart with %d roles", roles), fmt.Sprint(made), "-", "-", "0: "+met(made == 0))
	b.table.add("first reads of these roles", seconds(time.Since(begun).Seconds()), "-", "-", "")
	return nil
}
