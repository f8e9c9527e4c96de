package snowplow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	configStorageKey = "config"

	defaultRequestTimeout = 30 * time.Second
	minRequestTimeout     = time.Second
	// maxRequestTimeout stays below the 90 s after which Vault gives up on a request.
	maxRequestTimeout  = 80 * time.Second
	defaultReusePeriod = time.Hour
)

// errConfigNotWritten is answered with the command that writes it.
var errConfigNotWritten = errors.New("config is not written")

// configEntry is config in storage.
type configEntry struct {
	endpoints
	Credential     credential    `json:"credential"`
	CACert         string        `json:"ca_cert,omitempty"`
	RequestTimeout time.Duration `json:"request_timeout"`
	TTL            time.Duration `json:"ttl"`
	ReusePeriod    time.Duration `json:"reuse_period"`
}

func newConfigEntry() *configEntry {
	return &configEntry{
		endpoints:      endpoints{ConsoleURL: defaultConsoleURL, AuthURL: defaultAuthURL},
		RequestTimeout: defaultRequestTimeout,
		ReusePeriod:    defaultReusePeriod,
	}
}

// loadConfig is config as it is stored, nil if it is not.
func loadConfig(ctx context.Context, storage logical.Storage) (*configEntry, error) {
	stored, err := storage.Get(ctx, configStorageKey)
	if err != nil {
		return nil, fmt.Errorf("reading config from storage: %w", err)
	}
	if stored == nil {
		return nil, nil
	}
	var entry configEntry
	if err := stored.DecodeJSON(&entry); err != nil {
		return nil, errors.New("reading config from storage: it is damaged: delete it and write it again")
	}
	return &entry, nil
}

func (b *backend) pathConfig() *framework.Path {
	write := changing(framework.PathOperation{
		Callback:     b.writeConfig,
		Summary:      "Write the connection to Snowplow and the default credential; fields that are left out keep their value.",
		Responses:    writeResponses,
		DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "configure"},
	})
	return &framework.Path{
		Pattern:        configStorageKey,
		Fields:         configFields(),
		ExistenceCheck: b.configExists,
		DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.PatchOperation: changing(framework.PathOperation{
				Callback:     b.writeConfig,
				Summary:      "Change some fields of config; null takes an optional field back to its default.",
				Responses:    writeResponses,
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "patch", OperationSuffix: "configuration"},
			}),
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.readConfig,
				Summary:      "Read the configuration, without its secrets.",
				Responses:    okResponse("The configuration, without its secrets.", readableFields(configFields())),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "configuration"},
			},
			logical.DeleteOperation: changing(framework.PathOperation{
				Callback:     b.deleteConfig,
				Summary:      "Delete the configuration; leases stay revocable.",
				Responses:    noContent("The configuration is deleted."),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: "configuration"},
			}),
		},
		HelpSynopsis:    "The connection to Snowplow, and the default credential.",
		HelpDescription: strings.TrimSpace(configHelp),
	}
}

func configFields() map[string]*framework.FieldSchema {
	fields := leaseFields()
	maps.Copy(fields, credentialSchema())
	fields["organization_id"].Required = true
	fields["credentials_version"].Default = versionV3
	fields["reuse_period"].Default = int(defaultReusePeriod.Seconds())
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"console_url": {
			Type:         framework.TypeString,
			Default:      defaultConsoleURL,
			Description:  "URL of Snowplow Console. https only; http only to a loopback address. No query, fragment or user part. Changing its host needs the API key in the same write.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Console URL"},
		},
		"auth_url": {
			Type:         framework.TypeString,
			Default:      defaultAuthURL,
			Description:  "URL that credentials_version v1 exchanges at. The rules of console_url.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Authorization URL"},
		},
		"ca_cert": {
			Type:         framework.TypeString,
			Description:  "CA bundle (PEM) that is trusted for both URLs, in addition to the system's.",
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

func (b *backend) configExists(ctx context.Context, req *logical.Request, _ *framework.FieldData) (bool, error) {
	stored, err := req.Storage.Get(ctx, configStorageKey)
	if err != nil {
		return false, fmt.Errorf("reading config from storage: %w", err)
	}
	return stored != nil, nil
}

func (b *backend) writeConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	in, err := readInput(req, data)
	if err != nil {
		return nil, err
	}
	b.configWrite.Lock()
	defer b.configWrite.Unlock()
	entry, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if entry == nil {
		if in.patch {
			return nil, errConfigNotWritten
		}
		entry = newConfigEntry()
	}
	warnings, err := entry.apply(in)
	if err != nil {
		return nil, err
	}
	if err := b.verify(ctx, in, req.MountPoint+req.Path, *entry, entry.Credential); err != nil {
		return nil, err
	}
	// Even where storage reports a failure, it may have stored the entry.
	defer b.renew()
	if err := store(ctx, req.Storage, configStorageKey, entry); err != nil {
		return nil, err
	}
	return warn(warnings), nil
}

