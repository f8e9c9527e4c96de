package snowplow

// The model: a random player against the whole engine, and the contract as rules over what was seen.
//
// How it works. schedule draws steps from a seed: reads, writes, deletes, writes of another node, sweeps, restarts, and
// how Console and storage behave from then on. play carries them out in the fake time of synctest, on the fakes that
// every test uses, and notes what they see: a modelRun is a request, a modelExchange is what Console saw of an exchange,
// a modelVersion is what storage held for a while. check compares these notes with the contract. No two things happen at
// the same time: each step and each call of storage takes some nanoseconds of its own, so times alone order them.
//
// A rule must never fire for an engine that keeps the contract. Where the notes leave something open (which of two
// credentials a read found while one replaced the other, whether a JWT reached storage before a crash), the engine is
// right. So rules ask for what is certain: views are all that a read may have found in storage, atHand names the
// exchange whose JWT the engine has beyond doubt, explains says whether a failure may have kept a reader from a JWT.
//
// To run it: make model SEEDS=20000 FROM=1000, or one seed with SEEDS=1 FROM=<seed>; go test plays the first 200. A
// violation comes with the steps that are needed to see it again, each with the time that passes before it. The last
// line names the rule and what broke it, with times since the schedule began and each request of an exchange. The engine
// draws its back-off itself, so a seed may fail in some plays only.
//
// To change a rule, change the contract (docs/reliability.md), the engine and the rule in one commit: look for the
// violation's name below, and break the engine once to see it fire. A new field or kind of request needs a step in send
// and odds in schedule. If a rule fires and the engine is right, the rule takes something for certain that is open: say
// so in atHand or explains, where other rules profit, before you weaken the rule itself.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

const (
	modelSecret = "s3cret"                               // begins every API key of the model: shown anywhere, it has leaked
	modelJWT    = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9" // begins every JWT of consoletest
	modelURL    = "http://127.0.0.1:1"                   // where config's key is written for at first
	modelHeader = "Console-Url"                          // names the console_url of a request
	modelNever  = time.Duration(math.MaxInt64)
	modelSlack  = 10 * time.Millisecond                         // what calls of a storage that works may add up to
	modelHealed = 30 * time.Second                              // so long after a time of trouble, its calls have ended
	modelSlow   = "Snowplow Console has not answered within 2s" // the warning of a reader who did not wait
)

var (
	modelPaths = []string{"token", "token/r0", "token/r1"}
	modelURLs  = []string{modelURL, "http://127.0.0.1:2", modelURL + "/under", "http://127.0.0.1:2/under"}

	// modelUncounted is what reads fail with before they are counted.
	modelUncounted = regexp.MustCompile("from storage: |unknown role|not configured|waiting for the configuration")

	errModelTokens   = errors.New("storage of JWTs fails") // must never reach a reader
	errModelSettings = errors.New("storage of settings fails")
	errModelCut      = errors.New("the process is gone")
)

// modelStep is one step of a schedule.
type modelStep struct {
	gap      time.Duration // before it
	kind     string
	path     string // of a read of a token and what belongs to it, or of a stored entry
	key      string // ID of the key to write
	value    string
	duration time.Duration // a field's value, or how long a reader waits; 0: as long as it takes
	verify   bool
	answers  []modelAnswer         // of Console from then on, in turn
	faults   map[string]modelFault // of storage from then on: by verb for stored JWTs, by "settings " and verb for the rest
}

func (s modelStep) String() string {
	text := fmt.Sprintf("+%-8s %s", s.gap, s.kind)
	for _, part := range []any{s.path, s.key, s.value, s.duration, s.answers, s.faults} {
		if !reflect.ValueOf(part).IsZero() {
			text += fmt.Sprint(" ", part)
		}
	}
	return text + map[bool]string{true: " verified"}[s.verify]
}

// modelAnswer is what Console does with one request.
type modelAnswer struct {
	kind                          string // ok, refused, unknown, unavailable, limited, malformed, silent
	latency, validity, retryAfter time.Duration
}

func (a modelAnswer) String() string {
	return fmt.Sprintf("(%s after %s, valid %s, retry-after %s)", a.kind, a.latency, a.validity, a.retryAfter)
}

// modelFault is what is wrong with calls of storage.
type modelFault struct {
	fails int // percent of them
	takes time.Duration
}

// modelSpan is when something happened, since the schedule began.
type modelSpan struct{ began, ended time.Duration }

func (s modelSpan) took() time.Duration                  { return s.ended - s.began }
func (s modelSpan) overlaps(from, to time.Duration) bool { return s.began <= to && from <= s.ended }

// modelRun is a request that was made.
type modelRun struct {
	modelStep
	modelSpan
	load         int            // of the mount
	data         map[string]any // of a write
	err, warning string
	lost         bool           // the process ended under it
	got          *modelExchange // whose JWT a read brought
	lease        time.Duration
	views        []modelView // what a read may have found in storage
}

func (r *modelRun) String() string {
	result := r.err
	if r.got != nil {
		result = strings.TrimSuffix(fmt.Sprintf("the JWT of exchange %d, %s", r.got.number, r.warning), ", ")
	}
	return fmt.Sprintf("%s %s from %s to %s: %s", r.kind, r.path, r.began, r.ended, result)
}

func (r *modelRun) impatient() bool { return r.kind == "read" && r.duration != 0 }

// changes reports whether a request may change the entry at a path, or config, on which all depend.
func (r *modelRun) changes(path string) bool {
	return (r.data != nil || strings.HasSuffix(r.kind, "delete")) && (r.path == configStorageKey || r.path == path)
}

// modelExchange is an exchange as Console saw it.
type modelExchange struct {
	modelCredential // the ID is empty if it is not certain
	modelSpan
	number, load, servedTo int
	write                  *modelRun // that it verifies; nil: it is for readers
	overtaken, timedOut    bool      // overtaken: the write made another one after it
	unshared, uncached     bool      // perhaps, and certainly, of reuse_period=0
	tries                  []*modelTry
	expires                time.Duration   // of its JWT; 0: it brought none
	ids                    map[string]bool // that the credential may have
	outcome                string          // ok, transient, refused, rejected, canceled; unsure
	minWait, maxWait       time.Duration   // after its failure
}

// modelTry is one request of an exchange.
type modelTry struct {
	modelAnswer
	modelSpan // ended is 0 if it was not answered
}

func (e *modelExchange) String() string {
	return fmt.Sprintf("exchange %d of %s %s, %s to %s, %s %s", e.number, e.path, e.key, e.began, e.ended, e.outcome, e.tries)
}

func (e *modelExchange) last() *modelTry { return e.tries[len(e.tries)-1] }

func (e *modelExchange) failed() bool {
	return e.outcome == "transient" || e.outcome == "refused" || e.outcome == "rejected"
}

