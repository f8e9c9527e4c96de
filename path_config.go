package snowplow

import (
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
	maxRequestTimeout     = 80 * time.Second // below the 90 s after which Vault gives up on a request
	defaultReusePeriod    = time.Hour
)

func (b *backend) pathConfig() *framework.Path {
	write := b.writeOperation("configure", "",
		"Write the connection to Snowplow and the default credential; omitted fields keep their value.")
	return &framework.Path{
		Pattern:        configStorageKey,
		Fields:         configFields(),
		ExistenceCheck: b.exists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.PatchOperation: b.writeOperation("patch", "configuration",
				"Change some fields of config; null resets a field to its default."),
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.readConfig,
				Summary:      "Read the configuration, without its secrets.",
				Responses:    okResponse("The configuration, without its secrets.", readableFields(configFields())),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "configuration"},
			},
			logical.DeleteOperation: b.deleteOperation("configuration",
				"Delete the configuration; leases stay revocable.", "The configuration is deleted."),
		},
		HelpSynopsis:    "The connection to Snowplow, and the default credential.",
		HelpDescription: configHelp,
	}
}

func configFields() map[string]*framework.FieldSchema {
	fields := roleFields()
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"console_url": field(framework.TypeString, "Console URL",
			"URL of Snowplow Console. https only; http only to a loopback address. No query, fragment or user part. Changing its host needs the API key in the same write."),
		"auth_url": field(framework.TypeString, "Authorization URL",
			"URL that credentials_version v1 exchanges at. Same rules as console_url."),
		"ca_cert": field(framework.TypeString, "CA certificate",
			"CA bundle (PEM) trusted for both URLs, in addition to the system's; 64 KiB at most."),
		"request_timeout": field(framework.TypeDurationSecond, "Request timeout",
			"The whole of one exchange, retries included: 1s to 80s."),
	})
	fields["organization_id"].Required = true
	fields["credentials_version"].Default = console.V3
	fields["console_url"].Default = console.DefaultConsoleURL
	fields["auth_url"].Default = console.DefaultAuthURL
	fields["ca_cert"].DisplayAttrs.EditType = "file"
	fields["request_timeout"].Default = int(defaultRequestTimeout.Seconds())
	fields["reuse_period"].Default = int(defaultReusePeriod.Seconds())
	return fields
}

func newConfigEntry() *configEntry {
	return &configEntry{
		Endpoints:      console.Endpoints{ConsoleURL: console.DefaultConsoleURL, AuthURL: console.DefaultAuthURL},
		RequestTimeout: defaultRequestTimeout,
		ReusePeriod:    defaultReusePeriod,
	}
}

// apply merges the fields of a request into c and checks the whole. It returns warnings for the operator.
func (c *configEntry) apply(in *input) (warnings []string, err error) {
	before := *c
	c.ConsoleURL = in.url("console_url", c.ConsoleURL, console.DefaultConsoleURL)
	c.AuthURL = in.url("auth_url", c.AuthURL, console.DefaultAuthURL)
	if caCert, given := in.text("ca_cert"); given {
		c.CACert = caCert
		if caCert != "" {
			_, err := console.ParseCACert(caCert)
			in.note(err)
		}
	}
	c.RequestTimeout = in.durationOr("request_timeout", c.RequestTimeout, defaultRequestTimeout)
	c.TTL = in.durationOr("ttl", c.TTL, 0)
	c.ReusePeriod = in.durationOr("reuse_period", c.ReusePeriod, defaultReusePeriod)
	if c.RequestTimeout < minRequestTimeout || c.RequestTimeout > maxRequestTimeout {
		in.note(errors.New("request_timeout must be between 1s and 80s"))
	}
	if in.err != nil {
		return nil, in.err
	}

	warnings, err = mergeCredential(&c.Credential, in, console.V3, &c.Endpoints)
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

const configHelp = `
The key pair of config is used for token, and for every role without its own credential. It is optional. Before it is
stored, it is verified with one exchange, unless verify_connection is false. Omitted fields keep their value.

    $ vault write snowplow/config \
        organization_id=8a5f2b1c-7d3e-4f60-9a1b-2c3d4e5f6071 \
        api_key_id=<ID> api_key=@<file with the key>

The key goes only to the host that console_url (auth_url for v1) had when it was written: to change the host, write the
key again in the same request.
`
