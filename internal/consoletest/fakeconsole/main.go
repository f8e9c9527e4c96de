// Fakeconsole serves the fake Snowplow Console of internal/consoletest as a
// program, for demos and scripts. It is not Snowplow: its JWTs open nothing
// but itself.
package main

import (
	"context"
	"crypto/tls"
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
	settings, console, err := parse(args, stderr)
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

	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", settings.addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	address, scheme := listener.Addr().String(), "http"
	if len(settings.certificates) > 0 {
		scheme = "https"
		listener = tls.NewListener(listener, &tls.Config{Certificates: settings.certificates, MinVersion: tls.VersionTLS12})
	}
	served := make(chan error, 2)
	go func() { served <- server.Serve(listener) }()
	_, _ = fmt.Fprintln(stderr, "fakeconsole: a stand-in for demos and tests, not Snowplow; its JWTs are worth nothing")
	if settings.proxyAddr != "" {
		proxyListener, err := new(net.ListenConfig).Listen(ctx, "tcp", settings.proxyAddr)
		if err != nil {
			return errors.Join(fmt.Errorf("listen: %w", err), server.Close())
		}
		proxy := &http.Server{Handler: tunnelsTo(address), ReadHeaderTimeout: shutdownTimeout}
		defer func() { _ = proxy.Close() }()
		go func() { served <- proxy.Serve(proxyListener) }()
		_, _ = fmt.Fprintf(stdout, "proxy on http://%s\n", proxyListener.Addr())
	}
	_, _ = fmt.Fprintf(stdout, "listening on %s://%s\n", scheme, address)

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

// tunnelsTo is an HTTP proxy whose tunnels all lead to one address, whatever host they are for: who uses it reaches
// the fake by Snowplow's own host names.
func tunnelsTo(address string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "this proxy serves CONNECT only", http.StatusMethodNotAllowed)
			return
		}
		upstream, err := new(net.Dialer).DialContext(r.Context(), "tcp", address)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer func() { _ = upstream.Close() }()
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer func() { _ = client.Close() }()
		if _, err := io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		ended := make(chan struct{}, 2)
		for _, pair := range [][2]net.Conn{{upstream, client}, {client, upstream}} {
			go func() {
				_, _ = io.Copy(pair[0], pair[1])
				ended <- struct{}{}
			}()
		}
		<-ended
	})
}

// settings say where the fake listens.
type settings struct {
	addr, proxyAddr string
	certificates    []tls.Certificate // none: plain HTTP
}

// parse returns the settings and the Console that the flags describe.
func parse(args []string, stderr io.Writer) (settings, *consoletest.Console, error) {
	flags := flag.NewFlagSet("fakeconsole", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // main prints errors; help is printed below
	addr := flags.String("addr", "127.0.0.1:0", "`address` to listen on")
	organization := flags.String("organization", consoletest.DefaultOrganizationID, "organization `ID`")
	validity := flags.Duration("validity", consoletest.DefaultValidity, "validity of a JWT")
	delay := flags.Duration("delay", 0, "time that each exchange takes")
	proxyAddr := flags.String("proxy-addr", "", "`address` of an HTTP proxy that leads every host to the fake (default none)")
	var ids, secrets, certFiles, keyFiles []string
	flags.Func("tls-cert", "`file` of a certificate (PEM), to serve https; repeat together with -tls-key",
		func(s string) error { certFiles = append(certFiles, s); return nil })
	flags.Func("tls-key", "`file` of its key", func(s string) error { keyFiles = append(keyFiles, s); return nil })
	flags.Func("api-key-id", "`ID` of an API key; repeat together with -api-key (default "+consoletest.DefaultAPIKeyID+")",
		func(s string) error { ids = append(ids, s); return nil })
	flags.Func("api-key", "the API `key` (default "+consoletest.DefaultAPIKey+")",
		func(s string) error { secrets = append(secrets, s); return nil })

	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(stderr)
			flags.PrintDefaults()
		}
		return settings{}, nil, err
	}
	if flags.NArg() > 0 {
		return settings{}, nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if len(ids) != len(secrets) {
		return settings{}, nil, fmt.Errorf("each -api-key-id needs its -api-key: got %d and %d", len(ids), len(secrets))
	}
	if len(certFiles) != len(keyFiles) {
		return settings{}, nil, fmt.Errorf("each -tls-cert needs its -tls-key: got %d and %d", len(certFiles), len(keyFiles))
	}
	where := settings{addr: *addr, proxyAddr: *proxyAddr}
	for i := range certFiles {
		certificate, err := tls.LoadX509KeyPair(certFiles[i], keyFiles[i])
		if err != nil {
			return settings{}, nil, fmt.Errorf("load the certificate: %w", err)
		}
		where.certificates = append(where.certificates, certificate)
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
	return where, console, nil
}
