package snowplow

// A model check of the whole engine: random schedules of reads, writes, deletes, replicated changes, sweeps and
// restarts, with a Console and a storage that fail and dawdle, in the fake time of synctest. What readers, Console and
// storage saw is then held against the contract, in model_check_test.go. A schedule that breaks it is shrunk.
//
//	make model SEEDS=20000 FROM=1000

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

// modelOp is one step of a schedule.
type modelOp struct {
	gap      time.Duration // fake time before it
	settle   bool          // let all that can run do so before it
	kind     string
	path     string // a request's path; where a stored credential is, for changes that are no request
	key      string // ID of the key to write
	value    string
	duration time.Duration
	verify   bool
	weather  []modelOutcome
	faults   modelFaults
}

func (o modelOp) String() string {
	s := fmt.Sprintf("+%-8s", o.gap)
	if o.settle {
		s += " settle,"
	}
	s += " " + o.kind
	for _, part := range []string{o.path, o.key, o.value} {
		if part != "" {
			s += " " + part
		}
	}
	if o.duration != 0 {
		s += " " + o.duration.String()
	}
	if o.verify {
		s += " verified"
	}
	if o.weather != nil {
		s += fmt.Sprint(": ", o.weather)
	}
	if o.kind == "storage" {
		s += ":" + o.faults.String()
	}
	return s
}

// modelRun is a step that was carried out.
type modelRun struct {
	modelOp
	load             int // of the mount
	began, ended     int64
	beganAt, endedAt time.Time
	data             map[string]any // of a write
	err              string
	reached          bool // a write: storage was, or may have been, changed

	got       *modelExchange // the exchange whose JWT a read brought
	lease     time.Duration
	warning   string
	answer    map[string]any
	impatient bool // its context may end before it is answered
	lost      bool // the mount crashed under it
	views     []modelView
}

func (r *modelRun) String() string {
	result := r.err
	if r.got != nil {
		result = fmt.Sprintf("the JWT of exchange %d", r.got.number)
		if r.warning != "" {
			result += ", " + r.warning
		}
	}
	return fmt.Sprintf("%s %s from %s to %s: %s", r.kind, r.path, modelClock(r.beganAt), modelClock(r.endedAt), result)
}

type modelRunKey struct{}

// modelLoad is one life of the plugin's process.
type modelLoad struct {
	began, ended     int64 // ticks; ended is 0 for the last one
	beganAt, endedAt time.Time
	ending           bool
	storage          *modelStorage
}

// model is one schedule being played, and all that was seen of it.
type model struct {
	mount    *mount
	disk     *logical.InmemStorage
	sequence atomic.Int64

	mu         sync.Mutex // guards all below; not held while fake time passes
	rand       *rand.Rand
	weather    []modelOutcome
	requests   int
	faults     modelFaults
	troubled   []modelSpan
	underway   map[<-chan struct{}]*modelExchange
	issued     map[string]*modelExchange
	exchanges  []*modelExchange
	runs       []*modelRun
	loads      []*modelLoad
	configs    []modelVersion[configEntry]
	roles      map[string][]modelVersion[roleEntry]
	tokens     map[string][]modelVersion[tokenEntry]
	violations []string
}

// modelSpan is a time in which storage was out of order.
type modelSpan struct {
	from, to time.Time
	faults   modelFaults
}

// tick orders events; those of the same fake time too, as far as they are the model's own.
func (m *model) tick() int64 { return m.sequence.Add(1) }

func (m *model) random(n int) int { return m.rand.IntN(n) }

// violation notes that the contract was broken. The class is what a shrunk schedule must still show.
func (m *model) violation(class, format string, args ...any) {
	m.violations = append(m.violations, class+": "+fmt.Sprintf(format, args...))
}

var modelPaths = []string{"token", "token/r0", "token/r1"}