// of reports whether an exchange was made with the key of c, whenever that was written, and wherever it was sent.
func (e *modelExchange) of(c modelCredential) bool { return e.path == c.path && e.key == c.key }

// with reports whether it was made with that key at the same place.
func (e *modelExchange) with(c modelCredential) bool {
	return e.of(c) && e.organization == c.organization && e.url == c.url
}

// modelCredential is one credential as JWTs belong to it.
type modelCredential struct{ path, id, key, organization, url string }

// modelView is what a read may have found in storage.
type modelView struct {
	modelCredential
	usable     bool // it exists, and may go to the URL
	reuse, ttl time.Duration
}

// modelEntry is config, a role or a JWT as it is stored.
type modelEntry struct {
	Credential  *console.Credential
	ConsoleURL  string `json:"console_url"`
	CACert      string `json:"ca_cert"`
	TTL         *time.Duration
	ReusePeriod *time.Duration `json:"reuse_period"`
	Key         tokencache.Key
	Token       console.Token
}

// modelVersion is what storage held at a path for a while.
type modelVersion struct {
	from, until  time.Duration
	by, replaced *modelRun   // who stored it, and who the next one
	entry        *modelEntry // nil: nothing
}

// modelLoad is one life of the plugin's process.
type modelLoad struct {
	modelSpan
	ending, cut bool // nothing that it does reaches storage once it is cut
}

// model is one schedule that is played, and all that was seen of it.
type model struct {
	mount  *mount
	other  *mount // another node
	disk   *logical.InmemStorage
	bundle string // for ca_cert
	zero   time.Time

	mu         sync.Mutex // guards all below; not held while fake time passes
	rand       *rand.Rand
	answers    []modelAnswer
	requests   int
	faults     map[string]modelFault
	troubled   []modelSpan
	underway   map[<-chan struct{}]*modelExchange
	issued     map[string]*modelExchange
	exchanges  []*modelExchange
	runs       []*modelRun
	reads      []*modelRun
	loads      []*modelLoad
	held       map[string][]modelVersion // by their keys in storage
	written    map[string]modelVersion   // the first one with a credential of this ID
	applied    map[*modelRun]bool        // it has changed storage
	violations []string
	seen       map[string]int // what was exercised
}

type modelRunKey struct{}

func (m *model) now() time.Duration { return time.Since(m.zero) }

// violation notes that a rule was broken. A shrunk schedule must still break the same one.
func (m *model) violation(rule, format string, args ...any) {
	m.violations = append(m.violations, rule+": "+fmt.Sprintf(format, args...))
}

func (m *model) never(broken bool, rule, format string, args ...any) {
	if broken {
		m.violation(rule, format, args...)
	}
}

// pause takes a while, and some nanoseconds, so that nothing else happens at the same time.
func (m *model) pause(ctx context.Context, d time.Duration) {
	m.mu.Lock()
	d += time.Duration(1 + m.rand.Int64N(20_000))
	m.mu.Unlock()
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// call makes a call of storage for one load of the mount. Whether a write that fails took effect is open, and so is when
// a slow one does; but what has not when the call returns never will.
func (m *model) call(ctx context.Context, l *modelLoad, verb, key string, work func() error) error {
	fault, failure, writes := verb, errModelTokens, verb == "put" || verb == "delete"
	if !strings.HasPrefix(key, tokenStoragePrefix) {
		fault, failure = "settings "+verb, errModelSettings
	}
	m.mu.Lock()
	fails, before, after := m.rand.IntN(100) < m.faults[fault].fails, m.faults[fault].takes, time.Duration(0)
	if m.rand.IntN(2) == 0 {
		before, after = after, before
	}
	applied := !fails || writes && m.rand.IntN(2) == 0
	m.mu.Unlock()
	m.pause(ctx, before)
	m.mu.Lock()
	if applied && !l.cut && ctx.Err() == nil {
		_ = work()
		if writes {
			m.stored(ctx, key)
		}
	}
	m.mu.Unlock()
	m.pause(ctx, after)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case l.cut:
		return errModelCut
	case fails:
		return failure
	}
	return ctx.Err()
}

// stored notes what storage holds from now on.
func (m *model) stored(ctx context.Context, key string) {
	v := modelVersion{from: m.now(), until: modelNever}
	v.by, _ = ctx.Value(modelRunKey{}).(*modelRun)
	m.applied[v.by] = true
	if stored, _ := m.disk.Get(context.Background(), key); stored != nil {
		v.entry = &modelEntry{}
		_ = stored.DecodeJSON(v.entry)
	}
	if n := len(m.held[key]); n > 0 {
		m.held[key][n-1].until, m.held[key][n-1].replaced = v.from, v.by
	}
	m.held[key] = append(m.held[key], v)
	if v.entry != nil && v.entry.Credential != nil && m.written[v.entry.Credential.ID].by == nil {
		m.written[v.entry.Credential.ID] = v
	}
}

// exchange sees each request to the Console of one load of the mount. It reports whether it has answered: else the
// Console checks the key, and issues a JWT.
func (m *model) exchange(load int, c *consoletest.Console, w http.ResponseWriter, r *http.Request) bool {
	ctx := r.Context()
	m.mu.Lock()
	// The tries of an exchange share the channel of its context. Contexts that had ended before share one as well, but
	// nothing is tried again in them.
	e := m.underway[ctx.Done()]
	if e == nil {
		e = m.begin(load, r)
		if ctx.Err() == nil {
			m.underway[ctx.Done()] = e
		}
		context.AfterFunc(ctx, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.underway, ctx.Done())
			e.ended, e.timedOut = m.now(), errors.Is(ctx.Err(), context.DeadlineExceeded)
		})
	}
	try := &modelTry{m.answers[m.requests%len(m.answers)], modelSpan{began: m.now()}}
	m.requests++
	e.tries = append(e.tries, try)
	m.mu.Unlock()
	if try.kind == "silent" {
		<-ctx.Done()
	}
	if m.pause(ctx, try.latency); ctx.Err() != nil {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	try.ended = m.now()
	if try.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(try.retryAfter.Seconds())))
	}
	if try.kind != "ok" {
		w.WriteHeader(map[string]int{"malformed": 200, "refused": 401, "unknown": 404, "unavailable": 503, "limited": 429}[try.kind])
		return true
	}
	expires := time.Now().Add(try.validity).Truncate(time.Second)
	e.expires = expires.Sub(m.zero)
	c.AddKey(consoletest.Key{OrganizationID: e.organization, ID: e.key, Secret: modelAPIKey(e.path, e.key)})
	c.SetClaims(func(claims map[string]any) {
		claims["exp"] = expires.Unix()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.issued[c.Mint(claims)] = e
	})
	return false
}

// modelAPIKey is the secret half of a key pair. It names the path that it was written to, and its ID.
func modelAPIKey(path, id string) string { return modelSecret + "." + path + "." + id }

