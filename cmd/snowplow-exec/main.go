// Command snowplow-exec runs a tool that needs an API key of Snowplow Console with a JWT from Vault instead.
//
// It reads the JWT with the caller's own Vault login, serves a Console on a loopback port for as long as the tool runs,
// and hands the tool a key pair that opens this port only. Requests go on to Snowplow Console with the JWT; the tool
// sees neither the API key nor the JWT.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// The linker sets both (see Makefile).
var (
	version = "v0.0.0-dev"
	commit  = "unknown"
)

// Exit codes besides those of the command. The last two are a shell's.
const (
	exitFailure       = 1
	exitUsage         = 2
	exitNotExecutable = 126
	exitNotFound      = 127
)

// Variables that stand in for flags.
const (
	mountVariable = "SNOWPLOW_EXEC_MOUNT"
	roleVariable  = "SNOWPLOW_EXEC_ROLE"
)

const (
	defaultListen = "127.0.0.1:0"
	// authorizeTimeout is how long a request may take until it is authorized, with its body.
	authorizeTimeout = 10 * time.Second
	idleTimeout      = 2 * time.Minute
	maxHeaderBytes   = 64 << 10
)

const usage = `Usage: snowplow-exec [options] [--] COMMAND [ARG...]
       snowplow-exec [options] -listen=ADDRESS

Runs COMMAND, a tool that needs an API key for Snowplow Console, with a JWT from
Vault instead. The tool gets a key pair that works only on a local port, and only
while it runs. Log in to Vault first, as for the vault program: vault login, or
VAULT_ADDR and VAULT_TOKEN.

Examples:
  snowplow-exec -- snowplow-cli status
  snowplow-exec -role=analytics -- snowplow-cli data-structures validate
  snowplow-exec -role=web -- npx snowtype generate
  snowplow-exec -listen=127.0.0.1:0      # serve until Ctrl-C, and print what to set

Options:
`

// options are what the command line says.
type options struct {
	mount, role, listen, caCert string
	logLevel                    hclog.Level
	version                     bool
	command                     []string
}

func main() {
	// net/http writes to the standard log what a server says unasked.
	log.SetOutput(io.Discard)
	protectMemory()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code. Standard input, and the standard output and error of the command, are the process's own.
func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	code := exitUsage
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		err = fmt.Errorf("%w; see snowplow-exec -help", err)
	case o.version:
		_, _ = fmt.Fprintf(stdout, "snowplow-exec %s (commit %s)\n", version, commit)
		return 0
	default:
		code, err = execute(o, stdout, stderr)
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "snowplow-exec:", err)
	}
	return code
}

// execute runs the command, or serves without one, and returns the exit code.
func execute(o options, stdout, stderr io.Writer) (int, error) {
	// Before Vault is asked: a command that is not there needs no JWT.
	var executable string
	if len(o.command) > 0 {
		var err error
		if executable, err = findCommand(o.command[0]); err != nil {
			return exitCodeOf(err), err
		}
	}
	listener, err := listen(o.listen)
	if err != nil {
		return exitFailure, err
	}
	defer listener.Close()
	transport, err := newTransport(o.caCert)
	if err != nil {
		return exitFailure, err
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	logger := hclog.New(&hclog.LoggerOptions{Name: "snowplow-exec", Level: o.logLevel, Output: stderr})
	vault, err := newVaultReader(o.mount, o.role, logger)
	if err != nil {
		return exitFailure, err
	}
	source, err := newTokenSource(ctx, vault.read, logger)
	if err != nil {
		return exitFailure, err
	}

	console := newConsole(source, transport, listener.Addr(), vault.path)
	server := newServer(console)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		_ = server.Close()
		<-served
	}()
	if executable == "" {
		return serve(console, served, stdout, stderr)
	}
	return runCommand(executable, o.command, commandEnvironment(os.Environ(), console.variables()))
}

// newServer limits what a client can take up. ServeHTTP lifts the limits in time for a request that is authorized.
func newServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:                      handler,
		DisableGeneralOptionsHandler: true, // it answers "OPTIONS *" without asking the handler
		ReadTimeout:                  authorizeTimeout,
		WriteTimeout:                 2 * authorizeTimeout, // a refusal may come when the time to read is over
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     log.New(io.Discard, "", 0), // it can quote what was sent
	}
}