// credentialPath is where the credential of a read of path is stored, if the role has one of its own.
func credentialPath(path string) string {
	if role, isRole := strings.CutPrefix(path, "token/"); isRole {
		return roleStoragePrefix + role
	}
	return configStorageKey
}

// load mounts the engine on what storage holds.
func (m *model) load() {
	m.mu.Lock()
	if n := len(m.loads); n > 0 {
		m.loads[n-1].ended, m.loads[n-1].endedAt = m.tick(), time.Now()
	}
	l := &modelLoad{began: m.tick(), beganAt: time.Now(), storage: &modelStorage{m: m}}
	m.loads = append(m.loads, l)
	number := len(m.loads) - 1
	m.mu.Unlock()
	m.mount.storage = &faultyStorage{Storage: l.storage}
	m.mount.transport = modelConsole{m, number}
	m.mount.start()
}

// crash ends the process at once: of what it does from now on nothing reaches storage.
func (m *model) crash() {
	m.mu.Lock()
	l := m.loads[len(m.loads)-1]
	l.storage.cut, l.ending = true, true
	m.mu.Unlock()
	m.mount.stop()
	m.load()
}

// restart unloads the mount first, as Vault does for an upgrade.
func (m *model) restart() {
	m.mu.Lock()
	m.loads[len(m.loads)-1].ending = true
	m.mu.Unlock()
	m.mount.stop()
	synctest.Wait()
	m.crash()
}

// latest is what storage holds of config and of a role.
func (m *model) latest(role string) (*configEntry, *roleEntry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var config *configEntry
	var entry *roleEntry
	if n := len(m.configs); n > 0 {
		config = m.configs[n-1].entry
	}
	if n := len(m.roles[role]); n > 0 {
		entry = m.roles[role][n-1].entry
	}
	return config, entry
}

// begin carries out a step. What it returns is to be run in a goroutine of its own.
func (m *model) begin(op modelOp) func() {
	b, storage := m.mount.backend, m.mount.storage
	r := &modelRun{modelOp: op, load: len(m.loads) - 1}
	m.mu.Lock()
	m.runs = append(m.runs, r)
	m.mu.Unlock()
	return func() {
		m.yield()
		r.began, r.beganAt = m.tick(), time.Now()
		resp, err := m.run(r, b, storage)
		r.ended, r.endedAt = m.tick(), time.Now()
		m.mu.Lock()
		defer m.mu.Unlock()
		switch {
		case err != nil:
			r.err = err.Error()
		case resp.IsError():
			r.err = resp.Error().Error()
		case r.kind == "read":
			r.got = m.issued[resp.Data["access_token"].(string)]
			r.lease, r.answer = resp.Secret.TTL, resp.Data
			r.warning = strings.Join(resp.Warnings, "; ")
		}
		r.reached = r.err == "" || strings.Contains(r.err, errModelSettings.Error())
		r.lost = m.loads[r.load].ending
	}
}

