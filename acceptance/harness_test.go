package acceptance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
)

const (
	modulePath    = "github.com/snowplow-vault/vault-plugin-secrets-snowplow"
	pluginName    = "vault-plugin-secrets-snowplow"
	pluginVersion = "v0.1.0-acceptance" // of the plugin that most tests run

	patience  = 30 * time.Second      // with what should happen at once, on a machine that is busy
	pollEvery = 50 * time.Millisecond // the only pause in these tests
)

// poll asks until the answer is nil, and returns the last answer if that takes longer than limit.
func poll(limit time.Duration, ask func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(pollEvery)
	}
}

// eventually fails the test if ask still returns an error after limit.
func eventually(t testing.TB, limit time.Duration, what string, ask func() error) {
	t.Helper()
	if err := poll(limit, ask); err != nil {
		require.FailNow(t, fmt.Sprintf("%s: not within %s", what, limit), err.Error())
	}
}

var builds sync.Map // version to a func that builds the plugin once

// buildPlugin builds the plugin as "make build" does, once for each version, and returns the program's path.
func buildPlugin(version string) (string, error) {
	build, _ := builds.LoadOrStore(version, sync.OnceValues(func() (string, error) {
		target := filepath.Join(runDir, "build", version, pluginName)
		cmd := exec.Command("go", "build", "-race=false", "-trimpath",
			"-ldflags", "-s -w -X "+modulePath+".Version="+version, "-o", target, modulePath+"/cmd/"+pluginName)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building the plugin: %w\n%s", err, out)
		}
		return target, nil
	}))
	return build.(func() (string, error))()
}

// process is a program that a test started, with its output in a file.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{} // closed when the program has ended
}

// startProcess starts the vault program. Output is appended, so that a program that is started again keeps its log.
func startProcess(log, home string, env []string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	p := &process{cmd: exec.Command(vaultBin, args...), log: log, exited: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), "HOME="+home), env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in its log
		close(p.exited)
	}()
	return p, nil
}

// stop asks the program to end, and kills it if it does not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.kill()
	}
}

// kill ends the program without a warning.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails if it has ended
	<-p.exited
}

// tail is the end of the program's log but for its finest level, for the report of a test that failed.
func (p *process) tail() string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := slices.DeleteFunc(strings.Split(string(content), "\n"), func(line string) bool {
		return line == "" || strings.Contains(line, "[TRACE]")
	})
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// serverOptions are how a Vault server differs from the usual one: empty, with everything in memory.
type serverOptions struct {
	storage string // "raft" keeps it over a restart; empty: it is in memory
	config  string // added to the configuration file, for example a listener's or a seal's block
	raft    string // added to the block of raft storage, for example retry_join
}

// server is one Vault server.
type server struct {
	*process
	options     serverOptions
	dir         string
	address     string // of the API
	clusterPort int
	client      *api.Client // with the root token, once initialized
	keys        []string    // that unseal it; empty on a node that is to join another one's cluster
}

func (s *server) plugins() string  { return filepath.Join(s.dir, "plugins") }
func (s *server) auditLog() string { return filepath.Join(s.dir, "audit.log") }

// startVault starts a server for one test: unsealed, with an audit log, and with the plugin in its catalog.
func startVault(t testing.TB, options serverOptions) *server {
	t.Helper()
	s, err := newServer(options)
	require.NoError(t, err, "starting a Vault server")
	endWith(t, s)
	return s
}

// endWith stops a server when the test ends: the process that it then has, which may not be its first one.
func endWith(t testing.TB, s *server) {
	t.Cleanup(func() { s.stop() })
	showLogIfFailed(t, s.process)
}

// showLogIfFailed prints the end of a log into the report of a test that fails.
func showLogIfFailed(t testing.TB, p *process) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of %s:\n%s", p.log, p.tail())
		}
	})
}

var sharedServer struct {
	once sync.Once
	*server
	err error
}

// shared is the server of all tests that need none of their own. Each has its own mount on it.
func shared(t testing.TB) *server {
	t.Helper()
	sharedServer.once.Do(func() { sharedServer.server, sharedServer.err = newServer(serverOptions{}) })
	require.NoError(t, sharedServer.err, "starting the shared Vault server")
	return sharedServer.server
}

