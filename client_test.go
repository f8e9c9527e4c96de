package snowplow

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

// A reader that loads config while it is replaced must not leave a client that nobody closes.
func TestAClientThatIsMadeDuringAResetIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := warmMount(t, nil)
		closed := &closeCounter{Transport: consoletest.Transport{Handler: fake}}
		m.dial(closed)
		m.restart()
		m.storage.slowKeys("get", "config", time.Second)
		done := m.inBackground("token")
		synctest.Wait()
		m.backend.InvalidateKey(t.Context(), configStorageKey)
		<-done
		assert.Positive(t, closed.count.Load())
	})
}

// closeCounter counts how often its idle connections were closed.
type closeCounter struct {
	consoletest.Transport
	count atomic.Int64
}

func (c *closeCounter) CloseIdleConnections() { c.count.Add(1) }

// canaryConfig is the canary credential for each exchange, as it is written to config.
func canaryConfig(version, url string) map[string]any {
	fields := map[string]any{
		"organization_id":     consoletest.DefaultOrganizationID,
		"credentials_version": version,
		"console_url":         url,
		"auth_url":            url,
		"request_timeout":     "60s",
	}
	if version == console.V1 {
		maps.Copy(fields, map[string]any{
			"username": consoletest.DefaultUsername, "password": consoletest.CanaryPassword,
			"client_id": consoletest.DefaultClientID, "client_secret": consoletest.CanaryClientSecret,
		})
		return fields
	}
	fields["api_key"] = consoletest.CanaryKey
	if version == console.V3 {
		fields["api_key_id"] = consoletest.DefaultAPIKeyID
	}
	return fields
}

// requireNoSecret looks for the canaries in all that a reader, an operator or an auditor could have seen so far.
func requireNoSecret(t *testing.T, m *mount, seen ...string) {
	t.Helper()
	seen = append(seen, "log: "+m.logs.String())
	for _, path := range []string{"status", "config"} {
		resp, err := m.request(t.Context(), logical.ReadOperation, path)
		seen = append(seen, fmt.Sprintf("%s: %+v %v", path, resp, err))
	}
	for _, text := range seen {
		if trace := consoletest.TraceOfCanary(text); trace != "" {
			require.Failf(t, "a secret is seen", "%q in: %s", trace, text)
		}
	}
}

// What a reader gets for each way in which an exchange can fail: the HTTP status, and what to do.
func TestEachFailureReachesTheReader(t *testing.T) {
	t.Parallel()
	const (
		url     = "https://console.example.com/behind/a/gateway"
		makeKey = "create a new Snowplow API key in Console under Settings > Manage organization > View and manage API keys"
	)
	for _, test := range []struct {
		version string
		fault   http.Handler
		status  int
		says    []string
	}{
		{"v3", consoletest.Echo(401), 400, []string{
			"401 Unauthorized", "check that api_key_id and api_key belong together and are complete", makeKey,
			"'vault write snowplow/config api_key_id=<ID> api_key=@<file>', or ask whoever manages the engine"}},
		{"v2", consoletest.Echo(403), 400, []string{
			"403 Forbidden", "check that api_key is complete", makeKey,
			"'vault write snowplow/config credentials_version=v3 api_key_id=<ID> api_key=@<file>'"}},
		{"v1", consoletest.Echo(401), 400, []string{
			"refused the bot user's credentials", "check that username, password, client_id and client_secret belong together",
			"'vault write snowplow/config username=<NAME> password=@<file> client_id=<ID> client_secret=@<file>'"}},
		{"v3", consoletest.Echo(404), 400, []string{
			consoletest.DefaultOrganizationID, "Console's Manage organization page",
			"'vault write snowplow/config organization_id=<UUID>', and check console_url, which has a path, or ask whoever manages the engine"}},
		{"v3", consoletest.Echo(422), 400, []string{"422 Unprocessable Entity"}},
		{"v3", consoletest.Echo(429), 429, []string{"try again after 2000-01-01T00:00:0"}},
		{"v3", consoletest.Echo(503), 502, []string{"503 Service Unavailable"}},
		{"v3", consoletest.Echo(200), 502, []string{"malformed answer"}},
		{"v3", http.RedirectHandler("https://evil.example.com/canary", http.StatusFound), 502, []string{"redirect", "check console_url"}},
		{"v3", consoletest.Silence(), 504, []string{"has not answered within request_timeout (1m0s)"}},
	} {
		t.Run(test.says[0], func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := consoletest.NewCanaryConsole()
				m := newMountInBubble(t, http.StripPrefix("/behind/a/gateway", server))
				m.mustWrite("config", canaryConfig(test.version, url), map[string]any{"verify_connection": false})
				server.FailAlways(test.fault)
				var messages []string
				for range 2 { // the second one during the wait
					resp, err := m.request(t.Context(), logical.ReadOperation, "token")
					status, message := refusal(t, resp, err)
					assert.Equal(t, test.status, status)
					messages = append(messages, message)
					requireNoSecret(t, m, message, fmt.Sprintf("%+v %v %#v", resp, err, err))
				}
				assert.Equal(t, messages[0], messages[1])
				assert.Contains(t, messages[0], "Snowplow Console at "+url)
				for _, words := range test.says {
					assert.Contains(t, messages[0], words)
				}
				status := m.mustRead("status").Data
				assert.EqualValues(t, 1, status["exchange_failures"])
				assert.Contains(t, status["last_error"], "Snowplow Console at "+url)
				assert.Contains(t, m.logs.String(), "exchanging a credential for a token failed: path=token")
			})
		})
	}
}