func (m *model) run(r *modelRun, b *backend, storage logical.Storage) (*logical.Response, error) {
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), modelRunKey{}, r), 10*time.Minute)
	defer cancel()
	request := func(operation logical.Operation, path string) (*logical.Response, error) {
		req := &logical.Request{Operation: operation, Path: path, MountPoint: "snowplow/", Storage: storage, Data: r.data}
		return b.HandleRequest(ctx, req)
	}
	write := func(path string, data map[string]any) (*logical.Response, error) {
		data["verify_connection"] = r.verify
		r.data = data
		var operation logical.Operation = logical.UpdateOperation
		if r.kind == "remove key" {
			operation = logical.PatchOperation
		}
		return request(operation, path)
	}
	if strings.HasPrefix(r.kind, "replicated") {
		// No node is told of another's write while it stores one itself.
		unlock, err := b.lockWrites(ctx)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	config, role := m.latest(r.path)
	switch r.kind {
	case "read":
		if r.impatient = r.duration != 0; r.impatient {
			patient, leave := context.WithTimeout(ctx, max(0, r.duration))
			defer leave()
			ctx = patient
		}
		return request(logical.ReadOperation, r.path)
	case "forget":
		return request(logical.DeleteOperation, r.path)
	case "status":
		return request(logical.ReadOperation, strings.Replace(r.path, "token", "status", 1))
	case "sweep":
		patient, leave := context.WithTimeout(ctx, 90*time.Second)
		defer leave()
		return nil, b.PeriodicFunc(patient, &logical.Request{Storage: storage})
	case "key", "key and url":
		data := map[string]any{"api_key_id": r.key, "api_key": modelAPIKey(r.path, r.key)}
		if r.path == configStorageKey && (config == nil || r.kind == "key and url") {
			data["organization_id"], data["console_url"] = "org-a", r.value
		}
		return write(r.path, data)
	case "console_url", "organization_id":
		return write(r.path, map[string]any{r.kind: r.value})
	case "ttl", "reuse_period", "request_timeout":
		return write(r.path, map[string]any{r.kind: int(r.duration.Seconds())})
	case "remove key":
		return write(r.path, map[string]any{"api_key": nil})
	case "delete":
		return request(logical.DeleteOperation, r.path)
	case "replicated key":
		// Another node has written: storage holds the result, and this one is told.
		var cred *console.Credential
		if config != nil && r.path == configStorageKey {
			changed := *config
			config, cred = &changed, &changed.Credential
		} else if role != nil && role.Credential != nil {
			changed, credential := *role, *role.Credential
			changed.Credential = &credential
			role, cred = &changed, &credential
		}
		if cred == nil || cred.Empty() {
			return nil, errors.New("nothing to replicate")
		}
		cred.APIKeyID, cred.APIKey, cred.ID = redact.NewSecret(r.key), redact.NewSecret(modelAPIKey(r.path, r.key)), fmt.Sprint("replicated-", r.began)
		var entry any = role
		if r.path == configStorageKey {
			entry = config
		}
		encoded, err := logical.StorageEntryJSON(r.path, entry)
		if err != nil {
			return nil, err
		}
		m.mu.Lock()
		_ = m.disk.Put(ctx, encoded)
		m.stored(ctx, r.path, encoded)
		m.mu.Unlock()
		b.InvalidateKey(ctx, r.path)
	case "replicated delete":
		m.mu.Lock()
		_ = m.disk.Delete(ctx, r.path)
		m.stored(ctx, r.path, nil)
		m.mu.Unlock()
		b.InvalidateKey(ctx, r.path)
	case "damage": // of a stored JWT
		m.rewriteToken(ctx, r.path, func(*tokenEntry) any { return "damaged" })
	case "future": // a stored JWT from a node whose clock is ahead
		m.rewriteToken(ctx, r.path, func(e *tokenEntry) any {
			by := m.issued[e.Token.Bearer.Reveal()]
			if by == nil || by.write != nil || by.ahead > 0 {
				return e
			}
			by.ahead, by.aheadIn = r.duration, r.load
			e.Token.ObtainedAt, e.Token.Validity = e.Token.ObtainedAt.Add(r.duration), e.Token.Validity-r.duration
			return e
		})
	}
	return nil, nil
}

func (m *model) rewriteToken(ctx context.Context, path string, change func(*tokenEntry) any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	versions := m.tokens[path]
	if len(versions) == 0 || versions[len(versions)-1].entry == nil {
		return
	}
	changed := *versions[len(versions)-1].entry
	entry, err := logical.StorageEntryJSON(tokenStoragePrefix+path, change(&changed))
	if err != nil {
		return
	}
	_ = m.disk.Put(ctx, entry)
	m.stored(ctx, entry.Key, entry)
	now := time.Now()
	m.troubled = append(m.troubled, modelSpan{from: now, to: now.Add(1000 * time.Hour)})
}

