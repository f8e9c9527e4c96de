// Package snowplow is a Vault secrets engine that exchanges Snowplow API keys, which stay in Vault, for the JWTs
// that Snowplow Console's API takes.
package snowplow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/semaphore"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

// Version and Commit say which build this is; the linker sets both (see Makefile). Vault compares Version, to the letter,
// with what "vault plugin register -version" was given.
var (
	Version = "v0.0.0-dev"
	Commit  = "unknown"
)

const (
	pluginName      = "vault-plugin-secrets-snowplow" // in Vault's catalog and in the User-Agent
	operationPrefix = "snowplow"                      // of operation IDs in the OpenAPI document, and of events
	eventTimeout    = 5 * time.Second                 // of one call of Vault's event bus
)

// backend is one mount of the engine.
type backend struct {
	*framework.Backend

	lifetime context.Context // ends when the mount is unloaded
	end      context.CancelFunc

	current atomic.Pointer[settings]
	cache   *tokencache.Cache // outlives settings
	stats   sync.Map          // role name, empty for none, to *stats; outlives settings

	// Serializes read-modify-write of config and roles, so that concurrent writes do not lose each other's fields, and
	// the config that a role was checked against cannot change before the role is stored. It is held during storage
	// calls, never during an exchange. Token reads take no lock.
	writes *semaphore.Weighted

	newTransport func(caCert string) (http.RoundTripper, error)
}

// Factory makes a mount of the engine, for Vault. It reads no storage: entries are loaded on first use.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := newBackend()
	if err := b.Setup(ctx, conf); err != nil {
		return nil, fmt.Errorf("setting up the Snowplow secrets engine: %w", err)
	}
	b.cache = tokencache.New(b.lifetime, storedTokens{conf.StorageView, conf.System}, b.Logger())
	return b, nil
}

func newBackend() *backend {
	b := &backend{writes: semaphore.NewWeighted(1), newTransport: console.NewTransport}
	b.lifetime, b.end = context.WithCancel(context.Background())
	b.current.Store(b.newSettings())
	b.Backend = &framework.Backend{
		Help:           backendHelp,
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		PathsSpecial: &logical.Paths{
			// An entry without a slash at its end seals one key only.
			SealWrapStorage: []string{configStorageKey, roleStoragePrefix, tokenStoragePrefix},
			// Each cluster has its own JWTs, and writes them without asking the primary.
			LocalStorage: []string{tokenStoragePrefix},
		},
		Paths: framework.PathAppend(
			[]*framework.Path{b.pathConfig(), b.pathRoles(), b.pathRole(), b.pathMetrics()},
			b.tokenPaths(),
			b.statusPaths(),
		),
		Secrets:      []*framework.Secret{tokenSecret},
		PeriodicFunc: b.periodic,
		// Another node changed an entry. JWTs need nothing: only the active node of their cluster serves them.
		Invalidate: func(_ context.Context, key string) { b.changed(key) },
		Clean:      b.clean,
	}
	for _, path := range b.Paths {
		path.DisplayAttrs = &framework.DisplayAttributes{OperationPrefix: operationPrefix}
	}
	return b
}

// HandleRequest maps a mistake of the caller to 400, and a failed exchange to the status that says whose fault it is.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if len(req.Data) > 0 {
		if err := checkTypes(req.Data, b.Route(req.Path)); err != nil {
			return logical.ErrorResponse(err.Error()), nil
		}
	}
	resp, err := b.Backend.HandleRequest(ctx, req)
	var invalid *requestError
	var failed *console.Error
	switch {
	case errors.Is(err, errConfigNotWritten):
		return logical.ErrorResponse("%s: run 'vault write %sconfig organization_id=<UUID> api_key_id=<ID> api_key=@<file>', %s", err, req.MountPoint, orAsk), nil
	case errors.Is(err, logical.ErrUnsupportedPath) && badRoleName(req.Path) != "":
		return logical.ErrorResponse("%q cannot be the name of a role: it must consist of letters, digits, '_', '-' and '.', begin and end with a letter, a digit or '_', and have no two dots in a row",
			redact.Printable(badRoleName(req.Path), 64)), nil
	case errors.As(err, &invalid), errors.As(err, &failed) && failed.Status() == http.StatusBadRequest:
		return logical.ErrorResponse(err.Error()), nil
	case errors.As(err, &failed):
		// Vault reads the code only from this type, unwrapped and without a response.
		return nil, logical.CodedError(failed.Status(), err.Error())
	}
	return resp, err
}

