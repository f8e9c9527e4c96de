package snowplow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"
)

const roleStoragePrefix = "roles/"

// roleEntry is a role in storage. What is nil comes from config.
type roleEntry struct {
	Credential  *credential    `json:"credential,omitempty"`
	TTL         *time.Duration `json:"ttl,omitempty"`
	ReusePeriod *time.Duration `json:"reuse_period,omitempty"`
}

// effective is the credential that a role's JWTs are exchanged with.
func (r *roleEntry) effective(config configEntry) credential {
	if r.Credential == nil {
		return config.Credential
	}
	cred := *r.Credential
	if cred.OrganizationID == "" {
		cred.OrganizationID = config.Credential.OrganizationID
	}
	return cred
}

func unknownRole(mount, name string) error {
	return invalidf("role %q is not known: 'vault list %sroles' shows those that are", name, mount)
}

// loadRole is a role as it is stored, nil if it is not.
func loadRole(ctx context.Context, storage logical.Storage, name string) (*roleEntry, error) {
	stored, err := storage.Get(ctx, roleStoragePrefix+name)
	if err != nil {
		return nil, fmt.Errorf("reading role %q from storage: %w", name, err)
	}
	if stored == nil {
		return nil, nil
	}
	var entry roleEntry
	if err := stored.DecodeJSON(&entry); err != nil {
		return nil, fmt.Errorf("reading role %q from storage: it is damaged: delete it and write it again", name)
	}
	return &entry, nil
}

func (b *backend) pathRoles() *framework.Path {
	return &framework.Path{
		Pattern:      "roles/?$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
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
		HelpDescription: strings.TrimSpace(rolesHelp),
	}
}

func (b *backend) pathRole() *framework.Path {
	fields := roleFields()
	maps.Copy(fields, roleNameField("name"))
	write := func(verb, summary string) *framework.PathOperation {
		return changing(framework.PathOperation{
			Callback:     b.writeRole,
			Summary:      summary,
			Responses:    writeResponses,
			DisplayAttrs: &framework.DisplayAttributes{OperationVerb: verb, OperationSuffix: "role"},
		})
	}
	return &framework.Path{
		Pattern:        "roles/" + framework.GenericNameRegex("name"),
		Fields:         fields,
		ExistenceCheck: b.roleExists,
		DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write("write", "Write a role."),
			logical.UpdateOperation: write("write", "Write a role; fields that are left out keep their value."),
			logical.PatchOperation:  write("patch", "Change some fields of a role; null takes a field back to what config says."),
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.readRole,
				Summary:      "Read a role, without its secrets.",
				Responses:    okResponse("What the role says itself; the rest comes from config.", readableFields(roleFields())),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "role"},
			},
			logical.DeleteOperation: changing(framework.PathOperation{
				Callback:     b.deleteRole,
				Summary:      "Delete a role; its leases stay revocable.",
				Responses:    noContent("The role is deleted."),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "delete", OperationSuffix: "role"},
			}),
		},
		HelpSynopsis:    "A credential, or lease times, for one team.",
		HelpDescription: strings.TrimSpace(roleHelp),
	}
}

func roleFields() map[string]*framework.FieldSchema {
	fields := leaseFields()
	maps.Copy(fields, credentialSchema())
	return fields
}

// roleNameField is the schema of a role's name in a path.
func roleNameField(field string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{field: {
		Type:         framework.TypeString,
		Required:     true,
		Description:  "Name of the role.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Role"},
	}}
}

// roleOf is the role that a path names, empty on a path without one.
func roleOf(data *framework.FieldData) string {
	role, _ := data.GetOk("role")
	name, _ := role.(string)
	return name
}