func (m *model) setFaults(faults modelFaults) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for i := range m.troubled {
		if s := &m.troubled[i]; s.faults.any() && s.to.After(now) {
			s.to = now
		}
	}
	if m.faults = faults; faults.any() {
		m.troubled = append(m.troubled, modelSpan{now, now.Add(1000 * time.Hour), faults})
	}
}

// play plays a schedule, and returns how the contract was broken.
func play(t *testing.T, seed uint64, ops []modelOp) (violations []string, seen modelSeen) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &model{
			mount:    &mount{t: t, logs: &syncBuffer{}},
			disk:     &logical.InmemStorage{},
			rand:     rand.New(rand.NewPCG(seed, 1)),
			weather:  []modelOutcome{{kind: "ok", validity: 24 * time.Hour, latency: 100 * time.Millisecond}},
			underway: map[<-chan struct{}]*modelExchange{},
			issued:   map[string]*modelExchange{},
			configs:  []modelVersion[configEntry]{{}},
			roles:    map[string][]modelVersion[roleEntry]{"roles/r0": {{}}, "roles/r1": {{}}},
			tokens:   map[string][]modelVersion[tokenEntry]{},
		}
		m.load()
		defer func() { m.mount.stop() }()
		m.begin(modelOp{kind: "key", path: "config", key: "k0", value: modelURLs[0]})()

		var wg sync.WaitGroup
		for _, op := range ops {
			time.Sleep(op.gap)
			if op.settle {
				synctest.Wait()
			}
			switch op.kind {
			case "console":
				m.mu.Lock()
				m.weather = op.weather
				m.mu.Unlock()
			case "storage":
				m.setFaults(op.faults)
			case "crash", "restart":
				synctest.Wait()
				if op.kind == "crash" {
					m.crash()
				} else {
					m.restart()
				}
			default:
				wg.Go(m.begin(op))
			}
		}
		wg.Wait()
		m.setFaults(modelFaults{})
		time.Sleep(2 * maxRequestTimeout) // exchanges that nobody waits for end
		m.begin(modelOp{kind: "sweep"})()
		m.begin(modelOp{kind: "sweep"})()
		synctest.Wait()
		m.checkLeft()
		time.Sleep(30 * time.Hour)
		m.begin(modelOp{kind: "sweep"})()
		m.begin(modelOp{kind: "sweep"})()
		synctest.Wait()
		m.checkNothingLeft()
		m.mount.stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		m.checkGoroutines()
		m.check()
		violations, seen = m.violations, m.seen()
	})
	return violations, seen
}

// checkGoroutines finds what runs on after the mount has ended.
func (m *model) checkGoroutines() {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	all := strings.Split(string(stacks), "\n\n")
	_, bubble, _ := strings.Cut(strings.SplitN(all[0], "\n", 2)[0], "synctest bubble ")
	bubble, _, _ = strings.Cut(bubble, "]")
	for _, g := range all[1:] {
		if strings.Contains(strings.SplitN(g, "\n", 2)[0], "synctest bubble "+bubble+"]") && strings.Contains(g, "vault-plugin-secrets-snowplow") &&
			!strings.Contains(g, "synctest.Run") {
			m.violation("goroutine-left", "still running after the mount ended:\n%s", g)
		}
	}
}

var modelURLs = []string{"http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:1/a", "http://127.0.0.1:2/a"}

