package acceptance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// clients are the example clients by folder. Each is a command that takes the path of a token as its last argument, asks
// Console for every line of its standard input, and answers with a line.
var clients = map[string]func(t testing.TB, dir string) []string{
	"go": func(t testing.TB, dir string) []string {
		target := filepath.Join(t.TempDir(), "client")
		build := exec.Command("go", "build", "-race=false", "-o", target, ".")
		build.Dir = dir
		out, err := build.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return []string{target}
	},
	"python": func(t testing.TB, _ string) []string {
		// Debian's package is for Debian's own Python, which need not be the first on the PATH.
		for _, python := range []string{"python3", "/usr/bin/python3"} {
			if exec.Command(python, "-c", "import hvac").Run() == nil {
				return []string{python, "client.py"}
			}
		}
		notRun(t, "no python3 with hvac: install python3-hvac")
		return nil
	},
	"node": func(t testing.TB, dir string) []string { return []string{nodeWith(t, dir, "node-vault"), "client.mjs"} },
	"curl": func(t testing.TB, _ string) []string {
		lookPath(t, "curl", "install curl")
		lookPath(t, "jq", "install jq")
		return []string{"bash", "client.sh"}
	},
}

// nodeWith is the path of Node.js, if a folder has this library.
func nodeWith(t testing.TB, dir, library string) string {
	t.Helper()
	node := lookPath(t, "node", "install nodejs")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", library)); err != nil {
		notRun(t, library+" is not installed: run npm ci in examples/clients/node")
	}
	return node
}

// runningClient answers each line of its standard input with a line.
type runningClient struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string
	output bytes.Buffer // what it printed, both ways; complete after end
	stderr bytes.Buffer
}

func clientCommand(dir string, env []string, command ...string) *exec.Cmd {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	return cmd
}

func startClient(t *testing.T, cmd *exec.Cmd) *runningClient {
	t.Helper()
	c := &runningClient{cmd: cmd, lines: make(chan string)}
	cmd.Stderr = &c.stderr
	var err error
	c.stdin, err = cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	go func() {
		defer close(c.lines)
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			c.lines <- scanner.Text()
		}
	}()
	t.Cleanup(c.end)
	return c
}

func (c *runningClient) ask(t *testing.T, question string) string {
	t.Helper()
	_, err := io.WriteString(c.stdin, question+"\n")
	require.NoError(t, err)
	select {
	case line, open := <-c.lines:
		require.True(t, open, "the client has ended")
		fmt.Fprintln(&c.output, line)
		return line
	case <-time.After(patience):
		require.FailNow(t, "the client does not answer")
		return ""
	}
}

func (c *runningClient) end() {
	_ = c.stdin.Close()
	for range c.lines { // what a failed test did not read
	}
	_ = c.cmd.Wait()
}

// requireEnd ends the client, which must not have failed, nor have printed a secret.
func (c *runningClient) requireEnd(t *testing.T, secrets ...string) {
	t.Helper()
	c.end()
	require.True(t, c.cmd.ProcessState.Success(), "%s; standard error: %s", c.cmd.ProcessState, &c.stderr)
	for _, secret := range secrets {
		require.NotContains(t, c.output.String()+c.stderr.String(), secret)
	}
}

// clientMount is a mount with a role whose leases are that short, and the environment in which a client may read its tokens.
func clientMount(t *testing.T, ttl string) (m mount, console *consoletest.Server, login string, env []string) {
	t.Helper()
	m, console = configured(t)
	console.AddKey(analyticsKey)
	m.write(t, "roles/analytics", with(keyOf(analyticsKey), fields{"ttl": ttl}))
	login = m.server.createToken(t, `path "`+m.at("token/analytics")+`" { capabilities = ["read"] }`)
	return m, console, login, []string{"HOME=" + t.TempDir(), "VAULT_ADDR=" + m.server.Address(), "VAULT_TOKEN=" + login}
}

func (m mount) readsOfAnalytics(t testing.TB) int64 {
	t.Helper()
	n, err := m.read(t, "status/analytics").Data["reads"].(json.Number).Int64()
	require.NoError(t, err)
	return n
}

func TestExampleClients(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir("../examples/clients")
	require.NoError(t, err)
	var folders []string
	for _, entry := range entries {
		if entry.IsDir() {
			folders = append(folders, entry.Name())
		}
	}
	require.ElementsMatch(t, folders, slices.Collect(maps.Keys(clients)), "each client is tried here")
	for name, command := range clients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := "../examples/clients/" + name
			testClient(t, dir, command(t, dir))
		})
	}
}

