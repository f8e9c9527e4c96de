// Command load measures the Snowplow engine beside the baseline, a plugin that does nothing, on real Vaults, and prints
// a table. It can put load on the engine for a long time instead.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

// The plugins, named as their mounts are. What the baseline makes of itself is the noise of a ratio.
const (
	engine   = "engine"
	baseline = "baseline"
	again    = "baseline again"
	plain    = "no lease" // the baseline's other path
)

// bench is a run: what is measured, where, and how often.
type bench struct {
	options    vaulttest.Options // of each server
	programs   map[string]vaulttest.Plugin
	rounds     int
	slice      time.Duration
	duration   time.Duration
	console    *consoletest.Console
	consoleURL string
	table      table
}

const usage = `usage: load [flags] what...

  reads     warm reads by 1, 16 and 64 readers, memory, a cold burst, a slow Console
  leases    what leases cost Vault
  mounts    1, 10 and 50 mounts in one process
  roles     1, 100 and 10,000 roles
  failover  a cluster of three that loses its leader
  soak      load for a long time; fails if the plugin's memory, threads or open files grow

`

func main() {
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	vault := flag.String("vault", "", "the vault `program`")
	program := flag.String("engine", "bin/vault-plugin-secrets-snowplow", "the engine's `program`")
	storage := flag.String("storage", "raft", "raft, with TLS and an audit log; or inmem, without either, for reads and soak")
	b := &bench{}
	flag.IntVar(&b.rounds, "rounds", 24, "how often each has its turn; of leases and mounts, a twelfth of that")
	flag.DurationVar(&b.slice, "slice", 500*time.Millisecond, "how long half a turn of warm reads takes")
	flag.DurationVar(&b.duration, "soak", 20*time.Minute, "how long soak takes")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.prepare(ctx, *vault, *program, *storage)
	if err == nil {
		err = b.run(ctx, flag.Args())
	}
	stop()
	if err := errors.Join(err, os.RemoveAll(b.options.Dir)); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// prepare builds the baseline, and makes the folder that everything is in.
func (b *bench) prepare(ctx context.Context, vault, program, storage string) (err error) {
	if !slices.Contains([]string{"raft", "inmem"}, storage) || b.rounds < 1 || b.slice <= 0 || b.duration <= 0 {
		return errors.New("-storage is raft or inmem; -rounds, -slice and -soak are more than 0")
	}
	if err := vaulttest.ForgetEnvironment(); err != nil {
		return err
	}
	if b.options.Program, err = vaulttest.Find(ctx, vault); err != nil {
		return fmt.Errorf("-vault: %w", err)
	}
	if b.options.Dir, err = os.MkdirTemp("", "snowplow-bench-"); err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	production := storage == "raft"
	b.options.Raft, b.options.TLS, b.options.Audit = production, production, production
	b.options.LogLevel = "warn"
	b.options.Config = `default_max_request_duration = "1h"` // revoking many leases is one request

	// Built as the engine is: the two are compared.
	built := filepath.Join(b.options.Dir, "baseline")
	build := exec.CommandContext(ctx, "go", "build", "-race=false", "-trimpath", "-ldflags", "-s -w", "-o", built,
		"github.com/snowplow-vault/vault-plugin-secrets-snowplow/bench/baselineplugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the baseline: %w\n%s", err, out)
	}
	printed, err := exec.CommandContext(ctx, program, "--version").Output()
	words := strings.Fields(string(printed))
	if err != nil || len(words) < 2 {
		return fmt.Errorf("asking the plugin %s for its version: %q, %w", program, printed, err)
	}
	b.programs = map[string]vaulttest.Plugin{
		// Vault checks that a plugin has the version that it is registered with.
		engine:   {Name: engine, Program: program, Version: words[1]},
		baseline: {Name: baseline, Program: built},
		again:    {Name: "again", Program: built},
	}
	return nil
}

func (b *bench) run(ctx context.Context, arguments []string) error {
	parts := map[string]func(context.Context) error{
		"reads": b.reads, "leases": b.leases, "mounts": b.mounts, "roles": b.roles, "failover": b.failover, "soak": b.soak,
	}
	if len(arguments) == 0 {
		return errors.New("nothing to measure: -h prints what there is")
	}
	b.console = consoletest.New()
	server := httptest.NewServer(b.console)
	defer server.Close()
	b.consoleURL = server.URL
	for _, name := range arguments {
		part, found := parts[name]
		if !found {
			return fmt.Errorf("there is no %q to measure: -h prints what there is", name)
		}
		begun := time.Now()
		fmt.Fprintln(os.Stderr, name)
		if err := part(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(os.Stderr, "%s took %.0f s\n", name, time.Since(begun).Seconds())
	}
	return nil
}
