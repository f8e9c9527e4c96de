package console

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestEveryStatusOtherThan200(t *testing.T) {
	t.Parallel()
	bodies := []struct {
		name   string
		answer func(code int) http.Handler
	}{
		{"empty", func(code int) http.Handler { return consoletest.Status(code, "", nil) }},
		{"HTML", func(code int) http.Handler {
			return consoletest.Status(code, "<html>\r\n<body>\t<h1>Oops</h1>\x00\x1b[31m\xff</body></html>", http.Header{"Content-Type": {"text/html"}})
		}},
		{"huge", func(code int) http.Handler {
			return consoletest.Status(code, strings.Repeat("Oops, and oops again. ", 1<<18), nil)
		}},
		{"echo", consoletest.Echo},
	}
	for _, test := range []fault{
		{reason: ReasonRejected, exchanges: 1, says: []string{"rejected the request with status 400 Bad Request"}},
		{reason: ReasonRefused, exchanges: 1, says: []string{"refused the API key with status 401 Unauthorized"}},
		{reason: ReasonRefused, exchanges: 1, says: []string{"refused the API key with status 403 Forbidden"}},
		{reason: ReasonUnknownOrganization, exchanges: 1, says: []string{"does not know the organization " + consoletest.DefaultOrganizationID + " (status 404 Not Found)"}},
		{reason: ReasonRejected, exchanges: 1, says: []string{"status 408 Request Timeout"}},
		{reason: ReasonRejected, exchanges: 1, says: []string{"status 418 I'm a teapot"}},
		{reason: ReasonRateLimited, says: []string{"status 429 Too Many Requests"}},
		{reason: ReasonUpstream, says: []string{"status 500 Internal Server Error"}},
		{reason: ReasonUpstream, says: []string{"status 502 Bad Gateway"}},
		{reason: ReasonUpstream, says: []string{"status 503 Service Unavailable"}},
		{reason: ReasonUpstream, says: []string{"status 504 Gateway Timeout"}},
		{reason: ReasonUpstream, says: []string{"status 999"}},
		{reason: ReasonUpstream, says: []string{"malformed answer: status 204 No Content"}},
		{reason: ReasonUpstream, says: []string{"malformed answer: status 206 Partial Content"}},
		{reason: ReasonUpstream, exchanges: 1, says: []string{"redirect, status 304 Not Modified", "check console_url"}},
	} {
		code := codeIn(t, test.says[0])
		for _, body := range bodies {
			test.answer = body.answer(code)
			t.Run(fmt.Sprintf("%d/%s", code, body.name), func(t *testing.T) {
				t.Parallel()
				test.inBubble(t)
			})
		}
	}
}

func codeIn(t *testing.T, words string) int {
	t.Helper()
	_, after, _ := strings.Cut(words, "status ")
	code, err := strconv.Atoi(after[:3])
	require.NoError(t, err)
	return code
}

// What a reader of Vault gets.
func TestStatusOfEveryReason(t *testing.T) {
	t.Parallel()
	want := map[Reason]int{
		ReasonUnreachable: 502, ReasonTimeout: 504, ReasonRateLimited: 429, ReasonRefused: 400,
		ReasonUnknownOrganization: 400, ReasonRejected: 400, ReasonUpstream: 502,
	}
	require.Len(t, Reasons, len(want))
	for _, reason := range Reasons {
		failed := &Error{Reason: reason}
		assert.Equal(t, want[reason], failed.Status(), reason)
		assert.Equal(t, want[reason] != 400, failed.Transient(), reason)
	}
}

func TestNotFoundOfABotUserIsNotBlamedOnTheOrganization(t *testing.T) {
	t.Parallel()
	u := consoletest.OnTCP(t)
	u.FailAlways(consoletest.Status(http.StatusNotFound, `{"message":"no such path"}`, nil))
	_, err := exchangeWith(t, u, V1)
	assert.Equal(t, ReasonRejected, requireFailed(t, err).Reason)
	assert.ErrorContains(t, err, `rejected the request with status 404 Not Found: "no such path"`)
	assert.NotContains(t, err.Error(), "organization", "the request names none")
}