func (m *model) begin(load int, r *http.Request) *modelExchange {
	e := &modelExchange{number: len(m.exchanges), load: load, modelSpan: modelSpan{began: m.now()}, ids: map[string]bool{}}
	if by, _ := r.Context().Value(modelRunKey{}).(*modelRun); by != nil && by.kind != "read" {
		e.write = by
		for _, other := range m.exchanges {
			other.overtaken = other.overtaken || other.write == by
		}
	}
	secret := append(strings.Split(r.Header.Get("X-API-Key"), "."), "", "")
	e.path, e.key, e.url, e.organization = secret[1], secret[2], r.Header.Get(modelHeader), r.PathValue("organization")
	m.exchanges = append(m.exchanges, e)
	return e
}

// restart mounts the engine on what storage holds, as a new process. The old one ends at once, or after the mount was
// unloaded, as Vault does for an upgrade.
func (m *model) restart(crash bool) {
	m.mu.Lock()
	load := len(m.loads)
	if load > 0 {
		old := m.loads[load-1]
		old.ending, old.cut = true, crash
		m.mu.Unlock()
		m.mount.stop()
		synctest.Wait()
		m.mu.Lock()
		old.cut, old.ended = true, m.now()
	}
	l := &modelLoad{modelSpan: modelSpan{m.now(), modelNever}}
	m.loads = append(m.loads, l)
	m.mu.Unlock()
	fake := consoletest.New()
	fake.Intercept(func(w http.ResponseWriter, r *http.Request) bool { return m.exchange(load, fake, w, r) })
	m.mount.transport = consoletest.Transport{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		base, _, _ := strings.Cut(r.URL.String(), "/api/msc/")
		r.Header.Set(modelHeader, base)
		r.URL.Path = strings.TrimPrefix(r.URL.Path, "/under")
		fake.ServeHTTP(w, r)
	})}
	m.mount.storage = &faultyStorage{Storage: m.disk, script: func(ctx context.Context, verb, key string, work func() error) error {
		return m.call(ctx, l, verb, key, work)
	}}
	m.mount.start()
}

// start makes the request of a step. What it returns is to be run in a goroutine.
func (m *model) start(step modelStep) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &modelRun{modelStep: step, load: len(m.loads) - 1}
	m.runs = append(m.runs, r)
	b, storage, l := m.mount.backend, m.mount.storage, m.loads[r.load]
	return func() {
		r.began = m.now()
		resp, err := m.send(r, b, storage)
		m.mu.Lock()
		defer m.mu.Unlock()
		r.ended, r.lost = m.now(), l.ending
		switch {
		case err != nil:
			r.err = err.Error()
		case resp.IsError():
			r.err = resp.Error().Error()
		case r.kind == "read":
			r.got, r.lease = m.issued[resp.Data["access_token"].(string)], resp.Secret.TTL
			r.warning = strings.Join(resp.Warnings, "; ")
		}
	}
}

// send sends a request to one load of the mount.
func (m *model) send(r *modelRun, b *backend, storage logical.Storage) (*logical.Response, error) {
	patience := map[bool]time.Duration{true: max(0, r.duration), false: 10 * time.Minute}[r.impatient()]
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), modelRunKey{}, r), patience)
	defer cancel()
	operation := logical.Operation(logical.UpdateOperation)
	kind, replicated := strings.CutPrefix(r.kind, "replicated ")
	switch kind {
	case "sweep":
		return nil, b.PeriodicFunc(ctx, &logical.Request{Storage: storage})
	case "read":
		operation = logical.ReadOperation
	case "forget", "delete":
		operation = logical.DeleteOperation
	case "key":
		r.data = map[string]any{"api_key_id": r.key, "api_key": modelAPIKey(r.path, r.key)}
		if r.value != "" { // or config would have to be there
			r.data["organization_id"], r.data["console_url"] = "org-a", r.value
		}
	case "ttl", "reuse_period", "request_timeout":
		r.data = map[string]any{kind: int(r.duration.Seconds())}
	case "ca_cert":
		r.data = map[string]any{kind: strings.ReplaceAll(r.value, "bundle", m.bundle)}
	default:
		r.data = map[string]any{kind: r.value}
	}
	if operation == logical.UpdateOperation {
		r.data["verify_connection"] = r.verify
	}
	req := &logical.Request{Operation: operation, Path: r.path, MountPoint: "snowplow/", Storage: storage, Data: r.data}
	if !replicated {
		return b.HandleRequest(ctx, req)
	}
	unlock, err := b.lockWrites(ctx) // no node is told of another's write while it stores one itself
	if err != nil {
		return nil, err
	}
	defer unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.load < len(m.loads)-1 {
		return nil, errModelCut
	}
	req.Storage = m.other.storage
	resp, err := m.other.backend.HandleRequest(ctx, req)
	if err == nil && !resp.IsError() {
		m.stored(ctx, r.path)
		m.stored(ctx, tokenStoragePrefix+r.path)
		b.InvalidateKey(ctx, r.path)
	}
	return resp, err
}

func (m *model) setFaults(faults map[string]modelFault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.troubled); n > 0 {
		m.troubled[n-1].ended = min(m.troubled[n-1].ended, m.now())
	}
	if m.faults = faults; faults != nil {
		m.troubled = append(m.troubled, modelSpan{m.now(), modelNever - modelHealed})
	}
}

// play plays a schedule, and returns how the contract was broken.
func play(t *testing.T, seed uint64, steps []modelStep) (violations []string, seen map[string]int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &model{
			mount: &mount{t: t, logs: &consoletest.Log{}}, other: &mount{t: t, logs: &consoletest.Log{}}, disk: &logical.InmemStorage{},
			bundle: consoletest.NewAuthority(t).PEM(), zero: time.Now(), rand: rand.New(rand.NewPCG(seed, 1)),
			answers:  []modelAnswer{{kind: "ok", validity: 24 * time.Hour, latency: 100 * time.Millisecond}},
			underway: map[<-chan struct{}]*modelExchange{}, issued: map[string]*modelExchange{},
			held:    map[string][]modelVersion{"config": {{until: modelNever}}, "roles/r0": {{until: modelNever}}, "roles/r1": {{until: modelNever}}},
			written: map[string]modelVersion{}, applied: map[*modelRun]bool{}, seen: map[string]int{},
		}
		m.other.storage = &faultyStorage{Storage: m.disk}
		m.other.start()
		m.restart(true)
		m.start(modelStep{kind: "key", path: "config", key: "k0", value: modelURL})()
		var requests sync.WaitGroup
		for _, step := range steps {
			time.Sleep(step.gap)
			m.pause(t.Context(), 0)
			switch step.kind {
			case "console":
				m.mu.Lock()
				m.answers = step.answers
				m.mu.Unlock()
			case "storage":
				m.setFaults(step.faults)
			case "crash", "restart":
				m.restart(step.kind == "crash")
			default:
				requests.Go(m.start(step))
			}
		}
		requests.Wait()
		m.setFaults(nil)
		time.Sleep(2 * maxRequestTimeout) // exchanges that nobody waits for end
		m.start(modelStep{kind: "sweep"})()
		m.workOut()
		m.checkCounters()
		m.checkLeft()
		m.mount.stop()
		m.other.stop()
		synctest.Wait()
		m.check()
		violations, seen = m.violations, m.seen
	})
	return violations, seen
}

