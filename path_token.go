package snowplow

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const secretTypeToken = "snowplow_token"

func (b *backend) pathToken() *framework.Path {
	return &framework.Path{
		Pattern:         "token",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Operations:      b.tokenOperations("token"),
		HelpSynopsis:    "A leased JWT for Snowplow Console's API.",
		HelpDescription: strings.TrimSpace(tokenHelp),
	}
}

func (b *backend) pathRoleToken() *framework.Path {
	return &framework.Path{
		Pattern:         "token/" + framework.GenericNameRegex("role"),
		Fields:          roleNameField("role"),
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Operations:      b.tokenOperations("role-token"),
		HelpSynopsis:    "A leased JWT of a role's credential.",
		HelpDescription: strings.TrimSpace(roleTokenHelp),
	}
}

func (b *backend) tokenOperations(suffix string) map[logical.Operation]framework.OperationHandler {
	read := func(verb string) *framework.PathOperation {
		return &framework.PathOperation{
			Callback:                  b.readToken,
			Summary:                   "Get a leased JWT.",
			Responses:                 okResponse("A JWT and what it is good for; its lease ends when the JWT does.", tokenFields),
			ForwardPerformanceStandby: true, // a standby cannot register the lease
			DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: verb, OperationSuffix: suffix},
		}
	}
	return map[logical.Operation]framework.OperationHandler{
		logical.ReadOperation: read("generate"),
		// For clients that can only PUT.
		logical.UpdateOperation: read("generate-with-parameters"),
		logical.DeleteOperation: &framework.PathOperation{
			Callback:                  b.forgetToken,
			Summary:                   "Forget the JWT that is kept for further readers; the next read makes a new exchange.",
			Responses:                 noContent("The JWT is forgotten."),
			ForwardPerformanceStandby: true,
			DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "forget", OperationSuffix: suffix},
		},
	}
}

var tokenFields = map[string]*framework.FieldSchema{
	"access_token": {
		Type:         framework.TypeString,
		Required:     true,
		Description:  "The JWT, for the header 'Authorization: Bearer <JWT>'.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Access token", Sensitive: true},
	},
	"token_type":      {Type: framework.TypeString, Required: true, Description: "Bearer."},
	"expires_at":      {Type: framework.TypeString, Required: true, Description: "When the JWT ends, as RFC 3339 in UTC."},
	"organization_id": {Type: framework.TypeString, Required: true, Description: "The organization that the JWT is for."},
	"console_url":     {Type: framework.TypeString, Required: true, Description: "The Console that takes the JWT."},
}

// secretToken is the lease of a JWT. Without Renew, a lease is not renewable: nothing can make a JWT last longer.
func (b *backend) secretToken() *framework.Secret {
	return &framework.Secret{
		Type:   secretTypeToken,
		Fields: tokenFields,
		Revoke: revokeToken,
	}
}

// revokeToken succeeds always and does nothing: Snowplow has no way to revoke a JWT, and a revocation that fails
// would block the mount from being disabled. The kept JWT stays: it is other readers' as well.
func revokeToken(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return nil, nil
}

func (b *backend) readToken(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	current := b.current.Load()
	role := roleOf(data)
	source, err := current.source(ctx, req, role)
	if err != nil {
		return nil, err
	}
	source.stats.reads.Add(1)
	if source.refusal != nil {
		return nil, source.refusal
	}
	issued, err := current.issuer.issue(ctx, source.credential, source.reuse, b.exchangeFor(source, req.Path))
	if err != nil {
		return nil, withRemedy(err, req.MountPoint+source.path, source.credential)
	}
	return b.lease(source, issued)
}

// lease is the answer that gives an issued JWT to a reader.
func (b *backend) lease(source *source, issued issued) (*logical.Response, error) {
	// Rounded down, and never 0: to Vault that means the mount's default, which is longer than any JWT lives.
	ttl := issued.remaining(time.Now()).Truncate(time.Second)
	if ttl < minValidity {
		return nil, &failure{kind: failureUpstream, message: "the JWT ended before it could be handed out: Snowplow Console issued it for too short a time"}
	}
	if source.ttl > 0 {
		ttl = min(ttl, source.ttl)
	}
	source.stats.answered(issued)
	resp := b.Secret(secretTypeToken).Response(map[string]any{
		"access_token":    issued.JWT,
		"token_type":      "Bearer",
		"expires_at":      timestamp(issued.ExpiresAt),
		"organization_id": source.credential.OrganizationID,
		"console_url":     source.connection.ConsoleURL,
	}, nil)
	resp.Secret.TTL = ttl
	if issued.stale != nil {
		resp.AddWarning("no new JWT could be had, this is the one kept from " +
			issued.ObtainedAt.UTC().Format(time.RFC3339) + ": " + issued.stale.Error())
	}
	return resp, nil
}

// exchangeFor is one exchange with a source's credential, on behalf of a reader of path, logged and counted.
func (b *backend) exchangeFor(source *source, path string) exchangeFunc {
	return func(ctx context.Context) (token, error) {
		started := time.Now()
		t, err := source.connection.client.exchange(ctx, source.credential, source.connection.endpoints, source.connection.RequestTimeout)
		duration := time.Since(started)
		var failed *failure
		_ = errors.As(err, &failed) // any other error is a reader that gave up, or a mount that ended
		source.stats.exchange.exchanged(started, duration, failed)
		switch {
		case failed != nil:
			b.Logger().Warn("exchanging a credential for a JWT failed", "path", path, "duration", duration.String(), "error", err)
		case err == nil:
			b.Logger().Debug("exchanged a credential for a JWT", "path", path, "duration", duration.String(), "valid_until", t.ExpiresAt)
		}
		return t, err
	}
}

func (b *backend) forgetToken(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	current := b.current.Load()
	source, err := current.source(ctx, req, roleOf(data))
	if err != nil {
		return nil, err
	}
	current.issuer.forget(source.credential)
	return nil, nil
}

const tokenHelp = `
The JWT is good for the header 'Authorization: Bearer <JWT>' of requests to Snowplow Console's API. It comes with a
lease that ends when the JWT does, or after ttl if that is shorter. The lease cannot be renewed; read again instead.

    $ vault read snowplow/token
    $ vault read -field=access_token snowplow/token

Readers share a JWT for the reuse_period of config. Deleting forgets it, so that the next read brings a new one.
Revoking a lease ends the lease alone: Snowplow has no way to revoke a JWT, which stays valid until it ends.
`

const roleTokenHelp = `
As token, with the credential of the role, or that of config where the role has none of its own.

    $ vault read snowplow/token/analytics

A policy on this path decides who may have JWTs of the role's key.
`
