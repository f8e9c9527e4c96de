package snowplow

import (
	"context"
	"fmt"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

func (b *backend) pathRoles() *framework.Path {
	return &framework.Path{
		Pattern: "roles/?$",
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: b.listRoles,
				Summary:  "List the names of all roles.",
				Responses: okResponse("The names of all roles.", map[string]*framework.FieldSchema{
					"keys": {Type: framework.TypeStringSlice, Description: "The names."},
				}),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "list", OperationSuffix: "roles"},
			},
		},
		HelpSynopsis:    "The names of all roles.",
		HelpDescription: "$ vault list snowplow/roles",
	}
}

func (b *backend) pathRole() *framework.Path {
	fields := roleFields()
	maps.Copy(fields, roleNameField("name"))
	return &framework.Path{
		Pattern:        withRoleName("roles/", "name"),
		Fields:         fields,
		ExistenceCheck: b.exists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.writeOperation("write", "role", "Write a role."),
			logical.UpdateOperation: b.writeOperation("write", "role", "Write a role; omitted fields keep their value."),
			logical.PatchOperation:  b.writeOperation("patch", "role", "Change some fields of a role; null resets a field to config's value."),
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.readRole,
				Summary:      "Read a role, without its secrets.",
				Responses:    okResponse("The role's own settings; the rest comes from config.", readableRoleFields()),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "role"},
			},
			logical.DeleteOperation: b.deleteOperation("role", "Delete a role; its leases stay revocable.", "The role is deleted."),
		},
		HelpSynopsis:    "A credential, or lease times, for one team.",
		HelpDescription: roleHelp,
	}
}

// readableRoleFields returns the schema of the answer to a read.
func readableRoleFields() map[string]*framework.FieldSchema {
	fields := readableFields(roleFields())
	fields["credential_source"] = credentialSourceField
	return fields
}

func (b *backend) listRoles(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := req.Storage.List(ctx, roleStoragePrefix)
	if err != nil {
		return nil, fmt.Errorf("listing roles in storage: %w", err)
	}
	return logical.ListResponse(names), nil
}

func (b *backend) readRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	entry, err := loadRole(ctx, req.Storage, data.Get("name").(string))
	if err != nil || entry == nil {
		return nil, err
	}
	fields := map[string]any{"credential_source": sourceConfig}
	if cred := entry.Credential; cred != nil {
		fields = cred.Readable()
		fields["credential_source"] = sourceRole
		if cred.OrganizationID != "" {
			fields["organization_id"] = cred.OrganizationID
		}
	}
	if entry.TTL != nil {
		fields["ttl"] = int64(entry.TTL.Seconds())
	}
	if entry.ReusePeriod != nil {
		fields["reuse_period"] = int64(entry.ReusePeriod.Seconds())
	}
	return &logical.Response{Data: fields}, nil
}

// apply merges the fields of a request into r and checks the whole; config is nil if it is not written. It returns
// warnings for the operator.
func (r *roleEntry) apply(in *input, config *configEntry) (warnings []string, err error) {
	r.TTL = in.duration("ttl", r.TTL)
	r.ReusePeriod = in.duration("reuse_period", r.ReusePeriod)
	if in.err != nil {
		return nil, in.err
	}
	var cred console.Credential
	if r.Credential != nil {
		cred = *r.Credential
	}
	defaultVersion := console.V3
	var endpoints *console.Endpoints
	if config != nil {
		defaultVersion, endpoints = config.Credential.Version, &config.Endpoints
	}
	warnings, err = mergeCredential(&cred, in, defaultVersion, endpoints)
	if err != nil {
		return nil, err
	}
	if !cred.Empty() {
		r.Credential = &cred
		return warnings, nil
	}
	for _, name := range []string{"organization_id", "credentials_version"} {
		if value, _ := in.text(name); value != "" {
			return nil, fmt.Errorf("%s on a role needs a credential of the role's own: write %s in the same request, or leave the field out to use config's", name, console.NamesOf(cred.Version))
		}
	}
	r.Credential = nil
	if config == nil || config.Credential.Empty() {
		return []string{"neither the role nor config has a credential: reads of its token fail until one of them gets one"}, nil
	}
	return []string{"the role has no credential of its own: its tokens are those of config's key"}, nil
}

const roleHelp = `
A role serves JWTs on token/<name>, so that a policy on that path decides who may read them. With its own credential,
usually a scoped API key, its JWTs have that key's permissions; without one, those of config's key. Every field that a
role does not set comes from config. A role loses its own credential only if it is deleted, or if a patch sets the
secret fields to null.

    $ vault write snowplow/roles/analytics api_key_id=<ID> api_key=@<file with the key> ttl=1h
    $ vault read snowplow/token/analytics

A role's credential goes only to the host that config named when it was written. If config now names another host, reads
of token/<name> are refused until the credential is written again.
`