// schedule draws a schedule. Each one draws its odds first, so that some do little else than, say, write keys while
// Console is slow: what is rare would otherwise seldom come together.
func schedule(seed uint64) (steps []modelStep) {
	r := rand.New(rand.NewPCG(seed, 7))
	one := func(in int) bool { return r.IntN(in) == 0 }
	seconds := func(of ...float64) time.Duration { return time.Duration(of[r.IntN(len(of))] * float64(time.Second)) }
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	add := func(step modelStep) { steps = append(steps, step) }
	odds := map[string]int{
		"read": 50, "forget": 4, "sweep": 3, "console": 12, "storage": 4, "crash": 2, "restart": 2,
		"key": 8, "console_url": 2, "organization_id": 1, "ca_cert": 2, "ttl": 2, "reuse_period": 2, "request_timeout": 1,
		"delete": 2, "replicated key": 3, "replicated delete": 1,
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(odds)) {
		if kind != "read" && kind != "console" {
			odds[kind] *= []int{0, 1, 1, 4}[r.IntN(4)]
		}
		kinds = append(kinds, slices.Repeat([]string{kind}, odds[kind])...)
	}
	var gaps []time.Duration
	for range 6 {
		gaps = append(gaps, seconds(0, 0, 0, 0.000001, 0.00001, 0.3, 0.99, 1.1, 3, 5, 11, 40, 600, 2400, 3600, 18000))
	}
	paths, entries := modelPaths, []string{"config", "config", "roles/r0", "roles/r1"}
	if one(3) { // readers of one credential
		paths = []string{pick("token", "token/r0")}
		entries = []string{credentialPath(paths[0])}
	}
	calm, unshared, settingsFail := one(3), one(3), one(6)
	if !one(3) {
		add(modelStep{kind: "key", path: "roles/r0", key: "p0"})
	}
	for n := 25 + r.IntN(75); len(steps) < n; {
		s := modelStep{gap: gaps[r.IntN(len(gaps))], kind: pick(kinds...), path: pick(entries...)}
		switch s.kind {
		case "read", "forget":
			if s.path = pick(paths...); s.kind == "read" && one(5) {
				s.duration = seconds(0.001, 0.5, 2.5, -1) // -1: gone before it is heard
			}
		case "console":
			for range 1 + r.IntN(4) {
				a := modelAnswer{
					kind:     pick("ok", "ok", "ok", "ok", "refused", "unavailable", "unavailable", "limited", "silent", "malformed", "unknown"),
					latency:  seconds(0, 0, 0.1, 0.9, 2, 3, 7, 25, 40),
					validity: seconds(86400, 86400, 86400, 86400, 7200, 300, 90, 30, 3),
				}
				if calm {
					a.kind = "ok"
				}
				if a.kind == "unavailable" && one(2) || a.kind == "limited" && !one(4) {
					a.retryAfter = seconds(1, 3, 20, 42, 200, 1000)
				}
				s.answers = append(s.answers, a)
			}
			if one(3) { // a rush of readers
				add(s)
				for s = (modelStep{kind: "read", path: pick(paths...)}); !one(4); {
					add(s)
				}
			}
		case "storage":
			if one(2) {
				break
			}
			s.faults = map[string]modelFault{}
			for _, verb := range []string{"get", "put", "delete", "list"} {
				s.faults[verb] = modelFault{[]int{0, 0, 30, 100}[r.IntN(4)], seconds(0, 0, 0, 0.001, 0.3, 0.9, 1.5, 4, 20)}
				if settingsFail && one(4) {
					s.faults["settings "+verb] = modelFault{fails: 30 + 70*r.IntN(2)}
				}
			}
		case "key", "replicated key":
			s.key, s.verify = pick("p0", "p1", fmt.Sprint("k", len(steps)), fmt.Sprint("k", len(steps))), s.kind == "key" && one(2)
			if s.path == "config" && !one(3) {
				s.value = pick(append(modelURLs, modelURL, modelURL)...)
			}
		case "console_url": // another origin is refused
			s.path, s.value = "config", pick(modelURL, modelURL+"/under", modelURLs[1])
		case "organization_id":
			s.path, s.value, s.verify = "config", pick("org-a", "org-b"), one(2)
		case "ca_cert":
			s.path, s.value, s.verify = "config", pick("", "bundle"), !one(3)
		case "ttl":
			s.duration, s.verify = seconds(60, 3600), one(2)
		case "reuse_period":
			if s.duration = seconds(5, 20, 60, 3600, 360000); unshared && one(2) {
				s.duration = 0
			}
		case "request_timeout":
			s.path, s.duration = "config", seconds(1, 10, 30, 80)
		}
		add(s)
		if s.path == "config" && strings.HasSuffix(s.kind, "delete") {
			add(modelStep{gap: gaps[r.IntN(len(gaps))], kind: "key", path: "config", key: "p0", value: modelURL})
		}
	}
	return steps
}

// shows plays a schedule until it breaks one rule: the engine draws times itself, so one play says little.
func shows(t *testing.T, seed uint64, steps []modelStep, rule string) string {
	t.Helper()
	for range 3 {
		violations, _ := play(t, seed, steps)
		if at := slices.IndexFunc(violations, func(v string) bool { return strings.HasPrefix(v, rule+":") }); at >= 0 {
			return violations[at]
		}
	}
	return ""
}

// shrink removes from a schedule what is not needed to break one rule.
func shrink(t *testing.T, seed uint64, steps []modelStep, rule string) []modelStep {
	t.Helper()
	until := time.Now().Add(time.Minute)
	for size := len(steps) / 2; size >= 1; size /= 2 {
		for at := 0; at+size <= len(steps); {
			if without := slices.Concat(steps[:at], steps[at+size:]); time.Now().Before(until) && shows(t, seed, without, rule) != "" {
				steps = without
			} else {
				at += size
			}
		}
	}
	return steps
}