func TestTheAdviceAfterARefusalWorksForEveryVersion(t *testing.T) {
	t.Parallel()
	for _, version := range console.Versions {
		server := consoletest.NewServer(t)
		m := newMount(t)
		config := v3Config(server)
		switch version {
		case console.V2:
			config["credentials_version"] = version
			delete(config, "api_key_id")
		case console.V1:
			config = v1Config(server)
		}
		m.mustWrite("config", config, map[string]any{"verify_connection": false})
		server.RemoveKey(consoletest.DefaultAPIKeyID)
		server.RemoveBotUser(consoletest.DefaultUsername)
		m.refused(logical.ReadOperation, "token")
		advised := map[string]any{"api_key_id": "new", "api_key": "new-key"}
		switch version {
		case console.V2:
			advised["credentials_version"] = "v3"
		case console.V1:
			advised = map[string]any{"username": "new", "password": "p", "client_id": "c", "client_secret": "s"}
		}
		server.AddKey(consoletest.Key{ID: "new", Secret: "new-key"})
		server.AddBotUser(consoletest.BotUser{Username: "new", Password: "p", ClientID: "c", ClientSecret: "s"})
		m.mustWrite("config", advised)
		assert.Equal(t, "new", keyIDOf(t, server, m.mustRead("token")), version)
	}
}

func TestUserAgentNamesPluginAndVault(t *testing.T) {
	t.Parallel()
	m, server := newConfiguredMount(t)
	m.mustRead("token")
	agent := server.LastRequest().UserAgent()
	assert.Contains(t, agent, "vault-plugin-secrets-snowplow/"+Version)
	assert.Contains(t, agent, "Vault/1.21.2", "what newMount says that Vault is")
}

// A mount that is unloaded in the middle of an exchange leaves nothing behind. Eight times, as the end of the exchange
// and the end of the mount race.
func TestCleanupDuringAnExchange(t *testing.T) {
	t.Parallel()
	u := consoletest.OnTCP(t)
	for range 8 {
		m := newMount(t)
		m.mustWrite("config", canaryConfig("v3", u.URL), map[string]any{"verify_connection": false})
		hold := u.Hold()
		read := make(chan error, 1)
		go func() {
			_, err := m.request(context.Background(), logical.ReadOperation, "token")
			read <- err
		}()
		<-hold.Started()
		m.stop()
		require.ErrorIs(t, <-read, context.Canceled)
		hold.Release()
	}
	u.RequireAllClosed(t)
}

// attacker may update config and roles, but does not know the key. Its server notes all that is sent to it.
type attacker struct {
	*httptest.Server
	mu       sync.Mutex
	received strings.Builder
}

func newAttacker(t *testing.T) *attacker {
	t.Helper()
	a := &attacker{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, _ := httputil.DumpRequest(r, true)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.received.Write(request)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *attacker) seen() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.received.String()
}

