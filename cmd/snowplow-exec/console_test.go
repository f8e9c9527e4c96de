package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// testConsole is a console that a test talks to, with a Vault that hands out what the test says.
type testConsole struct {
	*console
	URL     string
	standIn string // for the first JWT
	client  *http.Client
	// transport leads to Console.
	transport *http.Transport
	log       bytes.Buffer

	// What Vault hands out, and how often it was read. Tests change it between requests only.
	jwt   string
	err   error
	reads int
}

// startConsole starts one in front of a server, at a path of it.
func startConsole(t *testing.T, server *httptest.Server, path, jwt string) *testConsole {
	t.Helper()
	target, err := url.Parse(server.URL + path)
	require.NoError(t, err)
	c := &testConsole{jwt: jwt}
	logger := hclog.New(&hclog.LoggerOptions{Output: &c.log, Level: hclog.Warn})
	source, err := newTokenSource(t.Context(), func(context.Context) (*token, error) {
		c.reads++
		end := time.Now().Add(time.Hour)
		return &token{jwt: c.jwt, organizationID: consoletest.DefaultOrganizationID, consoleURL: target, refreshAt: end, leaseEnd: end, expiresAt: end}, c.err
	}, logger)
	require.NoError(t, err)
	ca := ""
	if certificate := server.Certificate(); certificate != nil {
		ca = filepath.Join(t.TempDir(), "ca.pem")
		block := &pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}
		require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(block), 0o600))
	}
	c.transport, err = newTransport(ca)
	require.NoError(t, err)
	t.Cleanup(c.transport.CloseIdleConnections)
	own := httptest.NewUnstartedServer(nil)
	c.console = newConsole(source, c.transport, own.Listener.Addr(), "snowplow/token")
	own.Config = newServer(c.console)
	own.Start()
	t.Cleanup(own.Close)
	c.URL = own.URL
	// Neither redirects nor encodings are handled for the test.
	c.client = &http.Client{
		Transport:     &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       time.Minute,
	}
	t.Cleanup(c.client.CloseIdleConnections)
	c.standIn = exchange(c.URL, c.apiKeyID, c.apiKey)
	require.NotEmpty(t, c.standIn)
	return c
}

// upstream starts a Console that is a handler, and a console in front of it.
func upstream(t *testing.T, handler http.HandlerFunc) *testConsole {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return startConsole(t, server, "", newJWT())
}

// unreached starts a console in front of a Console that nothing may reach.
func unreached(t *testing.T) *testConsole {
	t.Helper()
	return upstream(t, func(_ http.ResponseWriter, r *http.Request) { assert.Fail(t, "Console was asked", r.URL) })
}

// newJWT mints a JWT that no other is like.
func newJWT() string { return consoletest.New().Mint(map[string]any{"sub": "canary"}) }

// answerRaw answers a request with bytes of the test's own, and hangs up.
func answerRaw(t *testing.T, w http.ResponseWriter, format string, args ...any) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if assert.NoError(t, err) {
		_, _ = fmt.Fprintf(conn, format, args...)
		_ = conn.Close()
	}
}

// request makes a request with the stand-in.
func (c *testConsole) request(t *testing.T, method, path string, body io.Reader) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, c.URL+path, body)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+c.standIn)
	return request
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (c *testConsole) do(t *testing.T, request *http.Request) answer {
	t.Helper()
	response, err := c.client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return answer{response.StatusCode, response.Header, string(body)}
}

func TestExchange(t *testing.T) {
	t.Parallel()
	c, another := unreached(t), unreached(t)
	const organizations, mine = "/api/msc/v1/organizations/", consoletest.DefaultOrganizationID
	for name, tt := range map[string]struct {
		method, path, id, key string
		want                  int
	}{
		"v3":                                {"GET", mine + "/credentials/v3/token", c.apiKeyID, c.apiKey, 200},
		"v2":                                {"GET", mine + "/credentials/v2/token", "", c.apiKey, 200},
		"v3, no ID":                         {"GET", mine + "/credentials/v3/token", "", c.apiKey, 401},
		"v3, wrong ID":                      {"GET", mine + "/credentials/v3/token", "wrong", c.apiKey, 401},
		"v3, no key":                        {"GET", mine + "/credentials/v3/token", c.apiKeyID, "", 401},
		"v3, half a key":                    {"GET", mine + "/credentials/v3/token", c.apiKeyID, c.apiKey[:10], 401},
		"v2, wrong key":                     {"GET", mine + "/credentials/v2/token", c.apiKeyID, "wrong", 401},
		"the pair of another run":           {"GET", mine + "/credentials/v3/token", another.apiKeyID, another.apiKey, 401},
		"another organization":              {"GET", "other/credentials/v3/token", c.apiKeyID, c.apiKey, 404},
		"another organization, wrong key":   {"GET", "other/credentials/v3/token", c.apiKeyID, "wrong", 401},
		"POST":                              {"POST", mine + "/credentials/v3/token", c.apiKeyID, c.apiKey, 405},
		"no exchange that there is":         {"GET", mine + "/credentials/v1/token", c.apiKeyID, c.apiKey, 401},
		"a detour to the organization":      {"GET", "other/../" + mine + "/credentials/v3/token", c.apiKeyID, c.apiKey, 400},
		"the pair is no login for the rest": {"GET", "", c.apiKeyID, c.apiKey, 401},
	} {
		request := c.request(t, tt.method, organizations+tt.path, nil)
		request.Header = http.Header{"X-Api-Key-Id": {tt.id}, "X-Api-Key": {tt.key}}
		got := c.do(t, request)
		assert.Equal(t, tt.want, got.status, name)
		assert.Equal(t, "application/json", got.header.Get("Content-Type"), name)
		if tt.want == 200 {
			assert.JSONEq(t, `{"accessToken": "`+c.standIn+`"}`, got.body, name)
			assert.Equal(t, "no-store", got.header.Get("Cache-Control"), name)
		} else {
			assert.Contains(t, got.body, `{"message":`, name)
			assert.NotContains(t, got.body, "accessToken", name)
		}
	}
	require.Equal(t, 1, c.reads, "one token serves all exchanges")
}