// schedule draws a schedule.
func schedule(seed uint64) []modelOp {
	r := rand.New(rand.NewPCG(seed, 7))
	one := func(in int) bool { return r.IntN(in) == 0 }
	seconds := func(of ...float64) time.Duration { return time.Duration(of[r.IntN(len(of))] * float64(time.Second)) }
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	keys := 0
	key := func() string {
		if r.IntN(10) < 4 {
			return pick("p0", "p1") // again and again
		}
		keys++
		return fmt.Sprint("k", keys)
	}
	outcome := func() modelOutcome {
		o := modelOutcome{
			kind:     pick("ok", "ok", "ok", "ok", "refused", "unavailable", "unavailable", "limited", "silent", "malformed", "unknown"),
			latency:  seconds(0, 0, 0.001, 0.1, 0.9, 2, 3, 7, 25, 40),
			validity: seconds(86400, 86400, 86400, 7200, 300, 90, 30, 3, 1),
		}
		if o.kind == "unavailable" && one(2) || o.kind == "limited" && !one(4) {
			o.retryAfter = seconds(1, 3, 20, 42, 200, 1000)
		}
		return o
	}
	// What a schedule may hold, so that rare things do not spoil all of them.
	withoutReuse, deletes := one(3), one(2)
	calm := one(3)  // Console is slow at times, but up
	small := one(4) // readers of one path, and few writes
	restarts := !one(3)
	tokensFail, settingsFail := one(2), one(8)
	paths := modelPaths
	if small {
		paths = []string{pick(modelPaths...)}
	}
	roles := []string{"roles/r0", "roles/r1"}
	entry := func() string {
		if one(2) {
			return "config"
		}
		return pick(roles...)
	}
	allowed := func(op modelOp) bool {
		switch op.kind {
		case "crash", "restart":
			return restarts
		case "storage":
			return tokensFail
		case "delete", "replicated delete":
			return deletes
		case "reuse_period":
			return withoutReuse || op.duration > 0
		}
		return true
	}
	var ops []modelOp
	add := func(op modelOp) { ops = append(ops, op) }
	if one(2) {
		add(modelOp{kind: "key", path: "roles/r0", key: "p0"})
	}
	if one(2) {
		add(modelOp{kind: "ttl", path: "roles/r1", duration: 30 * time.Minute})
	}
	for n := 30 + r.IntN(90); len(ops) < n; {
		op := modelOp{
			gap:    seconds(0, 0, 0, 0, 0, 0.000001, 0.01, 0.3, 0.99, 1.1, 3, 5, 11, 40, 600, 2400, 3600, 18000),
			settle: one(3),
		}
		if one(12) {
			ops = append(ops, motif(r, key, allowed)...)
			continue
		}
		n := r.IntN(100)
		if small && n >= 80 && !one(3) {
			n = 0
		}
		switch {
		case n < 50:
			op.kind, op.path = "read", paths[r.IntN(len(paths))]
			switch r.IntN(12) {
			case 0, 1:
				op.duration = seconds(0.001, 0.5, 2.5)
			case 2:
				op.duration = -1 // gone before it is heard
			}
		case n < 53:
			op.kind, op.path = "forget", paths[r.IntN(len(paths))]
		case n < 56:
			op.kind = "sweep"
		case n < 57:
			op.kind, op.path = "status", paths[r.IntN(len(paths))]
		case n < 70:
			op.kind = "console"
			for range 1 + r.IntN(4) {
				o := outcome()
				if calm {
					o.kind, o.retryAfter = "ok", 0
				}
				op.weather = append(op.weather, o)
			}
			if one(4) { // a rush of readers
				add(op)
				path := paths[r.IntN(len(paths))]
				for range 2 + r.IntN(5) {
					add(modelOp{kind: "read", path: path})
				}
				continue
			}
		case n < 74:
			if !tokensFail {
				continue
			}
			op.kind = "storage"
			op.faults = modelFaults{map[string]int{}, map[string]time.Duration{}}
			for _, verb := range []string{"get", "put", "delete", "list"} {
				if one(3) {
					op.faults.failing[verb] = []int{30, 100}[r.IntN(2)]
				}
				if one(3) {
					op.faults.slow[verb] = seconds(0.001, 0.3, 0.9, 1.5, 4, 20)
				}
				if settingsFail && one(4) {
					op.faults.failing["settings "+verb] = []int{30, 100}[r.IntN(2)]
				}
			}
			if one(3) {
				op.faults = modelFaults{}
			}
		case n < 78:
			if !restarts {
				continue
			}
			op.kind = pick("crash", "restart")
		case n < 79:
			op.kind, op.path = pick("damage", "future"), entry()
			op.duration = 2 * time.Hour
		case n < 84:
			op.kind, op.path, op.key, op.verify = "key", entry(), key(), one(2)
			op.value = modelURLs[0]
		case n < 86:
			op.kind, op.path, op.key, op.value = "key and url", "config", key(), pick(modelURLs...)
			op.verify = one(3)
		case n < 87:
			op.kind, op.path, op.value = "console_url", "config", pick(modelURLs...)
		case n < 88:
			op.kind, op.path, op.value = "organization_id", "config", pick("org-a", "org-b")
		case n < 90:
			op.kind, op.path, op.duration = "ttl", entry(), seconds(60, 3600)
			op.verify = one(2)
		case n < 92:
			op.kind, op.path, op.duration = "reuse_period", entry(), seconds(5, 20, 60, 3600, 360000)
			if withoutReuse && one(2) {
				op.duration = 0
			}
		case n < 93:
			op.kind, op.path, op.duration = "request_timeout", "config", seconds(1, 10, 30, 80)
		case n < 96:
			op.kind, op.path, op.key = "replicated key", entry(), key()
		case n < 97:
			op.kind, op.path = "remove key", entry()
			if op.path == "config" && !one(3) {
				continue
			}
		default:
			if !deletes {
				continue
			}
			op.kind, op.path = pick("delete", "replicated delete"), entry()
			if op.path == "config" && !one(3) {
				continue
			}
		}
		add(op)
		if op.path == "config" && (op.kind == "delete" || op.kind == "replicated delete" || op.kind == "remove key") {
			add(modelOp{gap: seconds(0, 0.3, 40), kind: "key", path: "config", key: key(), value: modelURLs[0]})
		}
	}
	return ops
}

