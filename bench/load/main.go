// Command load measures the Snowplow engine against the baseline: both as plugins of one real Vault, in turn, in the
// same run. With -soak it puts load on the engine for a long time instead, and watches what the plugin holds on to.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

type options struct {
	vault, engine, baseline string // programs
	rounds                  int
	slice                   time.Duration
	soak                    time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.vault, "vault", "", "the vault `program`")
	flag.StringVar(&o.engine, "engine", "", "the engine's plugin `program`")
	flag.StringVar(&o.baseline, "baseline", "", "the baseline's plugin `program`")
	flag.IntVar(&o.rounds, "rounds", 24, "how often each of the two has its turn")
	seconds := flag.Float64("seconds", 0.5, "how long one turn of warm reads takes")
	flag.DurationVar(&o.soak, "soak", 0, "put load on the engine for this long, instead of measuring")
	flag.Parse()
	o.slice = time.Duration(*seconds * float64(time.Second))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.vault == "" || o.engine == "" || (o.baseline == "" && o.soak == 0) || o.rounds < 1 || o.slice <= 0 {
		return errors.New("-vault, -engine and -baseline name the programs to run; -rounds and -seconds are more than 0")
	}
	console := consoletest.New()
	consoleServer := httptest.NewServer(console)
	defer consoleServer.Close()

	plugins := map[string]string{engineMount: o.engine}
	if o.baseline != "" {
		plugins[baselineMount] = o.baseline
	}
	v, err := startVault(ctx, o.vault)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	for mount, program := range plugins {
		if err := v.mount(ctx, mount, program); err != nil {
			return err
		}
	}
	b := &bench{options: o, vault: v, console: console, consoleURL: consoleServer.URL}
	if err := b.writeConfig(ctx); err != nil {
		return err
	}
	if o.soak > 0 {
		return b.soak(ctx)
	}
	return b.measure(ctx)
}
