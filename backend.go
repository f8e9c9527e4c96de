// Package snowplow is a Vault secrets engine that exchanges Snowplow API keys, which stay in Vault, for the JWTs
// that Snowplow Console's API takes.
package snowplow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/helper/useragent"
	"github.com/hashicorp/vault/sdk/logical"
)

// pluginName is the name that the plugin goes by in Vault's catalog and before Snowplow.
const pluginName = "vault-plugin-secrets-snowplow"

// operationPrefix begins the operation IDs of the OpenAPI document.
const operationPrefix = "snowplow"

// backend is one mount of the engine.
type backend struct {
	*framework.Backend

	lifetime context.Context // ends when the mount is unloaded
	end      context.CancelFunc

	current atomic.Pointer[generation]
	stats   sync.Map // role name, empty for none, to *stats; outlives generations

	// Held from reading an entry to storing it, verification included, so that of two writers neither loses the
	// other's fields. Readers of tokens take neither.
	configWrite sync.Mutex
	roleWrites  []*locksutil.LockEntry

	now func() time.Time // the clock that is compared with Snowplow's
}

// Factory makes a mount of the engine; Vault calls it through the plugin's main program. It reads no storage:
// what is stored is loaded when it is first asked for.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := newBackend()
	if err := b.Setup(ctx, conf); err != nil {
		return nil, fmt.Errorf("setting up the Snowplow secrets engine: %w", err)
	}
	return b, nil
}

func newBackend() *backend {
	b := &backend{roleWrites: locksutil.CreateLocks(), now: time.Now}
	b.lifetime, b.end = context.WithCancel(context.Background())
	b.current.Store(newGeneration(b))
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		PathsSpecial: &logical.Paths{
			// An entry without a slash at its end seals one key alone.
			SealWrapStorage: []string{configStorageKey, roleStoragePrefix},
		},
		Paths: []*framework.Path{
			b.pathConfig(),
			b.pathRoles(),
			b.pathRole(),
			b.pathToken(),
			b.pathRoleToken(),
			b.pathStatus(),
			b.pathRoleStatus(),
		},
		Secrets:      []*framework.Secret{b.secretToken()},
		PeriodicFunc: b.periodic,
		Invalidate:   b.invalidate,
		Clean:        b.clean,
	}
	return b
}

// HandleRequest answers in Vault's terms what the handlers answer in the engine's: a mistake of the caller with
// 400, a failed exchange with the status that says whose fault it is.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if len(req.Data) > 0 {
		if err := checkTypes(req.Data, b.Route(req.Path)); err != nil {
			return logical.ErrorResponse(err.Error()), nil
		}
	}
	resp, err := b.Backend.HandleRequest(ctx, req)
	var invalid *invalidRequest
	var failed *failure
	switch {
	case errors.Is(err, errConfigNotWritten):
		return logical.ErrorResponse("config is not written: write it with 'vault write %sconfig organization_id=<UUID> api_key_id=<ID> api_key=<key>'", req.MountPoint), nil
	case errors.As(err, &invalid):
		return logical.ErrorResponse(err.Error()), nil
	case errors.As(err, &failed) && failed.status() < 429:
		return logical.ErrorResponse(err.Error()), nil
	case errors.As(err, &failed):
		// Vault takes the code from this type alone, unwrapped and without a response beside it.
		return nil, logical.CodedError(failed.status(), err.Error())
	}
	return resp, err
}

// HandleExistenceCheck looks at the path alone: Vault logs the framework's error about a field, which repeats the
// field's value.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checkFound, exists bool, err error) {
	withoutFields := *req
	withoutFields.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, &withoutFields)
}

// renew begins a new generation: of what was derived from config before, nothing is used for later requests.
func (b *backend) renew() { b.current.Swap(newGeneration(b)).close() }

// invalidate drops what was derived from a stored key that changed on another node.
func (b *backend) invalidate(_ context.Context, key string) {
	if role, isRole := strings.CutPrefix(key, roleStoragePrefix); isRole {
		b.current.Load().dropRole(role)
	} else if key == configStorageKey {
		b.renew()
	}
}

// periodic runs about once a minute.
func (b *backend) periodic(context.Context, *logical.Request) error {
	b.current.Load().issuer.sweep()
	return nil
}

// clean ends what is under way before the mount is unloaded.
func (b *backend) clean(context.Context) {
	b.end()
	b.current.Load().close()
}

// statsOf finds or makes the stats of a role's reads, of those without a role where role is empty.
func (b *backend) statsOf(role string) *stats {
	if s, ok := b.stats.Load(role); ok {
		return s.(*stats)
	}
	s, _ := b.stats.LoadOrStore(role, &stats{})
	return s.(*stats)
}

func (b *backend) newClient(ctx context.Context, caCert string) (*client, error) {
	agent := pluginName + "/" + Version
	// OpenBao and older servers may not tell; an exchange does not fail for that.
	if env, err := b.System().PluginEnv(ctx); err == nil && env != nil {
		agent = useragent.PluginString(env, agent)
	}
	return newClient(caCert, agent, b.now)
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
