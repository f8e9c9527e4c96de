package acceptance

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

type fields = map[string]any

var names atomic.Int64

// unique makes a name that no other test has.
func unique(prefix string) string { return fmt.Sprintf("%s-%d", prefix, names.Add(1)) }

// mount is the engine on one path of a server, and a client of it.
type mount struct {
	server server
	path   string // without a slash at its end
	client *api.Client
}

// newMount mounts the engine on the shared server, until the test ends.
func newMount(t testing.TB) mount {
	t.Helper()
	s := shared(t)
	showLogIfFailed(t, s.Process)
	m := s.mount(t, unique("snowplow"), "")
	t.Cleanup(func() {
		// Also shows that no lease blocks it.
		require.NoError(t, s.Client.Sys().Unmount(m.path), "disabling the mount")
	})
	return m
}

// mount mounts the engine; version chooses one from the catalog, and may be empty.
func (s server) mount(t testing.TB, path, version string) mount {
	t.Helper()
	require.NoError(t, s.Client.Sys().Mount(path, &api.MountInput{
		Type:   pluginName,
		Config: api.MountConfigInput{PluginVersion: version},
	}), "mounting the engine at %s", path)
	return mount{server: s, path: path, client: s.Client}
}

// as is the same mount for the holder of another token.
func (m mount) as(t testing.TB, token string) mount {
	t.Helper()
	client, err := m.server.NewClient(token)
	require.NoError(t, err)
	m.client = client
	return m
}

func (m mount) at(path string) string { return m.path + "/" + path }

// The requests, as they may fail. A path that has nothing to read is a nil secret.

func (m mount) tryRead(path string) (*api.Secret, error) { return m.client.Logical().Read(m.at(path)) }

func (m mount) tryWrite(path string, data fields) (*api.Secret, error) {
	return m.client.Logical().Write(m.at(path), data)
}

func (m mount) try(t testing.TB, operation, path string, data fields) (*api.Secret, error) {
	switch operation {
	case "read":
		return m.tryRead(path)
	case "write":
		return m.tryWrite(path, data)
	case "patch":
		return m.client.Logical().JSONMergePatch(t.Context(), m.at(path), data)
	case "delete":
		return m.client.Logical().Delete(m.at(path))
	default:
		return m.client.Logical().List(m.at(path))
	}
}

// The requests that must succeed.

func (m mount) read(t testing.TB, path string) *api.Secret {
	t.Helper()
	secret, err := m.tryRead(path)
	require.NoError(t, err, "reading %s", path)
	require.NotNil(t, secret, "reading %s: nothing is there", path)
	return secret
}

func (m mount) write(t testing.TB, path string, data fields) *api.Secret {
	t.Helper()
	secret, err := m.tryWrite(path, data)
	require.NoError(t, err, "writing %s", path)
	return secret
}

func (m mount) remove(t testing.TB, path string) {
	t.Helper()
	_, err := m.try(t, "delete", path, nil)
	require.NoError(t, err, "deleting %s", path)
}

// jwt reads a token's JWT.
func (m mount) jwt(t testing.TB, path string) string {
	t.Helper()
	return jwtOf(t, m.read(t, path))
}

func jwtOf(t testing.TB, secret *api.Secret) string {
	t.Helper()
	jwt, _ := secret.Data["access_token"].(string)
	require.NotEmpty(t, jwt, "the answer has no access_token")
	return jwt
}

// requireLease demands a lease of so many seconds; none if that is 0. A server says what is left of it once it has
// stored it.
func requireLease(t testing.TB, secret *api.Secret, seconds int) {
	t.Helper()
	if seconds == 0 {
		require.Empty(t, secret.LeaseID)
		return
	}
	require.NotEmpty(t, secret.LeaseID)
	require.LessOrEqual(t, secret.LeaseDuration, seconds)
	require.GreaterOrEqual(t, secret.LeaseDuration, seconds-30, "and no shorter than a busy machine explains")
}

// defaultConfig is config with the key that a Console knows from the start.
func defaultConfig(console *consoletest.Server) fields {
	return fields{
		"organization_id": consoletest.DefaultOrganizationID,
		"api_key_id":      consoletest.DefaultAPIKeyID,
		"api_key":         consoletest.DefaultAPIKey,
		"console_url":     console.URL,
	}
}

// with is base with changes over it.
func with(base, changes fields) fields {
	merged := maps.Clone(base)
	maps.Copy(merged, changes)
	return merged
}

// configured is a Console of the test's own, and a mount that has its default key.
func configured(t testing.TB) (mount, *consoletest.Server) {
	t.Helper()
	console := consoletest.NewServer(t)
	m := newMount(t)
	m.write(t, "config", defaultConfig(console))
	return m, console
}

// configuredAlone is a Console, and a server of the test's own. Its mount has the path that the examples name, and the
// role of a team.
func configuredAlone(t testing.TB) (mount, *consoletest.Server) {
	t.Helper()
	console := consoletest.NewServer(t)
	console.AddKey(analyticsKey)
	m := startServer(t).mount(t, "snowplow", "")
	m.write(t, "config", defaultConfig(console))
	m.write(t, "roles/analytics", keyOf(analyticsKey))
	return m, console
}

// requireStatus demands that Vault refused a request with a status and a message that has these parts.
func requireStatus(t testing.TB, err error, status int, parts ...string) {
	t.Helper()
	var refused *api.ResponseError
	require.ErrorAs(t, err, &refused, "a request that should have been refused with status %d", status)
	require.Equal(t, status, refused.StatusCode, "status of: %v", err)
	for _, part := range parts {
		require.ErrorContains(t, err, part)
	}
}

// isDenied says whether a policy stood in the way of a request.
func isDenied(err error) bool {
	var refused *api.ResponseError
	return errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden
}

// opens says how the Console answers a request with this JWT.
func opens(t testing.TB, console *consoletest.Server, jwt string) int {
	t.Helper()
	status, _ := organizations(t, console.URL+"/api/msc", jwt)
	return status
}

// organizations asks Console's API for the organizations that a JWT opens.
func organizations(t testing.TB, api, jwt string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api+"/v1/organizations", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+jwt)
	resp, err := cleanhttp.DefaultClient().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(content)
}

// requireKeyID demands that a JWT came from the exchange of this API key or bot user.
func requireKeyID(t testing.TB, console *consoletest.Server, jwt, keyID string) {
	t.Helper()
	got, _ := console.Issued(jwt)
	require.Equal(t, keyID, got, "the key that the JWT was exchanged for")
}
