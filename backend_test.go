package snowplow

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// mount is the engine as Vault would mount it, on storage in memory.
type mount struct {
	t       *testing.T
	backend *backend
	storage *faultyStorage
	logs    *syncBuffer
}

func newMount(t *testing.T) *mount {
	t.Helper()
	logs := &syncBuffer{}
	made, err := Factory(t.Context(), &logical.BackendConfig{
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: logs}),
		System: &logical.StaticSystemView{
			DefaultLeaseTTLVal: 32 * 24 * time.Hour,
			MaxLeaseTTLVal:     32 * 24 * time.Hour,
			PluginEnvironment:  &logical.PluginEnvironment{VaultVersion: "1.21.2"},
		},
		StorageView: &logical.InmemStorage{},
	})
	require.NoError(t, err)
	m := &mount{t: t, backend: made.(*backend), storage: &faultyStorage{Storage: &logical.InmemStorage{}}, logs: logs}
	t.Cleanup(func() { m.backend.Cleanup(context.Background()) })
	return m
}

// newConfiguredMount is a mount whose config holds the default key of the Console, and a Console that counts no
// exchange yet.
func newConfiguredMount(t *testing.T, more ...map[string]any) (*mount, *consoletest.Server) {
	t.Helper()
	console := consoletest.NewServer(t)
	m := newMount(t)
	m.mustWrite("config", append([]map[string]any{v3Config(console), {"verify_connection": false}}, more...)...)
	return m, console
}

// v3Config is the default key of a Console, as it is written to config.
func v3Config(console *consoletest.Server) map[string]any {
	return map[string]any{
		"organization_id": consoletest.DefaultOrganizationID,
		"api_key_id":      consoletest.DefaultAPIKeyID,
		"api_key":         consoletest.DefaultAPIKey,
		"console_url":     console.URL,
	}
}

// v1Config is the default bot user of a Console.
func v1Config(console *consoletest.Server) map[string]any {
	return map[string]any{
		"organization_id":     consoletest.DefaultOrganizationID,
		"credentials_version": "v1",
		"username":            consoletest.DefaultUsername,
		"password":            consoletest.DefaultPassword,
		"client_id":           consoletest.DefaultClientID,
		"client_secret":       consoletest.DefaultClientSecret,
		"auth_url":            console.URL,
		"console_url":         console.URL,
	}
}

// request runs an operation as Vault does: with an existence check before a write, and every answer held to the
// schema that the path declares.
func (m *mount) request(ctx context.Context, operation logical.Operation, path string, fields ...map[string]any) (*logical.Response, error) {
	m.t.Helper()
	data := map[string]any{}
	for _, f := range fields {
		maps.Copy(data, f)
	}
	req := &logical.Request{Operation: operation, Path: path, MountPoint: "snowplow/", Storage: m.storage, Data: data}
	if operation == logical.UpdateOperation {
		checked, exists, err := m.backend.HandleExistenceCheck(ctx, req)
		if err != nil {
			return nil, err
		}
		if checked && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := m.backend.HandleRequest(ctx, req)
	if route := m.backend.Route(path); route != nil && err == nil && !resp.IsError() && resp != nil && resp.Data != nil {
		schema.ValidateResponse(m.t, schema.GetResponseSchema(m.t, route, operation), resp, true)
	}
	return resp, err
}

func (m *mount) must(operation logical.Operation, path string, fields ...map[string]any) *logical.Response {
	m.t.Helper()
	resp, err := m.request(m.t.Context(), operation, path, fields...)
	require.NoError(m.t, err)
	if resp != nil {
		require.NoError(m.t, resp.Error())
	}
	return resp
}

func (m *mount) mustRead(path string) *logical.Response {
	m.t.Helper()
	resp := m.must(logical.ReadOperation, path)
	require.NotNil(m.t, resp, "nothing at %s", path)
	return resp
}

func (m *mount) mustWrite(path string, fields ...map[string]any) *logical.Response {
	m.t.Helper()
	return m.must(logical.UpdateOperation, path, fields...)
}

// refused runs an operation that must fail, and gives the HTTP status and the message that Vault would answer with.
func (m *mount) refused(operation logical.Operation, path string, fields ...map[string]any) (status int, message string) {
	m.t.Helper()
	resp, err := m.request(m.t.Context(), operation, path, fields...)
	return refusal(m.t, resp, err)
}

func refusal(t *testing.T, resp *logical.Response, err error) (status int, message string) {
	t.Helper()
	var coded logical.HTTPCodedError
	switch {
	case errors.As(err, &coded):
		return coded.Code(), coded.Error()
	case err != nil:
		return 500, err.Error()
	case resp.IsError():
		return 400, resp.Error().Error()
	}
	require.Fail(t, "the request was accepted")
	return 0, ""
}

// syncBuffer collects log lines of several goroutines.
type syncBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// faultyStorage fails on demand, verb by verb, and counts what it was asked.
type faultyStorage struct {
	logical.Storage
	mu     sync.Mutex
	failOn []string
	calls  int
}

var errStorage = errors.New("disk on fire")

func (s *faultyStorage) fail(verbs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failOn = verbs
}

func (s *faultyStorage) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *faultyStorage) called(verb string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if slices.Contains(s.failOn, verb) {
		return errStorage
	}
	return nil
}

