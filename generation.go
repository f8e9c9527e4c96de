package snowplow

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// generation is all that is in memory because of what config said at one time: config itself, the client, the
// roles that were read, and the JWTs. A change of config begins a new generation, so nothing of the old one can be
// handed out by mistake; readers who hold the old one finish with it.
type generation struct {
	backend *backend
	issuer  *issuer
	config  lazy[connection]
	direct  lazy[source] // of reads without a role
	roles   sync.Map     // role name to *lazy[source]
}

// connection is config, ready for use.
type connection struct {
	configEntry
	client *client
}

// source is what reads of one path are served from: whose credential, how long to lease and to reuse.
type source struct {
	credential        // embedded, so that a source prints as one: without the secrets
	path       string // that the credential was written to: config, or roles/<name>
	ttl        time.Duration
	reuse      time.Duration
	connection *connection
	stats      *stats
	refusal    error // why the credential may not be used; nil: it may
}

// lazy is a value that is loaded once, when it is first asked for. A load that fails is tried again by the next caller.
type lazy[T any] struct {
	loaded atomic.Pointer[T]
	mu     sync.Mutex
}

func (l *lazy[T]) get(load func() (*T, error)) (*T, error) {
	if value := l.loaded.Load(); value != nil {
		return value, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
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

func newGeneration(b *backend) *generation {
	return &generation{backend: b, issuer: newIssuer(b.lifetime)}
}

// close gives up what the generation holds open. Exchanges under way end on their own.
func (g *generation) close() {
	if c := g.config.loaded.Load(); c != nil {
		c.client.close()
	}
}

// connection is config of this generation, from memory but for the first time.
func (g *generation) connection(ctx context.Context, storage logical.Storage) (*connection, error) {
	return g.config.get(func() (*connection, error) {
		entry, err := loadConfig(ctx, storage)
		if err != nil {
			return nil, err
		}
		if entry == nil {
			return nil, errConfigNotWritten
		}
		client, err := g.backend.newClient(ctx, entry.CACert)
		if err != nil {
			return nil, err
		}
		return &connection{configEntry: *entry, client: client}, nil
	})
}

// source is what reads of a role are served from, of config itself where role is empty. From memory but for the
// first time.
func (g *generation) source(ctx context.Context, req *logical.Request, role string) (*source, error) {
	if role == "" {
		return g.direct.get(func() (*source, error) {
			connection, err := g.connection(ctx, req.Storage)
			if err != nil {
				return nil, err
			}
			return g.newSource("", connection, &roleEntry{}), nil
		})
	}
	entry, ok := g.roles.Load(role)
	if !ok {
		entry, _ = g.roles.LoadOrStore(role, &lazy[source]{})
	}
	s, err := entry.(*lazy[source]).get(func() (*source, error) {
		stored, err := loadRole(ctx, req.Storage, role)
		if err != nil {
			return nil, err
		}
		if stored == nil {
			return nil, unknownRole(req.MountPoint, role)
		}
		connection, err := g.connection(ctx, req.Storage)
		if err != nil {
			return nil, err
		}
		return g.newSource(role, connection, stored), nil
	})
	if err != nil {
		// Names that are asked for but do not exist are without bound.
		g.roles.CompareAndDelete(role, entry)
	}
	return s, err
}

func (g *generation) newSource(role string, c *connection, entry *roleEntry) *source {
	s := &source{
		credential: entry.effective(c.configEntry),
		path:       configStorageKey,
		ttl:        c.TTL,
		reuse:      c.ReusePeriod,
		connection: c,
		stats:      g.backend.statsOf(role),
	}
	if entry.TTL != nil {
		s.ttl = *entry.TTL
	}
	if entry.ReusePeriod != nil {
		s.reuse = *entry.ReusePeriod
	}
	if entry.Credential != nil {
		s.path = roleStoragePrefix + role
	}
	if err := s.credential.mayGoTo(c.endpoints); err != nil {
		s.refusal = fmt.Errorf("the credential of %s cannot be used: %w", s.path, err)
	}
	return s
}

// dropRole forgets what was derived from a role, the JWT of a credential of its own included.
func (g *generation) dropRole(name string) {
	entry, ok := g.roles.LoadAndDelete(name)
	if !ok {
		return
	}
	if s := entry.(*lazy[source]).loaded.Load(); s != nil && s.path == roleStoragePrefix+name {
		g.issuer.drop(s.credential)
	}
}
