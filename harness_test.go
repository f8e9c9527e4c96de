package snowplow

import (
	"context"
	"errors"
	"flag"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// Figures of the contract, as the tests of the mount need them.
const (
	maxReaderWait = 2 * time.Second // for an exchange, while the cached JWT would do
	storeTimeout  = 5 * time.Second // of what is done in storage for one path
	firstBackOff  = time.Second     // after a transient failure
)

// mount is the engine as Vault would mount it, on storage in memory.
type mount struct {
	t       *testing.T
	backend *backend
	storage *faultyStorage
	logs    *consoletest.Log

	transport http.RoundTripper
	events    logical.EventSender // nil: nobody listens
}

func newMount(t *testing.T) *mount {
	t.Helper()
	m := &mount{t: t, storage: &faultyStorage{Storage: &logical.InmemStorage{}}, logs: &consoletest.Log{}}
	m.start()
	t.Cleanup(m.stop)
	return m
}

// newMountInBubble is for bubbles of synctest: its exchanges are answered by console in the same process, so that fake
// time passes while one of them waits.
func newMountInBubble(t *testing.T, console http.Handler) *mount {
	t.Helper()
	m := newMount(t)
	m.dial(consoletest.Transport{Handler: console})
	return m
}

// start loads the mount, as a new plugin process or a new leader does.
func (m *mount) start() {
	m.t.Helper()
	made, err := Factory(m.t.Context(), &logical.BackendConfig{
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: m.logs}),
		System: &logical.StaticSystemView{
			DefaultLeaseTTLVal: 32 * 24 * time.Hour,
			MaxLeaseTTLVal:     32 * 24 * time.Hour,
			PluginEnvironment:  &logical.PluginEnvironment{VaultVersion: "1.21.2"},
		},
		StorageView:  m.storage,
		EventsSender: m.events,
	})
	require.NoError(m.t, err)
	m.backend = made.(*backend)
	m.dial(m.transport)
}

func (m *mount) stop() { m.backend.Cleanup(context.Background()) }

// restart is a plugin that was killed, upgraded or moved to another node: memory is lost, storage is kept.
func (m *mount) restart() {
	m.t.Helper()
	m.stop()
	m.start()
}

