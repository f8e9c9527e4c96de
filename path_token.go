package snowplow

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

func (b *backend) tokenPaths() []*framework.Path {
	return []*framework.Path{{
		Pattern:         "token",
		Operations:      b.tokenOperations("token"),
		HelpSynopsis:    "A leased JWT for Snowplow Console's API.",
		HelpDescription: tokenHelp,
	}, {
		Pattern:         withRoleName("token/", "role"),
		Fields:          roleNameField("role"),
		Operations:      b.tokenOperations("role-token"),
		HelpSynopsis:    "A leased JWT of a role's credential.",
		HelpDescription: roleTokenHelp,
	}}
}

func (b *backend) tokenOperations(suffix string) map[logical.Operation]framework.OperationHandler {
	read := func(verb string) *framework.PathOperation {
		return &framework.PathOperation{
			Callback:                  b.readToken,
			Summary:                   "Get a leased JWT.",
			Responses:                 okResponse("A JWT and what it is good for; its lease ends when the JWT expires.", tokenFields),
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
			Summary:                   "Forget the cached JWT; the next read makes a new exchange.",
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
	"expires_at":      {Type: framework.TypeString, Required: true, Description: "When the JWT expires, as RFC 3339 in UTC."},
	"organization_id": {Type: framework.TypeString, Required: true, Description: "The organization that the JWT is for."},
	"console_url":     {Type: framework.TypeString, Required: true, Description: "The Console that takes the JWT."},
}

// tokenSecret is the lease of a JWT. Without Renew, it is not renewable: nothing can make a JWT last longer.
var tokenSecret = &framework.Secret{Type: "snowplow_token", Fields: tokenFields, Revoke: revokeToken}

// revokeToken does nothing and always succeeds: Snowplow has no way to revoke a JWT, and a revocation that fails would
// block the mount from being disabled. The cached JWT stays, since other readers hold it too.
func revokeToken(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return nil, nil
}

func (b *backend) readToken(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	role, err := b.current.Load().roleFor(ctx, req, data)
	if err != nil {
		return nil, err
	}
	counted := b.statsOf(role.name)
	counted.read()
	if role.refusal != nil {
		return nil, role.refusal
	}
	served, err := b.cache.Get(ctx, role.key, role.reuse, b.exchangeFor(role, req.Path))
	if err != nil {
		return nil, withReadersRemedy(err, req.MountPoint+role.key.Path, role.target, b.cache.NextAttempt(role.key))
	}
	resp, err := lease(role, served)
	if err == nil {
		counted.answered(served)
	}
	return resp, err
}

// lease gives a JWT to a reader.
func lease(role *resolvedRole, served tokencache.Served) (*logical.Response, error) {
	// Rounded down, and never 0: to Vault that means the mount's default, which is longer than any JWT lives.
	ttl := served.Remaining(time.Now()).Truncate(time.Second)
	if ttl < console.MinValidity {
		return nil, logical.CodedError(http.StatusBadGateway, "the JWT expired before it could be served: Snowplow Console issued it for too short a time")
	}
	if role.ttl > 0 {
		ttl = min(ttl, role.ttl)
	}
	resp := tokenSecret.Response(map[string]any{
		"access_token":    served.Bearer.Reveal(),
		"token_type":      "Bearer",
		"expires_at":      timestamp(served.ExpiresAt),
		"organization_id": role.target.credential.OrganizationID,
		"console_url":     role.target.endpoints.ConsoleURL,
	}, nil)
	resp.Secret.TTL = ttl
	if served.Stale != "" {
		resp.AddWarning("could not get a new JWT; serving the one obtained at " +
			served.ObtainedAt.UTC().Format(time.RFC3339) + ": " + served.Stale)
	}
	return resp, nil
}

func (b *backend) forgetToken(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	role, err := b.current.Load().roleFor(ctx, req, data)
	if err != nil {
		return nil, err
	}
	if role.name != "" && !role.ownCredential() {
		return nil, invalidf("role %q has no credential of its own: its tokens are those of config's key, which 'vault delete %stoken' forgets", role.name, req.MountPoint)
	}
	if err := b.cache.Forget(ctx, role.key); err != nil {
		return nil, fmt.Errorf("the JWT is gone from memory, but its stored copy could not be deleted and a restart may bring it back: %w; repeat the delete when storage works", err)
	}
	return nil, nil
}

const tokenHelp = `
The JWT is for the header 'Authorization: Bearer <JWT>' of requests to Snowplow Console's API. It comes with a lease
that ends when the JWT expires, or after ttl if that is shorter. The lease cannot be renewed; read again instead.

    $ vault read snowplow/token
    $ vault read -field=access_token snowplow/token

Readers share a JWT for the reuse_period of config. A delete makes the engine forget it, so the next read gets a new
one. Revoking a lease ends only the lease: Snowplow cannot revoke a JWT, which stays valid until it expires.
`

const roleTokenHelp = `
Like token, with the credential of the role, or that of config if the role has none.

    $ vault read snowplow/token/analytics

A policy on this path decides who may read JWTs of the role's key.
`