// step is one request of the attacker; refused says whether the engine must refuse it.
type step struct {
	operation logical.Operation
	path      string
	fields    map[string]any
	refused   bool
}

func writeConfig(fields map[string]any) step {
	return step{logical.UpdateOperation, configStorageKey, fields, false}
}

func refusedWrite(path string, fields map[string]any) step {
	return step{logical.UpdateOperation, path, fields, true}
}

func TestAKeyGoesWhereItWasWrittenForAndNowhereElse(t *testing.T) {
	t.Parallel()
	v1Own := map[string]any{"credentials_version": "v1", "username": "u", "password": "p", "client_id": "c", "client_secret": "s", "verify_connection": false}
	for name, attack := range map[string]struct {
		legacy bool // config holds a bot user, not an API key
		steps  func(evil, console string) []step
	}{
		"another console_url": {false, func(evil, _ string) []step {
			return []step{refusedWrite("config", map[string]any{"console_url": evil})}
		}},
		"another console_url, unverified": {false, func(evil, _ string) []step {
			return []step{refusedWrite("config", map[string]any{"console_url": evil, "verify_connection": false})}
		}},
		"another console_url with a password": {false, func(evil, _ string) []step {
			return []step{refusedWrite("config", map[string]any{"console_url": evil, "password": "x", "verify_connection": false})}
		}},
		"another console_url with another ID": {false, func(evil, _ string) []step {
			return []step{refusedWrite("config", map[string]any{"console_url": evil, "api_key_id": "x", "verify_connection": false})}
		}},
		"another console_url with an empty key": {false, func(evil, _ string) []step {
			return []step{refusedWrite("config", map[string]any{"console_url": evil, "api_key": "", "verify_connection": false})}
		}},
		"another console_url with a null key": {false, func(evil, _ string) []step {
			return []step{refusedWrite("config", map[string]any{"console_url": evil, "api_key": nil, "verify_connection": false})}
		}},
		"another console_url with another key": {false, func(evil, _ string) []step {
			return []step{writeConfig(map[string]any{"console_url": evil, "api_key": "attackers-own", "verify_connection": false})}
		}},
		"another console_url with v2": {false, func(evil, _ string) []step {
			return []step{refusedWrite("config", map[string]any{"console_url": evil, "credentials_version": "v2", "verify_connection": false})}
		}},
		"through v1 and back": {false, func(evil, _ string) []step {
			return []step{
				writeConfig(v1Own),
				writeConfig(map[string]any{"console_url": evil, "password": "p", "client_secret": "s", "verify_connection": false}),
				refusedWrite("config", map[string]any{"credentials_version": "v3", "api_key_id": "x", "verify_connection": false}),
			}
		}},
		"through PATCH": {false, func(evil, _ string) []step {
			return []step{{logical.PatchOperation, "config", map[string]any{"console_url": evil, "verify_connection": false}, true}}
		}},
		"through PATCH with null": {false, func(string, string) []step {
			return []step{{logical.PatchOperation, "config", map[string]any{"console_url": nil, "verify_connection": false}, true}}
		}},
		"through delete and re-create": {false, func(evil, _ string) []step {
			return []step{
				{logical.DeleteOperation, "config", nil, false},
				refusedWrite("config", map[string]any{"console_url": evil, "organization_id": "x", "api_key_id": "x", "verify_connection": false}),
				writeConfig(map[string]any{"console_url": evil, "organization_id": "x", "api_key_id": "x", "api_key": "y", "verify_connection": false}),
			}
		}},
		"through a role": {false, func(evil, _ string) []step {
			return []step{
				refusedWrite("roles/team", map[string]any{"console_url": evil}),
				refusedWrite("roles/new", map[string]any{"organization_id": "x"}),
				writeConfig(map[string]any{"console_url": evil, "api_key": "attackers-own", "verify_connection": false}),
				refusedWrite("roles/team", map[string]any{"ttl": 60}),
				refusedWrite("roles/team", map[string]any{"ttl": 60, "verify_connection": false}),
				refusedWrite("roles/team", map[string]any{"credentials_version": "v2", "verify_connection": false}),
			}
		}},
		"through a role's v1": {true, func(evil, _ string) []step {
			return []step{
				writeConfig(map[string]any{"auth_url": evil, "password": "x", "client_secret": "x", "verify_connection": false}),
				refusedWrite("roles/team", map[string]any{"password": "x", "verify_connection": false}),
			}
		}},
		"another port": {false, func(string, string) []step {
			return []step{refusedWrite("config", map[string]any{"console_url": "http://127.0.0.1:1", "verify_connection": false})}
		}},
		"another scheme": {false, func(_, console string) []step {
			return []step{refusedWrite("config", map[string]any{"console_url": strings.Replace(console, "http:", "https:", 1), "verify_connection": false})}
		}},
		"another name of the host": {false, func(_, console string) []step {
			return []step{refusedWrite("config", map[string]any{"console_url": strings.Replace(console, "127.0.0.1", "localhost", 1), "verify_connection": false})}
		}},
		"a user part that looks like the host": {false, func(evil, console string) []step {
			return []step{
				refusedWrite("config", map[string]any{"console_url": console + "@" + strings.TrimPrefix(evil, "http://"), "verify_connection": false}),
				refusedWrite("config", map[string]any{"console_url": strings.Replace(console, "http://", "http://x@", 1), "verify_connection": false}),
			}
		}},
		"a dot at the end of the host": {false, func(_, console string) []step {
			return []step{refusedWrite("config", map[string]any{"console_url": strings.Replace(console, "127.0.0.1", "127.0.0.1.", 1), "verify_connection": false})}
		}},
		"a host that only looks the same": {false, func(_, console string) []step {
			var steps []step
			// Go's ToLower makes an ASCII i of the first; net/http sends the request to xn--….
			for _, host := range []string{"console.analytİcs.example", "console.analyt%C4%B0cs.example", "console.analytics.eẞample", "ｃonsole.analytics.example"} {
				steps = append(steps, refusedWrite("config", map[string]any{"console_url": "https://" + host, "verify_connection": false}))
			}
			return append([]step{writeConfig(map[string]any{"console_url": "https://console.analytics.example", "api_key": "canary", "verify_connection": false})}, steps...)
		}},
		"a backslash and a line break": {false, func(evil, console string) []step {
			return []step{
				refusedWrite("config", map[string]any{"console_url": console + `\@` + strings.TrimPrefix(evil, "http://"), "verify_connection": false}),
				refusedWrite("config", map[string]any{"console_url": console + "\n.example", "verify_connection": false}),
			}
		}},
		"an organization that leaves the path": {false, func(evil, _ string) []step {
			return []step{refusedWrite("config", map[string]any{"organization_id": "../../..", "verify_connection": false})}
		}},
		"a bot user's tokens to another console_url": {true, func(evil, _ string) []step {
			return []step{
				refusedWrite("config", map[string]any{"console_url": evil, "verify_connection": false}),
				refusedWrite("config", map[string]any{"console_url": evil, "password": "x", "verify_connection": false}),
			}
		}},
		"another auth_url": {true, func(evil, _ string) []step {
			return []step{refusedWrite("config", map[string]any{"auth_url": evil, "verify_connection": false})}
		}},
		"another auth_url with one secret of two": {true, func(evil, _ string) []step {
			return []step{
				refusedWrite("config", map[string]any{"auth_url": evil, "password": "x", "verify_connection": false}),
				refusedWrite("config", map[string]any{"auth_url": evil, "client_secret": "x", "verify_connection": false}),
				refusedWrite("config", map[string]any{"auth_url": evil, "api_key": "x", "verify_connection": false}),
			}
		}},
		"another auth_url through PATCH": {true, func(evil, _ string) []step {
			return []step{{logical.PatchOperation, "config", map[string]any{"auth_url": evil, "username": "x", "verify_connection": false}, true}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			evil, server := newAttacker(t), consoletest.NewServer(t)
			m := newMount(t)
			victim := v3Config(server)
			if attack.legacy {
				victim = v1Config(server)
			}
			m.mustWrite("config", victim)
			role := map[string]any{}
			for _, field := range console.Fields {
				if value, ok := victim[field.Name]; ok {
					role[field.Name] = value
				}
			}
			m.mustWrite("roles/team", role)

			for i, s := range attack.steps(evil.URL, server.URL) {
				resp, err := m.request(t.Context(), s.operation, s.path, s.fields)
				require.NoError(t, err)
				assert.Equal(t, s.refused, resp.IsError(), "step %d: %v", i, resp)
				if s.refused && resp.IsError() {
					assert.NotContains(t, resp.Error().Error(), "canary")
				}
				// Whatever state the attack has reached, no read may carry the key away.
				for _, path := range []string{"token", "token/team"} {
					_, _ = m.request(t.Context(), logical.ReadOperation, path)
				}
			}
			assert.NotContains(t, evil.seen(), "canary")
		})
	}
}

func TestARoleRefusedForItsURLSaysWhatToDo(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	other := consoletest.NewServer(t)
	m.mustWrite("roles/team", scopedKey(console, "scoped"))
	m.mustRead("token/team")

	m.mustWrite("config", v3Config(other))
	status, message := m.refused(logical.ReadOperation, "token/team")
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "roles/team")
	assert.Contains(t, message, "write api_key again")
	assert.Equal(t, 0, other.ExchangesOf("scoped"))

	m.mustWrite("roles/team", scopedKey(other, "scoped"))
	assert.Equal(t, "scoped", keyIDOf(t, other, m.mustRead("token/team")))
}