// dial sends the requests of every client that is made from now on through transport; nil: to the network.
func (m *mount) dial(transport http.RoundTripper) {
	if m.transport = transport; transport != nil {
		m.backend.newTransport = func(string) (http.RoundTripper, error) { return transport, nil }
	}
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
		if err != nil && !errors.Is(err, logical.ErrUnsupportedPath) { // of which Vault makes nothing here either
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

// settingsAt are the fields of config or of a role, without the time at which its key was written.
func (m *mount) settingsAt(path string) map[string]any {
	m.t.Helper()
	fields := maps.Clone(m.mustRead(path).Data)
	delete(fields, "credential_written_at")
	return fields
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

// faultyStorage fails or hangs on demand, verb by verb, and counts what it was asked.
type faultyStorage struct {
	logical.Storage
	mu     sync.Mutex
	err    error
	failOn []string
	prefix string // of the keys that fail or hang
	slowOn string
	takes  time.Duration
	after  bool // it hangs when its work is done
	stores bool // what fails has taken effect
	calls  int

	// script decides what becomes of a call, in place of all that; nil: nothing does. It is set before the first call.
	script func(ctx context.Context, verb, key string, work func() error) error
}

var errStorage = errors.New("disk on fire")

func (s *faultyStorage) fail(verbs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.failOn, s.prefix = errStorage, verbs, ""
}

// failKeys fails a verb for keys that begin with prefix.
func (s *faultyStorage) failKeys(verb, prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.failOn, s.prefix = errStorage, []string{verb}, prefix
}

// readOnly refuses writes as Vault does on a node that may not make them: errors reach a plugin as text.
func (s *faultyStorage) readOnly() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.failOn, s.prefix = errors.New(logical.ErrReadOnly.Error()), []string{"put", "delete"}, ""
}

// slowKeys makes a verb take its time for keys that begin with prefix, and then do its work.
func (s *faultyStorage) slowKeys(verb, prefix string, takes time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowOn, s.prefix, s.takes, s.after = verb, prefix, takes, false
}

// slowAfter makes a verb do its work, and then take its time.
func (s *faultyStorage) slowAfter(verb, prefix string, takes time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowOn, s.prefix, s.takes, s.after = verb, prefix, takes, true
}

// hang takes the time that a verb is to take.
func (s *faultyStorage) hang(verb, key string, after bool) {
	s.mu.Lock()
	takes := s.takes
	if verb != s.slowOn || after != s.after || !strings.HasPrefix(key, s.prefix) {
		takes = 0
	}
	s.mu.Unlock()
	time.Sleep(takes)
}

func (s *faultyStorage) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *faultyStorage) called(verb, key string) error {
	s.hang(verb, key, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if !strings.HasPrefix(key, s.prefix) {
		return nil
	}
	if slices.Contains(s.failOn, verb) {
		return s.err
	}
	return nil
}

// do makes one call of the storage beneath.
func (s *faultyStorage) do(ctx context.Context, verb, key string, work func() error) error {
	if s.script != nil {
		return s.script(ctx, verb, key, work)
	}
	if err := s.called(verb, key); err != nil {
		if s.stores {
			return errors.Join(err, work())
		}
		return err
	}
	defer s.hang(verb, key, true)
	return work()
}

func (s *faultyStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.do(ctx, "get", key, func() (err error) {
		entry, err = s.Storage.Get(ctx, key)
		return err
	})
	return entry, err
}

func (s *faultyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.do(ctx, "put", entry.Key, func() error { return s.Storage.Put(ctx, entry) })
}

func (s *faultyStorage) Delete(ctx context.Context, key string) error {
	return s.do(ctx, "delete", key, func() error { return s.Storage.Delete(ctx, key) })
}

func (s *faultyStorage) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = s.do(ctx, "list", prefix, func() (err error) {
		keys, err = s.Storage.List(ctx, prefix)
		return err
	})
	return keys, err
}

// inBackground reads a token, and returns where its answer will be: the access token, or the error.
func (m *mount) inBackground(path string) chan string {
	answer := make(chan string, 1)
	go func() {
		resp, err := m.request(m.t.Context(), logical.ReadOperation, path)
		switch {
		case err != nil:
			answer <- err.Error()
		case resp.IsError():
			answer <- resp.Error().Error()
		default:
			answer <- resp.Data["access_token"].(string)
		}
	}()
	return answer
}

// mountWithTeam is a mount in a bubble with config and the role team, each with a key of its own.
func mountWithTeam(t *testing.T) (*mount, *consoletest.Console) {
	t.Helper()
	m, console := warmMount(t, nil)
	console.AddKey(consoletest.Key{ID: "team", Secret: "team-secret"})
	m.mustWrite("roles/team", map[string]any{"api_key_id": "team", "api_key": "team-secret"})
	return m, console
}

// storedKeys lists what is in storage below tokens/.
func (m *mount) storedTokens() []string {
	m.t.Helper()
	synctest.Wait() // JWTs are stored behind the reader's back
	keys, err := logical.CollectKeysWithPrefix(m.t.Context(), m.storage.Storage, tokenStoragePrefix)
	require.NoError(m.t, err)
	return keys
}

func (m *mount) sweep() {
	m.t.Helper()
	require.NoError(m.t, m.backend.periodic(m.t.Context(), &logical.Request{Storage: m.storage}))
}

// down makes every exchange fail.
func down(console *consoletest.Console) {
	console.FailAlways(consoletest.Status(http.StatusServiceUnavailable, "", nil))
}

func (m *mount) accessToken(path string) string {
	m.t.Helper()
	return m.mustRead(path).Data["access_token"].(string)
}

// warmMount is a mount with a cached JWT, and its Console.
func warmMount(t *testing.T, config map[string]any) (*mount, *consoletest.Console) {
	t.Helper()
	console := consoletest.New()
	m := newMountInBubble(t, console)
	m.mustWrite("config", map[string]any{
		"organization_id": consoletest.DefaultOrganizationID,
		"api_key_id":      consoletest.DefaultAPIKeyID,
		"api_key":         consoletest.DefaultAPIKey,
	}, config)
	m.mustRead("token")
	return m, console
}

// readLater reads a token in the background. The ID of its key comes from the channel, or nothing if the read fails.
func readLater(m *mount, console *consoletest.Server, path string) <-chan string {
	read := make(chan string, 1)
	go func() {
		defer close(read)
		read <- keyIDOf(m.t, console, m.mustRead(path))
	}()
	return read
}

// scopedKey adds a key to the Console, and gives the fields that write it to a role.
func scopedKey(console *consoletest.Server, id string) map[string]any {
	console.AddKey(consoletest.Key{ID: id, Secret: "secret-of-" + id})
	return map[string]any{"api_key_id": id, "api_key": "secret-of-" + id}
}

// keyIDOf is the ID of the key that a token response came from.
func keyIDOf(t *testing.T, console *consoletest.Server, resp *logical.Response) string {
	t.Helper()
	keyID, ok := console.Issued(resp.Data["access_token"].(string))
	require.True(t, ok)
	return keyID
}

func TestMain(m *testing.M) {
	// A proxy of the machine's must not stand between a test and its server.
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasSuffix(strings.ToUpper(name), "_PROXY") {
			os.Unsetenv(name)
		}
	}
	// These tests wait for pauses and sockets more than for a processor. A flag on the command line wins.
	if err := flag.Set("test.parallel", "32"); err != nil {
		panic(err)
	}
	// A dependency of the SDK starts this one when it is imported.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}
