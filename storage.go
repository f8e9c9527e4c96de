package snowplow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

// Keys of Vault's storage.
const (
	configStorageKey   = "config"
	roleStoragePrefix  = "roles/"
	tokenStoragePrefix = "tokens/" // followed by the key of the entry that holds the JWT's credential
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

// tokenEntry is a cached JWT in storage.
type tokenEntry struct {
	Key   tokenKey      `json:"key"`
	Token console.Token `json:"token"`
}

// credentialFor returns the credential that a role's JWTs are exchanged with.
func (r *roleEntry) credentialFor(config *configEntry) console.Credential {
	if r.Credential == nil {
		return config.Credential
	}
	cred := *r.Credential
	if cred.OrganizationID == "" {
		cred.OrganizationID = config.Credential.OrganizationID
	}
	return cred
}

// errConfigNotWritten is answered with the command that writes config.
var errConfigNotWritten = errors.New("the engine is not configured")

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
	if err := checkVersion(configStorageKey, entry.Credential); err != nil {
		return nil, err
	}
	return entry, nil
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

// stored reports whether there is an entry.
func stored(ctx context.Context, storage logical.Storage, key string) (bool, error) {
	entry, err := storage.Get(ctx, key)
	if err != nil {
		return false, fmt.Errorf("reading %s from storage: %w", key, err)
	}
	return entry != nil, nil
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

// keyOf returns the cache key of a credential's JWT.
func keyOf(path string, cred console.Credential, to console.Endpoints) tokenKey {
	key := tokenKey{
		Path:           path,
		CredentialID:   cred.ID,
		Version:        cred.Version,
		OrganizationID: cred.OrganizationID,
		ConsoleURL:     to.ConsoleURL,
	}
	if cred.Version == console.V1 {
		key.AuthURL = to.AuthURL
	}
	return key
}

// storedTokens is the tokenStore in Vault's storage.
type storedTokens struct {
	storage logical.Storage
	// writable reports whether this node may write entries that are local to the cluster.
	writable func() bool
}

// currentKey returns the key of the credential that is stored at path, nil if none is.
func currentKey(ctx context.Context, storage logical.Storage, path string) (*tokenKey, error) {
	config, err := loadConfig(ctx, storage)
	if err != nil || config == nil {
		return nil, err
	}
	cred := config.Credential
	if path != configStorageKey {
		role, err := loadRole(ctx, storage, path[len(roleStoragePrefix):])
		if err != nil || role == nil || role.Credential == nil {
			return nil, err
		}
		cred = role.credentialFor(config)
	}
	if cred.Empty() {
		return nil, nil
	}
	key := keyOf(path, cred, config.Endpoints)
	return &key, nil
}

// load returns the JWT stored under key. It ignores what is damaged, expired, of another key, or obtained more than a
// minute in the future.
func (t storedTokens) load(ctx context.Context, key tokenKey) (*console.Token, error) {
	entry, err := t.entry(ctx, key.Path)
	if err != nil || entry == nil || entry.Key != key || !entry.usable(time.Now()) {
		return nil, err
	}
	token := &entry.Token
	// The clock of the node that stored it may be ahead of this one's; the JWT does not last longer for that.
	if now := time.Now(); token.ObtainedAt.After(now) {
		token.ObtainedAt, token.Validity = now, min(token.Validity, token.ExpiresAt.Sub(now))
	}
	return token, nil
}

// entry reads what is stored for a path, nil if that is nothing. What is damaged is an entry of no key.
func (t storedTokens) entry(ctx context.Context, path string) (*tokenEntry, error) {
	entry, err := load[tokenEntry](ctx, t.storage, tokenStoragePrefix+path)
	if errors.As(err, new(damagedError)) {
		return &tokenEntry{}, nil
	}
	return entry, err
}

// maxClockSkew is how far in the future a stored JWT may have been obtained: the clock of another node wrote it.
const maxClockSkew = time.Minute

func (e *tokenEntry) usable(now time.Time) bool {
	t := e.Token
	return t.Bearer != "" && t.Remaining(now) > 0 && t.ExpiresAt.After(now) && !t.ObtainedAt.After(now.Add(maxClockSkew))
}

// paths lists where the credentials of the stored JWTs are stored.
func (t storedTokens) paths(ctx context.Context) ([]string, error) {
	paths, err := t.storage.List(ctx, tokenStoragePrefix)
	if err != nil {
		return nil, fmt.Errorf("listing tokens in storage: %w", err)
	}
	paths = slices.DeleteFunc(paths, func(path string) bool { return path == roleStoragePrefix })
	roles, err := t.storage.List(ctx, tokenStoragePrefix+roleStoragePrefix)
	if err != nil {
		return nil, fmt.Errorf("listing tokens of roles in storage: %w", err)
	}
	for _, name := range roles {
		paths = append(paths, roleStoragePrefix+name)
	}
	return paths, nil
}

// tidy deletes the JWT stored for a path unless it is still usable and belongs to the stored credential. It returns
// that credential's key, nil if there is none.
func (t storedTokens) tidy(ctx context.Context, path string) (*tokenKey, error) {
	current, err := currentKey(ctx, t.storage, path)
	if err != nil || !t.writable() {
		return current, err
	}
	entry, err := t.entry(ctx, path)
	if err != nil || entry == nil || current != nil && entry.Key == *current && entry.usable(time.Now()) {
		return current, err
	}
	if err := t.delete(ctx, path); !errors.Is(err, errReadOnly) {
		return current, err
	}
	return current, nil
}

func (t storedTokens) save(ctx context.Context, key tokenKey, token console.Token) error {
	if !t.writable() {
		return errReadOnly
	}
	current, err := currentKey(ctx, t.storage, key.Path)
	if err != nil || current == nil || *current != key {
		return err
	}
	return readOnly(store(ctx, t.storage, tokenStoragePrefix+key.Path, tokenEntry{key, token}))
}

func (t storedTokens) remove(ctx context.Context, key tokenKey) error {
	entry, err := t.entry(ctx, key.Path)
	// One that is damaged or cannot be read may be this one, so it is deleted.
	if err == nil && (entry == nil || entry.Key != key && entry.Key != tokenKey{}) {
		return nil
	}
	if !t.writable() {
		return errReadOnly
	}
	return t.delete(ctx, key.Path)
}

func (t storedTokens) delete(ctx context.Context, path string) error {
	if err := t.storage.Delete(ctx, tokenStoragePrefix+path); err != nil {
		return readOnly(fmt.Errorf("deleting the token of %s from storage: %w", path, err))
	}
	return nil
}

// readOnly recognizes the refusal of a node that may not write: errors of storage reach a plugin as text.
func readOnly(err error) error {
	if err != nil && strings.Contains(err.Error(), logical.ErrReadOnly.Error()) {
		return errReadOnly
	}
	return err
}
