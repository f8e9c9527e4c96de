// Package vaulttest starts real servers, of Vault or of OpenBao, for tests and measurements: one node or a cluster,
// with a plugin, and with clients and command lines to use them. Whatever it starts listens on a loopback address,
// keeps its files in a folder of its own, and is gone after Close.
//
// A server is started with the program at hand:
//
//	program, err := vaulttest.Find(ctx, os.Getenv("VAULT_BIN"))
//	...
//	server, err := vaulttest.Start(ctx, vaulttest.Options{Program: program})
//	...
//	defer server.Close()
//	err = server.RegisterPlugin(ctx, vaulttest.Plugin{Name: "example", Program: "/path/of/example"})
//
// Nothing in it depends on package testing, so that programs can use it as well.
package vaulttest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	// patience is how long what happens within a second on an idle machine may take on a busy one.
	patience  = time.Minute
	pollEvery = 50 * time.Millisecond
	// portTries is how often a server is started again because another process took its port.
	portTries = 5
)

var errEnded = errors.New("the server has ended")

// Options describe a server. All that it needs is a Program.
type Options struct {
	Program Program
	Dir     string // where the server's own folder is made; empty: the system's folder for temporary files
	Raft    bool   // integrated storage, which survives a restart; otherwise storage is in memory
	Audit   bool   // write an audit log, with hashed values
	TLS     bool   // serve the API over TLS, with a certificate that the server's clients trust

	LogLevel string // empty: info
	Config   string // further blocks of the configuration file

	auditLog string // of the cluster that the server joins
}

// Server is a running server, or one that was stopped and can be started again.
type Server struct {
	*Process // the present one
	// Client has the root token, and repeats no request.
	Client *api.Client

	options    Options
	dir        string
	address    string
	unsealKeys []string
}

// Start starts a server that is initialized, unsealed and active.
func Start(ctx context.Context, options Options) (*Server, error) {
	s, err := launch(ctx, options)
	if err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{s.initialize, s.Unseal, s.enableAudit} {
		if err := step(ctx); err != nil {
			err = fmt.Errorf("%w\n%s", err, s.Tail())
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// launch starts a server's process, and leaves it as it is.
func launch(ctx context.Context, options Options) (*Server, error) {
	dir, err := os.MkdirTemp(options.Dir, "vault-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the server: %w", err)
	}
	// A server refuses a plugin folder that is a symbolic link, and folders for temporary files can be below one.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("making a folder for the server: %w", err)
	}
	s := &Server{options: options, dir: dir}
	for _, folder := range []string{s.PluginDir(), s.StorageDir()} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return nil, errors.Join(fmt.Errorf("making a folder for the server: %w", err), s.Close())
		}
	}
	// If another process took a port that was free when it was chosen, the server ends, and starts with another.
	for range portTries {
		if err = s.configure(); err != nil {
			break
		}
		if err = s.start(ctx); err == nil {
			return s, nil
		}
		if !errors.Is(err, errEnded) {
			break
		}
	}
	return nil, errors.Join(err, s.Close())
}

// PluginDir is the server's plugin folder.
func (s *Server) PluginDir() string { return filepath.Join(s.dir, "plugins") }

// StorageDir is the folder of integrated storage.
func (s *Server) StorageDir() string { return filepath.Join(s.dir, "storage") }

// CACert is the file of the certificate to trust, if the server has one.
func (s *Server) CACert() string { return filepath.Join(s.dir, "tls.crt") }

// Dir is the server's own folder.
func (s *Server) Dir() string { return s.dir }

// Address is the URL of the server's API.
func (s *Server) Address() string { return s.address }

// AuditLog is the file of the audit log. All nodes of a cluster write to the same one.
func (s *Server) AuditLog() string {
	if s.options.auditLog != "" {
		return s.options.auditLog
	}
	return filepath.Join(s.dir, "audit.log")
}