// motif draws steps that belong together, and that chance alone would seldom bring together.
func motif(r *rand.Rand, key func() string, allowed func(modelOp) bool) []modelOp {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	// Until the next step; for what the steps show, the order matters, not the time.
	gap := func() time.Duration {
		return []time.Duration{0, time.Millisecond, time.Second, 30 * time.Second}[r.IntN(4)]
	}
	after := func(gap time.Duration, op modelOp) modelOp {
		op.gap = gap
		return op
	}
	path := modelPaths[r.IntN(2)] // of config's token, or of a role's
	entry := credentialPath(path)
	write := func(key string, verify bool) modelOp {
		return modelOp{kind: "key", path: entry, key: key, value: modelURLs[0], verify: verify}
	}
	config := func(field string, value string, duration time.Duration) modelOp {
		return modelOp{kind: field, path: configStorageKey, value: value, duration: duration}
	}
	answers := func(outcomes ...modelOutcome) modelOp { return modelOp{kind: "console", weather: outcomes} }
	up := func(latency time.Duration) modelOp {
		return answers(modelOutcome{kind: "ok", latency: latency, validity: 24 * time.Hour})
	}
	down := answers(modelOutcome{kind: pick("silent", "unavailable", "refused")})
	slow := func(verb string) modelOp {
		return modelOp{kind: "storage", faults: modelFaults{slow: map[string]time.Duration{verb: 4 * time.Second}}}
	}
	fails := func(verb string) modelOp {
		return modelOp{kind: "storage", faults: modelFaults{failing: map[string]int{verb: 100}}}
	}
	works := modelOp{kind: "storage"}
	read, forget := modelOp{kind: "read", path: path}, modelOp{kind: "forget", path: path}
	crash := modelOp{gap: gap(), kind: pick("crash", "restart")}
	const soon = time.Millisecond

	var steps []modelOp
	switch r.IntN(15) {
	case 0: // what a leader leaves to the next one in an outage
		steps = []modelOp{up(soon), read, {gap: gap(), kind: pick("read", "forget"), path: path}, down, crash, read, read}
	case 1: // a verified key, and at once another leader
		steps = []modelOp{up(soon), write(key(), true), crash, down, read, read}
	case 2: // a JWT that is still on its way into storage, or cannot be deleted there, when it is forgotten
		trouble := slow("put")
		if r.IntN(2) == 0 {
			trouble = fails("delete")
		}
		steps = []modelOp{up(soon), trouble, read, after(time.Second, forget), works, down, crash, read}
	case 3: // an old JWT that leaves storage slowly when a new one comes
		steps = []modelOp{up(100 * time.Millisecond), read, slow("delete"), write(key(), false), after(soon, write(key(), false)),
			after(time.Second, read), after(5*time.Second, read), works}
	case 4: // an exchange with an old key that ends after one with the new key
		steps = []modelOp{up(3 * time.Second), write(key(), false), read, after(time.Second, write(key(), false)), up(soon), read,
			after(3*time.Second, read), down, crash, read}
	case 5: // console_url there and back
		steps = []modelOp{up(soon), write(key(), false), read, after(time.Second, config("console_url", modelURLs[2], 0)), after(gap(), forget),
			after(gap(), config("console_url", modelURLs[0], 0))}
		if r.IntN(2) == 0 {
			steps = append(steps, crash)
		}
		steps = append(steps, read)
	case 6: // writes and readers at once
		steps = []modelOp{up(soon), read, read, write(key(), false), read, read, after(time.Second, read),
			write(key(), false), read, read, read, after(time.Second, read)}
	case 7: // a verification that others overtake
		steps = []modelOp{up(3 * time.Second), write(key(), true),
			{gap: time.Second, kind: pick("ttl", "reuse_period", "key", "delete"), path: pick(entry, configStorageKey), key: key(), value: modelURLs[0], duration: time.Hour},
			{gap: gap(), kind: pick("ttl", "delete", "replicated key"), path: entry, key: key(), duration: time.Minute}}
	case 8: // a verification that shows that the stored key is refused
		steps = []modelOp{up(soon), write("p0", false), read, after(gap(), answers(modelOutcome{kind: "refused"})), write("p0", true), after(soon, read), after(20*time.Second, read)}
	case 9: // failures in parallel, the first of which asks for a long wait
		steps = []modelOp{answers(modelOutcome{kind: "limited", latency: time.Second, retryAfter: 200 * time.Second}, modelOutcome{kind: pick("ok", "unavailable"), latency: 2 * time.Second, validity: 30 * time.Second}),
			read, after(100*time.Millisecond, forget), read, after(40*time.Second, read), after(20*time.Second, read)}
	case 10: // delete during one exchange after another
		steps = []modelOp{answers(modelOutcome{kind: "silent"})}
		for range 4 {
			steps = append(steps, read, after(100*time.Millisecond, forget))
		}
		steps = append(steps, read)
	case 11: // a key that is verified without reuse
		steps = []modelOp{up(soon), config("reuse_period", "", 0), after(soon, write(key(), true)), after(soon, read), read}
		if entry == configStorageKey {
			steps = append(steps, after(time.Second, config("reuse_period", "", time.Hour)))
		}
	case 12: // a refusal, and at once another leader
		steps = []modelOp{up(soon), write(key(), false), read, after(2*time.Hour, answers(modelOutcome{kind: "refused"})), read, crash, answers(modelOutcome{kind: "silent"}), read}
	case 13: // an exchange that fails after a newer one has brought a JWT
		steps = []modelOp{up(soon), write(key(), false), read,
			after(2*time.Hour, answers(modelOutcome{kind: "unavailable", latency: 1500 * time.Millisecond}, modelOutcome{kind: "ok", latency: 500 * time.Millisecond, validity: 24 * time.Hour})),
			read, after(100*time.Millisecond, forget), after(soon, read)}
	default: // failures in a row, and an end to them
		steps = []modelOp{up(soon), write(key(), false), read, after(2*time.Hour, down), read}
		for range 1 + r.IntN(9) {
			steps = append(steps, after(time.Duration(1+r.IntN(70))*time.Second, read))
		}
		steps = append(steps, modelOp{gap: gap(), kind: "ttl", path: pick(configStorageKey, entry), duration: time.Hour}, up(time.Second), read, read)
	}
	return slices.DeleteFunc(steps, func(op modelOp) bool { return !allowed(op) })
}