// badRoleName returns the role's name in a path that no pattern matches, empty if the path has none.
func badRoleName(path string) string {
	for _, prefix := range []string{roleStoragePrefix, "token/", "status/"} {
		if name, found := strings.CutPrefix(path, prefix); found {
			return name
		}
	}
	return ""
}

// HandleExistenceCheck ignores the fields: Vault logs the framework's error about a field, which repeats its value.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checkFound, exists bool, err error) {
	withoutFields := *req
	withoutFields.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, &withoutFields)
}

func (b *backend) newSettings() *settings {
	return &settings{newClient: b.newClient, config: newLazy[connection]()}
}

// sendEvent publishes what happened at a path on Vault's event bus. It is best effort and does not block: OpenBao has
// no events, and an event bus that fails or hangs must not fail or delay a request.
func (b *backend) sendEvent(event, path, role string, more ...string) {
	pairs := []string{logical.EventMetadataPath, path}
	if role != "" {
		pairs = append(pairs, "role", role)
	}
	go func() {
		ctx, cancel := context.WithTimeout(b.lifetime, eventTimeout)
		defer cancel()
		_ = logical.SendEvent(ctx, b, operationPrefix+"/"+event, append(pairs, more...)...)
	}()
}

// sendWriteEvent publishes a change of config, or of a role.
func (b *backend) sendWriteEvent(path, role, operation string) {
	entry := "config-"
	if role != "" {
		entry = "role-"
	}
	b.sendEvent(entry+operation, path, role, logical.EventMetadataOperation, operation, logical.EventMetadataModified, "true")
}

// lockWrites waits for other writes of this mount, as long as ctx lasts.
func (b *backend) lockWrites(ctx context.Context) (unlock func(), err error) {
	if err := b.writes.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("waiting for another write: %w", err)
	}
	return func() { b.writes.Release(1) }, nil
}

// changed drops what was loaded of a stored entry that changed, and ends the waits that it is about.
func (b *backend) changed(path string) {
	if role, isRole := strings.CutPrefix(path, roleStoragePrefix); isRole {
		b.current.Load().roles.Delete(role)
		b.cache.EndWaits(path)
	} else if path == configStorageKey {
		b.current.Swap(b.newSettings()).close() // later requests use nothing that was derived from the old config
		b.cache.EndWaits("")
	}
}

// periodic runs about once a minute.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	b.cache.Sweep(ctx)
	return b.sweepStats(ctx, req.Storage)
}

// sweepStats drops the counters of roles that are gone, also where another node has deleted them.
func (b *backend) sweepStats(ctx context.Context, storage logical.Storage) error {
	gone := maps.Collect(b.stats.Range) // before the roles: one that is written meanwhile keeps its counters
	names, err := storage.List(ctx, roleStoragePrefix)
	if err != nil {
		return fmt.Errorf("listing roles in storage: %w", err)
	}
	for _, name := range append(names, "") {
		delete(gone, name)
	}
	for name := range gone {
		b.stats.Delete(name)
	}
	return nil
}

// clean stops exchanges under way before the mount is unloaded.
func (b *backend) clean(context.Context) {
	b.end()
	b.current.Load().close()
}

// statsOf finds or makes the stats of a role's reads, or of those without a role if role is empty.
func (b *backend) statsOf(role string) *stats {
	s, found := b.stats.Load(role)
	if !found {
		s, _ = b.stats.LoadOrStore(role, &stats{})
	}
	return s.(*stats)
}

const backendHelp = `
The Snowplow secrets engine exchanges a Snowplow API key, which stays in Vault, for the JWTs that Snowplow Console's
API takes. A JWT is valid for 24 hours, and so is the lease that it comes with.

An operator writes the key once:

    $ vault write snowplow/config organization_id=<UUID> api_key_id=<ID> api_key=@<file>

Everyone whose policy allows it reads JWTs:

    $ vault read snowplow/token

A key for each team is written to roles/<name>, and its JWTs are read from token/<name>.
`