func TestNoScheduleBreaksTheContract(t *testing.T) {
	t.Parallel()
	number := func(variable string, fallback uint64) uint64 {
		n, err := strconv.ParseUint(cmp.Or(os.Getenv(variable), fmt.Sprint(fallback)), 10, 64)
		require.NoError(t, err, variable)
		return n
	}
	seeds, from := number("MODEL_SEEDS", 200), number("MODEL_FROM", 0)
	require.Positive(t, seeds, "MODEL_SEEDS")
	all := map[string]int{}
	for seed := from; seed < from+seeds; seed++ {
		violations, seen := play(t, seed, schedule(seed))
		for what, count := range seen {
			all[what] += count
		}
		if len(violations) == 0 {
			continue
		}
		rule, _, _ := strings.Cut(violations[0], ":")
		steps := shrink(t, seed, schedule(seed), rule)
		last := cmp.Or(shows(t, seed, steps, rule), violations[0]+" (in the whole schedule)")
		for _, step := range steps {
			t.Log(step)
		}
		t.Fatalf("schedule %d breaks the contract with these steps:\n=> %s\nagain: make model SEEDS=1 FROM=%d", seed, last, seed)
	}
	t.Logf("%d schedules: %v", seeds, all)
	require.True(t, seeds < 100 || len(all) >= 11, "these schedules show too little: %v", all)
}

// credentialPath is where the credential of a read of path is stored, if the role has one of its own.
func credentialPath(path string) string {
	if role, isRole := strings.CutPrefix(path, "token/"); isRole {
		return roleStoragePrefix + role
	}
	return configStorageKey
}

// viewOf returns what a reader finds of the credential at a path.
func viewOf(path string, config, role *modelEntry) modelView {
	if config == nil || path != configStorageKey && role == nil {
		return modelView{}
	}
	cred, reuse, ttl := config.Credential, config.ReusePeriod, config.TTL
	if role != nil {
		cred, reuse, ttl = cmp.Or(role.Credential, cred), cmp.Or(role.ReusePeriod, reuse), cmp.Or(role.TTL, ttl)
	}
	if role == nil || role.Credential == nil {
		path = configStorageKey
	}
	of := modelCredential{path, cred.ID, cred.APIKeyID.Reveal(), config.Credential.OrganizationID, config.ConsoleURL}
	return modelView{of, !cred.Empty() && cred.WrittenFor == console.Origin(config.ConsoleURL), *reuse, *ttl}
}

// views returns what readers find of the credential at a path in each pair of config and role that is asked for.
func (m *model) views(path string, wanted func(config, role modelVersion) bool) (views []modelView) {
	roles := m.held[path]
	if path == configStorageKey {
		roles = []modelVersion{{until: modelNever}}
	}
	for _, config := range m.held[configStorageKey] {
		for _, role := range roles {
			if wanted(config, role) {
				views = append(views, viewOf(path, config.entry, role.entry))
			}
		}
	}
	return views
}

// mayFind reports whether a read may have found a version. A change is certainly in effect once its request was answered,
// or the mount loaded anew.
func (m *model) mayFind(r *modelRun, v modelVersion) bool {
	return v.from <= r.ended && (v.until >= r.began || v.replaced.ended >= r.began && !slices.ContainsFunc(m.loads, func(l *modelLoad) bool {
		return v.until < l.ended && l.ended < r.began
	}))
}

// heldAt returns what storage held at a time.
func (m *model) heldAt(key string, at time.Duration) *modelEntry {
	for _, v := range m.held[key] {
		if v.from <= at && at < v.until {
			return v.entry
		}
	}
	return nil
}

// only returns the credential that a read must have used, if that is certain.
func (r *modelRun) only() (c modelCredential, certain bool) {
	c = r.views[0].modelCredential
	return c, !slices.ContainsFunc(r.views, func(v modelView) bool { return !v.usable || v.modelCredential != c })
}

// reuse returns what reuse_period may have been at a read.
func (r *modelRun) reuse() (least, most time.Duration) {
	compare := func(a, b modelView) int { return cmp.Compare(a.reuse, b.reuse) }
	return slices.MinFunc(r.views, compare).reuse, slices.MaxFunc(r.views, compare).reuse
}

// stable reports whether storage held this very credential, and no other, from the time when it was written.
func (m *model) stable(c modelCredential, to time.Duration) bool {
	return !slices.ContainsFunc(m.views(c.path, func(config, role modelVersion) bool {
		from, until := max(config.from, role.from), min(config.until, role.until)
		return from < until && from <= to && until > m.written[c.id].from
	}), func(v modelView) bool { return v.modelCredential != c })
}

// trouble reports whether storage was in trouble between two times, or may have had something left to repair.
func (m *model) trouble(from, to time.Duration) bool {
	return slices.ContainsFunc(m.troubled, func(s modelSpan) bool { return s.overlaps(from-modelHealed, to) })
}

// modelLastServed is the age up to which a JWT of some validity may be served as fresh.
func modelLastServed(validity time.Duration) time.Duration {
	return validity - max(time.Second, min(time.Minute, validity/5))
}

// validity is how long its JWT certainly is valid: a slow answer hides what the clocks differ by.
func (e *modelExchange) validity() time.Duration {
	return e.expires - e.ended - e.last().latency - time.Second
}

func (e *modelExchange) fresh(at, reuse time.Duration) bool {
	return e.outcome == "ok" && at-e.ended < reuse && at-e.ended <= modelLastServed(e.validity())
}

func (e *modelExchange) usable(at time.Duration) bool {
	return e.outcome == "ok" && e.validity()-(at-e.ended) >= time.Minute
}

// brought reports whether its JWT may be cached.
func (e *modelExchange) brought() bool {
	return (e.outcome == "ok" || e.outcome == "unsure") && !e.uncached && !e.overtaken && (e.write == nil || e.write.err == "")
}

// cached is when its JWT was in the cache.
func (e *modelExchange) cached() time.Duration {
	if e.write != nil {
		return e.write.ended
	}
	return e.ended
}

// atHand returns the exchange whose usable JWT the engine certainly has in one load, from one time to another.
func (m *model) atHand(c modelCredential, load int, from, to time.Duration) (e *modelExchange) {
	for _, o := range m.exchanges {
		switch {
		case !o.brought() || !o.of(c) || o.began >= to:
		case o.cached() >= from && !o.usable(to), e != nil && o.ended <= e.cached() && e.ended <= o.cached():
			return nil // which one is cached is open
		case o.cached() < from && (e == nil || o.cached() > e.cached()):
			e = o
		}
	}
	if e == nil || e.modelCredential != c || e.unshared || !e.usable(to) || m.dropped(e, to) || !m.stable(c, to) {
		return nil
	}
	if e.load == load || m.loads[e.load].ended-e.cached() > time.Second && !m.trouble(e.began, to) {
		return e
	}
	// Whatever happened to storage: if the JWT is there and can be read, it counts.
	began := m.loads[load].began
	if e.load > load || m.heldAt(tokenStoragePrefix+c.path, began) == nil || m.trouble(from, to) || slices.ContainsFunc(m.held[tokenStoragePrefix+c.path], func(v modelVersion) bool {
		return v.until > began && v.from < to && (v.entry == nil || m.issued[v.entry.Token.Bearer.Reveal()] != e || v.entry.Key.CredentialID != c.id)
	}) {
		return nil
	}
	return e
}

