package snowplow

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathStatus() *framework.Path {
	return &framework.Path{
		Pattern:         "status",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Operations:      b.statusOperations("status"),
		HelpSynopsis:    "What the engine knows of token, without asking Snowplow.",
		HelpDescription: strings.TrimSpace(statusHelp),
	}
}

func (b *backend) pathRoleStatus() *framework.Path {
	return &framework.Path{
		Pattern:         "status/" + framework.GenericNameRegex("role"),
		Fields:          roleNameField("role"),
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Operations:      b.statusOperations("role-status"),
		HelpSynopsis:    "What the engine knows of a role's tokens, without asking Snowplow.",
		HelpDescription: strings.TrimSpace(roleStatusHelp),
	}
}

func (b *backend) statusOperations(suffix string) map[logical.Operation]framework.OperationHandler {
	return map[logical.Operation]framework.OperationHandler{
		logical.ReadOperation: &framework.PathOperation{
			Callback:                  b.readStatus,
			Summary:                   "Read what the engine knows, without a network call.",
			Responses:                 okResponse("The credential in use, the kept JWT's times, and counters.", statusFields),
			ForwardPerformanceStandby: true, // the active node has the JWTs and the counters
			DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: suffix},
		},
	}
}

var statusFields = map[string]*framework.FieldSchema{
	"version":                   {Type: framework.TypeString, Required: true, Description: "Version of the plugin."},
	"credentials_version":       {Type: framework.TypeString, Required: true, Description: "The exchange in use."},
	"organization_id":           {Type: framework.TypeString, Required: true, Description: "The organization of the credential."},
	"api_key_id":                {Type: framework.TypeString, Required: true, Description: "ID of the API key; empty for v2 and v1."},
	"console_url":               {Type: framework.TypeString, Required: true, Description: "The Console in use."},
	"token_issued_at":           {Type: framework.TypeString, Required: true, Description: "When the JWT that is kept for reuse was issued; null if none is."},
	"token_expires_at":          {Type: framework.TypeString, Required: true, Description: "When the JWT that is kept for reuse ends; null if none is."},
	"reads":                     {Type: framework.TypeInt64, Required: true, Description: "Reads of a token here since the plugin started."},
	"exchanges":                 {Type: framework.TypeInt64, Required: true, Description: "Exchanges made for these reads."},
	"exchange_failures":         {Type: framework.TypeInt64, Required: true, Description: "Exchanges of these that failed."},
	"reused":                    {Type: framework.TypeInt64, Required: true, Description: "Reads that were given a JWT from another read's exchange."},
	"stale":                     {Type: framework.TypeInt64, Required: true, Description: "Reads that were given the kept JWT because no newer one could be had."},
	"last_exchange_at":          {Type: framework.TypeString, Required: true, Description: "When the last exchange began; null if there was none."},
	"last_exchange_duration_ms": {Type: framework.TypeInt64, Required: true, Description: "How long the last exchange took, in milliseconds."},
	"last_error":                {Type: framework.TypeString, Required: true, Description: "Why the last failed exchange failed; empty if none did."},
	"last_error_at":             {Type: framework.TypeString, Required: true, Description: "When the last failed exchange failed; null if none did."},
}

func (b *backend) readStatus(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	current := b.current.Load()
	source, err := current.source(ctx, req, roleOf(data))
	if err != nil {
		return nil, err
	}
	status := source.stats.readable()
	status["version"] = Version
	status["credentials_version"] = source.credential.Version
	status["organization_id"] = source.credential.OrganizationID
	status["api_key_id"] = source.credential.APIKeyID
	status["console_url"] = source.connection.ConsoleURL
	status["token_issued_at"], status["token_expires_at"] = nil, nil
	if kept := current.issuer.kept(source.credential); kept != nil {
		status["token_issued_at"] = timestamp(kept.IssuedAt)
		status["token_expires_at"] = timestamp(kept.ExpiresAt)
	}
	return &logical.Response{Data: status}, nil
}

const statusHelp = `
Which credential token is served from, how long the kept JWT lasts, and what readers met since the plugin started.
It holds no secret and asks Snowplow nothing, so it can be polled.

    $ vault read snowplow/status
`

const roleStatusHelp = `
As status, for the reads of token/<role>.

    $ vault read snowplow/status/analytics
`