func classOf(violation string) string {
	class, _, _ := strings.Cut(violation, ":")
	return class
}

// shows reports whether a schedule breaks the contract in this way. The order of goroutines differs from play to play,
// so one play says little.
func shows(t *testing.T, seed uint64, ops []modelOp, class string) (violation string) {
	t.Helper()
	for range 4 {
		violations, _ := play(t, seed, ops)
		for _, v := range violations {
			if classOf(v) == class {
				return v
			}
		}
	}
	return ""
}

// shrink removes from a schedule what is not needed to break the contract in this way.
func shrink(t *testing.T, seed uint64, ops []modelOp, class string, until time.Time) []modelOp {
	t.Helper()
	tries := func(candidate []modelOp) bool {
		return time.Now().Before(until) && shows(t, seed, candidate, class) != ""
	}
	for size := len(ops) / 2; size >= 1; {
		removed := false
		for at := 0; at+size <= len(ops); {
			if candidate := slices.Concat(ops[:at], ops[at+size:]); tries(candidate) {
				ops, removed = candidate, true
			} else {
				at += size
			}
		}
		if !removed || size > 1 {
			size /= 2
		}
	}
	for i := range ops { // rounder gaps
		for _, gap := range []time.Duration{0, time.Second} {
			candidate := slices.Clone(ops)
			candidate[i].gap = gap
			if gap < ops[i].gap && tries(candidate) {
				ops = candidate
				break
			}
		}
	}
	return ops
}

