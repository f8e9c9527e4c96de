package acceptance

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// thief is a server that an attacker would like to have a key sent to. It answers as a Console does, so that an
// exchange there would succeed, and keeps all that it is sent.
type thief struct {
	URL string

	mu       sync.Mutex
	received []string
}

// attackersKey may go wherever the attacker likes.
var attackersKey = consoletest.Key{ID: "attackers-key-id", Secret: "attackers-key"}

func newThief(t testing.TB) *thief {
	t.Helper()
	thief := &thief{}
	console := consoletest.New()
	console.AddKey(attackersKey)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, err := httputil.DumpRequest(r, true)
		assert.NoError(t, err)
		thief.mu.Lock()
		thief.received = append(thief.received, string(request))
		thief.mu.Unlock()
		console.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	thief.URL = server.URL
	return thief
}

// requests are those that the thief was sent, in one text.
func (s *thief) requests() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.received, "\n")
}

// Whoever may write config and roles, but does not know the keys in them, tries to have them sent elsewhere.
func TestKeysGoNowhereElse(t *testing.T) {
	t.Parallel()
	thief := newThief(t)
	m, console := configured(t)
	console.AddKey(analyticsKey)
	m.write(t, "roles/analytics", keyOf(analyticsKey))

	for _, change := range []fields{
		{"console_url": thief.URL},
		{"console_url": thief.URL, "verify_connection": false},
		{"console_url": thief.URL, "api_key_id": attackersKey.ID, "verify_connection": false},
	} {
		_, err := m.tryWrite("config", change)
		requireStatus(t, err, http.StatusBadRequest)
		_, err = m.tryPatch(t, "config", change)
		requireStatus(t, err, http.StatusBadRequest)
		_, err = m.tryWrite("roles/analytics", change) // which has no such field
		requireStatus(t, err, http.StatusBadRequest)
	}
	console.FailNext(1, http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	m.remove(t, "token")
	_, err := m.tryRead("token")
	requireStatus(t, err, http.StatusBadGateway)
	require.Empty(t, thief.requests())

	// With a key of their own, attackers may name a URL of their own. The role's key stays behind.
	m.write(t, "config", with(keyOf(attackersKey), fields{"console_url": thief.URL}))
	m.jwt(t, "token")
	_, err = m.tryRead("token/analytics")
	requireStatus(t, err, http.StatusBadRequest)
	require.Contains(t, thief.requests(), attackersKey.Secret)
	require.NotContains(t, thief.requests(), analyticsKey.Secret)
	require.NotContains(t, thief.requests(), consoletest.DefaultAPIKey)
}