// stopShared ends the shared server, if a test has asked for it.
func stopShared() {
	if sharedServer.server != nil {
		sharedServer.stop()
	}
}

func newServer(options serverOptions) (*server, error) {
	s, err := launch(options)
	if err != nil {
		return nil, err
	}
	for _, step := range []func() error{
		s.initialize,
		s.unseal,
		s.audit,
		func() error { return s.register(pluginVersion, pluginVersion) },
	} {
		if err := step(); err != nil {
			s.stop()
			return nil, fmt.Errorf("%w\n%s", err, s.tail())
		}
	}
	return s, nil
}

// launch starts a server that is neither initialized nor unsealed.
func launch(options serverOptions) (*server, error) {
	dir, err := os.MkdirTemp(runDir, "vault-")
	if err != nil {
		return nil, err
	}
	s := &server{options: options, dir: dir}
	for _, folder := range []string{s.plugins(), filepath.Join(dir, "data")} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return nil, err
		}
	}
	// Nothing but listening on it tells a free port for sure: one that was taken meanwhile shows as a server that
	// ends, and the next is tried.
	for range 5 {
		if err := s.configure(); err != nil {
			return nil, err
		}
		if err = s.start(); err == nil {
			return s, nil
		}
	}
	return nil, err
}

// configure writes the configuration file, with ports that are free now.
func (s *server) configure() error {
	var ports [2]int
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer func() { _ = listener.Close() }() // at the end, so that the two differ
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	s.address, s.clusterPort = fmt.Sprintf("http://127.0.0.1:%d", ports[0]), ports[1]

	data := filepath.Join(s.dir, "data")
	storage := map[string]string{
		"":     `storage "inmem" {}`,
		"raft": fmt.Sprintf("storage \"raft\" {\n  path = %q\n  node_id = %q\n%s\n}", data, filepath.Base(s.dir), s.options.raft),
	}[s.options.storage]
	config := fmt.Sprintf(`
disable_mlock    = true
log_level        = "trace"
plugin_directory = %q
api_addr         = %q
cluster_addr     = "https://127.0.0.1:%d"

listener "tcp" {
  address         = "127.0.0.1:%d"
  cluster_address = "127.0.0.1:%d"
  tls_disable     = true
}

%s

%s
`, s.plugins(), s.address, ports[1], ports[0], ports[1], storage, s.options.config)
	return os.WriteFile(filepath.Join(s.dir, "vault.hcl"), []byte(config), 0o600)
}

// start starts the server's process, and waits until it answers. It also starts one again that was stopped; what is
// not in memory alone is still there, and sealed.
func (s *server) start() error {
	started, err := startProcess(filepath.Join(s.dir, "server.log"), s.dir, nil,
		"server", "-config="+filepath.Join(s.dir, "vault.hcl"))
	if err != nil {
		return err
	}
	s.process = started
	client, err := newClient(s.address)
	if err != nil {
		return err
	}
	if s.client != nil {
		client.SetToken(s.client.Token())
	}
	s.client = client
	err = poll(patience, func() error {
		select {
		case <-s.exited:
			return nil
		default:
			_, err := s.client.Sys().SealStatus()
			return err
		}
	})
	select {
	case <-s.exited:
		return fmt.Errorf("the Vault server ended:\n%s", s.tail())
	default:
	}
	if err != nil {
		s.kill()
	}
	return err
}

// newClient makes a client that repeats nothing: a test wants to see the first answer.
func newClient(address string) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address = address
	config.MaxRetries = 0
	return api.NewClient(config)
}

// initialize makes the server a new Vault, with one key that unseals it.
func (s *server) initialize() error {
	made, err := s.client.Sys().Init(&api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initializing Vault: %w", err)
	}
	s.keys = made.KeysB64
	s.client.SetToken(made.RootToken)
	return nil
}

// unseal unseals the server, and waits until it can be written to.
func (s *server) unseal() error {
	for _, key := range s.keys {
		if _, err := s.client.Sys().Unseal(key); err != nil {
			return fmt.Errorf("unsealing Vault: %w", err)
		}
	}
	return poll(patience, func() error {
		health, err := s.client.Sys().Health()
		switch {
		case err != nil:
			return err
		case health.Sealed || health.Standby:
			return fmt.Errorf("Vault is not active: sealed %t, standby %t", health.Sealed, health.Standby)
		default:
			_, err := s.client.Sys().ListMounts()
			return err
		}
	})
}