// modelSeen counts what a schedule has exercised.
type modelSeen struct {
	reads, served, stale, slow, refused, restarted, exchanges, background int
}

func (s *modelSeen) add(other modelSeen) {
	s.reads += other.reads
	s.served += other.served
	s.stale += other.stale
	s.slow += other.slow
	s.refused += other.refused
	s.restarted += other.restarted
	s.exchanges += other.exchanges
	s.background += other.background
}

func numberFrom(t *testing.T, variable string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return fallback
	}
	number, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, variable)
	return number
}

func TestNoScheduleBreaksTheContract(t *testing.T) {
	t.Parallel()
	seeds, from := numberFrom(t, "MODEL_SEEDS", 200), numberFrom(t, "MODEL_FROM", 0)
	require.Positive(t, seeds, "MODEL_SEEDS")
	var all modelSeen
	for seed := from; seed < from+seeds; seed++ {
		violations, seen := play(t, seed, schedule(seed))
		all.add(seen)
		if done := seed + 1 - from; done%1000 == 0 && done < seeds {
			t.Logf("%d of %d schedules", done, seeds)
		}
		if len(violations) == 0 {
			continue
		}
		class := classOf(violations[0])
		ops := shrink(t, seed, schedule(seed), class, time.Now().Add(time.Minute))
		var steps strings.Builder
		for _, op := range ops {
			fmt.Fprintln(&steps, "   ", op)
		}
		last := shows(t, seed, ops, class)
		if last == "" {
			last = violations[0] + " (in the whole schedule)"
		}
		t.Fatalf("schedule %d breaks the contract:\n%s=> %s\nagain: make model SEEDS=1 FROM=%d", seed, steps.String(), last, seed)
	}
	t.Logf("%d schedules: %+v", seeds, all)
	if seeds >= 100 {
		for what, count := range map[string]int{
			"stale JWTs": all.stale, "waits that were cut short": all.slow, "refusals": all.refused,
			"JWTs from before a restart": all.restarted, "refreshes ahead": all.background,
		} {
			require.Positive(t, count, "these schedules show no %s: the model checks nothing there", what)
		}
	}
}