// configure writes the configuration file, with ports that are free now.
func (s *Server) configure() error {
	port, err := freePort()
	if err != nil {
		return err
	}
	clusterPort, err := freePort()
	if err != nil {
		return err
	}
	s.address = fmt.Sprintf("http://127.0.0.1:%d", port)
	tlsSettings := "tls_disable     = true"
	if s.options.TLS {
		s.address = fmt.Sprintf("https://127.0.0.1:%d", port)
		keyFile := filepath.Join(s.dir, "tls.key")
		if err := writeCertificate(s.CACert(), keyFile); err != nil {
			return err
		}
		tlsSettings = fmt.Sprintf("tls_cert_file   = %q\n  tls_key_file    = %q", s.CACert(), keyFile)
	}
	client, err := s.NewClient("")
	if err != nil {
		return err
	}
	s.Client = client

	storage := `storage "inmem" {}`
	if s.options.Raft {
		// A multiplier of 1 is the shortest time to notice that a leader is gone.
		storage = fmt.Sprintf("storage \"raft\" {\n  path = %q\n  node_id = %q\n  performance_multiplier = 1\n}",
			s.StorageDir(), filepath.Base(s.dir))
	}
	level := s.options.LogLevel
	if level == "" {
		level = "info"
	}
	config := fmt.Sprintf(`
disable_mlock    = true
log_level        = %q
plugin_directory = %q
api_addr         = %q
cluster_addr     = "https://127.0.0.1:%d"

listener "tcp" {
  address         = "127.0.0.1:%d"
  cluster_address = "127.0.0.1:%d"
  %s
}

%s

%s

%s
`, level, s.PluginDir(), s.address, clusterPort, port, clusterPort, tlsSettings, storage, s.declaredAudit(), s.options.Config)
	return os.WriteFile(s.configFile(), []byte(config), 0o600)
}

// writeCertificate writes the certificate for 127.0.0.1 that every server of httptest has, and its key.
func writeCertificate(certFile, keyFile string) error {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	certificate := server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return fmt.Errorf("encoding the server's key: %w", err)
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: certificate.Certificate[0]},
		keyFile:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			return fmt.Errorf("writing the server's certificate: %w", err)
		}
	}
	return nil
}

// Ports are below those that systems hand out by themselves: a server that is down must not lose its own to whatever
// listens or connects meanwhile. Vault runs on without its cluster port, and is no part of its cluster then.
const firstPort, numberOfPorts = 20_000, 10_000

var usedPorts sync.Map // of this process's servers, whether they run or not

// FreePort finds a port for another process, as servers here find theirs.
func FreePort() (int, error) { return freePort() }

// freePort finds a port that nothing listens on, and that no other server here has had.
func freePort() (int, error) {
	for range numberOfPorts {
		port := firstPort + rand.IntN(numberOfPorts)
		if _, used := usedPorts.LoadOrStore(port, true); used {
			continue
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("no free port from %d to %d", firstPort, firstPort+numberOfPorts-1)
}

func (s *Server) configFile() string { return filepath.Join(s.dir, "server.hcl") }

// declaredAudit is the block of the configuration that newer versions of OpenBao need for an audit device: by default,
// they let nobody enable one through the API. Older ones ignore it.
func (s *Server) declaredAudit() string {
	if !s.options.Audit || s.options.Program.Product != OpenBao {
		return ""
	}
	return fmt.Sprintf("audit \"file\" \"file\" {\n  options {\n    file_path = %q\n  }\n}\n", s.AuditLog())
}

// enableAudit enables the audit log, unless the server has it from its configuration.
func (s *Server) enableAudit(ctx context.Context) error {
	if !s.options.Audit {
		return nil
	}
	enabled, err := s.Client.Sys().ListAuditWithContext(ctx)
	if err != nil {
		return fmt.Errorf("listing the audit logs: %w", err)
	}
	if enabled["file/"] != nil {
		return nil
	}
	if err := s.Client.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type:    "file",
		Options: map[string]string{"file_path": s.AuditLog()},
	}); err != nil {
		return fmt.Errorf("enabling the audit log: %w", err)
	}
	return nil
}

// start starts the server's process, and waits until it answers.
func (s *Server) start(ctx context.Context) error {
	process, err := StartProcess(s.options.Program.command(s.dir, "server", "-config="+s.configFile()),
		filepath.Join(s.dir, "server.log"))
	if err != nil {
		return err
	}
	s.Process = process
	err = s.wait(ctx, "the server answers", func() error {
		_, err := s.Client.Sys().SealStatusWithContext(ctx)
		return err
	})
	if err != nil {
		s.Process.Kill()
	}
	return err
}

// wait asks until the answer is nil, for as long as the server runs.
func (s *Server) wait(ctx context.Context, what string, ask func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %s", patience))
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("waiting until %s: %w:\n%s", what, errEnded, s.Tail())
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w: %w", what, context.Cause(ctx), err)
		case <-time.After(pollEvery):
		}
	}
}

// initialize makes the server a new one, with one key that unseals it.
func (s *Server) initialize(ctx context.Context) error {
	made, err := s.Client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initializing the server: %w", err)
	}
	s.unsealKeys = made.KeysB64
	s.Client.SetToken(made.RootToken)
	return nil
}

