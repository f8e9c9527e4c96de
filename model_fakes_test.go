package snowplow

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// What the model's Console and storage do, and what they saw.

const (
	modelSecret = "s3cret" // begins every API key of the model: shown anywhere, a key has leaked
	modelJWT    = "aGVhZA" // begins every JWT of the model
)

// modelAPIKey is the secret half of a key pair. It names the path that it was written to, and its ID, so that Console
// can tell whose exchange it sees.
func modelAPIKey(path, id string) string { return modelSecret + "." + path + "." + id }

// modelOutcome is what Console does with one request.
type modelOutcome struct {
	kind       string // ok, refused, unknown, unavailable, limited, malformed, silent
	latency    time.Duration
	validity   time.Duration // of an ok's JWT
	retryAfter time.Duration
}

func (o modelOutcome) String() string {
	s := o.kind
	if o.latency > 0 {
		s += " after " + o.latency.String()
	}
	if o.kind == "ok" {
		s += " valid " + o.validity.String()
	}
	if o.retryAfter > 0 {
		s += " retry-after " + o.retryAfter.String()
	}
	return s
}

// modelTry is one request of an exchange.
type modelTry struct {
	beganAt, endedAt time.Time
	outcome          modelOutcome
	answered         bool
}

// modelExchange is an exchange as Console saw it.
type modelExchange struct {
	number            int
	load              int       // which load of the mount made it, see model.loads
	write             *modelRun // the write that it verifies; nil: it is for readers
	path, key         string    // where the credential is stored, and the ID of its key
	organization, url string
	began, ended      int64 // ticks
	beganAt, endedAt  time.Time
	deadline          time.Time
	over, timedOut    bool
	tries             []*modelTry
	bearer            string
	expiresAt         time.Time
	id                string // of the credential, if that is certain
	maybePrivate      bool   // perhaps of a reader with reuse_period=0
	outcome           string // ok, passing, refused, rejected, canceled; unsure
	retryAfter        time.Duration
	servedTo          []*modelRun
	certainlyUncached bool // of a reader, or a write, with reuse_period=0
	validityAtLeast   time.Duration
	minWait, maxWait  time.Duration // after its failure
	ahead             time.Duration // of the time when its JWT was obtained, in storage
	aheadIn           int           // the load in which that happened
}

func (e *modelExchange) String() string {
	var tries []string
	for _, t := range e.tries {
		tries = append(tries, t.outcome.String())
	}
	return fmt.Sprintf("exchange %d of %s %s, %s to %s, %s (%s)", e.number, e.path, e.key, modelClock(e.beganAt), modelClock(e.endedAt), e.outcome, strings.Join(tries, ", "))
}

// last is the answer that an exchange ended with.
func (e *modelExchange) last() *modelTry { return e.tries[len(e.tries)-1] }

// modelConsole answers the exchanges of one load of the mount.
type modelConsole struct {
	m    *model
	load int
}

// RoundTrip implements [http.RoundTripper].
func (c modelConsole) RoundTrip(r *http.Request) (*http.Response, error) {
	m, ctx := c.m, r.Context()
	m.yield()
	m.mu.Lock()
	// All tries of an exchange share its deadline's channel.
	e := m.underway[ctx.Done()]
	if e == nil {
		e = c.begin(r)
		m.underway[ctx.Done()] = e
		m.exchanges = append(m.exchanges, e)
		context.AfterFunc(ctx, func() { m.endExchange(e, ctx) })
	}
	try := &modelTry{beganAt: time.Now(), outcome: m.weather[m.requests%len(m.weather)]}
	m.requests++
	e.tries = append(e.tries, try)
	m.mu.Unlock()

	o := try.outcome
	latency := o.latency
	if o.kind == "silent" {
		latency = time.Hour
	}
	if latency > 0 {
		select {
		case <-time.After(latency):
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	answer := &http.Response{Header: http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}}, Request: r, ProtoMajor: 1, ProtoMinor: 1}
	answer.StatusCode = map[string]int{"ok": 200, "malformed": 200, "refused": 401, "unknown": 404, "unavailable": 503, "limited": 429}[o.kind]
	body := "{"
	m.mu.Lock()
	defer m.mu.Unlock()
	if o.kind == "ok" {
		e.expiresAt = time.Unix(time.Now().Add(o.validity).Unix(), 0)
		payload, _ := json.Marshal(map[string]any{"iat": time.Now().Unix(), "exp": e.expiresAt.Unix(), "jti": e.number})
		e.bearer = modelJWT + "." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln"
		m.issued[e.bearer] = e
		body = fmt.Sprintf(`{"accessToken":%q}`, e.bearer)
	}
	if o.retryAfter > 0 {
		answer.Header.Set("Retry-After", strconv.Itoa(int(o.retryAfter.Seconds())))
	}
	answer.Body = io.NopCloser(strings.NewReader(body))
	try.answered, try.endedAt = true, time.Now()
	return answer, nil
}

