package snowplow

import (
	"maps"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
)

// credentialSchema is the fields that config and roles have in common.
func credentialSchema() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"organization_id": {
			Type:         framework.TypeString,
			Description:  "Snowplow organization ID, the UUID on Console's Manage organization page.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Organization ID"},
		},
		"credentials_version": {
			Type:          framework.TypeString,
			AllowedValues: []any{versionV3, versionV2, versionV1},
			Description:   "The exchange to use: v3; v2 (deprecated) takes api_key alone, v1 (legacy) a bot user.",
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Credentials version"},
		},
		"api_key_id": {
			Type:         framework.TypeString,
			Description:  "ID of the API key. Required for v3.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "API key ID"},
		},
		"api_key": {
			Type:         framework.TypeString,
			Description:  "The API key; never returned. Required for v3 and v2.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "API key", Sensitive: true},
		},
		"username": {
			Type:         framework.TypeString,
			Description:  "Name of the bot user. Required for v1.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Username", Group: "Legacy"},
		},
		"password": {
			Type:         framework.TypeString,
			Description:  "Password of the bot user; never returned. Required for v1.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Password", Sensitive: true, Group: "Legacy"},
		},
		"client_id": {
			Type:         framework.TypeString,
			Description:  "Client ID of the password flow. Required for v1.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client ID", Group: "Legacy"},
		},
		"client_secret": {
			Type:         framework.TypeString,
			Description:  "Client secret of the password flow; never returned. Required for v1.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client secret", Sensitive: true, Group: "Legacy"},
		},
		"verify_connection": {
			Type:         framework.TypeBool,
			Default:      true,
			Description:  "Exchange once with the new values before storing them; if that fails, nothing is stored.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Verify connection"},
		},
	}
}

// leaseFields is what config and roles say of the JWTs that they hand out.
func leaseFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "Upper bound of a lease; 0: the JWT's remaining validity.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Lease TTL"},
		},
		"reuse_period": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long after its exchange a JWT is handed out to further readers; 0: every read makes its own exchange.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Reuse period"},
		},
	}
}

// changing is an operation that writes to storage, which the active node of the primary cluster alone can.
func changing(operation framework.PathOperation) *framework.PathOperation {
	operation.ForwardPerformanceStandby = true
	operation.ForwardPerformanceSecondary = true
	return &operation
}

// readableFields is the schema of an answer: the fields of the path but for those that are only written.
func readableFields(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	readable := maps.Clone(fields)
	for name, field := range fields {
		if field.DisplayAttrs.Sensitive {
			delete(readable, name)
		}
	}
	delete(readable, "verify_connection")
	return readable
}

func okResponse(description string, fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: description, Fields: fields}}}
}

func noContent(description string) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusNoContent: {{Description: description}}}
}

// writeResponses is how a write is answered.
var writeResponses = map[int][]framework.Response{
	http.StatusNoContent: {{Description: "The fields are stored."}},
	http.StatusOK:        {{Description: "The fields are stored; the answer has warnings."}},
}
