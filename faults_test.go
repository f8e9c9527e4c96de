package snowplow

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/faulttest"
)

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
			"username": consoletest.DefaultUsername, "password": faulttest.CanaryPassword,
			"client_id": consoletest.DefaultClientID, "client_secret": faulttest.CanaryClientSecret,
		})
		return fields
	}
	fields["api_key"] = faulttest.CanaryKey
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
		if trace := faulttest.TraceOfCanary(text); trace != "" {
			require.Failf(t, "a secret is seen", "%q in: %s", trace, text)
		}
	}
}

// What a reader gets for each way in which an exchange can fail: the HTTP status, and what to do.
func TestEachFailureReachesTheReader(t *testing.T) {
	t.Parallel()
	const (
		url     = "https://console.example.com/behind/a/gateway"
		makeKey = "Console under Settings > Manage organization > API keys"
	)
	for _, test := range []struct {
		version string
		fault   http.Handler
		status  int
		says    []string
	}{
		{"v3", consoletest.Echo(401), 400, []string{
			"401 Unauthorized", "check that api_key_id and api_key belong together and are complete", makeKey,
			"'vault write snowplow/config api_key_id=<ID> api_key=@<file>'"}},
		{"v2", consoletest.Echo(403), 400, []string{
			"403 Forbidden", "check that api_key is complete", makeKey,
			"'vault write snowplow/config credentials_version=v3 api_key_id=<ID> api_key=@<file>'"}},
		{"v1", consoletest.Echo(401), 400, []string{
			"refused the bot user's credentials", "check that username, password, client_id and client_secret belong together",
			"'vault write snowplow/config username=<NAME> password=@<file> client_id=<ID> client_secret=@<file>'"}},
		{"v3", consoletest.Echo(404), 400, []string{
			consoletest.DefaultOrganizationID, "Console's Manage organization page",
			"'vault write snowplow/config organization_id=<UUID>', and check console_url, which has a path"}},
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
				server := faulttest.NewCanaryConsole()
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

func TestAConsoleThatIsUnreachable(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	url := "http://" + faulttest.RefusingAddress(t)
	status, message := m.refused(logical.UpdateOperation, "config", canaryConfig("v3", url))
	assert.Equal(t, 502, status)
	assert.Contains(t, message, "Snowplow Console at "+url+" is unreachable")
	assert.Contains(t, message, "add verify_connection=false")
	requireNoSecret(t, m, message)
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

func TestReadsShareAConnection(t *testing.T) {
	t.Parallel()
	u := faulttest.OnTCP(t)
	m := newMount(t)
	m.mustWrite("config", canaryConfig("v3", u.URL), map[string]any{"reuse_period": 0, "verify_connection": false})
	for range 5 {
		m.mustRead("token")
	}
	assert.Equal(t, 5, u.Exchanges())
	assert.EqualValues(t, 1, u.Connections())
	m.mustWrite("config", map[string]any{"ttl": 60})
	u.RequireAllClosed(t)
}

// A mount that is unloaded in the middle of an exchange leaves nothing behind. Eight times, as the end of the exchange
// and the end of the mount race.
func TestCleanupDuringAnExchange(t *testing.T) {
	t.Parallel()
	u := faulttest.OnTCP(t)
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
