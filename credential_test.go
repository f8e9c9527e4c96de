package snowplow

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

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
				refusedWrite("config", map[string]any{"console_url": console + "\n", "verify_connection": false}),
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
		configEntry{Credential: cred}, roleEntry{Credential: &cred}, tokenEntry{Token: token},
		tokencache.Served{Token: token}, resolvedRole{target: target{credential: cred}}, entries{config: &configEntry{Credential: cred}},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			assert.NotContains(t, fmt.Sprintf(verb, value), "canary", "%T with %s", value, verb)
		}
	}
}