// dropped reports whether a JWT may have been forgotten, or dropped for a refusal, before a time.
func (m *model) dropped(e *modelExchange, before time.Duration) bool {
	return slices.ContainsFunc(m.runs, func(r *modelRun) bool {
		return r.kind == "forget" && credentialPath(r.path) == e.path && r.overlaps(e.began, before)
	}) || slices.ContainsFunc(m.exchanges, func(f *modelExchange) bool {
		return f.of(e.modelCredential) && f.outcome == "refused" && f.overlaps(e.began, before)
	})
}

// changed reports whether a credential, or what it depends on, may have been changed between two times.
func (m *model) changed(path string, from, to time.Duration) bool {
	return slices.ContainsFunc(m.runs, func(r *modelRun) bool { return r.changes(path) && r.overlaps(from, to) })
}

// recovered reports whether a success that began after f was noted by a time.
func (m *model) recovered(f *modelExchange, by time.Duration) bool {
	return f.id != "" && slices.ContainsFunc(m.exchanges, func(s *modelExchange) bool {
		return (s.brought() || s.uncached) && s.outcome == "ok" && s.load == f.load && s.modelCredential == f.modelCredential && s.began > f.ended && s.cached() < by
	})
}

// explains reports whether failure f, or the wait after it, may have kept a read of c from a JWT.
func (m *model) explains(f *modelExchange, c modelCredential, r *modelRun) bool {
	return (f.failed() || f.outcome == "unsure") && f.load == r.load && f.of(c) && f.ended <= r.ended && f.ended+f.maxWait >= r.began && !m.recovered(f, r.began) &&
		!slices.ContainsFunc(m.runs, func(w *modelRun) bool {
			return w.err == "" && w.changes(c.path) && w.load == r.load && w.began > f.ended && w.ended < r.began
		})
}

// workOut computes from the notes what the rules ask for.
func (m *model) workOut() {
	for _, r := range m.runs {
		if r.kind == "read" {
			r.views = m.views(credentialPath(r.path), func(config, role modelVersion) bool { return m.mayFind(r, config) && m.mayFind(r, role) })
			m.reads = append(m.reads, r)
			if r.got != nil {
				r.got.servedTo++
			}
		}
	}
	for _, e := range m.exchanges {
		m.workOutOrigin(e)
		e.outcome = m.outcomeOf(e)
	}
	for _, f := range m.exchanges { // how long the engine must wait after a failure, and may wait
		least, most := 800*time.Millisecond, 72*time.Second
		if f.outcome == "refused" || f.outcome == "rejected" {
			least, most = 10*time.Second, 10*time.Second
		} else if !slices.ContainsFunc(m.exchanges, func(e *modelExchange) bool { return e.path == f.path && e.expires > 0 && e.began < f.ended }) {
			most = 12 * time.Second // there never was a JWT
		}
		hint := min(f.last().retryAfter, 5*time.Minute)
		if f.last().ended == 0 {
			hint = 0 // there was no answer
		}
		f.minWait, f.maxWait = max(least, hint), max(most, hint)
	}
}

// workOutOrigin finds out for which credential an exchange was made, and whether readers share it.
func (m *model) workOutOrigin(e *modelExchange) {
	var views []modelView
	for _, r := range m.reads {
		if e.write == nil && r.load == e.load && r.overlaps(e.began, e.began) {
			views = append(views, r.views...)
		}
	}
	if e.write != nil {
		views = m.views(e.path, func(config, role modelVersion) bool { return config.by == e.write || role.by == e.write })
	}
	shared := false
	for _, v := range views {
		// A write that finds its value stored by another one, with another ID, drops what it has verified.
		ofWrite := e.write != nil && (e.write == m.written[v.id].by || e.write.kind == "ca_cert" && m.written[v.id].from <= e.began)
		if v.usable && e.with(v.modelCredential) && (e.write == nil || ofWrite) {
			e.ids[v.id], e.unshared, shared = true, e.unshared || v.reuse == 0, shared || v.reuse != 0
		}
	}
	if e.uncached = e.unshared && !shared; len(e.ids) == 1 {
		e.id = slices.Collect(maps.Keys(e.ids))[0]
	}
}

// givenUp reports whether a reader who made an exchange for himself gave it up when it ended.
func (m *model) givenUp(e *modelExchange) bool {
	return e.unshared && slices.ContainsFunc(m.reads, func(r *modelRun) bool { return r.impatient() && r.ended == e.ended && r.load == e.load })
}

func (m *model) outcomeOf(e *modelExchange) string {
	switch last := e.last(); {
	case e.timedOut:
		return "transient"
	case last.ended == 0, e.ended > last.ended && (e.ended == m.loads[e.load].ended || m.givenUp(e)):
		return "canceled"
	case last.kind == "ok" && last.validity < last.latency+5*time.Second:
		return "unsure" // perhaps expired on arrival
	default:
		return cmp.Or(map[string]string{"ok": "ok", "refused": "refused", "unknown": "rejected"}[last.kind], "transient")
	}
}

// check compares all that was seen with the contract.
func (m *model) check() {
	logs := m.mount.logs.String()
	for _, r := range m.runs {
		switch {
		case r.lost:
		case r.kind == "read":
			m.checkRead(r)
		case !r.verify && r.took() > modelSlack && !m.trouble(r.began, r.ended):
			m.violation("request-waited", "%s", r)
		case r.data != nil && r.err == "" && !m.applied[r]:
			m.violation("write-lost", "%s", r)
		}
		logs += r.err + r.warning
	}
	for _, e := range m.exchanges {
		if end := m.loads[e.load].ended; e.write == nil && e.began < end {
			m.checkExchange(e, end)
		}
	}
	m.checkWrites()
	m.checkStored()
	m.never(strings.Contains(logs, modelSecret) || strings.Contains(logs, modelJWT), "leak", "a secret is in the log, or in an answer")
}

func (m *model) checkRead(r *modelRun) {
	m.never(r.impatient() && r.took() > max(0, r.duration)+modelSlack, "reader-held", "%s, though it gave up after %s", r, r.duration)
	c, certain := r.only()
	least, _ := r.reuse()
	k := m.atHand(c, r.load, r.began, r.ended)
	switch settings := strings.Contains(r.err, errModelSettings.Error()); {
	case r.got != nil:
		m.checkServed(r, r.got)
	case strings.Contains(r.err, errModelTokens.Error()), strings.Contains(r.err, errModelCut.Error()):
		m.violation("storage-fails-a-read", "%s", r)
	case settings:
		return
	case certain && !r.impatient() && !slices.ContainsFunc(m.exchanges, func(f *modelExchange) bool {
		return m.explains(f, c, r) && (k == nil || least == 0 || f.outcome == "refused" || f.outcome == "rejected")
	}):
		m.violation("error-without-reason", "%s; at hand is %s", r, k)
	}
	if certain {
		m.checkWait(r, c, k, least)
	}
}

