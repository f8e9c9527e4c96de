package main

import (
	"context"
	"fmt"
	"time"
)

// volume is 100,000 reads of each, revoked after every 10,000 so that Vault has no more leases for one than for the
// other.
func (b *bench) volume(ctx context.Context) error {
	const turnsEach, leases, readersAtOnce = 10, 10_000, 16
	revoked := series{}
	for round := range turnsEach {
		for _, mount := range turns(round) {
			if _, err := b.vault.readTimes(ctx, mount, readersAtOnce, leases); err != nil {
				return err
			}
			from := time.Now()
			if err := b.vault.revoke(ctx, mount); err != nil {
				return err
			}
			revoked.add(mount, time.Since(from).Seconds())
		}
	}
	if err := b.compareMemory("memory after 100,000 reads", memoryGoal); err != nil {
		return err
	}
	b.table.compare("revoking 10,000 leases by prefix", revoked, seconds, 0)
	return nil
}

// warm is reads that need no exchange. What a row says is the median of the rounds.
func (b *bench) warm(ctx context.Context) error {
	type result struct{ rate, middle, tail series }
	results := map[int]*result{}
	numbers := []int{1, 16, 64}
	for _, n := range numbers {
		results[n] = &result{series{}, series{}, series{}}
	}
	for round := range b.rounds {
		for _, n := range numbers {
			for _, mount := range turns(round) {
				took, whole, err := b.vault.readFor(ctx, mount, n, b.slice)
				if err != nil {
					return err
				}
				r := results[n]
				r.rate.add(mount, float64(len(took))/whole.Seconds())
				r.middle.add(mount, inMilliseconds(percentile(took, 0.5)))
				r.tail.add(mount, inMilliseconds(percentile(took, 0.99)))
			}
		}
		for _, mount := range turns(round) {
			if err := b.vault.revoke(ctx, mount); err != nil {
				return err
			}
		}
	}
	for _, n := range numbers {
		at := fmt.Sprintf(", %d readers", n)
		if n == 1 {
			at = ", 1 reader"
		}
		b.table.compare("reads per second"+at, results[n].rate, count, 0.97)
		b.table.compare("median"+at, results[n].middle, milliseconds, 0)
		b.table.compare("99th percentile"+at, results[n].tail, milliseconds, -1.05)
	}
	return nil
}

// burst is many readers at once, when the engine has nothing in memory: a write of config takes it back to that. The
// baseline has nothing to lose.
func (b *bench) burst(ctx context.Context) error {
	const (
		bursts    = 5
		readers   = 1000
		exchange  = 100 * time.Millisecond
		allowance = exchange * 3 / 2
	)
	b.console.SetDelay(exchange)
	defer b.console.SetDelay(0)
	last := series{}
	most := 0
	for round := range bursts {
		for _, mount := range turns(round) {
			if err := b.writeConfig(ctx); err != nil {
				return err
			}
			before := b.console.Exchanges()
			whole, err := b.vault.readTimes(ctx, mount, readers, readers)
			if err != nil {
				return err
			}
			last.add(mount, inMilliseconds(whole))
			most = max(most, b.console.Exchanges()-before)
			if err := b.vault.revoke(ctx, mount); err != nil {
				return err
			}
		}
	}
	b.table.add("exchanges in a cold burst of 1,000 readers", fmt.Sprint(most), "-", "-", "1: "+met(most == 1))
	engine, baseline := last.median(engineMount), last.median(baselineMount)
	bound := baseline + inMilliseconds(allowance)
	b.table.add("last of them answered, an exchange taking 100 ms", milliseconds(engine), milliseconds(baseline), last.ratioText(),
		fmt.Sprintf("at most 1.5 exchanges more than the baseline, %.0f ms: %s", bound, met(engine <= bound)))
	return nil
}
