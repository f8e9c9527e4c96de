package acceptance

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
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

func newThief(t testing.TB) *thief {
	t.Helper()
	thief := &thief{}
	console := consoletest.New()
	answer := func(w http.ResponseWriter, r *http.Request) {
		request, err := httputil.DumpRequest(r, true)
		assert.NoError(t, err)
		thief.mu.Lock()
		thief.received = append(thief.received, string(request))
		thief.mu.Unlock()
		console.ServeHTTP(w, r)
	}
	server := httptest.NewServer(http.HandlerFunc(answer))
	t.Cleanup(server.Close)
	thief.URL = server.URL
	console.AddKey(attackersKey)
	console.AddBotUser(attackersUser)
	return thief
}

// The attacker's own secrets, which may go wherever the attacker likes.
var (
	attackersKey  = consoletest.Key{ID: "attackers-key-id", Secret: "attackers-key"}
	attackersUser = consoletest.BotUser{Username: "attacker", Password: "attackers-password", ClientID: "attackers-client", ClientSecret: "attackers-client-secret"}
)

// botUser is the fields of a v1 credential.
func botUser(user consoletest.BotUser) fields {
	return fields{
		"credentials_version": "v1",
		"username":            user.Username, "password": user.Password,
		"client_id": user.ClientID, "client_secret": user.ClientSecret,
	}
}

var defaultUser = consoletest.BotUser{
	Username: consoletest.DefaultUsername, Password: consoletest.DefaultPassword,
	ClientID: consoletest.DefaultClientID, ClientSecret: consoletest.DefaultClientSecret,
}

// stolen are the parts of others' credentials that the thief was sent, by name only.
func (s *thief) stolen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	received := strings.Join(s.received, "\n")
	for name, secret := range map[string]string{
		"api_key":           consoletest.DefaultAPIKey,
		"api_key_id":        consoletest.DefaultAPIKeyID,
		"a role's key":      analyticsKey.Secret,
		"a role's key's ID": analyticsKey.ID,
		"username":          url.QueryEscape(consoletest.DefaultUsername), // as in a form
		"password":          consoletest.DefaultPassword,
		"client_id":         consoletest.DefaultClientID,
		"client_secret":     consoletest.DefaultClientSecret,
	} {
		if strings.Contains(received, secret) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (s *thief) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.received)
}

// port is the port of a URL.
func port(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u.Port()
}

