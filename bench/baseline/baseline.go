// Package baseline is the least that a secrets engine with leases can be: a read of token answers with a constant. What
// the Snowplow engine costs beyond it is the engine's own. A read of plain answers with the same, without a lease.
package baseline

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	secretType = "baseline_token"
	validity   = 24 * time.Hour
)

// jwt has the form and the length of those that the fake Console issues, but not their content.
var jwt = strings.Repeat("h", 36) + "." + strings.Repeat("p", 218) + "." + strings.Repeat("s", 43)

// Factory makes a mount of the baseline.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	secret := &framework.Secret{
		Type: secretType,
		Fields: map[string]*framework.FieldSchema{
			"access_token":    {Type: framework.TypeString},
			"token_type":      {Type: framework.TypeString},
			"expires_at":      {Type: framework.TypeString},
			"organization_id": {Type: framework.TypeString},
			"console_url":     {Type: framework.TypeString},
		},
		Revoke: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
			return nil, nil
		},
	}
	b := &framework.Backend{
		BackendType: logical.TypeLogical,
		Secrets:     []*framework.Secret{secret},
		Paths: []*framework.Path{
			constant("token", func() *logical.Response { return lease(secret) }),
			constant("plain", func() *logical.Response { return &logical.Response{Data: data()} }),
		},
	}
	if err := b.Setup(ctx, conf); err != nil {
		return nil, fmt.Errorf("setting up the baseline: %w", err)
	}
	return b, nil
}

func constant(pattern string, answer func() *logical.Response) *framework.Path {
	return &framework.Path{
		Pattern: pattern,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
					return answer(), nil
				},
			},
		},
	}
}

func lease(secret *framework.Secret) *logical.Response {
	resp := secret.Response(data(), nil)
	resp.Secret.TTL = validity
	return resp
}

func data() map[string]any {
	return map[string]any{
		"access_token":    jwt,
		"token_type":      "Bearer",
		"expires_at":      "2030-01-01T00:00:00Z",
		"organization_id": "11111111-2222-4333-8444-555555555555",
		"console_url":     "http://127.0.0.1:12345",
	}
}
