package snowplow

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

// storedTokenFixture is storage with a config, a role with a credential of its own, and the keys of their JWTs.
type storedTokenFixture struct {
	storedTokens
	storage *faultyStorage
	writes  bool
	config  tokenKey
	role    tokenKey
	token   console.Token
}

func newStoredTokenFixture(t *testing.T) *storedTokenFixture {
	t.Helper()
	f := &storedTokenFixture{storage: &faultyStorage{Storage: &logical.InmemStorage{}}, writes: true}
	f.storedTokens = storedTokens{f.storage, func() bool { return f.writes }}
	entry := newConfigEntry()
	entry.Credential = console.Credential{ID: "c", Version: console.V3, OrganizationID: "org", APIKeyID: "id", APIKey: "key"}
	role := &roleEntry{Credential: &console.Credential{ID: "r", Version: console.V3, APIKeyID: "id", APIKey: "key"}}
	require.NoError(t, store(t.Context(), f.storage, configStorageKey, entry))
	require.NoError(t, store(t.Context(), f.storage, "roles/team", role))
	f.config = keyOf(configStorageKey, entry.Credential, entry.Endpoints)
	f.role = keyOf("roles/team", role.credentialFor(entry), entry.Endpoints)
	now := time.Now()
	f.token = console.Token{Bearer: "jwt", IssuedAt: now, ExpiresAt: now.Add(time.Hour), Validity: time.Hour, ObtainedAt: now}
	return f
}

// holds lists what is stored of JWTs.
func (f *storedTokenFixture) holds(t *testing.T) []string {
	t.Helper()
	paths, err := f.paths(t.Context())
	require.NoError(t, err)
	return paths
}

func TestStoredTokensAreReadBack(t *testing.T) {
	t.Parallel()
	f := newStoredTokenFixture(t)
	for _, key := range []tokenKey{f.config, f.role} {
		none, err := f.load(t.Context(), key)
		require.NoError(t, err)
		assert.Nil(t, none)
		require.NoError(t, f.save(t.Context(), key, f.token))
		got, err := f.load(t.Context(), key)
		require.NoError(t, err)
		assert.Equal(t, f.token.Bearer, got.Bearer)
		assert.Equal(t, f.token.Validity, got.Validity)
		assert.True(t, f.token.ObtainedAt.Equal(got.ObtainedAt))
	}
	assert.Equal(t, []string{"config", "roles/team"}, f.holds(t))

	other := f.role
	other.CredentialID = "another"
	require.NoError(t, f.remove(t.Context(), other))
	assert.Len(t, f.holds(t), 2, "what is stored belongs to another credential")
	require.NoError(t, f.remove(t.Context(), f.role))
	assert.Equal(t, []string{"config"}, f.holds(t))
}

func TestAStoredTokenThatCannotBeUsedIsIgnoredAndTidiedAway(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*tokenEntry){
		"another credential":          func(e *tokenEntry) { e.Key.CredentialID = "old" },
		"another Console":             func(e *tokenEntry) { e.Key.ConsoleURL = "https://other.example.com" },
		"another organization":        func(e *tokenEntry) { e.Key.OrganizationID = "other" },
		"no token":                    func(e *tokenEntry) { e.Token.Bearer = "" },
		"expired":                     func(e *tokenEntry) { e.Token.ObtainedAt = e.Token.ObtainedAt.Add(-time.Hour) },
		"expired by Snowplow's clock": func(e *tokenEntry) { e.Token.ExpiresAt = time.Now() },
		"obtained too far in the future": func(e *tokenEntry) {
			e.Token.ObtainedAt = e.Token.ObtainedAt.Add(maxClockSkew + time.Minute)
		},
	} {
		f := newStoredTokenFixture(t)
		entry := tokenEntry{f.config, f.token}
		change(&entry)
		require.NoError(t, store(t.Context(), f.storage, "tokens/config", entry))
		got, err := f.load(t.Context(), f.config)
		require.NoError(t, err, name)
		assert.Nil(t, got, name)
		current, err := f.tidy(t.Context(), configStorageKey)
		require.NoError(t, err, name)
		assert.Equal(t, &f.config, current, name)
		assert.Empty(t, f.holds(t), name)
	}
	f := newStoredTokenFixture(t)
	require.NoError(t, f.storage.Put(t.Context(), &logical.StorageEntry{Key: "tokens/config", Value: []byte("{")}))
	got, err := f.load(t.Context(), f.config)
	require.NoError(t, err, "damaged")
	assert.Nil(t, got)
	require.NoError(t, f.remove(t.Context(), f.config))
	assert.Empty(t, f.holds(t), "nobody knows whose it is")
}