func (s *faultyStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := s.called("get"); err != nil {
		return nil, err
	}
	return s.Storage.Get(ctx, key)
}

func (s *faultyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if err := s.called("put"); err != nil {
		return err
	}
	return s.Storage.Put(ctx, entry)
}

func (s *faultyStorage) Delete(ctx context.Context, key string) error {
	if err := s.called("delete"); err != nil {
		return err
	}
	return s.Storage.Delete(ctx, key)
}

func (s *faultyStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if err := s.called("list"); err != nil {
		return nil, err
	}
	return s.Storage.List(ctx, prefix)
}

func TestStorageThatFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		verb      string
		operation logical.Operation
		path      string
		fields    map[string]any
	}{
		"read token":     {"get", logical.ReadOperation, "token/analytics", nil},
		"read status":    {"get", logical.ReadOperation, "status/analytics", nil},
		"read config":    {"get", logical.ReadOperation, "config", nil},
		"read role":      {"get", logical.ReadOperation, "roles/analytics", nil},
		"existence":      {"get", logical.UpdateOperation, "roles/analytics", map[string]any{"ttl": 60}},
		"write config":   {"put", logical.UpdateOperation, "config", map[string]any{"ttl": 60}},
		"write role":     {"put", logical.UpdateOperation, "roles/analytics", map[string]any{"ttl": 60}},
		"patch role":     {"put", logical.PatchOperation, "roles/analytics", map[string]any{"ttl": 60}},
		"delete config":  {"delete", logical.DeleteOperation, "config", nil},
		"delete role":    {"delete", logical.DeleteOperation, "roles/analytics", nil},
		"list the roles": {"list", logical.ListOperation, "roles/", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := newConfiguredMount(t)
			m.mustWrite("roles/analytics", map[string]any{"ttl": 30})

			m.storage.fail(test.verb)
			_, err := m.request(t.Context(), test.operation, test.path, test.fields)
			require.ErrorIs(t, err, errStorage)
			assert.Contains(t, err.Error(), "storage", "the error must say what was attempted")

			m.storage.fail()
			assert.EqualValues(t, 0, m.mustRead("config").Data["ttl"], "something was written")
			assert.EqualValues(t, 30, m.mustRead("roles/analytics").Data["ttl"], "something was written")
			assert.NotEmpty(t, m.mustRead("token/analytics").Data["access_token"], "the mount did not recover")
		})
	}
}

func TestDamagedStorageIsAnError(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	for _, path := range []string{"config", "roles/analytics"} {
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: path, Value: []byte("{")}))
		_, err := m.request(t.Context(), logical.ReadOperation, path)
		assert.ErrorContains(t, err, "damaged", path)
	}
}