func testClient(t *testing.T, dir string, command []string) {
	const path = "/api/msc/v1/organizations"
	m, console, login, env := clientMount(t, "2s")
	client := startClient(t, clientCommand(dir, env, append(command, m.at("token/analytics"))...))

	require.Regexp(t, `^200 .*`+consoletest.DefaultOrganizationID, client.ask(t, path))
	exchanges := console.ExchangesOf(analyticsKey.ID)
	eventually(t, patience, "the client reads again before a lease of 2 s is over, twice", func() error {
		require.Regexp(t, "^200 ", client.ask(t, path))
		if n := m.readsOfAnalytics(t); n < 3 {
			return fmt.Errorf("%d reads", n)
		}
		return nil
	})
	require.Equal(t, exchanges, console.ExchangesOf(analyticsKey.ID), "exchanges for all these reads")

	// From here on, the client reads only for a 401.
	m.write(t, "roles/analytics", fields{"ttl": "1h"})
	before := m.readsOfAnalytics(t)
	eventually(t, patience, "the client has a lease of an hour", func() error {
		require.Regexp(t, "^200 ", client.ask(t, path))
		if m.readsOfAnalytics(t) == before {
			return fmt.Errorf("%d reads", before)
		}
		return nil
	})
	before = m.readsOfAnalytics(t)
	old := m.jwt(t, "token/analytics") // a read of the test's own
	console.SetNow(func() time.Time { return time.Now().Add(25 * time.Hour) })
	for n := range int64(2) {
		require.Regexp(t, "^error: the JWT is refused, and Vault has no other", client.ask(t, path))
		require.Equal(t, before+n+2, m.readsOfAnalytics(t), "one read for each 401")
	}
	m.remove(t, "token/analytics")
	require.Regexp(t, "^200 ", client.ask(t, path), "with the JWT that Vault has after a 401")
	require.Regexp(t, "^200 ", client.ask(t, path))
	require.Equal(t, before+4, m.readsOfAnalytics(t), "the client goes on with the new JWT")
	client.requireEnd(t, old, m.jwt(t, "token/analytics"), login)

	denied := clientCommand(dir, env, append(command, m.at("token"))...)
	denied.Stdin = strings.NewReader(path + "\n")
	out, _ := denied.CombinedOutput() // a client that reads Vault at its start exits with 1
	require.Contains(t, string(out), "permission denied", "a path that the policy does not have")
	require.NotContains(t, string(out), login)
	require.LessOrEqual(t, strings.Count(string(out), "\n"), 10, "%s", out)
}

// startSignals starts a Snowplow Signals that takes the JWTs of a Console, and returns that of the last request as well.
func startSignals(t *testing.T, console *consoletest.Server) (url string, last *atomic.Value) {
	t.Helper()
	last = &atomic.Value{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		jwt := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		last.Store(jwt)
		_, issued := console.Issued(jwt)
		var request struct {
			Service       string
			AttributeKeys map[string][]string `json:"attribute_keys"`
		}
		switch err := json.NewDecoder(r.Body).Decode(&request); {
		case !issued:
			http.Error(w, `{"detail":"not authenticated"}`, http.StatusUnauthorized)
		case err != nil || r.Method+r.URL.Path != "POST/api/v1/get-online-attributes" || request.Service != "shop":
			http.Error(w, `{"detail":"another request"}`, http.StatusUnprocessableEntity)
		default:
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string][]string{"user": request.AttributeKeys["user_id"]})
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, last
}

func TestExampleClientsOfSignals(t *testing.T) {
	t.Parallel()
	// Each returns the command and how it gets another JWT if it does not read Vault itself, and adds to its environment.
	for name, prepare := range map[string]func(t *testing.T, m mount, dir string, env *[]string) (command []string, replace func()){
		"node": func(t *testing.T, m mount, dir string, _ *[]string) ([]string, func()) {
			return []string{nodeWith(t, dir, "@snowplow/signals-node"), "signals.mjs", m.at("token/analytics")}, func() {}
		},
		"python": func(t *testing.T, m mount, _ string, env *[]string) ([]string, func()) {
			python := lookPath(t, "python3", "install python3")
			// Vault Agent replaces its file in one step.
			file, written := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "token")
			replace := func() {
				require.NoError(t, os.WriteFile(written, []byte(m.jwt(t, "token/analytics")), 0o600))
				require.NoError(t, os.Rename(written, file))
			}
			replace()
			*env = append(*env, "SNOWPLOW_TOKEN_FILE="+file)
			if exec.Command(python, "-c", "import snowplow_signals").Run() != nil {
				standIn, err := filepath.Abs("testdata/signals")
				require.NoError(t, err)
				*env = append(*env, "PYTHONPATH="+standIn, "PYTHONDONTWRITEBYTECODE=1")
			}
			return []string{python, "signals.py"}, replace
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := "../examples/clients/" + name
			m, console, login, env := clientMount(t, "5s")
			url, last := startSignals(t, console)
			env = append(env, "SIGNALS_API_URL="+url)
			command, replace := prepare(t, m, dir, &env)
			client := startClient(t, clientCommand(dir, env, append(command, "shop", "user_id")...))
			for range 3 {
				require.JSONEq(t, `{"user":"u-1"}`, client.ask(t, "u-1"))
			}
			require.Equal(t, int64(1), m.readsOfAnalytics(t), "reads for all these requests")
			first := last.Load().(string)
			requireKeyID(t, console, first, analyticsKey.ID)

			m.remove(t, "token/analytics")
			replace()
			eventually(t, patience, "the client has another JWT before a lease of 5 s is over", func() error {
				require.JSONEq(t, `{"user":"u-1"}`, client.ask(t, "u-1"))
				if last.Load() == first {
					return errors.New("it still has the first")
				}
				return nil
			})
			client.requireEnd(t, first, last.Load().(string), login)
		})
	}
}