func (b *backend) roleExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	name := data.Get("name").(string)
	stored, err := req.Storage.Get(ctx, roleStoragePrefix+name)
	if err != nil {
		return false, fmt.Errorf("reading role %q from storage: %w", name, err)
	}
	return stored != nil, nil
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
	fields := map[string]any{}
	if cred := entry.Credential; cred != nil {
		fields = cred.readable()
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

func (b *backend) writeRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	in, err := readInput(req, data)
	if err != nil {
		return nil, err
	}
	name := data.Get("name").(string)
	lock := locksutil.LockForKey(b.roleWrites, name)
	lock.Lock()
	defer lock.Unlock()
	entry, err := loadRole(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if entry == nil {
		if in.patch {
			return nil, unknownRole(req.MountPoint, name)
		}
		entry = &roleEntry{}
	}
	config, err := b.current.Load().connection(ctx, req.Storage)
	if err != nil && !errors.Is(err, errConfigNotWritten) {
		return nil, err
	}
	warnings, err := entry.apply(in, config)
	if err != nil {
		return nil, err
	}
	if entry.Credential != nil {
		if err := b.verify(ctx, in, req.MountPoint+req.Path, config.configEntry, entry.effective(config.configEntry)); err != nil {
			return nil, err
		}
	}
	// Even where storage reports a failure, it may have stored the entry.
	defer func() {
		current := b.current.Load()
		current.dropRole(name)
		if config != nil {
			current.issuer.retry(entry.effective(config.configEntry))
		}
	}()
	if err := store(ctx, req.Storage, roleStoragePrefix+name, entry); err != nil {
		return nil, err
	}
	return warn(warnings), nil
}

// apply merges the fields of a request into r and checks the whole; config is nil where it is not written. It
// returns warnings for the operator.
func (r *roleEntry) apply(in input, config *connection) (warnings []string, err error) {
	for name, stored := range map[string]**time.Duration{"ttl": &r.TTL, "reuse_period": &r.ReusePeriod} {
		value, given, err := in.duration(name)
		if err != nil {
			return nil, err
		}
		if given {
			*stored = value
		}
	}

	var cred credential
	if r.Credential != nil {
		cred = *r.Credential
	}
	defaultVersion := versionV3
	if config != nil {
		defaultVersion = config.Credential.Version
	}
	dropped, err := cred.merge(in, defaultVersion)
	if err != nil {
		return nil, err
	}
	if cred.empty() {
		r.Credential = nil
		version, _ := in.text("credentials_version")
		for name, value := range map[string]string{"organization_id": cred.OrganizationID, "credentials_version": version} {
			if value != "" {
				return nil, invalidf("%s on a role needs a credential of the role's own: write %s with it, or leave it to config", name, namesOf(cred.Version))
			}
		}
		return nil, nil
	}
	if err := cred.check(); err != nil {
		return nil, err
	}
	if config == nil {
		return nil, errConfigNotWritten // which says where the credential may be sent
	}
	if err := cred.bind(in, config.endpoints); err != nil {
		return nil, err
	}
	r.Credential = &cred
	warnings = cred.warnings()
	if len(dropped) > 0 {
		warnings = append(warnings, droppedWarning(dropped, cred.Version))
	}
	return warnings, nil
}

func (b *backend) deleteRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get("name").(string)
	lock := locksutil.LockForKey(b.roleWrites, name)
	lock.Lock()
	defer lock.Unlock()
	// Even where storage reports a failure, the entry may be gone.
	defer func() {
		b.current.Load().dropRole(name)
		b.stats.Delete(name)
	}()
	if err := req.Storage.Delete(ctx, roleStoragePrefix+name); err != nil {
		return nil, fmt.Errorf("deleting role %q from storage: %w", name, err)
	}
	return nil, nil
}

const rolesHelp = `
    $ vault list snowplow/roles
`

const roleHelp = `
A role hands out JWTs on token/<name>, so that a policy on that path decides who may have them. With a credential of
its own, usually a scoped API key, its JWTs have that key's permissions; without one, those of config's key. Every
field that a role leaves out comes from config.

    $ vault write snowplow/roles/analytics api_key_id=<ID> api_key=@<file with the key> ttl=1h
    $ vault read snowplow/token/analytics

A role's credential goes to the host that config named when it was written. When config names another one, it is
refused until it is written again.
`