// Whoever may update config, but does not read the key, tries to have it sent elsewhere. Each attempt is made with
// the exchange at the write, without it, and as a patch.
func TestKeyOfConfigGoesNowhereElse(t *testing.T) {
	t.Parallel()
	attacks := map[string]struct {
		config string // the credential that is stored: v3, v2 or v1
		write  func(good, evil string, t testing.TB) fields
		says   string
	}{
		"another console_url": {"v3", func(_, evil string, _ testing.TB) fields {
			return fields{"console_url": evil}
		}, "write api_key again"},
		"another console_url, of a v2 key": {"v2", func(_, evil string, _ testing.TB) fields {
			return fields{"console_url": evil}
		}, "write api_key again"},
		"another console_url, with another ID": {"v3", func(_, evil string, _ testing.TB) fields {
			return fields{"console_url": evil, "api_key_id": attackersKey.ID, "organization_id": consoletest.DefaultOrganizationID}
		}, "write api_key again"},
		"another console_url, with an empty key": {"v3", func(_, evil string, _ testing.TB) fields {
			return fields{"console_url": evil, "api_key": ""}
		}, "api_key is missing"},
		"another console_url and version": {"v3", func(_, evil string, _ testing.TB) fields {
			return fields{"console_url": evil, "credentials_version": "v2"}
		}, "write api_key again"},
		"another console_url, with a secret of another version": {"v3", func(_, evil string, _ testing.TB) fields {
			return fields{"console_url": evil, "password": attackersUser.Password, "client_secret": attackersUser.ClientSecret}
		}, "does not belong to credentials_version v3"},
		"v1 at the thief's without secrets": {"v3", func(_, evil string, _ testing.TB) fields {
			return fields{"auth_url": evil, "credentials_version": "v1", "username": "x", "client_id": "x"}
		}, "password, client_secret is missing"},
		"another auth_url": {"v1", func(_, evil string, _ testing.TB) fields {
			return fields{"auth_url": evil}
		}, "write password and client_secret again"},
		"another auth_url, with the password": {"v1", func(_, evil string, _ testing.TB) fields {
			return fields{"auth_url": evil, "password": attackersUser.Password, "username": attackersUser.Username}
		}, "write password and client_secret again"},
		"another auth_url, with the client_secret": {"v1", func(_, evil string, _ testing.TB) fields {
			return fields{"auth_url": evil, "client_secret": attackersUser.ClientSecret, "client_id": attackersUser.ClientID}
		}, "write password and client_secret again"},
		"another auth_url, with an API key": {"v1", func(_, evil string, _ testing.TB) fields {
			return fields{"auth_url": evil, "api_key": attackersKey.Secret}
		}, "does not belong to credentials_version v1"},
		"another port": {"v3", func(good, evil string, t testing.TB) fields {
			return fields{"console_url": strings.Replace(good, port(t, good), port(t, evil), 1)}
		}, "write api_key again"},
		"no port": {"v3", func(good, _ string, t testing.TB) fields {
			return fields{"console_url": strings.TrimSuffix(good, ":"+port(t, good))}
		}, "write api_key again"},
		"another scheme": {"v3", func(good, _ string, _ testing.TB) fields {
			return fields{"console_url": strings.Replace(good, "http://", "https://", 1)}
		}, "write api_key again"},
		"an unknown scheme": {"v3", func(good, _ string, _ testing.TB) fields {
			return fields{"console_url": strings.Replace(good, "http://", "ftp://", 1)}
		}, "console_url is not https"},
		"the right host as the user part": {"v3", func(good, evil string, _ testing.TB) fields {
			return fields{"console_url": good + "@" + strings.TrimPrefix(evil, "http://")}
		}, "console_url"},
		"a user part": {"v3", func(good, _ string, _ testing.TB) fields {
			return fields{"console_url": strings.Replace(good, "http://", "http://user:password@", 1)}
		}, "console_url has a query, a fragment or a user part"},
		"the right host as a fragment": {"v3", func(good, evil string, _ testing.TB) fields {
			return fields{"console_url": evil + "#" + good}
		}, "console_url has a query, a fragment or a user part"},
		"the right host as a query": {"v3", func(good, evil string, _ testing.TB) fields {
			return fields{"console_url": evil + "?" + good}
		}, "console_url has a query, a fragment or a user part"},
		"a backslash before the right host": {"v3", func(good, evil string, _ testing.TB) fields {
			return fields{"console_url": evil + `\@` + strings.TrimPrefix(good, "http://")}
		}, "console_url"},
		"another host in upper case": {"v3", func(_, evil string, t testing.TB) fields {
			return fields{"console_url": "HTTP://LOCALHOST:" + port(t, evil)}
		}, "write api_key again"},
		"a dot after the host": {"v3", func(good, _ string, t testing.TB) fields {
			return fields{"console_url": "https://localhost.:" + port(t, good)}
		}, "write api_key again"},
		"a dot after the host, plain": {"v3", func(good, _ string, t testing.TB) fields {
			return fields{"console_url": "http://localhost.:" + port(t, good)}
		}, "console_url is not https"},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			thief, console := newThief(t), consoletest.NewServer(t)
			good := strings.Replace(console.URL, "127.0.0.1", "localhost", 1)
			m := newMount(t)
			config, keyID := with(defaultConfig(console), fields{"console_url": good, "auth_url": good}), consoletest.DefaultAPIKeyID
			switch attack.config {
			case "v2":
				config["credentials_version"] = "v2"
				delete(config, "api_key_id")
			case "v1":
				delete(config, "api_key_id")
				delete(config, "api_key")
				config, keyID = with(config, botUser(defaultUser)), consoletest.DefaultUsername
			}
			m.write(t, "config", config)
			before := m.read(t, "config").Data

			change := attack.write(good, thief.URL, t)
			for _, verify := range []bool{true, false} {
				change["verify_connection"] = verify
				for _, attempt := range []func() error{
					func() error { _, err := m.tryWrite("config", change); return err },
					func() error { _, err := m.tryPatch(t, "config", change); return err },
				} {
					requireStatus(t, attempt(), http.StatusBadRequest, attack.says)
					m.remove(t, "token") // so that the next read has to make an exchange
					requireKeyID(t, console, m.jwt(t, "token"), keyID)
				}
			}
			assert.Equal(t, before, m.read(t, "config").Data, "config after the attack")
			assert.Zero(t, thief.requests(), "requests to the thief, of which these secrets were in: %v", thief.stolen())
		})
	}
}

// The same host, written in another way, is where the key was written for.
func TestHostInUpperCaseIsTheSameHost(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	m := newMount(t)
	good := strings.Replace(console.URL, "127.0.0.1", "localhost", 1)
	m.write(t, "config", with(defaultConfig(console), fields{"console_url": good}))
	m.write(t, "config", fields{"console_url": strings.ToUpper(good) + "/"})
	requireKeyID(t, console, m.jwt(t, "token"), consoletest.DefaultAPIKeyID)
}

