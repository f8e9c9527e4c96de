package snowplow

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

const (
	defaultRequestTimeout = 30 * time.Second
	minRequestTimeout     = time.Second
	// maxRequestTimeout stays below the 90 s after which Vault gives up on a request.
	maxRequestTimeout  = 80 * time.Second
	defaultReusePeriod = time.Hour
)

func (b *backend) pathConfig() *framework.Path {
	write := forwardToPrimary(framework.PathOperation{
		Callback:     b.writeConfig,
		Summary:      "Write the connection to Snowplow and the default credential; fields that are left out keep their value.",
		Responses:    writeResponses,
		DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "configure"},
	})
	return &framework.Path{
		Pattern:        configStorageKey,
		Fields:         configFields(),
		ExistenceCheck: b.configExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.PatchOperation: forwardToPrimary(framework.PathOperation{
				Callback:     b.writeConfig,
				Summary:      "Change some fields of config; null resets a field to its default.",
				Responses:    writeResponses,
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "patch", OperationSuffix: "configuration"},
			}),
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.readConfig,
				Summary:      "Read the configuration, without its secrets.",
				Responses:    okResponse("The configuration, without its secrets.", readableConfigFields()),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "configuration"},
			},
			logical.DeleteOperation: forwardToPrimary(framework.PathOperation{
				Callback:     b.deleteConfig,
				Summary:      "Delete the configuration; leases stay revocable.",
				Responses:    noContent("The configuration is deleted."),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: "configuration"},
			}),
		},
		HelpSynopsis:    "The connection to Snowplow, and the default credential.",
		HelpDescription: configHelp,
	}
}

func configFields() map[string]*framework.FieldSchema {
	fields := leaseFields()
	maps.Copy(fields, credentialSchema())
	fields["organization_id"].Required = true
	fields["credentials_version"].Default = console.V3
	fields["reuse_period"].Default = int(defaultReusePeriod.Seconds())
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"console_url": {
			Type:         framework.TypeString,
			Default:      console.DefaultConsoleURL,
			Description:  "URL of Snowplow Console. https only; http only to a loopback address. No query, fragment or user part. Changing its host needs the API key in the same write.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Console URL"},
		},
		"auth_url": {
			Type:         framework.TypeString,
			Default:      console.DefaultAuthURL,
			Description:  "URL that credentials_version v1 exchanges at. Same rules as console_url.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Authorization URL"},
		},
		"ca_cert": {
			Type:         framework.TypeString,
			Description:  "CA bundle (PEM) trusted for both URLs, in addition to the system's; 64 KiB at most.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "file"},
		},
		"request_timeout": {
			Type:         framework.TypeDurationSecond,
			Default:      int(defaultRequestTimeout.Seconds()),
			Description:  "The whole of one exchange, retries included: 1s to 80s.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Request timeout"},
		},
	})
	return fields
}

// readableConfigFields returns the schema of the answer to a read.
func readableConfigFields() map[string]*framework.FieldSchema {
	fields := readableFields(configFields())
	fields["credential_written_at"] = writtenAtField()
	return fields
}

func (b *backend) configExists(ctx context.Context, req *logical.Request, _ *framework.FieldData) (bool, error) {
	return stored(ctx, req.Storage, configStorageKey)
}

func (b *backend) writeConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return b.write(ctx, req, data, "")
}

func newConfigEntry() *configEntry {
	return &configEntry{
		Endpoints:      console.Endpoints{ConsoleURL: console.DefaultConsoleURL, AuthURL: console.DefaultAuthURL},
		RequestTimeout: defaultRequestTimeout,
		ReusePeriod:    defaultReusePeriod,
	}
}

// apply merges the fields of a request into c and checks the whole. A credential that is changed is marked with
// write. It returns warnings for the operator; its errors are the caller's to correct.
func (c *configEntry) apply(in input, write console.Write) (warnings []string, err error) {
	before := *c
	if c.ConsoleURL, err = in.url("console_url", c.ConsoleURL, console.DefaultConsoleURL); err != nil {
		return nil, err
	}
	if c.AuthURL, err = in.url("auth_url", c.AuthURL, console.DefaultAuthURL); err != nil {
		return nil, err
	}
	if caCert, given := in.text("ca_cert"); given {
		if caCert != "" {
			if _, err := console.ParseCACert(caCert); err != nil {
				return nil, err
			}
		}
		c.CACert = caCert
	}
	for _, field := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"request_timeout", &c.RequestTimeout, defaultRequestTimeout},
		{"ttl", &c.TTL, 0},
		{"reuse_period", &c.ReusePeriod, defaultReusePeriod},
	} {
		value, given, err := in.duration(field.name)
		if err != nil {
			return nil, err
		}
		if given {
			*field.value = *cmp.Or(value, &field.fallback)
		}
	}
	if c.RequestTimeout < minRequestTimeout || c.RequestTimeout > maxRequestTimeout {
		return nil, errors.New("request_timeout must be between 1s and 80s")
	}

	warnings, err = mergeCredential(&c.Credential, in, console.V3, &c.Endpoints, write)
	if err != nil {
		return nil, err
	}
	if c.Credential.OrganizationID == "" {
		return nil, errors.New("organization_id is missing: it must be the UUID that Console shows on its Manage organization page")
	}
	if c.Credential.Empty() {
		warnings = append(warnings, "config has no credential: only roles with a credential of their own can serve tokens")
	}
	if before.Credential.OrganizationID == "" { // new
		return warnings, nil
	}
	if console.Origin(before.ConsoleURL) != console.Origin(c.ConsoleURL) {
		warnings = append(warnings, "console_url has changed: roles with a credential of their own are refused until their credential is written again")
	}
	if console.Origin(before.AuthURL) != console.Origin(c.AuthURL) {
		warnings = append(warnings, "auth_url has changed: roles with a bot user of their own (v1) are refused until their credential is written again")
	}
	return warnings, nil
}

func (b *backend) readConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	entry, err := loadConfig(ctx, req.Storage)
	if err != nil || entry == nil {
		return nil, err
	}
	data := entry.Credential.Readable()
	maps.Copy(data, map[string]any{
		"organization_id": entry.Credential.OrganizationID,
		"console_url":     entry.ConsoleURL,
		"auth_url":        entry.AuthURL,
		"ca_cert":         entry.CACert,
		"request_timeout": int64(entry.RequestTimeout.Seconds()),
		"ttl":             int64(entry.TTL.Seconds()),
		"reuse_period":    int64(entry.ReusePeriod.Seconds()),
	})
	return &logical.Response{Data: data}, nil
}

func (b *backend) deleteConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return nil, b.delete(ctx, req, "")
}

const configHelp = `
The key pair of config is used for token, and for every role that has no credential of its own. It is optional, and
verified with one exchange before it is stored unless verify_connection is false. Fields that are left out keep their
value.

    $ vault write snowplow/config \
        organization_id=8a5f2b1c-7d3e-4f60-9a1b-2c3d4e5f6071 \
        api_key_id=<ID> api_key=@<file with the key>

The key goes only to the host of console_url (auth_url for v1) that it was written with: to change the host, write the
key again in the same request.
`
