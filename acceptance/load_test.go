package acceptance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

// constantLoad is readers that read a token without a pause, each with a client of its own that is as api.NewClient
// makes it: what Vault failed to answer it repeats twice, after a second or so.
type constantLoad struct {
	path     string
	console  *consoletest.Server
	stopping atomic.Bool
	wait     sync.WaitGroup

	mu       sync.Mutex
	began    []time.Time    // of each reader's last successful read
	repeated map[string]int // what the clients were answered and repeated, with how often
	failures []error        // what the readers got when their clients gave up
	last     time.Time      // of any reader's last successful read
	gap      time.Duration  // the longest time between two of them
}

// startLoad starts readers of a token. A reader whose client gives up goes on with the next server.
func startLoad(t testing.TB, console *consoletest.Server, path string, readers int, servers ...server) *constantLoad {
	t.Helper()
	l := &constantLoad{
		path: path, console: console,
		began: make([]time.Time, readers), repeated: map[string]int{}, last: time.Now(),
	}
	for reader := range readers {
		clients := make([]*api.Client, len(servers))
		for i, s := range servers {
			clients[i] = l.newClient(t, s)
		}
		l.wait.Go(func() { l.read(reader, clients) })
	}
	t.Cleanup(l.stop)
	return l
}

func (l *constantLoad) newClient(t testing.TB, s server) *api.Client {
	client, err := s.NewClient(s.Client.Token())
	require.NoError(t, err)
	client.SetMaxRetries(api.DefaultConfig().MaxRetries)
	client.SetCheckRetry(func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		repeat, checked := api.DefaultRetryPolicy(ctx, resp, err)
		if repeat {
			answer := "no answer"
			if resp != nil {
				answer = strconv.Itoa(resp.StatusCode)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.repeated[answer]++
		}
		return repeat, checked
	})
	return client
}

func (l *constantLoad) read(reader int, clients []*api.Client) {
	for at := reader % len(clients); !l.stopping.Load(); {
		began := time.Now()
		secret, err := clients[at].Logical().Read(l.path)
		jwt := ""
		if secret != nil {
			jwt, _ = secret.Data["access_token"].(string)
		}
		if _, issued := l.console.Issued(jwt); err == nil && !issued {
			err = errors.New("the answer has no JWT of this Console")
		}
		l.mu.Lock()
		if err != nil {
			l.failures = append(l.failures, err)
			at = (at + 1) % len(clients)
		} else {
			now := time.Now()
			l.began[reader] = began
			l.gap, l.last = max(l.gap, now.Sub(l.last)), now
		}
		l.mu.Unlock()
	}
}

// stop ends the load once the reads under way have ended.
func (l *constantLoad) stop() {
	l.stopping.Store(true)
	l.wait.Wait()
}

// goesOn waits until every reader has had an answer to a read that began after the call.
func (l *constantLoad) goesOn(t testing.TB, what string) {
	t.Helper()
	now := time.Now()
	eventually(t, patience, "every reader is answered "+what, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for reader, began := range l.began {
			if !began.After(now) {
				return fmt.Errorf("reader %d is not, and readers got these errors: %v", reader, l.failures)
			}
		}
		return nil
	})
}

// measured tells the longest time without a successful read, what clients repeated and what readers got as errors,
// all since it was last called.
func (l *constantLoad) measured() (gap time.Duration, repeated map[string]int, failures []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gap, repeated, failures = l.gap, l.repeated, l.failures
	l.gap, l.last, l.repeated, l.failures = 0, time.Now(), map[string]int{}, nil
	return gap, repeated, failures
}

// registerInstrumented registers the plugin as built with the race detector, or the usual one where that has no C compiler.
func registerInstrumented(t testing.TB, s server) (version string) {
	t.Helper()
	version = "v0.1.0-race"
	program := filepath.Join(s.Dir(), "build", pluginName)
	build := exec.Command("go", "build", "-race", "-ldflags", "-X "+modulePath+".Version="+version, "-o", program, modulePath+"/cmd/"+pluginName)
	if out, err := build.CombinedOutput(); err != nil {
		t.Logf("WITHOUT THE RACE DETECTOR in the plugin, which cannot be built with it here: %v\n%s", err, out)
		return pluginVersion
	}
	require.NoError(t, s.RegisterPlugin(t.Context(), vaulttest.Plugin{
		Name: pluginName, Program: program, Command: pluginName + "_" + version, Version: version,
	}))
	return version
}

// Each write has another key, and Console then refuses the one before: an exchange with that would fail a reader. The
// plugin's own process runs with the race detector, which writes to the server's log.
func TestKeysAreReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	s := startServer(t)
	m := s.mount(t, "snowplow", registerInstrumented(t, s))
	m.write(t, "config", with(defaultConfig(console), fields{"reuse_period": "1s"}))
	load := startLoad(t, console, m.at("token"), 16, m.server)
	old := consoletest.DefaultAPIKeyID
	for n := range 20 {
		key := consoletest.Key{ID: fmt.Sprint("key-", n), Secret: fmt.Sprint("secret-of-key-", n)}
		console.AddKey(key)
		m.write(t, "config", keyOf(key))
		console.RemoveKey(old)
		requireKeyID(t, console, m.jwt(t, "token"), key.ID)
		load.goesOn(t, "after a key was replaced")
		old = key.ID
	}
	load.stop()
	_, repeated, failures := load.measured()
	require.Empty(t, failures, "errors of readers")
	require.Empty(t, repeated, "answers that clients had to repeat a request for")
	s.Stop()
	log, err := os.ReadFile(s.Log())
	require.NoError(t, err)
	require.NotContains(t, string(log), "DATA RACE")
}
