package snowplow

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) statusPaths() []*framework.Path {
	return []*framework.Path{{
		Pattern:         "status",
		Operations:      b.statusOperations("status"),
		HelpSynopsis:    "What the engine knows about token, without asking Snowplow.",
		HelpDescription: statusHelp,
	}, {
		Pattern:         withRoleName("status/", "role"),
		Fields:          roleNameField("role"),
		Operations:      b.statusOperations("role-status"),
		HelpSynopsis:    "What the engine knows about a role's tokens, without asking Snowplow.",
		HelpDescription: roleStatusHelp,
	}}
}

func (b *backend) statusOperations(suffix string) map[logical.Operation]framework.OperationHandler {
	return map[logical.Operation]framework.OperationHandler{
		logical.ReadOperation: &framework.PathOperation{
			Callback:                  b.readStatus,
			Summary:                   "Read what the engine knows, without a network call.",
			Responses:                 okResponse("The credential in use, the cached JWT's times, and counters.", statusFields()),
			ForwardPerformanceStandby: true, // the active node has the JWTs and the counters
			DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: suffix},
		},
	}
}

func statusFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"version":                   {Type: framework.TypeString, Required: true, Description: "Version of the plugin."},
		"credentials_version":       {Type: framework.TypeString, Required: true, Description: "The exchange in use."},
		"organization_id":           {Type: framework.TypeString, Required: true, Description: "The organization of the credential."},
		"api_key_id":                {Type: framework.TypeString, Required: true, Description: "ID of the API key; empty for v2 and v1."},
		"console_url":               {Type: framework.TypeString, Required: true, Description: "The Console in use."},
		"token_issued_at":           {Type: framework.TypeString, Required: true, Description: "When the cached JWT was issued; null if there is none."},
		"token_expires_at":          {Type: framework.TypeString, Required: true, Description: "When the cached JWT expires; null if there is none."},
		"reads":                     {Type: framework.TypeInt64, Required: true, Description: "Reads of a token here since the plugin started."},
		"exchanges":                 {Type: framework.TypeInt64, Required: true, Description: "Exchanges made for these reads."},
		"exchange_failures":         {Type: framework.TypeInt64, Required: true, Description: "How many of these failed."},
		"reused":                    {Type: framework.TypeInt64, Required: true, Description: "Reads served with a JWT from another read's exchange."},
		"stale":                     {Type: framework.TypeInt64, Required: true, Description: "Reads served with the cached JWT because there was no newer one."},
		"last_exchange_at":          {Type: framework.TypeString, Required: true, Description: "When the last exchange began; null if there was none."},
		"last_exchange_duration_ms": {Type: framework.TypeInt64, Required: true, Description: "How long the last exchange took, in milliseconds."},
		"last_error":                {Type: framework.TypeString, Required: true, Description: "Why the last failed exchange failed; empty if none did."},
		"last_error_at":             {Type: framework.TypeString, Required: true, Description: "When the last failed exchange failed; null if none did."},
		"credential_source":         credentialSourceField,
		"credential_written_at":     writtenAtField,
		"state":                     {Type: framework.TypeString, Required: true, AllowedValues: []any{stateIdle, stateOK, stateStale, stateFailing, stateRefused}, Description: "Whether reads work: idle, ok, stale, failing or refused."},
		"last_success_at":           {Type: framework.TypeString, Required: true, Description: "When the last successful exchange ended; null if there was none."},
		"next_attempt_at":           {Type: framework.TypeString, Required: true, Description: "When the next exchange may begin; null unless the engine waits after a failure."},
	}
}

func (b *backend) readStatus(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	role, err := b.current.Load().roleFor(ctx, req, data)
	if err != nil {
		return nil, err
	}
	if (role.target == target{}) {
		return nil, role.refusal
	}
	cached, err := b.cache.State(ctx, role.key, role.reuse)
	if err != nil {
		return nil, err
	}
	counted := b.statsOf(role.name).snapshot()
	status := map[string]any{
		"version":                   Version,
		"credentials_version":       role.target.credential.Version,
		"credential_source":         role.source(),
		"credential_written_at":     timestamp(role.target.credential.WrittenAt),
		"organization_id":           role.target.credential.OrganizationID,
		"api_key_id":                role.target.credential.APIKeyID.Reveal(),
		"console_url":               role.target.endpoints.ConsoleURL,
		"state":                     role.state(cached, counted),
		"next_attempt_at":           timestamp(cached.NotBefore),
		"token_issued_at":           nil,
		"token_expires_at":          nil,
		"reads":                     counted.reads,
		"reused":                    counted.reused,
		"stale":                     counted.stale,
		"exchanges":                 counted.exchanges,
		"exchange_failures":         int64(0),
		"last_exchange_at":          timestamp(counted.lastAt),
		"last_exchange_duration_ms": counted.lastDuration.Milliseconds(),
		"last_success_at":           timestamp(counted.lastSuccessAt),
		"last_error":                counted.lastError,
		"last_error_at":             timestamp(counted.lastErrorAt),
	}
	if token := cached.Token; token != nil {
		status["token_issued_at"], status["token_expires_at"] = timestamp(token.IssuedAt), timestamp(token.ExpiresAt)
	}
	for _, failures := range counted.failures {
		status["exchange_failures"] = status["exchange_failures"].(int64) + failures
	}
	return &logical.Response{Data: status}, nil
}

const statusHelp = `
Status shows which credential token uses, how long the cached JWT is valid, whether reads work, and counters since the
plugin started. It contains no secret and makes no request to Snowplow, so it can be polled.

    $ vault read snowplow/status
`

const roleStatusHelp = `
Like status, for the reads of token/<role>.

    $ vault read snowplow/status/analytics
`