func TestWhatIsInMemoryDoesNotPrintItsSecrets(t *testing.T) {
	t.Parallel()
	secret := redact.NewSecret("canary")
	cred := console.Credential{Version: console.V1, APIKey: secret, Password: secret, ClientSecret: secret}
	token := console.Token{Bearer: secret}
	for _, value := range []any{
		configEntry{Credential: cred}, roleEntry{Credential: &cred}, tokencache.Entry{Token: token},
		tokencache.Served{Token: token}, resolvedRole{target: target{credential: cred}}, entries{config: &configEntry{Credential: cred}},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			assert.NotContains(t, fmt.Sprintf(verb, value), "canary", "%T with %s", value, verb)
		}
	}
}

// newCountingServer serves a Console on a socket, and counts the connections that are open.
func newCountingServer(t *testing.T, console *consoletest.Console) (url string, open *atomic.Int64) {
	t.Helper()
	open = &atomic.Int64{}
	server := httptest.NewUnstartedServer(console)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		case http.StateActive, http.StateIdle:
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return server.URL, open
}

// An idle connection would be closed after 90 s anyway; these must not last that long.
func TestConnectionsEndWithTheirClient(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]http.Handler{
		"at the first try": nil,
		"at a retry":       consoletest.Status(http.StatusServiceUnavailable, "", nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			console := consoletest.New()
			url, open := newCountingServer(t, console)
			m := newMount(t)
			m.mustWrite("config", map[string]any{
				"organization_id": consoletest.DefaultOrganizationID, "api_key_id": consoletest.DefaultAPIKeyID,
				"api_key": consoletest.DefaultAPIKey, "console_url": url, "reuse_period": 0, "verify_connection": false,
			})
			closed := func(except int64, why string) {
				t.Helper()
				require.Eventually(t, func() bool { return open.Load() == except }, 10*time.Second, 5*time.Millisecond, why)
			}
			readDuring := func(during func()) {
				t.Helper()
				hold := console.Hold()
				if fault != nil {
					console.FailNext(1, fault)
				}
				answered := make(chan error, 1)
				go func() {
					resp, err := m.request(t.Context(), logical.ReadOperation, "token")
					if err == nil {
						err = resp.Error()
					}
					answered <- err
				}()
				<-hold.Started()
				during()
				hold.Release()
				require.NoError(t, <-answered)
			}

			for range 3 {
				readDuring(func() { m.mustWrite("config", map[string]any{"ttl": "1h"}) })
			}
			closed(0, "connections of clients that a write has replaced are open")

			m.mustRead("token")
			require.EqualValues(t, 1, open.Load(), "the present client does not keep its connection")
			m.mustRead("token")
			require.EqualValues(t, 1, open.Load(), "the present client does not use its connection again")
			m.stop()
			closed(0, "a connection is open although the mount has ended")
		})
	}
}
