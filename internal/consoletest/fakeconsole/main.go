// Fakeconsole serves the fake Snowplow Console of internal/consoletest as a
// program, for demos and scripts. It is not Snowplow: its JWTs open nothing
// but itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// shutdownTimeout bounds how long requests under way may keep the program.
const shutdownTimeout = 5 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fakeconsole:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. On stdout are the URLs only, for scripts to read.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	addr, console, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}

	mux := http.NewServeMux()
	mux.Handle("/", console)
	mux.HandleFunc("GET /fakeconsole/exchanges", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, "{\"exchanges\": %d}\n", console.Exchanges())
	})
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: shutdownTimeout,
		// Delayed answers end with ctx, so that they do not hold up the end.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}

	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	_, _ = fmt.Fprintln(stderr, "fakeconsole: a stand-in for demos and tests, not Snowplow; its JWTs are worth nothing")
	_, _ = fmt.Fprintf(stdout, "listening on http://%s\n", listener.Addr())

	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	shutdownCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(shutdownCtx); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	return nil
}

// parse returns the address to listen on and the Console that the flags describe.
func parse(args []string, stderr io.Writer) (string, *consoletest.Console, error) {
	flags := flag.NewFlagSet("fakeconsole", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // main prints errors; help is printed below
	addr := flags.String("addr", "127.0.0.1:0", "`address` to listen on")
	organization := flags.String("organization", consoletest.DefaultOrganizationID, "organization `ID`")
	validity := flags.Duration("validity", consoletest.DefaultValidity, "validity of a JWT")
	delay := flags.Duration("delay", 0, "time that each exchange takes")
	var ids, secrets []string
	flags.Func("api-key-id", "`ID` of an API key; repeat together with -api-key (default "+consoletest.DefaultAPIKeyID+")",
		func(s string) error { ids = append(ids, s); return nil })
	flags.Func("api-key", "the API `key` (default "+consoletest.DefaultAPIKey+")",
		func(s string) error { secrets = append(secrets, s); return nil })

	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(stderr)
			flags.PrintDefaults()
		}
		return "", nil, err
	}
	if flags.NArg() > 0 {
		return "", nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if len(ids) != len(secrets) {
		return "", nil, fmt.Errorf("each -api-key-id needs its -api-key: got %d and %d", len(ids), len(secrets))
	}

	options := []consoletest.Option{consoletest.WithOrganization(*organization)}
	if len(ids) > 0 {
		keys := make([]consoletest.Key, len(ids))
		for i := range ids {
			keys[i] = consoletest.Key{ID: ids[i], Secret: secrets[i]}
		}
		options = append(options, consoletest.WithKeys(keys...))
	}
	console := consoletest.New(options...)
	console.SetValidity(*validity)
	console.SetDelay(*delay)
	return *addr, console, nil
}