func TestARequestWithoutTheStandInGoesNowhere(t *testing.T) {
	t.Parallel()
	c := unreached(t)
	for name, header := range map[string]http.Header{
		"nothing":           {},
		"a wrong one":       {"Authorization": {"Bearer wrong"}},
		"the JWT itself":    {"Authorization": {"Bearer " + c.jwt}},
		"another signature": {"Authorization": {"Bearer " + newStandIn(c.jwt)}},
		"of another run":    {"Authorization": {"Bearer " + unreached(t).standIn}},
		"a part of it":      {"Authorization": {"Bearer " + c.standIn[:len(c.standIn)-1]}},
		"another scheme":    {"Authorization": {"Basic " + c.standIn}},
		"no scheme":         {"Authorization": {c.standIn}},
		"empty":             {"Authorization": {"Bearer "}},
		"two of them":       {"Authorization": {"Bearer " + c.standIn, "Bearer " + c.standIn}},
		"the key":           {"Authorization": {"Bearer " + c.apiKey}},
		"in a cookie":       {"Cookie": {"Authorization=" + c.standIn}},
	} {
		request := c.request(t, http.MethodGet, "/api/msc/v1/organizations?access_token="+c.standIn, nil)
		request.Header = header
		got := c.do(t, request)
		assert.Equal(t, 401, got.status, name)
		assert.Equal(t, "Bearer", got.header.Get("WWW-Authenticate"), name)
	}
}

func TestARequestForAnotherHostGoesNowhere(t *testing.T) {
	t.Parallel()
	c := upstream(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "Console") })
	port := portOf(c.address)
	for host, want := range map[string]int{
		"127.0.0.1:" + port:             200,
		"localhost:" + port:             200,
		"LOCALHOST:" + port:             200,
		"[::ffff:127.0.0.1]:" + port:    200,
		"evil.example:" + port:          421,
		"127.0.0.1.evil.com:" + port:    421,
		"127.0.0.2:" + port:             421,
		"127.0.0.1:1":                   421,
		"127.0.0.1":                     421,
		"console.snowplowanalytics.com": 421,
	} {
		for _, path := range []string{"/", organizationPath + "/credentials/v2/token"} {
			request := c.request(t, http.MethodGet, path, nil)
			request.Host = host
			request.Header.Set("X-API-Key", c.apiKey)
			assert.Equal(t, want, c.do(t, request).status, "%s at %s", path, host)
		}
	}
}

func TestAnEarlierStandInServesOn(t *testing.T) {
	t.Parallel()
	var sent []string
	c := upstream(t, func(_ http.ResponseWriter, r *http.Request) { sent = append(sent, r.Header.Get("Authorization")) })
	second := newJWT()
	c.source.current.refreshAt = time.Time{}
	c.jwt = second
	standIn := exchange(c.URL, c.apiKeyID, c.apiKey)
	require.NotEqual(t, c.standIn, standIn, "each JWT has a stand-in of its own, with its claims")
	for _, header := range []string{"Bearer " + c.standIn, "bearer " + standIn} {
		request := c.request(t, http.MethodGet, "/", nil)
		request.Header.Set("Authorization", header)
		require.Equal(t, 200, c.do(t, request).status)
	}
	require.Equal(t, []string{"Bearer " + second, "Bearer " + second}, sent)
}