// parse reads the command line. What it prints for -help goes to stdout.
func parse(args []string, stdout io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("snowplow-exec", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints errors; help is printed below
	flags.StringVar(&o.mount, "mount", "snowplow", "`path` where the Snowplow secrets engine is mounted in Vault; also "+mountVariable)
	flags.StringVar(&o.role, "role", "", "`name` of the role whose JWT to use (default: that of the engine's config); also "+roleVariable)
	flags.StringVar(&o.listen, "listen", "", "loopback `address` and port to serve on; port 0 lets the system choose (default "+defaultListen+")")
	flags.StringVar(&o.caCert, "ca-cert", "", "`file` with CA certificates (PEM) to trust for Console, in addition to the system's")
	level := flags.String("log-level", "warn", "log to standard error from this `level` on: debug, info, warn, error or off; debug logs each request's method, path and status")
	flags.BoolVar(&o.version, "version", false, "print version and commit, and exit")

	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, _ = io.WriteString(stdout, usage)
			flags.SetOutput(stdout)
			flags.PrintDefaults()
		}
		return options{}, err
	}
	o.command = flags.Args()
	if o.version {
		return o, nil
	}
	if err := orVariable(flags, "mount", mountVariable, "name the mount, or omit it for snowplow"); err != nil {
		return options{}, err
	}
	if err := orVariable(flags, "role", roleVariable, "name a role, or omit it for the JWT of the engine's config"); err != nil {
		return options{}, err
	}
	if o.logLevel = hclog.LevelFromString(*level); o.logLevel == hclog.NoLevel {
		return options{}, fmt.Errorf("-log-level is %q: it must be debug, info, warn, error or off", *level)
	}
	if len(o.command) == 0 && o.listen == "" {
		return options{}, errors.New("name a command to run, or -listen to serve without one")
	}
	o.listen = cmp.Or(o.listen, defaultListen)
	return o, nil
}

// orVariable takes a flag's value from an environment variable if the flag is not given. An empty value is refused: an
// unset variable of the caller's would otherwise select the token of the engine's config.
func orVariable(flags *flag.FlagSet, name, variable, remedy string) error {
	from := "-" + name
	given := false
	flags.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if !given {
		value, ok := os.LookupEnv(variable)
		if !ok {
			return nil
		}
		from = variable
		_ = flags.Set(name, value) // never fails for a string
	}
	if flags.Lookup(name).Value.String() == "" {
		return fmt.Errorf("%s is empty: %s", from, remedy)
	}
	return nil
}

// listen listens on a loopback address, and refuses every other one.
func listen(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("-listen is %q: it must be an address and a port, for example %s", address, defaultListen)
	}
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1" // a name can be made to mean another address
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.Unmap().IsLoopback() {
		return nil, fmt.Errorf("-listen is %q: it must be a loopback address, for example %s", address, defaultListen)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(ip.Unmap().String(), port))
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w; choose another port with -listen, or 0 to let the system choose", address, err)
	}
	return listener, nil
}

// serve prints what a tool needs, and serves until a signal ends it.
func serve(c *console, served chan error, stdout, stderr io.Writer) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for _, variable := range c.variables() {
		name, value, _ := strings.Cut(variable, "=")
		_, _ = fmt.Fprintf(stdout, "export %s=%s\n", name, shellQuote(value))
	}
	_, _ = fmt.Fprintln(stderr, "snowplow-exec: serving until Ctrl-C; set the variables above for the tool")
	select {
	case <-ctx.Done():
		return 0, nil
	case err := <-served:
		served <- err // execute waits for it
		return exitFailure, fmt.Errorf("cannot serve any longer: %w", err)
	}
}

// shellQuote quotes what a shell would not take as it is. All but the organization ID is made here and needs none.
func shellQuote(s string) string {
	if strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("-._~:/@", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// portOf is the port of a TCP listener's address.
func portOf(address net.Addr) string { return strconv.Itoa(address.(*net.TCPAddr).Port) }
