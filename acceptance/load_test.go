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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
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
			client, err := l.newClient(s)
			require.NoError(t, err)
			clients[i] = client
		}
		l.wait.Go(func() { l.read(reader, clients) })
	}
	t.Cleanup(l.stop)
	return l
}

func (l *constantLoad) newClient(s server) (*api.Client, error) {
	client, err := s.NewClient(s.Client.Token())
	if err != nil {
		return nil, err
	}
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
	return client, nil
}

func (l *constantLoad) read(reader int, clients []*api.Client) {
	for at := reader % len(clients); !l.stopping.Load(); {
		began := time.Now()
		secret, err := clients[at].Logical().Read(l.path)
		if err == nil {
			_, err = keyIDOf(l.console, secret)
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

// keyIDOf is the ID of the key that an answer's JWT was exchanged for.
func keyIDOf(console *consoletest.Server, secret *api.Secret) (string, error) {
	if secret == nil {
		return "", errors.New("the answer is empty")
	}
	jwt, _ := secret.Data["access_token"].(string)
	id, ok := console.Issued(jwt)
	if !ok {
		return "", errors.New("the answer has no JWT of this Console")
	}
	return id, nil
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

const instrumentedVersion = "v0.1.0-race"

// registerInstrumented puts a plugin that was built with the race detector into the catalog. Where that cannot be
// built, it says so and takes the usual one.
func registerInstrumented(t testing.TB, s server) (version string) {
	t.Helper()
	program := filepath.Join(s.Dir(), "build", pluginName)
	// Without -trimpath, so that packages that "go test -race" has compiled are used again.
	build := exec.Command("go", "build", "-race", "-ldflags", "-X "+modulePath+".Version="+instrumentedVersion,
		"-o", program, modulePath+"/cmd/"+pluginName)
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Logf("WITHOUT THE RACE DETECTOR in the plugin, which cannot be built with it here (is there a C compiler?): %v\n%s", err, out)
		return pluginVersion
	}
	require.NoError(t, s.RegisterPlugin(t.Context(), vaulttest.Plugin{
		Name: pluginName, Program: program, Command: pluginName + "_" + instrumentedVersion, Version: instrumentedVersion,
	}), "registering the plugin that was built with the race detector")
	return instrumentedVersion
}

// requireNoRace demands that the race detector has found nothing in the plugin. It stops the server, so that its log
// has all that the plugin wrote to standard error.
func requireNoRace(t testing.TB, s server) {
	t.Helper()
	s.Stop()
	log, err := os.ReadFile(s.Log())
	require.NoError(t, err)
	_, report, found := strings.Cut(string(log), "DATA RACE")
	require.False(t, found, "the race detector has found one in the plugin:\n%s", report[:min(len(report), 8000)])
}

// Credentials are rewritten without pause under 64 readers. Every write has a key of its own, whose number tells
// whether a JWT comes from a key that was replaced before its reader asked.
func TestCredentialsAreRewrittenUnderLoad(t *testing.T) {
	t.Parallel()
	const readers, loadTime = 64, 10 * time.Second
	console := consoletest.NewServer(t)
	s := startServer(t)
	version := registerInstrumented(t, s)
	m := s.mount(t, "snowplow", version)
	m.write(t, "config", defaultConfig(console))
	require.Equal(t, version, m.read(t, "status").Data["version"], "the version of the plugin that runs")
	m.write(t, "roles/follower", fields{"ttl": "1h"}) // has the key of config

	// A key's ID is the name of what it is written to, and the number of the write.
	type written struct {
		name, path string
		tokens     []string
		newest     atomic.Int64 // the number of the last write that has returned
	}
	targets := []*written{
		{name: "config", path: "config", tokens: []string{"token", "token/follower"}},
		{name: "one", path: "roles/one", tokens: []string{"token/one"}},
		{name: "two", path: "roles/two", tokens: []string{"token/two"}},
	}
	rewrite := func(target *written) error {
		number := target.newest.Load() + 1
		id := fmt.Sprintf("%s-%d", target.name, number)
		console.AddKey(consoletest.Key{ID: id, Secret: "secret-of-" + id})
		_, err := m.tryWrite(target.path, fields{"api_key_id": id, "api_key": "secret-of-" + id})
		if err == nil {
			target.newest.Store(number)
		}
		return err
	}
	var stop atomic.Bool
	var reads, renewed atomic.Int64 // reads; those of a JWT whose key is not the one of the first write
	read := func(target *written, token string) error {
		minimum := target.newest.Load()
		secret, err := m.tryRead(token)
		if err != nil {
			return err
		}
		id, err := keyIDOf(console, secret)
		if err != nil {
			return err
		}
		name, digits, _ := strings.Cut(id, "-")
		number, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || name != target.name || number < minimum {
			return fmt.Errorf("the JWT comes from the key %q, and write %d of %s had returned before the read began", id, minimum, target.name)
		}
		reads.Add(1)
		if number > 1 {
			renewed.Add(1)
		}
		return nil
	}

	for _, target := range targets {
		require.NoError(t, rewrite(target), "the first write of %s", target.path)
	}
	var wait sync.WaitGroup
	end := time.AfterFunc(loadTime, func() { stop.Store(true) })
	defer end.Stop()
	repeat := func(what string, do func() error) {
		wait.Go(func() {
			for !stop.Load() {
				if err := do(); !assert.NoError(t, err, what) {
					stop.Store(true)
				}
			}
		})
	}
	for _, target := range targets {
		repeat("rewriting "+target.path, func() error { return rewrite(target) })
	}
	for reader := range readers {
		target := targets[reader%len(targets)]
		token := target.tokens[reader/len(targets)%len(target.tokens)]
		repeat("reading "+token, func() error { return read(target, token) })
	}
	wait.Wait()

	for _, target := range targets {
		require.Greater(t, target.newest.Load(), int64(1), "writes of %s while there were readers", target.path)
	}
	require.Positive(t, renewed.Load(), "reads of a key that was written while there were readers")
	t.Logf("%d reads by %d readers; %d, %d and %d writes of config and two roles; %d exchanges",
		reads.Load(), readers, targets[0].newest.Load(), targets[1].newest.Load(), targets[2].newest.Load(), console.Exchanges())
	requireNoRace(t, s)
}
