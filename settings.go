package snowplow

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/semaphore"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

// settings are config and the roles as loaded into memory. A write to config replaces them whole, so that nothing of
// the old config is used by mistake; readers who hold the old ones finish with them.
type settings struct {
	newClient func(ctx context.Context, caCert string) (*console.Client, error)
	statsOf   func(role string) *stats

	closed atomic.Bool
	config *lazy[connection]
	roles  sync.Map // role name to *lazy[resolvedRole]; empty for reads without a role
}

// connection is config, ready for use.
type connection struct {
	configEntry

	client *console.Client
}

// resolvedRole is a role merged with config, or config itself: all that a read needs.
type resolvedRole struct {
	name       string // empty: config itself
	credential console.Credential
	key        tokencache.Key // of the JWTs
	ttl        time.Duration
	reuse      time.Duration
	connection *connection
	stats      *stats
	refusal    error // why the credential cannot be used; nil: it can
}

// String keeps the secrets out of whatever a role is printed into: fmt does not ask an unexported field.
func (r resolvedRole) String() string { return r.credential.String() }

// GoString does for %#v what String does for the other verbs.
func (r resolvedRole) GoString() string { return r.String() }

// ownCredential reports whether the credential is the role's own.
func (r *resolvedRole) ownCredential() bool { return r.key.Path != configStorageKey }

// What credential_source says.
const (
	sourceRole   = "role"
	sourceConfig = "config"
)

// source returns what credential_source says.
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
	if !l.loading.TryAcquire(1) {
		if err := l.loading.Acquire(ctx, 1); err != nil {
			return nil, fmt.Errorf("waiting for the configuration: %w", err)
		}
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

// connection returns config, from memory except for the first time.
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

// role returns what reads of a role need, or reads without one if name is empty; from memory except for the first time.
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
	entry := &roleEntry{}
	path := configStorageKey
	if name != "" {
		stored, err := loadRole(ctx, req.Storage, name)
		if err != nil {
			return nil, err
		}
		if stored == nil {
			return nil, unknownRole(req.MountPoint, name)
		}
		entry = stored
	}
	connection, err := s.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if entry.Credential != nil {
		path = roleStoragePrefix + name
	}
	r := &resolvedRole{
		name:       name,
		credential: entry.credentialFor(&connection.configEntry),
		ttl:        connection.TTL,
		reuse:      connection.ReusePeriod,
		connection: connection,
		stats:      s.statsOf(name),
	}
	r.key = keyOf(path, r.credential, connection.Endpoints)
	if entry.TTL != nil {
		r.ttl = *entry.TTL
	}
	if entry.ReusePeriod != nil {
		r.reuse = *entry.ReusePeriod
	}
	if err := r.credential.MayGoTo(connection.Endpoints); err != nil {
		r.refusal = invalidf("the credential of %s cannot be used: %w", path, err)
	}
	if r.credential.Empty() {
		r.refusal = noCredential(req.MountPoint, name)
	}
	return r, nil
}

// noCredential is the answer to a read that would need the credential of config, which has none.
func noCredential(mount, role string) error {
	write := fmt.Sprintf("'vault write %sconfig api_key_id=<ID> api_key=@<file>'", mount)
	if role == "" {
		return invalidf("config has no credential: read token/<role> of a role that has one, or write one with %s", write)
	}
	return invalidf("role %q has no credential of its own, and config has none: write one with 'vault write %sroles/%s api_key_id=<ID> api_key=@<file>', or with %s", role, mount, role, write)
}

// dropRole forgets what was loaded of a role.
func (s *settings) dropRole(name string) { s.roles.Delete(name) }