// checkServed asks whether a read may have brought this JWT.
func (m *model) checkServed(r *modelRun, e *modelExchange) {
	m.never(!slices.ContainsFunc(r.views, func(v modelView) bool {
		return v.usable && e.with(v.modelCredential) && e.ids[v.id] && e.began > m.written[v.id].by.began
	}), "wrong-credential", "%s, of %s; it may be served that of %+v", r, e, r.views)
	m.never(r.lease > e.expires-r.ended || r.lease < time.Second || !slices.ContainsFunc(r.views, func(v modelView) bool { return v.ttl == 0 || r.lease <= v.ttl }),
		"lease", "%s: a lease of %s, and the JWT is valid for %s", r, r.lease, e.expires-r.ended)
	for _, f := range m.runs {
		// Of a forget and a write at the same time, the write may be the later one.
		untilRestart := strings.Contains(f.err, "its stored copy could not be deleted") && f.load == r.load && m.stable(e.modelCredential, r.ended)
		m.never(f.kind == "forget" && credentialPath(f.path) == e.path && !f.lost && e.began < f.began && f.ended < r.began && (f.err == "" || untilRestart) && !m.changed(e.path, f.began, f.ended),
			"forgotten-came-back", "%s, of %s, after %s", r, e, f)
	}
	for _, f := range m.exchanges {
		// What Snowplow refused before this write of the key does not count, nor what storage may not have heard of.
		heard := f.load == r.load || m.loads[f.load].ended-f.ended > time.Second && !m.trouble(f.ended, m.loads[f.load].ended)
		m.never(f.outcome == "refused" && f.with(e.modelCredential) && e.id != "" && m.written[e.id].from <= f.began && e.began < f.ended && f.ended < r.began && heard && (f.write == nil || !f.write.lost) && m.stable(e.modelCredential, r.ended),
			"refused-key-served", "%s, of %s, after %s", r, e, f)
	}
	least, most := r.reuse()
	age, slow := r.ended-e.ended, strings.Contains(r.warning, modelSlow)
	switch {
	case r.warning == "" && e.ended < r.began && age >= most:
		m.violation("too-old", "%s: %s old, without a warning", r, age)
	case most == 0 && (e.began < r.began || e.servedTo > 1):
		m.violation("shared-without-reuse", "%s, of %s, served to %d", r, e, e.servedTo)
	case r.warning != "" && e.expires-r.ended < time.Minute:
		m.violation("stale-too-long", "%s: valid for %s", r, e.expires-r.ended)
	case r.warning != "" && (e.fresh(r.ended, least) || !slices.ContainsFunc(m.exchanges, func(f *modelExchange) bool {
		failed := (f.outcome == "transient" || f.outcome == "unsure") && f.ended <= r.ended && !m.recovered(f, r.began)
		return f.load == r.load && f.write == nil && f.of(e.modelCredential) && (!slow && failed || slow && r.ended-f.began >= maxReaderWait && f.ended >= r.ended)
	})):
		m.violation("stale-without-reason", "%s", r)
	}
	m.seen[fmt.Sprintf("served from an earlier load %t, with a warning %t, for slowness %t", e.load < r.load, r.warning != "", slow)]++
	c, certain := r.only()
	due := float64(age) >= 0.9*float64(min(most, modelLastServed(e.expires-e.ended)))
	m.never(certain && least > 0 && (due || r.warning != "") && m.atHand(c, r.load, r.began, r.ended) == e && !slices.ContainsFunc(m.exchanges, func(o *modelExchange) bool {
		return o.of(c) && o.write == nil && o.load == r.load && o.overlaps(r.began, r.ended) || m.explains(o, c, r)
	}), "not-tried-again", "%s, of %s", r, e)
}

// checkWait asks whether a read took too long.
func (m *model) checkWait(r *modelRun, c modelCredential, k *modelExchange, least time.Duration) {
	if storage := r.began + time.Second + modelSlack; r.ended > storage && !slices.ContainsFunc(m.exchanges, func(e *modelExchange) bool {
		return e.write == nil && e.of(c) && e.overlaps(r.began, storage)
	}) {
		m.violation("waited-for-storage", "%s", r)
	}
	bound := maxReaderWait
	for _, e := range m.exchanges {
		if k != nil && e.write == nil && e.load == r.load && e.modelCredential == c && !e.unshared && e.began > k.began && e.began < r.began && r.began < e.ended {
			bound = min(bound, max(0, e.began+maxReaderWait-r.began))
		}
	}
	if k != nil && (k.fresh(r.ended, least) || m.failing(c, r)) {
		bound = 0
	}
	if k == nil { // it may have come while the reader waited
		k = m.atHand(c, r.load, max(r.began, r.ended-maxReaderWait-modelSlack), r.ended)
	}
	m.never(k != nil && least > 0 && r.took() > bound+modelSlack, "waited-with-usable-JWT", "%s, more than %s, though that of %s is there", r, bound, k)
}

// failing reports whether the last exchange before a read certainly failed transiently.
func (m *model) failing(c modelCredential, r *modelRun) bool {
	var last *modelExchange
	for _, e := range m.exchanges {
		if e.load == r.load && e.of(c) && e.ended < r.began && e.outcome != "canceled" && (last == nil || e.ended > last.ended) {
			last = e
		}
	}
	return last != nil && last.outcome == "transient" && last.modelCredential == c && r.began-last.ended < 20*time.Hour && m.stable(c, r.ended) &&
		!slices.ContainsFunc(m.exchanges, func(e *modelExchange) bool {
			return e.write != nil && e.of(c) && e.cached() >= last.began && e.began <= r.ended
		})
}

