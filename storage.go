package snowplow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

// Keys of Vault's storage.
const (
	configStorageKey   = "config"
	roleStoragePrefix  = "roles/"
	tokenStoragePrefix = "tokens/" // followed by the key of the entry that holds the JWT's credential
)

// What credential_source says.
const (
	sourceRole   = "role"
	sourceConfig = "config"
)

// configEntry is config in storage.
type configEntry struct {
	console.Endpoints

	Credential     console.Credential `json:"credential"`
	CACert         string             `json:"ca_cert,omitempty"`
	RequestTimeout time.Duration      `json:"request_timeout"`
	TTL            time.Duration      `json:"ttl"`
	ReusePeriod    time.Duration      `json:"reuse_period"`
}

// roleEntry is a role in storage. What is nil comes from config.
type roleEntry struct {
	Credential  *console.Credential `json:"credential,omitempty"`
	TTL         *time.Duration      `json:"ttl,omitempty"`
	ReusePeriod *time.Duration      `json:"reuse_period,omitempty"`
}

// unknownRole is the answer to a role that is not stored.
func unknownRole(mount, name string) error {
	return invalidf("unknown role %q; list roles with 'vault list %sroles'", name, mount)
}

// loadConfig reads the stored config. It returns nil if there is none.
func loadConfig(ctx context.Context, storage logical.Storage) (*configEntry, error) {
	entry, err := load[configEntry](ctx, storage, configStorageKey)
	if err != nil || entry == nil {
		return nil, err
	}
	if entry.Credential.OrganizationID == "" || entry.ConsoleURL == "" || entry.AuthURL == "" || entry.RequestTimeout <= 0 {
		return nil, damagedError{configStorageKey}
	}
	return entry, checkVersion(configStorageKey, entry.Credential)
}

// loadRole reads a stored role. It returns nil if there is none.
func loadRole(ctx context.Context, storage logical.Storage, name string) (*roleEntry, error) {
	key := roleStoragePrefix + name
	entry, err := load[roleEntry](ctx, storage, key)
	if err != nil || entry == nil || entry.Credential == nil {
		return entry, err
	}
	return entry, checkVersion(key, *entry.Credential)
}

// checkVersion refuses a credential that a later release has written: this one would send it to the wrong place.
func checkVersion(key string, cred console.Credential) error {
	if cred.Version == "" {
		return damagedError{key}
	}
	if !slices.Contains(console.Versions, cred.Version) {
		return fmt.Errorf("reading %s from storage: its credentials_version %q was written by a later version of this plugin (this is %s): upgrade the plugin", key, cred.Version, Version)
	}
	return nil
}

// damagedError reports a stored entry that cannot be decoded.
type damagedError struct{ key string }

func (e damagedError) Error() string {
	return fmt.Sprintf("reading %s from storage: the entry is damaged: delete it and write it again", e.key)
}

// load reads an entry, nil if there is none.
func load[T any](ctx context.Context, storage logical.Storage, key string) (*T, error) {
	stored, err := storage.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("reading %s from storage: %w", key, err)
	}
	if stored == nil {
		return nil, nil
	}
	var entry T
	if err := stored.DecodeJSON(&entry); err != nil {
		return nil, damagedError{key} // the decoder's error could repeat a secret
	}
	return &entry, nil
}

// store writes an entry, whole or not at all.
func store(ctx context.Context, storage logical.Storage, key string, entry any) error {
	encoded, err := logical.StorageEntryJSON(key, entry)
	if err != nil {
		return fmt.Errorf("encoding %s for storage: %w", key, err)
	}
	if err := storage.Put(ctx, encoded); err != nil {
		return fmt.Errorf("writing %s to storage: %w", key, err)
	}
	return nil
}

// entries are what storage holds for a write: config, and the role that is written.
type entries struct {
	name   string       // of the role; empty: config itself is written
	config *configEntry // nil: none
	role   *roleEntry   // nil: none
}

func loadEntries(ctx context.Context, storage logical.Storage, role string) (entries, error) {
	config, err := loadConfig(ctx, storage)
	if err != nil || role == "" {
		return entries{config: config}, err
	}
	entry, err := loadRole(ctx, storage, role)
	return entries{role, config, entry}, err
}

