package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	soakReaders = 64
	soakRoles   = 4
	// soakValidity is short, so that JWTs end, are renewed and swept all the time.
	soakValidity = 10 * time.Second
	// Pauses that leave Vault the time to expire the leases, which would pile up otherwise.
	readPause  = 50 * time.Millisecond
	writePause = 200 * time.Millisecond

	// soakSamples are taken at even distances: each 30 seconds of 20 minutes.
	soakSamples = 40
	// sampled is how many of them, in a row, are compared: a minute of 20.
	sampled = 2
)

// What may be there at the end above what was there in the middle. A file that leaks with each write of config would
// be one of thousands; connections to Console that happen to be open are a few.
const (
	moreMemory  = 1.1
	moreThreads = 3
	moreFiles   = 10
)

// soak reads while config and roles are rewritten. It fails if a read fails, or if the plugin has more at the end than in
// the middle.
func (b *bench) soak(ctx context.Context) error {
	return b.onVault(ctx, []string{engine}, func(v *vault) error { return v.load(ctx) })
}

func (v *vault) load(ctx context.Context) error {
	v.console.SetValidity(soakValidity)
	if err := v.writeRoles(ctx, 0, soakRoles); err != nil {
		return err
	}
	var reads atomic.Int64
	ctx, stop := context.WithTimeout(ctx, v.duration)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	for i := range soakReaders {
		path := engine + "/token"
		if role := i % (soakRoles + 1); role < soakRoles {
			path += "/" + roleName(role)
		}
		group.Go(func() error {
			r, err := v.newReader(path)
			if err != nil {
				return err
			}
			defer r.connection.Close()
			return repeat(ctx, readPause, func() error {
				err := r.read()
				reads.Add(1)
				return err
			})
		})
	}
	group.Go(func() error { return v.rewrite(ctx) })
	samples := make([]process, 0, soakSamples)
	group.Go(func() (err error) {
		samples, err = v.watch(ctx, &reads)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if len(samples) < soakSamples {
		return errors.New("ended before its time")
	}
	return compareSamples(samples)
}

// repeat calls do until the context ends, which is no error.
func repeat(ctx context.Context, pause time.Duration, do func() error) error {
	for {
		if err := do(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// rewrite changes config and the roles, and makes, reads and deletes one role more.
func (v *vault) rewrite(ctx context.Context) error {
	extra := roleName(soakRoles)
	written := context.WithoutCancel(ctx) // the last write is not broken off
	return repeat(ctx, writePause, func() error {
		if err := v.writeConfig(written, engine); err != nil {
			return err
		}
		if err := v.writeRoles(written, 0, soakRoles+1); err != nil {
			return err
		}
		if err := v.readRole(written, soakRoles); err != nil {
			return err
		}
		_, err := v.Client.Logical().DeleteWithContext(written, engine+"/roles/"+extra)
		return err
	})
}

// watch prints and returns what the plugin's process has, at even distances until the time is over.
func (v *vault) watch(ctx context.Context, reads *atomic.Int64) ([]process, error) {
	fmt.Printf("%8s %10s %10s %10s %8s %6s\n", "time", "reads", "exchanges", "memory", "threads", "files")
	var samples []process
	begin := time.Now()
	for i := 1; i <= soakSamples; i++ {
		// A moment early, so that the last one is taken under load as well.
		at := begin.Add(v.duration*time.Duration(i)/soakSamples - v.duration/1000)
		select {
		case <-ctx.Done():
			return samples, nil
		case <-time.After(time.Until(at)):
		}
		p, err := v.plugin(engine)
		if err != nil {
			return nil, err
		}
		samples = append(samples, p)
		fmt.Printf("%8s %10d %10d %10s %8d %6d\n", time.Since(begin).Round(time.Second), reads.Load(), v.console.Exchanges(),
			megabytes(float64(p.rss)), p.threads, p.files)
	}
	return samples, nil
}

// compareSamples compares the last samples with those that end in the middle.
func compareSamples(samples []process) error {
	sum := func(end int) (total process) {
		for _, p := range samples[end-sampled : end] {
			total.rss += p.rss
			total.threads += p.threads
			total.files += p.files
		}
		return total
	}
	middle, last := sum(len(samples)/2), sum(len(samples))
	fmt.Printf("end against middle: memory %.2f, threads %+.1f, files %+.1f\n", float64(last.rss)/float64(middle.rss),
		float64(last.threads-middle.threads)/sampled, float64(last.files-middle.files)/sampled)
	var grown []error
	if float64(last.rss) > moreMemory*float64(middle.rss) {
		grown = append(grown, fmt.Errorf("memory grew by more than %.0f %%", (moreMemory-1)*100))
	}
	if last.threads > middle.threads+moreThreads*sampled {
		grown = append(grown, fmt.Errorf("threads grew by more than %d", moreThreads))
	}
	if last.files > middle.files+moreFiles*sampled {
		grown = append(grown, fmt.Errorf("open files grew by more than %d", moreFiles))
	}
	return errors.Join(grown...)
}