func TestTidyKeepsTheTokenOfThePresentCredential(t *testing.T) {
	t.Parallel()
	f := newStoredTokenFixture(t)
	require.NoError(t, f.save(t.Context(), f.role, f.token))
	current, err := f.tidy(t.Context(), f.role.Path)
	require.NoError(t, err)
	assert.Equal(t, &f.role, current)
	assert.Len(t, f.holds(t), 1)

	require.NoError(t, f.storage.Delete(t.Context(), f.role.Path))
	require.NoError(t, f.save(t.Context(), f.role, f.token))
	current, err = f.tidy(t.Context(), f.role.Path)
	require.NoError(t, err)
	assert.Nil(t, current)
	assert.Empty(t, f.holds(t), "the role is gone")
}

func TestATokenOfAReplacedCredentialIsNotStored(t *testing.T) {
	t.Parallel()
	f := newStoredTokenFixture(t)
	f.config.CredentialID = "old"
	require.NoError(t, f.save(t.Context(), f.config, f.token))
	assert.Empty(t, f.holds(t))
	require.NoError(t, f.storage.Delete(t.Context(), configStorageKey))
	require.NoError(t, f.save(t.Context(), f.role, f.token))
	assert.Empty(t, f.holds(t), "without config, no credential can be used")
}

func TestANodeThatMayNotWriteLeavesStoredTokensAlone(t *testing.T) {
	t.Parallel()
	f := newStoredTokenFixture(t)
	require.NoError(t, f.save(t.Context(), f.config, f.token))
	f.writes = false
	require.ErrorIs(t, f.save(t.Context(), f.role, f.token), errReadOnly)
	require.ErrorIs(t, f.remove(t.Context(), f.config), errReadOnly)
	f.config.CredentialID = "new"
	_, err := f.tidy(t.Context(), configStorageKey)
	require.NoError(t, err)
	assert.Equal(t, []string{"config"}, f.holds(t))
	assert.ErrorIs(t, readOnly(errors.New(logical.ErrReadOnly.Error())), errReadOnly)
	assert.ErrorIs(t, readOnly(errStorage), errStorage)
}

func TestStorageOfTokensThatFails(t *testing.T) {
	t.Parallel()
	f := newStoredTokenFixture(t)
	require.NoError(t, f.save(t.Context(), f.config, f.token))
	for verb, calls := range map[string][]func() error{
		"get": {
			func() error { _, err := f.load(t.Context(), f.config); return err },
			func() error { return f.save(t.Context(), f.role, f.token) },
			func() error { _, err := f.tidy(t.Context(), configStorageKey); return err },
		},
		"put":    {func() error { return f.save(t.Context(), f.role, f.token) }},
		"delete": {func() error { return f.remove(t.Context(), f.config) }},
		"list":   {func() error { _, err := f.paths(t.Context()); return err }},
	} {
		f.storage.fail(verb)
		for i, call := range calls {
			assert.ErrorIs(t, call(), errStorage, "%s %d", verb, i)
		}
		f.storage.fail()
	}
	assert.Equal(t, []string{"config"}, f.holds(t))
}

func TestEntriesThatCannotBeUsedAreNamed(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	const (
		damaged = "the entry is damaged: delete it and write it again"
		later   = `credentials_version "v9" was written by a later version`
		urls    = `{"console_url":"https://x","auth_url":"https://x","request_timeout":1000000000,`
	)
	for _, test := range []struct{ key, value, says string }{
		{"config", `{`, damaged},
		{"config", `{}`, damaged},
		{"config", urls + `"credential":{"organization_id":"org"}}`, damaged},
		{"config", urls + `"credential":{"organization_id":"org","credentials_version":"v9"}}`, later},
		{"roles/analytics", `{"credential":1}`, damaged},
		{"roles/analytics", `{"credential":{}}`, damaged},
		{"roles/analytics", `{"credential":{"credentials_version":"v9"}}`, later},
	} {
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: test.key, Value: []byte(test.value)}))
		status, message := m.refused(logical.ReadOperation, test.key)
		assert.Equal(t, 500, status, test.value)
		assert.Contains(t, message, "reading "+test.key+" from storage: ", test.value)
		assert.Contains(t, message, test.says, test.value)
		kept, err := m.storage.Get(t.Context(), test.key)
		require.NoError(t, err)
		assert.Equal(t, test.value, string(kept.Value), "nothing is changed or deleted")
	}
}