// written returns where the entry is stored that is written, and the entry.
func (e entries) written() (path string, entry any, exists bool) {
	if e.name == "" {
		return configStorageKey, e.config, e.config != nil
	}
	return roleStoragePrefix + e.name, e.role, e.role != nil
}

// path returns where the entry is stored that is written.
func (e entries) path() string {
	path, _, _ := e.written()
	return path
}

// reusePeriod returns for how long readers share a JWT; config must be there.
func (e entries) reusePeriod() time.Duration {
	if e.role != nil && e.role.ReusePeriod != nil {
		return *e.role.ReusePeriod
	}
	return e.config.ReusePeriod
}

// target is what an exchange depends on.
type target struct {
	credential console.Credential
	endpoints  console.Endpoints
	caCert     string
}

// key returns the cache's key of the JWTs; path is where the credential is stored.
func (t target) key(path string) tokencache.Key {
	key := tokencache.Key{
		Path:           path,
		CredentialID:   t.credential.ID,
		Version:        t.credential.Version,
		OrganizationID: t.credential.OrganizationID,
		ConsoleURL:     t.endpoints.ConsoleURL,
	}
	if t.credential.Version == console.V1 {
		key.AuthURL = t.endpoints.AuthURL
	}
	return key
}

// target returns what an exchange with the credential depends on that is written; zero if there is none.
func (e entries) target() target {
	var cred console.Credential
	switch {
	case e.config == nil:
	case e.name == "":
		cred = e.config.Credential
	case e.role != nil && e.role.Credential != nil:
		cred = *e.role.Credential
		cred.OrganizationID = cmp.Or(cred.OrganizationID, e.config.Credential.OrganizationID)
	}
	if cred.Empty() {
		return target{}
	}
	return target{cred, e.config.Endpoints, e.config.CACert}
}

// storedTokens is the cache's Store in Vault's storage.
type storedTokens struct {
	storage logical.Storage
	system  logical.SystemView
}

// Current implements [tokencache.Store].
func (t storedTokens) Current(ctx context.Context, path string) (*tokencache.Key, error) {
	role, _ := strings.CutPrefix(path, roleStoragePrefix)
	if path == configStorageKey {
		role = ""
	}
	stored, err := loadEntries(ctx, t.storage, role)
	if err != nil {
		return nil, err
	}
	to := stored.target()
	if (to == target{}) {
		return nil, nil
	}
	key := to.key(path)
	return &key, nil
}

// Load implements [tokencache.Store].
func (t storedTokens) Load(ctx context.Context, path string) (*tokencache.Entry, error) {
	entry, err := load[tokencache.Entry](ctx, t.storage, tokenStoragePrefix+path)
	if errors.As(err, new(damagedError)) {
		return &tokencache.Entry{}, nil
	}
	return entry, err
}

// Paths implements [tokencache.Store].
func (t storedTokens) Paths(ctx context.Context) ([]string, error) {
	paths, err := logical.CollectKeys(ctx, logical.NewStorageView(t.storage, tokenStoragePrefix))
	if err != nil {
		return nil, fmt.Errorf("listing tokens in storage: %w", err)
	}
	return paths, nil
}

// Save implements [tokencache.Store].
func (t storedTokens) Save(ctx context.Context, path string, entry *tokencache.Entry) error {
	// What is local to the cluster is the active node's to write.
	if t.system.ReplicationState().HasState(consts.ReplicationPerformanceStandby) {
		return tokencache.ErrReadOnly
	}
	key := tokenStoragePrefix + path
	var err error
	if entry != nil {
		err = store(ctx, t.storage, key, entry)
	} else if err = t.storage.Delete(ctx, key); err != nil {
		err = fmt.Errorf("deleting %s from storage: %w", key, err)
	}
	// A node that may not write says so as text: errors of storage reach a plugin as such.
	if err != nil && strings.Contains(err.Error(), logical.ErrReadOnly.Error()) {
		return tokencache.ErrReadOnly
	}
	return err
}
