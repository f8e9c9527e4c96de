package acceptance

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// anyJWT is how JWTs begin, and nothing else in a log.
var anyJWT = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}`)

// requireNoSecret demands that a text has no canary and no JWT in it. It does not repeat what it finds.
func requireNoSecret(t testing.TB, text, where string) {
	t.Helper()
	require.Empty(t, consoletest.TraceOfCanary(text), "a secret is in %s", where)
	require.False(t, anyJWT.MatchString(text), "a JWT is in %s", where)
}

// Everything that can go wrong with a secret in it is tried. Errors have the status that they should, and neither they
// nor the server's logs show a secret.
func TestFailuresShowNoSecret(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t, consoletest.WithKeys(
		consoletest.Key{ID: consoletest.DefaultAPIKeyID, Secret: consoletest.CanaryKey}))
	console.AddBotUser(consoletest.BotUser{
		Username: "bot", Password: consoletest.CanaryPassword, ClientID: "client", ClientSecret: consoletest.CanaryClientSecret,
	})
	config := with(defaultConfig(console), fields{"api_key": consoletest.CanaryKey, "auth_url": console.URL})
	bot := fields{
		"credentials_version": "v1", "username": "bot", "password": consoletest.CanaryPassword,
		"client_id": "client", "client_secret": consoletest.CanaryClientSecret,
	}
	s := startServer(t)
	m := s.mount(t, "snowplow", "")
	m.write(t, "config", config)
	m.write(t, "roles/bot", bot)
	for _, path := range []string{"token", "token/bot"} {
		m.write(t, path, fields{"api_key": consoletest.CanaryKey}) // a field that a read has no use for
		console.FailNext(1, unaskedEcho(console.Mint(map[string]any{"sub": "x"})))
		m.remove(t, path)
		m.jwt(t, path)
	}
	refused := func(status int, operation, path string, data fields, why string) {
		t.Helper()
		_, err := m.try(t, operation, path, data)
		requireStatus(t, err, status)
		requireNoSecret(t, err.Error(), fmt.Sprintf("the error of a %s of %s: %s", operation, path, why))
	}

	for name, fault := range map[string]struct {
		http.Handler
		status int
	}{
		"key refused":          {consoletest.Echo(http.StatusUnauthorized), http.StatusBadRequest},
		"organization unknown": {consoletest.Echo(http.StatusNotFound), http.StatusBadRequest},
		"another 4xx":          {consoletest.Echo(http.StatusTeapot), http.StatusBadRequest},
		"little but secrets":   {http.HandlerFunc(bareEcho), http.StatusBadRequest},
		"a JWT":                {consoletest.Status(http.StatusBadRequest, console.Mint(map[string]any{"sub": "x"}), nil), http.StatusBadRequest},
		"rate-limited":         {consoletest.Echo(http.StatusTooManyRequests), http.StatusTooManyRequests},
		"5xx":                  {consoletest.Echo(http.StatusInternalServerError), http.StatusBadGateway},
		"malformed":            {consoletest.Echo(http.StatusOK), http.StatusBadGateway},
		"redirect":             {http.HandlerFunc(echoingRedirect), http.StatusBadGateway},
		"silent":               {consoletest.Silence(), http.StatusGatewayTimeout},
	} {
		console.FailAlways(fault)
		for _, path := range []string{"token", "token/bot"} {
			m.remove(t, path) // no cached JWT may hide the failure
		}
		timeout := "30s"
		if fault.status == http.StatusGatewayTimeout {
			timeout = "1s"
		}
		m.write(t, "config", fields{"request_timeout": timeout}) // also ends the wait after a failure
		refused(fault.status, "read", "token", nil, name)
		refused(fault.status, "read", "token/bot", nil, name)
		refused(fault.status, "write", "config", config, name)
		refused(fault.status, "patch", "roles/bot", bot, name)
		requireNoSecret(t, fmt.Sprint(m.read(t, "status/bot").Data, m.read(t, "config").Data, m.read(t, "roles/bot").Data), "what can be read after: "+name)
	}
	console.ClearFaults()
	for _, secret := range []string{consoletest.CanaryKey, consoletest.CanaryPassword} {
		for _, path := range []string{"config", "roles/bot"} {
			for why, data := range map[string]fields{
				"in a list":         {"api_key": []any{[]any{secret}}},
				"in an object":      {"password": fields{"value": secret}},
				"with a line break": {"client_secret": secret + "\nmore"},
				"misspelt":          {"api_keey": fields{"value": secret}},
				"as a version":      {"credentials_version": secret},
				"in a URL":          {"console_url": "https://user:" + url.QueryEscape(secret) + "@example.com"},
				"as a CA":           {"ca_cert": secret},
			} {
				refused(http.StatusBadRequest, "write", path, data, why)
				refused(http.StatusBadRequest, "patch", path, data, why)
			}
		}
	}

	s.Stop() // so that the logs are whole
	for log, patterns := range map[string][]string{
		s.Log():      {`\[TRACE\]`, `\[WARN\].*secrets\.` + pluginName + `.*error=`}, // the plugin's failed exchanges
		s.AuditLog(): {`"operation":"patch"`, `"api_key":"hmac-sha256:`, `"access_token":"hmac-sha256:`, `"error":"`},
	} {
		content, err := os.ReadFile(log)
		require.NoError(t, err)
		for _, pattern := range patterns {
			assert.True(t, regexp.MustCompile(pattern).Match(content), "%s is the log to search: it has %s", filepath.Base(log), pattern)
		}
		requireNoSecret(t, string(content), filepath.Base(log))
	}
}

// echoingRedirect is a fault that sends the secrets back where a redirect leads to.
func echoingRedirect(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Location", "https://example.com/?key="+url.QueryEscape(r.Header.Get("X-API-Key"))+"&"+r.PostForm.Encode())
	w.WriteHeader(http.StatusFound)
}

// bareEcho is a fault that sends back the secrets and little else, so that no limit cuts them off.
func bareEcho(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusBadRequest)
	_, _ = fmt.Fprintf(w, "no: %s %s %s", r.Header.Get("X-API-Key"), r.PostForm.Get("password"), r.PostForm.Get("client_secret"))
}

// unaskedEcho answers well, and then sends the secrets back without having been asked again: net/http logs that.
func unaskedEcho(jwt string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		answer := fmt.Sprintf(`{"accessToken":%q,"access_token":%q}`, jwt, jwt)
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%sHTTP/1.1 400 %s %s\r\n\r\n",
			len(answer), answer, r.Header.Get("X-API-Key"), r.PostForm.Get("password"))
		_, _ = io.Copy(io.Discard, conn) // until the plugin has seen it and gone
	})
}