func TestOnlyTheKnownTextOfARefusalIsShown(t *testing.T) {
	t.Parallel()
	const rejected = "rejected the request with status 422 Unprocessable Entity"
	for body, want := range map[string]string{
		``:                                "",
		`no JSON`:                         "",
		`["message"]`:                     "",
		`{"other":"text"}`:                "",
		`{"message":["text"]}`:            "",
		`{"message":{"text":"text"}}`:     "",
		`{"message":""}`:                  "",
		`{"message":"short and\n stout"}`: `: "short and stout"`,
		`{"detail":"d","title":"t","error_description":"ed","error":"e","message":"m","x":"y"}`: `: "m; e; ed; t; d"`,
		`{"message":"` + strings.Repeat("ä ", 200) + `"}`:                                       `: "` + strings.Repeat("ä ", maxExcerpt/2) + `…"`,
		`{"pad":"` + strings.Repeat("x", maxRefusal) + `","message":"text"}`:                    "",
	} {
		u := consoletest.OnTCP(t)
		u.FailAlways(consoletest.Status(http.StatusUnprocessableEntity, body, nil))
		_, err := exchangeWith(t, u, V3)
		requireFailed(t, err)
		assert.Equal(t, "Snowplow Console at "+u.URL+" "+rejected+want, err.Error(), "%.60s", body)
	}
}

// The text members of a refusal are the one part of an answer that is shown.
func TestARefusalThatEchoesTheKeyInAnyEncoding(t *testing.T) {
	t.Parallel()
	for _, version := range Versions {
		u := consoletest.OnTCP(t)
		client := newClient(t, "", nil)
		for name, encode := range consoletest.Echoes {
			u.FailNext(1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sent := r.Header.Get("X-API-Key") + r.PostForm.Get("password")
				assert.NotEmpty(t, sent)
				w.WriteHeader(http.StatusBadRequest)
				_ = json.NewEncoder(w).Encode(map[string]string{"message": "we do not like " + encode(sent)})
			}))
			_, err := client.Exchange(t.Context(), exchangeAt(u.URL, version))
			requireFailed(t, err)
			assert.ErrorContains(t, err, `status 400 Bad Request: "`, "%s/%s", version, name)
		}
	}
}

func TestRedirectsAreRefusedWhateverTheirTarget(t *testing.T) {
	t.Parallel()
	for _, code := range []int{301, 302, 303, 307, 308} {
		for _, to := range []struct {
			name, location, says string
		}{
			{"the same host", "http://127.0.0.1/oauth/token", ""},
			{"another path", "/oauth/token", ""},
			{"itself", "", ""},
			{"another host", "https://console.example.com/canary", ""},
			{"another port", "http://127.0.0.1:8080/", ""},
			{"plain http", "http://console.example.com/", ""},
			{"no HTTP", "file:///etc/passwd", ""},
			{"nowhere", "http://[::1", "to no URL"},
			{"an echo", "http://%zz/" + consoletest.CanaryKey, "to no URL"},
		} {
			for version, field := range map[string]string{V3: "console_url", V1: "auth_url"} {
				t.Run(fmt.Sprintf("%d to %s with %s", code, to.name, version), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						u := consoletest.OnPipes(t)
						u.FailNext(1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							w.Header().Set("Location", cmp.Or(to.location, r.URL.String()))
							w.WriteHeader(code)
						}))
						_, err := exchangeWith(t, u, version)
						assert.Equal(t, ReasonUpstream, requireFailed(t, err).Reason)
						assert.ErrorContains(t, err, "redirect, "+cmp.Or(to.says, fmt.Sprintf("status %d", code)))
						assert.ErrorContains(t, err, "check "+field)
						assert.Equal(t, 1, u.Exchanges(), "what is not followed is not tried again")
						for _, address := range u.Dialed() {
							assert.Equal(t, "127.0.0.1:80", address)
						}
					})
				})
			}
		}
	}
}