// Unseal unseals the server, and waits until it answers: as the active node, or as a standby of its cluster.
func (s *Server) Unseal(ctx context.Context) error {
	// Once: a node that is given them again while it joins its cluster does not step down later.
	for _, key := range s.unsealKeys {
		if _, err := s.Client.Sys().UnsealWithContext(ctx, key); err != nil {
			return fmt.Errorf("unsealing the server: %w", err)
		}
	}
	return s.wait(ctx, "the server is unsealed", func() error {
		health, err := s.Client.Sys().HealthWithContext(ctx)
		switch {
		case err != nil:
			return err
		case health.Sealed:
			return errors.New("it is sealed")
		case health.Standby:
			leader, err := s.Client.Sys().LeaderWithContext(ctx)
			if err == nil && (leader.LeaderAddress == "" || leader.LeaderAddress == s.address) {
				err = errors.New("it is a standby without a leader")
			}
			return err
		default:
			_, err := s.Client.Sys().ListMountsWithContext(ctx)
			return err
		}
	})
}

// Seal seals the server. Unseal takes that back.
func (s *Server) Seal(ctx context.Context) error {
	if err := s.Client.Sys().SealWithContext(ctx); err != nil {
		return fmt.Errorf("sealing the server: %w", err)
	}
	return nil
}

// Kill ends the server and its plugins without a warning, as a machine does that fails.
func (s *Server) Kill() error {
	s.Process.Kill()
	return s.killPlugins()
}

// RestartWith is Restart with another program: an upgrade of the server.
func (s *Server) RestartWith(ctx context.Context, program Program) error {
	s.options.Program = program
	return s.Restart(ctx)
}

// Restart starts the server again on the same address and with the same files, and unseals it. A server that still
// runs is stopped first.
func (s *Server) Restart(ctx context.Context) error {
	s.Stop()
	if err := s.start(ctx); err != nil {
		return err
	}
	return s.Unseal(ctx)
}

// Close ends the server and its plugins, and removes its files.
func (s *Server) Close() error {
	var err error
	if s.Process != nil {
		s.Stop()
		err = s.killPlugins() // those of a server that had to be killed
	}
	if removeErr := os.RemoveAll(s.dir); removeErr != nil {
		err = errors.Join(err, fmt.Errorf("removing the server's folder: %w", removeErr))
	}
	return err
}

// NewClient makes a client that has a token and repeats no request.
func (s *Server) NewClient(token string) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, fmt.Errorf("making a client: %w", config.Error)
	}
	config.Address = s.address
	config.MaxRetries = 0
	if s.options.TLS {
		if err := config.ConfigureTLS(&api.TLSConfig{CACert: s.CACert()}); err != nil {
			return nil, fmt.Errorf("making a client: %w", err)
		}
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	client.SetToken(token)
	return client, nil
}

// CreateToken makes a token with a policy of its own.
func (s *Server) CreateToken(ctx context.Context, policy, rules string) (string, error) {
	if err := s.Client.Sys().PutPolicyWithContext(ctx, policy, rules); err != nil {
		return "", fmt.Errorf("writing the policy %s: %w", policy, err)
	}
	secret, err := s.Client.Auth().Token().CreateWithContext(ctx, &api.TokenCreateRequest{Policies: []string{policy}})
	if err != nil {
		return "", fmt.Errorf("creating a token with the policy %s: %w", policy, err)
	}
	return secret.Auth.ClientToken, nil
}

// CLI runs the server's program as the holder of a token, and returns what it prints on standard output. An error has
// what it prints on standard error.
func (s *Server) CLI(token string, args ...string) (string, error) {
	cmd := s.options.Program.command(s.dir, args...)
	settings := map[string]string{"ADDR": s.address, "TOKEN": token, "MAX_RETRIES": "0"}
	if s.options.TLS {
		settings["CACERT"] = s.CACert()
	}
	for name, value := range settings {
		cmd.Env = append(cmd.Env, s.options.Program.setting(name, value))
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("running %s %s: %w: %s", filepath.Base(cmd.Path), args[0], err, &stderr)
	}
	return stdout.String(), nil
}

// StartCommand starts a command of the server's program that runs until it is stopped, an agent or a proxy for example.
// Its log is in the server's folder.
func (s *Server) StartCommand(args ...string) (*Process, error) {
	log, err := os.CreateTemp(s.dir, strings.TrimLeft(args[0], "-")+"-*.log")
	if err != nil {
		return nil, fmt.Errorf("making a log: %w", err)
	}
	if err := log.Close(); err != nil {
		return nil, fmt.Errorf("making a log: %w", err)
	}
	return StartProcess(s.options.Program.command(s.dir, args...), log.Name())
}
