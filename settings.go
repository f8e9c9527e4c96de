package snowplow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/semaphore"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

// settings are config and the roles as loaded into memory. A write to config replaces them whole, so that nothing of
// the old config is used by mistake; reads under way finish with the old ones.
type settings struct {
	newClient func(ctx context.Context, caCert string) (*console.Client, error)
	closed    atomic.Bool
	config    *lazy[connection]
	roles     sync.Map // role name, empty for reads without a role, to *lazy[resolvedRole]
}

// connection is config, ready for use.
type connection struct {
	configEntry

	client *console.Client
}

// resolvedRole is a role merged with config, or config itself: all that a read needs.
type resolvedRole struct {
	name       string // empty: config itself
	target     target
	key        tokencache.Key // of the JWTs
	ttl        time.Duration
	reuse      time.Duration
	connection *connection
	refusal    error // why the credential cannot be used; nil: it can
}

// ownCredential reports whether the credential is the role's own.
func (r *resolvedRole) ownCredential() bool { return r.key.Path != configStorageKey }

// source returns the value of credential_source.
func (r *resolvedRole) source() string {
	if r.ownCredential() {
		return sourceRole
	}
	return sourceConfig
}

// lazy is a value that is loaded on first use. A load that fails is tried again by the next caller.
type lazy[T any] struct {
	loaded  atomic.Pointer[T]
	loading *semaphore.Weighted
}

func newLazy[T any]() *lazy[T] { return &lazy[T]{loading: semaphore.NewWeighted(1)} }

func (l *lazy[T]) get(ctx context.Context, load func() (*T, error)) (*T, error) {
	if value := l.loaded.Load(); value != nil {
		return value, nil
	}
	if err := l.loading.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("waiting for the configuration: %w", err)
	}
	defer l.loading.Release(1)
	if value := l.loaded.Load(); value != nil {
		return value, nil
	}
	value, err := load()
	if err != nil {
		return nil, err
	}
	l.loaded.Store(value)
	return value, nil
}

// close closes idle connections. Exchanges under way finish first.
func (s *settings) close() {
	s.closed.Store(true)
	if c := s.config.loaded.Load(); c != nil {
		c.client.Close()
	}
}

// connection returns config; only the first call reads storage.
func (s *settings) connection(ctx context.Context, storage logical.Storage) (*connection, error) {
	c, err := s.config.get(ctx, func() (*connection, error) {
		entry, err := loadConfig(ctx, storage)
		if err != nil {
			return nil, err
		}
		if entry == nil {
			return nil, errConfigNotWritten
		}
		client, err := s.newClient(ctx, entry.CACert)
		if err != nil {
			return nil, err
		}
		return &connection{configEntry: *entry, client: client}, nil
	})
	if err == nil && s.closed.Load() { // while it was loaded
		c.client.Close()
	}
	return c, err
}

// roleFor returns what a request to token or status needs.
func (s *settings) roleFor(ctx context.Context, req *logical.Request, data *framework.FieldData) (*resolvedRole, error) {
	name, err := readRoleName(req, data)
	if err != nil {
		return nil, err
	}
	return s.role(ctx, req, name)
}

// role returns what reads of a role need, or reads without one if name is empty; only the first call reads storage.
func (s *settings) role(ctx context.Context, req *logical.Request, name string) (*resolvedRole, error) {
	// The placeholder goes into the map before storage is read. A write removes it, so a reader that raced the
	// write fills a placeholder that is no longer in the map.
	placeholder, ok := s.roles.Load(name)
	if !ok {
		placeholder, _ = s.roles.LoadOrStore(name, newLazy[resolvedRole]())
	}
	role, err := placeholder.(*lazy[resolvedRole]).get(ctx, func() (*resolvedRole, error) { return s.resolve(ctx, req, name) })
	if err != nil {
		// Keep no placeholder for a name that does not exist: there is no limit to those.
		s.roles.CompareAndDelete(name, placeholder)
	}
	return role, err
}