// checkExchange asks whether an exchange for readers should have been made, and ended like this.
func (m *model) checkExchange(e *modelExchange, end time.Duration) {
	m.seen["exchanges "+e.outcome]++
	m.never(e.ended > end || e.outcome == "canceled" && e.ended < end && !m.givenUp(e), "exchange-canceled", "%s, and the mount ended at %s", e, end)
	m.never(!slices.ContainsFunc(m.reads, func(r *modelRun) bool {
		return r.load == e.load && r.overlaps(e.began, e.began) && slices.ContainsFunc(r.views, func(v modelView) bool {
			k := m.atHand(v.modelCredential, r.load, r.began, e.began)
			return v.usable && e.with(v.modelCredential) && (k == nil || v.reuse == 0 || float64(e.began-k.ended) >= 0.75*float64(min(v.reuse, modelLastServed(k.validity()))))
		})
	}), "needless-exchange", "%s", e)
	for _, try := range e.tries[1:] {
		m.never(!slices.ContainsFunc(m.reads, func(r *modelRun) bool {
			return r.load == e.load && r.overlaps(try.began, try.began) && slices.ContainsFunc(r.views, func(v modelView) bool {
				return v.usable && e.of(v.modelCredential) && (v.reuse == 0 || m.atHand(v.modelCredential, r.load, r.began, try.began) == nil)
			})
		}), "retry-for-nobody", "%s", e)
	}
	atOnce := 1
	for _, f := range m.exchanges {
		if f == e || f.write != nil || f.load != e.load || e.id == "" || f.modelCredential != e.modelCredential || !m.stable(e.modelCredential, e.began) {
			continue
		}
		if !f.unshared && !e.unshared && f.began < e.began && e.began < f.ended {
			if atOnce++; atOnce > 2 || !m.dropped(f, e.began) {
				m.violation("too-many-at-once", "%s and %s", f, e)
			}
		}
		m.never(f.failed() && f.ended < e.began && e.began < f.ended+f.minWait && !m.changed(f.path, f.ended, e.began) && !m.recovered(f, e.began),
			"too-soon", "%s began %s after %s, and the wait is %s at least", e, e.began-f.ended, f, f.minWait)
	}
}

// checkWrites finds writes that changed what they did not name, and what must not be stored.
func (m *model) checkWrites() {
	for key, versions := range m.held {
		for i, v := range versions {
			if i == 0 || v.entry == nil || strings.HasPrefix(key, tokenStoragePrefix) {
				continue
			}
			found, before, by := viewOf(key, m.heldAt(configStorageKey, v.from), v.entry), versions[i-1].entry, v.by
			if key == configStorageKey {
				found = viewOf(key, v.entry, nil)
			}
			_, newKey := by.data["api_key"]
			_, newOrganization := by.data["organization_id"]
			old, entry := cmp.Or(before, v.entry), v.entry
			for field, changed := range map[string]bool{
				"api_key": !newOrganization && !reflect.DeepEqual(old.Credential, entry.Credential), "console_url": old.ConsoleURL != entry.ConsoleURL,
				"ca_cert": old.CACert != entry.CACert, "ttl": !reflect.DeepEqual(old.TTL, entry.TTL), "reuse_period": !reflect.DeepEqual(old.ReusePeriod, entry.ReusePeriod),
			} {
				_, named := by.data[field]
				m.never(changed && !named, "lost-update", "%s has changed %s", by, field)
			}
			switch {
			case newKey && m.written[v.entry.Credential.ID].from < v.from:
				m.violation("old-id", "%s: the credential has an ID from before", by)
			case newKey && by.verify && !slices.ContainsFunc(m.exchanges, func(e *modelExchange) bool {
				return e.write == by && (e.outcome == "ok" || e.outcome == "unsure") && e.with(found.modelCredential)
			}):
				m.violation("not-verified", "%s", by)
			case key == configStorageKey && found.key != "" && !found.usable:
				m.violation("unbound", "%s: the key may not go to %s", by, found.url)
			case before == nil && i > 1 && versions[i-2].entry != nil && versions[i-2].from < by.began-modelSlack && versions[i-1].from > by.began+modelSlack:
				m.violation("deleted-came-back", "%s, after %s", by, versions[i-1].by)
			}
		}
	}
}

// checkStored asks whether storage may have held the JWTs that it held.
func (m *model) checkStored() {
	for stored, versions := range m.held {
		path, isToken := strings.CutPrefix(stored, tokenStoragePrefix)
		for _, v := range versions {
			if v.entry == nil || !isToken {
				continue
			}
			e, key := m.issued[v.entry.Token.Bearer.Reveal()], v.entry.Key
			if e == nil || e.path != path || !e.with(modelCredential{path: key.Path, key: e.key, organization: key.OrganizationID, url: key.ConsoleURL}) || !e.ids[key.CredentialID] {
				m.violation("stored-under-wrong-key", "%+v, of %s", key, e)
			} else if e.uncached {
				m.violation("stored-without-reuse", "%s", e)
			}
			for _, f := range m.runs {
				m.never(f.kind == "forget" && f.err == "" && !f.lost && credentialPath(f.path) == path && v.from <= f.ended && f.ended < v.until && e.began < f.began && !m.changed(path, f.began, f.ended),
					"stored-though-forgotten", "%s", f)
			}
		}
	}
}

// checkLeft looks at storage after a sweep, while nothing is under way.
func (m *model) checkLeft() {
	now := m.now()
	for _, path := range []string{configStorageKey, "roles/r0", "roles/r1"} {
		v, stored := viewOf(path, m.heldAt(configStorageKey, now), m.heldAt(path, now)), m.heldAt(tokenStoragePrefix+path, now)
		m.never(stored != nil && (modelCredential{stored.Key.Path, stored.Key.CredentialID, v.key, stored.Key.OrganizationID, stored.Key.ConsoleURL}) != v.modelCredential,
			"stored-without-owner", "%s: %+v", path, stored)
		if k := m.atHand(v.modelCredential, len(m.loads)-1, now, now); v.path == path && k != nil && (stored == nil || m.issued[stored.Token.Bearer.Reveal()] != k) {
			m.violation("not-stored", "%s: the JWT of %s", path, k)
		}
	}
}

// checkCounters compares what the last load of the mount counted, and shows, with what was seen.
func (m *model) checkCounters() {
	load, exchanges := len(m.loads)-1, int64(0)
	if slices.ContainsFunc(m.runs, func(r *modelRun) bool { return r.load == load && strings.HasSuffix(r.kind, "delete") }) {
		return // counters go with their role
	}
	metrics, _ := m.mount.request(context.Background(), logical.ReadOperation, "metrics")
	for _, path := range modelPaths {
		var reads, stale int64
		for _, r := range m.reads {
			if !modelUncounted.MatchString(r.err) && r.load == load && r.path == path {
				reads++
				stale += map[bool]int64{true: 1}[r.warning != ""]
			}
		}
		status, err := m.mount.request(context.Background(), logical.ReadOperation, strings.Replace(path, "token", "status", 1))
		if err != nil || status.IsError() {
			return
		}
		exchanges += status.Data["exchanges"].(int64)
		line := fmt.Sprintf("snowplow_token_reads_total{path=%q} %d\n", path, reads)
		m.never(status.Data["reads"] != reads || status.Data["stale"] != stale || reads > 0 && !strings.Contains(metrics.Data[logical.HTTPRawBody].(string), line),
			"counters", "%s: %d reads and %d stale, seen were %d and %d; metrics should say %s", path, status.Data["reads"], status.Data["stale"], reads, stale, line)
	}
	for _, e := range m.exchanges {
		if e.load == load && e.write == nil {
			exchanges--
		}
	}
	m.never(exchanges != 0, "counters", "%d more exchanges counted than seen", exchanges)
}
