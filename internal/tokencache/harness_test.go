package tokencache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

// fakeExchange is what Snowplow does for the cache: each exchange takes a while and returns another JWT.
type fakeExchange struct {
	mu       sync.Mutex
	count    int
	takes    time.Duration
	validity time.Duration
	err      error
	retry    func() bool // of the last one
}

func (f *fakeExchange) exchange(ctx context.Context, retry func() bool) (console.Token, error) {
	f.mu.Lock()
	f.count++
	f.retry = retry
	count, takes, validity, err := f.count, f.takes, f.validity, f.err
	f.mu.Unlock()
	select {
	case <-ctx.Done():
		return console.Token{}, fmt.Errorf("exchanging: %w", ctx.Err())
	case <-time.After(takes):
	}
	if err != nil {
		return console.Token{}, err
	}
	now := time.Now()
	return console.Token{
		Bearer: redact.NewSecret(fmt.Sprint("jwt-", count)), IssuedAt: now, ObtainedAt: now, Validity: validity, ExpiresAt: now.Add(validity),
	}, nil
}

// set changes what the exchanges from now on do.
func (f *fakeExchange) set(takes time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takes, f.err = takes, err
}

func (f *fakeExchange) exchanges() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

func (f *fakeExchange) retryWanted() bool {
	f.mu.Lock()
	retry := f.retry
	f.mu.Unlock()
	return retry()
}

// fakeStore is a Store in memory, which can fail and take its time.
type fakeStore struct {
	mu      sync.Mutex
	tokens  map[string]*Entry // by path
	current map[string]Key    // of the credentials that are stored, by path
	err     error
	takes   time.Duration
	settled []string
	saves   int
}

func (f *fakeStore) call(ctx context.Context) error {
	f.mu.Lock()
	takes, err := f.takes, f.err
	f.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(takes):
		return err
	}
}

func (f *fakeStore) set(takes time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takes, f.err = takes, err
}

// holds returns the JWT that is stored for a path, empty if none is.
func (f *fakeStore) holds(path string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tokens[path] == nil {
		return ""
	}
	return f.tokens[path].Token.Bearer.Reveal()
}

func (f *fakeStore) Load(ctx context.Context, path string) (*Entry, error) {
	if err := f.call(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tokens[path], nil
}

func (f *fakeStore) Save(ctx context.Context, path string, entry *Entry) error {
	if err := f.call(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.saves++
	if f.tokens[path] = entry; entry == nil {
		delete(f.tokens, path)
	}
	return nil
}

func (f *fakeStore) Paths(ctx context.Context) ([]string, error) {
	if err := f.call(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.tokens)), nil
}

// Current answers with what was stored when it was called, like a server that is slow to answer.
func (f *fakeStore) Current(ctx context.Context, path string) (*Key, error) {
	f.mu.Lock()
	key, ok := f.current[path]
	f.mu.Unlock()
	if err := f.call(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settled = append(f.settled, path)
	if !ok {
		return nil, nil
	}
	return &key, nil
}

var (
	keyA = Key{Path: "config", CredentialID: "a"}
	keyB = Key{Path: "roles/b", CredentialID: "b"}
	keyC = Key{Path: "roles/c", CredentialID: "c"}
)

// cacheUnderTest is a cache, with what Snowplow and Vault's storage do for it.
type cacheUnderTest struct {
	*Cache
	t        *testing.T
	exchange *fakeExchange
	store    *fakeStore
	logs     *consoletest.Log
}

// inBubble runs a test in time of its own, with a cache and an exchange that takes 100 ms for a JWT of 24 hours.
func inBubble(t *testing.T, test func(t *testing.T, c *cacheUnderTest)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newCacheUnderTest(t)) })
}

func newCacheUnderTest(t *testing.T) *cacheUnderTest {
	c := &cacheUnderTest{
		t:        t,
		exchange: &fakeExchange{takes: 100 * time.Millisecond, validity: 24 * time.Hour},
		store: &fakeStore{
			tokens:  map[string]*Entry{},
			current: map[string]Key{keyA.Path: keyA, keyB.Path: keyB},
		},
		logs: &consoletest.Log{},
	}
	c.restart()
	return c
}

// restart loses what is in memory.
func (c *cacheUnderTest) restart() {
	c.Cache = New(c.t.Context(), c.store, hclog.New(&hclog.LoggerOptions{Output: c.logs}))
}

// get reads as a request does, whose context ends with it.
func (c *cacheUnderTest) get(key Key, reuse time.Duration) (Served, error) {
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	return c.Get(ctx, key, reuse, c.exchange.exchange)
}

func (c *cacheUnderTest) mustGet(key Key, reuse time.Duration) Served {
	c.t.Helper()
	got, err := c.get(key, reuse)
	require.NoError(c.t, err)
	return got
}

// getLater reads in the background; what it got comes from the channel.
func (c *cacheUnderTest) getLater(key Key, reuse time.Duration) <-chan Served {
	got := make(chan Served, 1)
	go func() {
		defer close(got)
		answer, err := c.get(key, reuse)
		assert.NoError(c.t, err)
		got <- answer
	}()
	synctest.Wait()
	return got
}

// verify is the verification of a write that does not change the credential under key.
func (c *cacheUnderTest) verify(key Key) {
	c.t.Helper()
	number := c.Verifying(key)
	token, err := c.exchange.exchange(c.t.Context(), nil)
	require.NoError(c.t, err)
	c.Verified(c.t.Context(), key, number, &token)
}

// fails makes exchanges fail at once as a Console does that answers with this status.
func (c *cacheUnderTest) fails(status int) *console.Error {
	failed := failureOf(c.t, status, 0)
	c.exchange.set(0, failed)
	return failed
}

// failureOf is the error of an exchange that a Console answered with this status.
func failureOf(t *testing.T, status int, retryAfter time.Duration) *console.Error {
	t.Helper()
	header := http.Header{}
	if retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	client := console.NewClient(consoletest.Transport{Handler: consoletest.Status(status, "", header)}, "")
	_, err := client.Exchange(t.Context(), console.Request{
		Credential: console.Credential{Version: console.V3},
		Endpoints:  console.Endpoints{ConsoleURL: "http://localhost"},
		Timeout:    time.Minute,
	})
	var failed *console.Error
	require.ErrorAs(t, err, &failed)
	return failed
}

func (c *cacheUnderTest) state(key Key, reuse time.Duration) State {
	c.t.Helper()
	state, err := c.State(c.t.Context(), key, reuse)
	require.NoError(c.t, err)
	return state
}

func (c *cacheUnderTest) cached(key Key) *console.Token {
	c.t.Helper()
	return c.state(key, time.Hour).Token
}

var errStorage = errors.New("disk on fire")