func (s *settings) resolve(ctx context.Context, req *logical.Request, name string) (*resolvedRole, error) {
	stored := entries{name: name}
	var err error
	if name != "" {
		if stored.role, err = loadRole(ctx, req.Storage, name); err != nil {
			return nil, err
		}
		if stored.role == nil {
			return nil, unknownRole(req.MountPoint, name)
		}
	}
	connection, err := s.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	stored.config = &connection.configEntry
	path, to := stored.path(), stored.target()
	if (to == target{}) { // the role has no credential of its own
		path, to = configStorageKey, entries{config: stored.config}.target()
	}
	r := &resolvedRole{
		name:       name,
		target:     to,
		key:        to.key(path),
		ttl:        connection.TTL,
		reuse:      stored.reusePeriod(),
		connection: connection,
	}
	if stored.role != nil && stored.role.TTL != nil {
		r.ttl = *stored.role.TTL
	}
	if (to == target{}) {
		r.refusal = noCredential(req.MountPoint, name)
	} else if err := to.credential.MayGoTo(to.endpoints); err != nil {
		r.refusal = invalidf("the credential of %s cannot be used: %w", path, err)
	}
	return r, nil
}

// noCredential is the error of a read that needs the credential of config, which has none.
func noCredential(mount, role string) error {
	write := fmt.Sprintf("'vault write %sconfig api_key_id=<ID> api_key=@<file>', %s", mount, orAsk)
	if role == "" {
		return invalidf("config has no credential: read token/<role> of a role that has one, or write one with %s", write)
	}
	return invalidf("role %q has no credential of its own, and config has none: write one with 'vault write %sroles/%s api_key_id=<ID> api_key=@<file>', or with %s", role, mount, role, write)
}

// The values of state, from good to bad.
const (
	stateIdle    = "idle"    // nothing read yet
	stateOK      = "ok"      //
	stateStale   = "stale"   // Console fails, readers get the cached JWT
	stateFailing = "failing" // reads fail and may recover by themselves
	stateRefused = "refused" // someone has to act
)

var states = []string{stateIdle, stateOK, stateStale, stateFailing, stateRefused}

// state sums up whether reads work.
func (r *resolvedRole) state(cached tokencache.State, counted counters) string {
	failure := cached.Failure
	switch {
	case r.refusal != nil, failure != nil && !failure.Transient():
		return stateRefused
	case cached.Stale:
		return stateStale
	case failure != nil && !cached.Usable:
		return stateFailing
	case counted.reads == 0:
		return stateIdle
	default:
		return stateOK
	}
}

// stats counts what happened on one path, token or token/<role>, since the plugin started.
type stats struct {
	mu sync.Mutex
	counters
}

type counters struct {
	reads         int64 // of a JWT, successful or not
	reused        int64 // reads answered with a JWT from another read's exchange
	stale         int64 // reads answered with a cached JWT because there was no newer one
	exchanges     int64 // made for these reads
	failures      map[console.Reason]int64
	duration      time.Duration // of all exchanges
	lastAt        time.Time
	lastDuration  time.Duration
	lastSuccessAt time.Time
	lastError     string
	lastErrorAt   time.Time
}

// read notes a read.
func (s *stats) read() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
}

// answered notes that a read was given a JWT.
func (s *stats) answered(served tokencache.Served) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case served.Stale != "":
		s.stale++
	case !served.Exchanged:
		s.reused++
	}
}

// exchanged notes one exchange that began at start. Any error other than a *console.Error means that the reader gave up
// or the mount was unloaded.
func (s *stats) exchanged(start time.Time, duration time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exchanges++
	s.duration += duration
	s.lastAt, s.lastDuration = start, duration
	var failed *console.Error
	switch {
	case errors.As(err, &failed):
		if s.failures == nil {
			s.failures = map[console.Reason]int64{}
		}
		s.failures[failed.Reason]++
		s.lastError, s.lastErrorAt = failed.Error(), start.Add(duration)
	case err == nil:
		s.lastSuccessAt = start.Add(duration)
	}
}

// snapshot returns the counters as they are now.
func (s *stats) snapshot() counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	counted := s.counters
	counted.failures = maps.Clone(s.failures)
	return counted
}

// timestamp writes a time as answers do: RFC 3339 in UTC, nil for none.
func timestamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}