func TestWithoutAJWTTheToolIsToldSo(t *testing.T) {
	t.Parallel()
	c := unreached(t)
	*c.source.current = token{jwt: c.jwt, organizationID: consoletest.DefaultOrganizationID, consoleURL: c.source.consoleURL()}
	c.err = errors.New("cannot reach Vault")
	for _, path := range []string{"/", organizationPath + "/credentials/v2/token"} {
		request := c.request(t, http.MethodGet, path, nil)
		request.Header.Set("X-API-Key", c.apiKey)
		got := c.do(t, request)
		require.Equal(t, 502, got.status)
		require.JSONEq(t, `{"message": "snowplow-exec: cannot reach Vault"}`, got.body)
	}
}

func TestStandIns(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("s", 342) // of RS256
	for jwt, want := range map[string]struct {
		prefix string
		length int
	}{
		"aGVhZGVy.Y2xhaW1z." + long: {"aGVhZGVy.Y2xhaW1z.", len("aGVhZGVy.Y2xhaW1z.") + 342},
		"a.b.c":                     {"a.b.", len("a.b.") + 43}, // not shorter than what nobody can guess
		"opaque/token+of~some.kind": {"", 52},
		"a.b.":                      {"", 52},
	} {
		first, second := newStandIn(jwt), newStandIn(jwt)
		assert.NotEqual(t, first, second, jwt)
		assert.True(t, strings.HasPrefix(first, want.prefix), "%s: %s", jwt, first)
		assert.Len(t, first, want.length, jwt)
	}
}

func TestShellQuote(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a-B_1.~:/@", shellQuote("a-B_1.~:/@"))
	require.Equal(t, `'it'\''s $(so)'`, shellQuote("it's $(so)"))
}

func TestHeadersAreLimitedInSize(t *testing.T) {
	t.Parallel()
	c := upstream(t, func(http.ResponseWriter, *http.Request) {})
	for size, want := range map[int]int{maxHeaderBytes / 2: 200, 2 * maxHeaderBytes: 431} {
		request := c.request(t, http.MethodGet, "/", nil)
		request.Header.Set("X-Large", strings.Repeat("x", size))
		require.Equal(t, want, c.do(t, request).status)
	}
}

// pipeListener accepts connections without a network: their deadlines go by the clock of a bubble.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	if conn, ok := <-l; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func TestARequestHasTenSecondsUntilItIsAuthorized(t *testing.T) {
	t.Parallel()
	const headers = " HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: 4\r\n"
	for name, tt := range map[string]struct {
		sent, later string // a minute later
		status      int    // 0: none
		after       time.Duration
	}{
		"a header that does not end":    {"POST /" + headers, "", 0, authorizeTimeout},
		"refused, and the body missing": {"POST /" + headers + "\r\n", "", 401, authorizeTimeout},
		"no path, and the body missing": {"POST *" + headers + "\r\n", "", 400, authorizeTimeout},
		"an answer that nobody reads":   {"GET /" + headers + "\r\nbody", "", 0, time.Minute},
		"authorized, and the body slow": {"POST /" + headers + "Authorization: Bearer STANDIN\r\n\r\n", "body", 200, time.Minute},
		"an exchange, and Vault slow":   {"GET /api/msc/v1/organizations/o/credentials/v2/token HTTP/1.1\r\nHost: 127.0.0.1:1\r\nX-API-Key: key\r\n\r\n", "", 200, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				over := &token{organizationID: "o", consoleURL: &url.URL{}}
				source := &tokenSource{logger: hclog.NewNullLogger(), current: over, read: func(context.Context) (*token, error) {
					time.Sleep(time.Minute)
					return over, nil
				}}
				c := &console{source: source, apiKey: "key", address: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}}
				c.forward = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
				client, conn := net.Pipe()
				defer client.Close()
				listener := make(pipeListener, 1)
				listener <- conn
				server := newServer(c)
				go func() { _ = server.Serve(listener) }()
				defer server.Close()

				begun := time.Now()
				_, err := io.WriteString(client, strings.Replace(tt.sent, "STANDIN", c.standInFor("jwt"), 1))
				require.NoError(t, err)
				if tt.later != "" {
					time.AfterFunc(time.Minute, func() { _, _ = io.WriteString(client, tt.later) })
				}
				unread := tt.status == 0 && tt.after > authorizeTimeout
				if unread {
					time.Sleep(tt.after)
				}
				response, err := http.ReadResponse(bufio.NewReader(client), nil)
				require.Equal(t, tt.after, time.Since(begun))
				require.Equal(t, tt.status == 0, err != nil, "an answer")
				if err == nil {
					require.Equal(t, tt.status, response.StatusCode)
					require.NoError(t, response.Body.Close())
				}
				if tt.status != 200 && !unread {
					_, _ = io.Copy(io.Discard, client)
					require.Less(t, time.Since(begun), authorizeTimeout+time.Second, "the connection is closed")
				}
			})
		})
	}
}