func TestSealWrapCoversWhatHoldsSecrets(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	m.mustWrite("roles/analytics", map[string]any{"api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey})
	keys, err := logical.CollectKeys(t.Context(), m.storage)
	require.NoError(t, err)
	require.Len(t, keys, 2)
	for _, key := range keys {
		// Vault's rule: an entry that ends in a slash is a prefix, any other one key.
		sealed := slices.ContainsFunc(m.backend.SpecialPaths().SealWrapStorage, func(entry string) bool {
			return entry == key || entry[len(entry)-1] == '/' && len(key) > len(entry) && key[:len(entry)] == entry
		})
		assert.True(t, sealed, "%s is not seal-wrapped", key)
	}
}

func TestEveryOperationIsDocumented(t *testing.T) {
	t.Parallel()
	for _, path := range newMount(t).backend.Paths {
		assert.NotEmpty(t, path.HelpSynopsis, path.Pattern)
		assert.Contains(t, path.HelpDescription, "$ vault ", "%s has no example", path.Pattern)
		assert.Equal(t, operationPrefix, path.DisplayAttrs.OperationPrefix, path.Pattern)
		for name, field := range path.Fields {
			assert.NotEmpty(t, field.Description, "%s of %s", name, path.Pattern)
			secret := slices.ContainsFunc(credentialFields, func(f credentialField) bool { return f.name == name && f.secret })
			assert.Equal(t, secret, field.DisplayAttrs.Sensitive, "%s of %s", name, path.Pattern)
		}
		for name, operation := range path.Operations {
			properties := operation.Properties()
			assert.NotEmpty(t, properties.Summary, "%s %s", name, path.Pattern)
			assert.NotEmpty(t, properties.Responses, "%s %s", name, path.Pattern)
			require.NotNil(t, properties.DisplayAttrs, "%s %s", name, path.Pattern)
			assert.NotEmpty(t, properties.DisplayAttrs.OperationVerb, "%s %s", name, path.Pattern)
		}
	}
}

func TestWritesAndLeasesAreForwarded(t *testing.T) {
	t.Parallel()
	for _, path := range newMount(t).backend.Paths {
		for name, operation := range path.Operations {
			properties := operation.Properties()
			fromMemory := path.Pattern != "config" && path.Pattern[:5] != "roles"
			writes := !fromMemory && name != logical.ReadOperation && name != logical.ListOperation
			assert.Equal(t, fromMemory || writes, properties.ForwardPerformanceStandby, "%s %s", name, path.Pattern)
			assert.Equal(t, writes, properties.ForwardPerformanceSecondary, "%s %s", name, path.Pattern)
		}
	}
}

func TestInvalidateDropsWhatWasDerived(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	m.mustWrite("roles/analytics", map[string]any{"ttl": 60})
	m.mustRead("token")
	m.mustRead("token/analytics")

	// Another node changes what is stored.
	entry, err := loadConfig(t.Context(), m.storage)
	require.NoError(t, err)
	entry.TTL = 2 * time.Minute
	require.NoError(t, store(t.Context(), m.storage, configStorageKey, entry))
	assert.Greater(t, m.mustRead("token").Secret.TTL, time.Hour, "config is read again without being invalidated")
	m.backend.InvalidateKey(t.Context(), configStorageKey)
	assert.Equal(t, 2*time.Minute, m.mustRead("token").Secret.TTL)

	assert.Equal(t, time.Minute, m.mustRead("token/analytics").Secret.TTL)
	role := 30 * time.Second
	require.NoError(t, store(t.Context(), m.storage, "roles/analytics", &roleEntry{TTL: &role}))
	assert.Equal(t, time.Minute, m.mustRead("token/analytics").Secret.TTL, "a role is read again without being invalidated")
	m.backend.InvalidateKey(t.Context(), "roles/analytics")
	assert.Equal(t, 30*time.Second, m.mustRead("token/analytics").Secret.TTL)
}

func TestRunningVersionIsTheLinkedOne(t *testing.T) {
	t.Parallel()
	assert.Equal(t, Version, newMount(t).backend.PluginVersion().Version)
}