func (c modelConsole) begin(r *http.Request) *modelExchange {
	e := &modelExchange{number: len(c.m.exchanges), load: c.load, began: c.m.tick(), beganAt: time.Now()}
	if by, _ := r.Context().Value(modelRunKey{}).(*modelRun); by != nil && by.kind != "read" {
		e.write = by
	}
	secret := strings.Split(r.Header.Get("X-API-Key"), ".")
	if len(secret) != 3 || secret[2] != r.Header.Get("X-API-Key-ID") {
		c.m.violation("wrong-key", "a request with key ID %q and key %q", r.Header.Get("X-API-Key-ID"), secret)
		secret = make([]string, 3)
	}
	e.path, e.key = secret[1], secret[2]
	base, rest, _ := strings.Cut(r.URL.String(), "/api/msc/v1/organizations/")
	e.url = base
	e.organization, _, _ = strings.Cut(rest, "/")
	e.deadline, _ = r.Context().Deadline()
	return e
}

func (m *model) endExchange(e *modelExchange, ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.underway, ctx.Done())
	e.over, e.ended, e.endedAt = true, m.tick(), time.Now()
	e.timedOut = errors.Is(ctx.Err(), context.DeadlineExceeded)
}

// modelFaults is what is wrong with storage, for stored JWTs and for settings. A verb that is not there works.
type modelFaults struct {
	failing map[string]int           // verb, or "settings "+verb, to percent of calls
	slow    map[string]time.Duration // verb to how long a call for a stored JWT takes
}

func (f modelFaults) any() bool { return len(f.failing)+len(f.slow) > 0 }

func (f modelFaults) String() string {
	s := ""
	for verb, percent := range f.failing {
		s += fmt.Sprintf(" %s fails %d%%", verb, percent)
	}
	for verb, latency := range f.slow {
		s += fmt.Sprintf(" %s takes %s", verb, latency)
	}
	if s == "" {
		s = " works"
	}
	return s
}

// Storage fails with different errors, because one of them must never reach a reader.
var (
	errModelTokens   = errors.New("storage of JWTs fails")
	errModelSettings = errors.New("storage of settings fails")
	errModelCut      = errors.New("the process is gone")
)

// modelVersion is what one change has left at a path of storage; nil: nothing.
type modelVersion[T any] struct {
	began int64     // when it was applied
	by    *modelRun // nil: by no request
	entry *T
}

// modelStorage is storage as one load of the mount sees it.
type modelStorage struct {
	m   *model
	cut bool // the load has crashed: nothing that it does is applied any more
}

// call makes a call of storage. Whether a write that fails was applied is open, and so is at which moment a slow one is;
// but what is not applied when the call returns never is.
func (s *modelStorage) call(ctx context.Context, verb, key string, apply func()) error {
	m := s.m
	m.yield()
	fault, failure := verb, errModelTokens
	settings := !strings.HasPrefix(key, tokenStoragePrefix)
	if settings {
		fault, failure = "settings "+verb, errModelSettings
	}
	m.mu.Lock()
	slow := m.faults.slow[fault]
	fails := m.random(100) < m.faults.failing[fault]
	applied := !fails || (verb != "get" && verb != "list" && m.random(2) == 0)
	early := slow == 0 || m.random(2) == 0
	if s.cut {
		m.mu.Unlock()
		return errModelCut
	}
	if applied && early {
		apply()
	}
	m.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	cut := s.cut
	if applied && !early && !cut {
		apply()
	}
	m.mu.Unlock()
	m.yield()
	switch {
	case cut:
		return errModelCut
	case fails:
		return failure
	}
	return nil
}

func (s *modelStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.call(ctx, "get", key, func() { entry, _ = s.m.disk.Get(context.Background(), key) })
	if err != nil {
		return nil, err
	}
	return entry, nil
}

func (s *modelStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.call(ctx, "put", entry.Key, func() {
		_ = s.m.disk.Put(context.Background(), entry)
		s.m.stored(ctx, entry.Key, entry)
	})
}

func (s *modelStorage) Delete(ctx context.Context, key string) error {
	return s.call(ctx, "delete", key, func() {
		_ = s.m.disk.Delete(context.Background(), key)
		s.m.stored(ctx, key, nil)
	})
}

func (s *modelStorage) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = s.call(ctx, "list", prefix, func() { keys, _ = s.m.disk.List(context.Background(), prefix) })
	if err != nil {
		return nil, err
	}
	return keys, nil
}

// stored records what storage holds from now on.
func (m *model) stored(ctx context.Context, key string, entry *logical.StorageEntry) {
	by, _ := ctx.Value(modelRunKey{}).(*modelRun)
	switch {
	case key == configStorageKey:
		m.configs = append(m.configs, modelVersion[configEntry]{m.tick(), by, decoded[configEntry](entry)})
	case strings.HasPrefix(key, roleStoragePrefix):
		m.roles[key] = append(m.roles[key], modelVersion[roleEntry]{m.tick(), by, decoded[roleEntry](entry)})
	default:
		path := strings.TrimPrefix(key, tokenStoragePrefix)
		m.tokens[path] = append(m.tokens[path], modelVersion[tokenEntry]{m.tick(), by, decoded[tokenEntry](entry)})
	}
}

func decoded[T any](entry *logical.StorageEntry) *T {
	var into T
	if entry == nil || entry.DecodeJSON(&into) != nil {
		return nil
	}
	return &into
}

// yield lets other goroutines run here, sometimes: without time passing, it is all that makes them overtake each other.
func (m *model) yield() {
	m.mu.Lock()
	n := m.random(4)
	if m.random(8) == 0 {
		n = m.random(40)
	}
	m.mu.Unlock()
	for range n {
		runtime.Gosched()
	}
}

func modelClock(t time.Time) string { return t.UTC().Format("02T15:04:05.000") }