// With a credential of their own, attackers may name a URL of their own. What was stored before goes nowhere.
func TestAttackersOwnCredentialTakesNoOtherWithIt(t *testing.T) {
	t.Parallel()
	for name, attack := range map[string]func(t *testing.T, m mount, evil string){
		"a key of their own": func(t *testing.T, m mount, evil string) {
			m.write(t, "config", with(keyOf(attackersKey), fields{"console_url": evil}))
			m.jwt(t, "token")
		},
		"a bot user of their own, then back to v3": func(t *testing.T, m mount, evil string) {
			m.write(t, "config", with(botUser(attackersUser), fields{"console_url": evil, "auth_url": evil}))
			m.jwt(t, "token")
			_, err := m.tryWrite("config", fields{"credentials_version": "v3", "api_key_id": consoletest.DefaultAPIKeyID})
			requireStatus(t, err, http.StatusBadRequest, "api_key is missing")
			_, err = m.tryPatch(t, "config", fields{"credentials_version": "v2"})
			requireStatus(t, err, http.StatusBadRequest, "api_key is missing")
		},
		"config deleted and written again": func(t *testing.T, m mount, evil string) {
			m.remove(t, "config")
			_, err := m.tryWrite("config", fields{"organization_id": consoletest.DefaultOrganizationID, "api_key_id": consoletest.DefaultAPIKeyID, "console_url": evil})
			requireStatus(t, err, http.StatusBadRequest, "api_key is missing")
			m.write(t, "config", with(keyOf(attackersKey), fields{"organization_id": consoletest.DefaultOrganizationID, "console_url": evil}))
			m.jwt(t, "token")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			thief := newThief(t)
			m, console := configured(t)
			console.AddKey(analyticsKey)
			m.write(t, "roles/analytics", keyOf(analyticsKey))
			m.write(t, "roles/plain", fields{"ttl": "1h"})

			attack(t, m, thief.URL)
			exchanges := console.Exchanges()
			for _, path := range []string{"token/analytics", "token/plain"} {
				_, _ = m.tryRead(path) // what comes of it is in the next test; here, the thief's requests matter
			}
			// The role's own key is bound to the first Console, and each way to have it sent along is refused.
			_, err := m.tryRead("token/analytics")
			requireStatus(t, err, http.StatusBadRequest, "the credential of roles/analytics cannot be used", "write api_key again for the new URL")
			for _, change := range []fields{
				{"ttl": "2h"},
				{"api_key_id": attackersKey.ID},
				{"organization_id": consoletest.DefaultOrganizationID},
				{"credentials_version": "v2"},
				{"api_key_id": analyticsKey.ID, "verify_connection": false},
			} {
				_, err := m.tryWrite("roles/analytics", change)
				requireStatus(t, err, http.StatusBadRequest, "write api_key again")
				_, err = m.tryPatch(t, "roles/analytics", change)
				requireStatus(t, err, http.StatusBadRequest, "write api_key again")
			}
			_, err = m.tryRead("token/analytics")
			requireStatus(t, err, http.StatusBadRequest, "the credential of roles/analytics cannot be used")

			assert.Empty(t, thief.stolen(), "what the thief was sent of others' credentials")
			assert.Positive(t, thief.requests(), "the attacker's own credential goes where the attacker wrote it for")
			assert.Equal(t, exchanges, console.Exchanges(), "requests to the first Console after the attack")

			// The role's key is still there for the Console that it was written for.
			m.write(t, "config", with(defaultConfig(console), fields{"credentials_version": "v3"}))
			requireKeyID(t, console, m.jwt(t, "token/analytics"), analyticsKey.ID)
		})
	}
}

// Whoever may write roles, but not config, has no URL to change.
func TestRoleCannotNameAnotherURL(t *testing.T) {
	t.Parallel()
	thief := newThief(t)
	m, console := configured(t)
	console.AddKey(analyticsKey)
	m.write(t, "roles/analytics", keyOf(analyticsKey))
	for _, role := range []string{"roles/analytics", "roles/new"} {
		for _, field := range []string{"console_url", "auth_url", "ca_cert"} {
			for _, change := range []fields{{field: thief.URL}, with(keyOf(attackersKey), fields{field: thief.URL})} {
				_, err := m.tryWrite(role, change)
				requireStatus(t, err, http.StatusBadRequest, "unknown field "+field)
			}
		}
		// An ID that is a path could lead a request elsewhere on the same host.
		_, err := m.tryWrite(role, with(keyOf(attackersKey), fields{"organization_id": "../../../elsewhere"}))
		requireStatus(t, err, http.StatusBadRequest, "organization_id is not one path segment")
	}
	m.jwt(t, "token/analytics")
	assert.Zero(t, thief.requests(), "requests to the thief")
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	for name, credential := range map[string]fields{
		"v3": {"api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey},
		"v2": {"credentials_version": "v2", "api_key": consoletest.DefaultAPIKey},
		"v1": botUser(defaultUser),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			thief, console := newThief(t), consoletest.NewServer(t)
			m := newMount(t)
			m.write(t, "config", with(credential, fields{
				"organization_id": consoletest.DefaultOrganizationID,
				"console_url":     console.URL,
				"auth_url":        console.URL,
				"reuse_period":    0,
			}))
			for _, status := range []int{301, 302, 303, 307, 308} {
				console.FailAlways(http.RedirectHandler(thief.URL+"/api", status))
				m.write(t, "config", fields{"verify_connection": false}) // ends the wait after the last failure
				_, err := m.tryRead("token")
				requireStatus(t, err, http.StatusBadGateway, "redirect", "not followed")
				_, err = m.tryWrite("config", fields{"ttl": "1h"})
				requireStatus(t, err, http.StatusBadGateway, "redirect", "nothing was stored")
			}
			assert.Zero(t, thief.requests(), "requests to the thief, of which these secrets were in: %v", thief.stolen())
		})
	}
}