// apply merges the fields of a request into c and checks the whole. It returns warnings for the operator.
func (c *configEntry) apply(in input) (warnings []string, err error) {
	before, isNew := c.endpoints, c.Credential.empty()
	if c.ConsoleURL, err = in.endpoint("console_url", c.ConsoleURL, defaultConsoleURL); err != nil {
		return nil, err
	}
	if c.AuthURL, err = in.endpoint("auth_url", c.AuthURL, defaultAuthURL); err != nil {
		return nil, err
	}
	if caCert, given := in.text("ca_cert"); given {
		if _, err := trustedRoots(caCert); err != nil {
			return nil, err
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
		switch {
		case err != nil:
			return nil, err
		case given && value == nil:
			*field.value = field.fallback
		case given:
			*field.value = *value
		}
	}
	if c.RequestTimeout < minRequestTimeout || c.RequestTimeout > maxRequestTimeout {
		return nil, invalidf("request_timeout is out of range: accepted is 1s to 80s")
	}

	dropped, err := c.Credential.merge(in, versionV3)
	if err != nil {
		return nil, err
	}
	if c.Credential.OrganizationID == "" {
		return nil, invalidf("organization_id is missing: accepted is the UUID that Console shows on its Manage organization page")
	}
	if err := c.Credential.check(); err != nil {
		return nil, err
	}
	if err := c.Credential.bind(in, c.endpoints); err != nil {
		return nil, err
	}
	warnings = c.Credential.warnings()
	if len(dropped) > 0 {
		warnings = append(warnings, droppedWarning(dropped, c.Credential.Version))
	}
	if !isNew && origin(before.ConsoleURL) != origin(c.ConsoleURL) {
		warnings = append(warnings, "console_url has changed: roles with an API key of their own are refused until it is written again")
	}
	if !isNew && origin(before.AuthURL) != origin(c.AuthURL) {
		warnings = append(warnings, "auth_url has changed: roles with a bot user of their own (v1) are refused until it is written again")
	}
	return warnings, nil
}

func (b *backend) readConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	entry, err := loadConfig(ctx, req.Storage)
	if err != nil || entry == nil {
		return nil, err
	}
	data := entry.Credential.readable()
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
	b.configWrite.Lock()
	defer b.configWrite.Unlock()
	// Even where storage reports a failure, the entry may be gone.
	defer b.renew()
	if err := req.Storage.Delete(ctx, configStorageKey); err != nil {
		return nil, fmt.Errorf("deleting config from storage: %w", err)
	}
	return nil, nil
}

const configHelp = `
The key pair of config is used for token, and for every role that has no credential of its own. It is verified with
one exchange before it is stored, unless verify_connection is false. Fields that are left out keep their value.

    $ vault write snowplow/config \
        organization_id=8a5f2b1c-7d3e-4f60-9a1b-2c3d4e5f6071 \
        api_key_id=<ID> api_key=@<file with the key>

The key goes to the host of console_url (auth_url for v1) that it was written with and nowhere else: to change the
host, write the key again in the same request.
`