// audit makes the server write an audit log, as a server in production does: values are hashed.
func (s *server) audit() error {
	return s.client.Sys().EnableAuditWithOptions("file", &api.EnableAuditOptions{
		Type:    "file",
		Options: map[string]string{"file_path": s.auditLog()},
	})
}

// restart stops the server, starts it again on the same port and storage, and unseals it.
func (s *server) restart() error {
	s.stop()
	if err := s.start(); err != nil {
		return err
	}
	return s.unseal()
}

// place puts the plugin of a version into the server's plugin folder.
func (s *server) place(version string) (command, checksum string, err error) {
	built, err := buildPlugin(version)
	if err != nil {
		return "", "", err
	}
	content, err := os.ReadFile(built)
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256(content)
	command = pluginName + "-" + version
	err = os.Link(built, filepath.Join(s.plugins(), command))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return "", "", err
	}
	return command, hex.EncodeToString(sum[:]), nil
}

// register puts the plugin of a version into the catalog; as is empty for a registration without -version.
func (s *server) register(version, as string) error {
	command, checksum, err := s.place(version)
	if err != nil {
		return err
	}
	return s.client.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name:    pluginName,
		Type:    api.PluginTypeSecrets,
		Command: command,
		SHA256:  checksum,
		Version: as,
	})
}

var startedPlugin = regexp.MustCompile(`plugin started.* path=(\S+).* pid=(\d+)`)

// pluginPIDs are the processes of the plugin that run now.
func (s *server) pluginPIDs() ([]int, error) {
	log, err := os.ReadFile(s.log)
	if err != nil {
		return nil, err
	}
	var running []int
	for _, match := range startedPlugin.FindAllSubmatch(log, -1) {
		pid, err := strconv.Atoi(string(match[2]))
		if err != nil {
			return nil, err
		}
		// Signal 0 reaches every process that is there, and changes nothing.
		if bytes.HasPrefix(match[1], []byte(s.plugins())) && syscall.Kill(pid, 0) == nil {
			running = append(running, pid)
		}
	}
	return running, nil
}

// cli runs the vault program as a user of this server, and returns its standard output. The error holds what it says
// on standard error.
func (s *server) cli(token string, args ...string) (string, error) {
	cmd := exec.Command(vaultBin, args...)
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "VAULT_ADDR="+s.address, "VAULT_TOKEN="+token, "VAULT_MAX_RETRIES=0")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("vault %s: %w: %s", args[0], err, stderr.String())
	}
	return stdout.String(), nil
}

// run is cli with the root token, for commands that must succeed.
func (s *server) run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.cli(s.client.Token(), args...)
	require.NoError(t, err)
	return out
}

// startAgent starts a Vault Agent with a token; config has its templates. It ends with the test.
func startAgent(t testing.TB, s *server, token, config string) *process {
	t.Helper()
	dir := t.TempDir()
	tokenFile, configFile := filepath.Join(dir, "token"), filepath.Join(dir, "agent.hcl")
	require.NoError(t, os.WriteFile(tokenFile, []byte(token), 0o600))
	require.NoError(t, os.WriteFile(configFile, fmt.Appendf(nil, `
vault {
  address = %q
}
auto_auth {
  method "token_file" {
    config = { token_file_path = %q }
  }
}
%s
`, s.address, tokenFile, config), 0o600))
	// The log is with the server's files, which are kept when a test fails.
	log, err := os.CreateTemp(s.dir, "agent-*.log")
	require.NoError(t, err)
	require.NoError(t, log.Close())
	agent, err := startProcess(log.Name(), dir, nil, "agent", "-log-level=trace", "-config="+configFile)
	require.NoError(t, err, "starting Vault Agent")
	t.Cleanup(agent.stop)
	showLogIfFailed(t, agent)
	return agent
}

// createToken makes a token whose policy has these rules.
func (s *server) createToken(t testing.TB, rules string) string {
	t.Helper()
	policy := unique("policy")
	require.NoError(t, s.client.Sys().PutPolicy(policy, rules))
	secret, err := s.client.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{policy}})
	require.NoError(t, err, "creating a token with a policy")
	return secret.Auth.ClientToken
}
