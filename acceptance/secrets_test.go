package acceptance

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// What a JWT begins with in every encoding of its own: no other thing in a log does.
var anyJWT = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}`)

// canaries are the secrets by name: also one that is too short to look like a secret, and one with characters that
// encodings change.
var canaries = map[string]string{
	"api_key":       consoletest.DefaultAPIKey,
	"a role's key":  analyticsKey.Secret,
	"password":      consoletest.DefaultPassword,
	"client_secret": consoletest.DefaultClientSecret,
	"a short key":   shortKey.Secret,
	"an odd secret": oddSecret,
}

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

var shortKey = consoletest.Key{ID: "short-key-id", Secret: "canary-7"}

const oddSecret = `canary"odd<&>\+%41/secret`

// leaks names the secrets that a text holds, in any form that they may have in it, and never their values.
func leaks(text string) []string {
	var found []string
	for name, secret := range canaries {
		quoted, _ := json.Marshal(secret)
		for form, encoded := range map[string]string{
			"as it is":      secret,
			"JSON":          string(quoted[1 : len(quoted)-1]),
			"URL query":     url.QueryEscape(secret),
			"URL path":      url.PathEscape(secret),
			"base64":        base64.StdEncoding.EncodeToString([]byte(secret)),
			"base64url":     base64.RawURLEncoding.EncodeToString([]byte(secret)),
			"JSON, no HTML": strings.ReplaceAll(strings.ReplaceAll(secret, `\`, `\\`), `"`, `\"`),
		} {
			if strings.Contains(text, encoded) {
				found = append(found, name+" ("+form+")")
			}
		}
	}
	if anyJWT.MatchString(text) {
		found = append(found, "a JWT")
	}
	return found
}

func TestLeaksAreFound(t *testing.T) {
	t.Parallel()
	for name, secret := range canaries {
		assert.NotEmpty(t, leaks(`{"error":"`+secret+`"}`), name)
	}
	assert.Equal(t, []string{"a JWT"}, leaks("Bearer "+consoletest.New().Mint(map[string]any{"sub": "x"})))
	assert.Empty(t, leaks("hmac-sha256:0f0f hvs.CAESIJ path=token"))
}

// Everything that can go wrong with a secret in it is tried; then no error, status or log may hold one in clear.
func TestNoSecretIsSeenAnywhere(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	oddUser := consoletest.BotUser{Username: "odd", Password: oddSecret, ClientID: "odd", ClientSecret: oddSecret}
	t.Run("attempts", func(t *testing.T) {
		for version, credential := range map[string]fields{
			"v3":          {"credentials_version": "v3", "api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey},
			"v2":          {"credentials_version": "v2", "api_key": consoletest.DefaultAPIKey},
			"v1":          botUser(defaultUser),
			"a short key": keyOf(shortKey),
			"odd secrets": botUser(oddUser),
		} {
			t.Run("failed exchanges of "+version, func(t *testing.T) {
				t.Parallel()
				console := consoletest.NewServer(t)
				console.AddKey(analyticsKey)
				console.AddKey(shortKey)
				console.AddBotUser(oddUser)
				tryFailedExchanges(t, s.mount(t, unique("snowplow"), ""), console, credential)
			})
		}
		t.Run("bad fields", func(t *testing.T) {
			t.Parallel()
			tryBadFields(t, s.mount(t, unique("snowplow"), ""), consoletest.NewServer(t))
		})
	})

	s.Stop() // so that the logs are whole
	for log, mustHave := range map[string][]string{
		s.Log():      {`\[TRACE\]`, `\[WARN\].*secrets\.` + pluginName + `.*error=`}, // the plugin's failed exchanges
		s.AuditLog(): {`"operation":"patch"`, `"api_key":"hmac-sha256:`, `"access_token":"hmac-sha256:`, `"error":"`},
	} {
		content, err := os.ReadFile(log)
		require.NoError(t, err)
		for _, pattern := range mustHave {
			assert.True(t, regexp.MustCompile(pattern).Match(content), "%s is the log to search: it has %s", filepath.Base(log), pattern)
		}
		assert.Empty(t, leaks(string(content)), "secrets in %s", filepath.Base(log))
	}
}

// tryFailedExchanges has a Console send the secrets back in every way that it could.
func tryFailedExchanges(t *testing.T, m mount, console *consoletest.Server, credential fields) {
	config := with(credential, fields{
		"organization_id": consoletest.DefaultOrganizationID,
		"console_url":     console.URL,
		"auth_url":        console.URL,
		"request_timeout": "1s",
	})
	m.write(t, "config", config)
	m.write(t, "roles/analytics", with(keyOf(analyticsKey), fields{"credentials_version": "v3"}))
	for _, path := range []string{"token", "token/analytics"} {
		require.Equal(t, http.StatusOK, opens(t, console, m.jwt(t, path)))
		m.write(t, path, fields{"api_key": consoletest.DefaultAPIKey}) // fields that a read has no use for
	}
	stored, err := json.Marshal([]any{m.read(t, "config").Data, m.read(t, "roles/analytics").Data, m.read(t, "status").Data})
	require.NoError(t, err)
	assert.Empty(t, leaks(string(stored)), "what can be read back")

	jwt := console.Mint(map[string]any{"sub": "x"})
	console.FailNext(1, unaskedEcho(jwt))
	m.remove(t, "token")
	m.jwt(t, "token")

	for fault, handler := range map[string]http.Handler{
		"an echo with 200":     consoletest.Echo(http.StatusOK),
		"an echo with 400":     consoletest.Echo(http.StatusBadRequest),
		"an echo with 401":     consoletest.Echo(http.StatusUnauthorized),
		"an echo with 404":     consoletest.Echo(http.StatusNotFound),
		"an echo with 418":     consoletest.Echo(http.StatusTeapot),
		"an echo with 429":     consoletest.Echo(http.StatusTooManyRequests),
		"an echo with 500":     consoletest.Echo(http.StatusInternalServerError),
		"a bare echo":          http.HandlerFunc(bareEcho),
		"an echo in JSON":      http.HandlerFunc(echoInJSON),
		"an echoing redirect":  http.HandlerFunc(echoingRedirect),
		"a JWT in a refusal":   consoletest.Status(http.StatusBadRequest, jwt, nil),
		"a JWT in a bad field": consoletest.Status(http.StatusOK, `{"token":"`+jwt+`"}`, nil),
	} {
		console.FailAlways(handler)
		m.remove(t, "token")                                     // no cached JWT may hide that this exchange fails
		m.write(t, "config", fields{"verify_connection": false}) // ends the wait after a failure
		_, err := m.tryRead("token")
		requireClean(t, err, "a read with %s", fault)
		_, err = m.tryWrite("config", config)
		requireClean(t, err, "a write of config with %s", fault)
		_, err = m.tryPatch(t, "roles/analytics", credential)
		requireClean(t, err, "a patch of a role with %s", fault)
		status, err := json.Marshal(m.read(t, "status").Data)
		require.NoError(t, err)
		assert.Empty(t, leaks(string(status)), "status after %s", fault)
	}
}

// tryBadFields writes secrets in ways that are refused.
func tryBadFields(t *testing.T, m mount, console *consoletest.Server) {
	console.AddKey(analyticsKey)
	unreachable := consoletest.NewServer(t)
	unreachable.Close()
	m.write(t, "config", defaultConfig(console))
	m.write(t, "roles/analytics", keyOf(analyticsKey))
	refused := func(what, path string, data fields) {
		t.Helper()
		_, err := m.tryWrite(path, data)
		requireClean(t, err, "a write of %s with %s", path, what)
		_, err = m.tryPatch(t, path, data)
		requireClean(t, err, "a patch of %s with %s", path, what)
	}
	for _, secret := range canaries {
		for _, path := range []string{"config", "roles/analytics"} {
			for _, field := range []string{"api_key", "password", "client_secret"} {
				refused(field+" as a list", path, fields{field: []string{secret}})
				refused(field+" as a nested list", path, fields{field: []any{[]any{secret}}})
				refused(field+" as an object", path, fields{field: fields{"value": secret}})
				refused(field+" with a line break", path, fields{field: secret + "\nmore"})
			}
			refused("a misspelt field", path, fields{"api_keey": secret})
			refused("a misspelt field that is an object", path, fields{"api_keey": fields{"value": secret}})
			refused("a secret as credentials_version", path, fields{"credentials_version": secret})
			refused("a wrong key", path, fields{"api_key_id": "another", "api_key": strings.ReplaceAll(secret, " ", "")})
		}
		refused("a secret in a URL", "config", fields{"console_url": "https://user:" + url.QueryEscape(secret) + "@example.com"})
		refused("a secret as a URL", "config", fields{"console_url": secret})
		refused("a secret as ca_cert", "config", fields{"ca_cert": secret})
	}
	refused("an unreachable Console", "config", with(defaultConfig(unreachable), fields{"request_timeout": "1s"}))
}

// requireClean demands that a request failed, without a secret in the error.
func requireClean(t testing.TB, err error, format string, args ...any) {
	t.Helper()
	require.Error(t, err, append([]any{format}, args...)...)
	require.Empty(t, leaks(err.Error()), append([]any{"secrets in the error of " + format}, args...)...)
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

// unaskedEcho answers well, and then sends the secrets back without having been asked again.
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

// echoInJSON is a fault that sends the secrets back escaped.
func echoInJSON(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusUnprocessableEntity)
	_ = json.NewEncoder(w).Encode([]string{r.Header.Get("X-API-Key"), r.PostForm.Get("password"), r.PostForm.Get("client_secret")})
}
