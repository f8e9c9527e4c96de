package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRequestsArriveAsTheyWereSent(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body string
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		got, body = r, string(content)
		w.Header().Add("X-Answer", "a")
		w.Header().Add("X-Answer", "b")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "answer")
	})
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"} {
		const path = "/api/msc/v1//organizations/a%2Fb/c;d?x=1;y=%zz&x=2&&z"
		sent := "body of " + method
		if method == "GET" || method == "HEAD" {
			sent = ""
		}
		request := c.request(t, method, path, strings.NewReader(sent))
		request.Header["X-Snowplow-Cli"] = []string{"a", "b"}
		request.Header.Set("Accept-Encoding", "br, gzip;q=0.5")
		request.Header.Set("Connection", "X-Hop, Upgrade, Authorization")
		request.Header.Set("X-Hop", "by hop")
		request.Header.Set("Upgrade", "websocket")
		request.Header.Set("X-Forwarded-For", "10.0.0.1")
		request.Header["User-Agent"] = nil
		answer := c.do(t, request)

		require.Equal(t, http.StatusTeapot, answer.status, method)
		require.Equal(t, []string{"a", "b"}, answer.header["X-Answer"], method)
		if method != "HEAD" {
			require.Equal(t, "answer", answer.body, method)
		}
		require.Equal(t, method, got.Method)
		require.Equal(t, path, got.RequestURI, method)
		require.Equal(t, sent, body, method)
		require.Equal(t, c.source.consoleURL().Host, got.Host, "the Host header is Console's")
		want := http.Header{"Authorization": {"Bearer " + c.jwt}, "X-Snowplow-Cli": {"a", "b"}}
		if method != "HEAD" {
			want.Set("Accept-Encoding", "gzip") // the transport's own
		}
		if length := got.Header.Get("Content-Length"); length != "" {
			want.Set("Content-Length", fmt.Sprint(len(sent)))
		}
		require.Equal(t, want, got.Header, "nothing is added, and nothing but what belongs to one connection is taken away (%s)", method)
	}
}

func TestARedirectGoesBackToTheTool(t *testing.T) {
	t.Parallel()
	const elsewhere = "http://127.0.0.1:1"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	t.Cleanup(server.Close)
	c := startConsole(t, server, "", newJWT())
	here := c.source.consoleURL()
	for to, want := range map[string]string{
		elsewhere + "/x?y=z":              elsewhere + "/x?y=z",
		"https://" + here.Host + "/x":     "https://" + here.Host + "/x", // another scheme is another server
		here.String() + "/x%2Fy?a=b%20#c": "/x%2Fy?a=b%20#c",
		here.String():                     "/",
		"//" + here.Host + "/x":           "/x",
		here.String() + "//evil.example/": here.String() + "//evil.example/",
		"/x":                              "/x",
		"x":                               "x",
	} {
		answer := c.do(t, c.request(t, http.MethodGet, "/?to="+url.QueryEscape(to), nil))
		assert.Equal(t, 307, answer.status, to)
		assert.Equal(t, want, answer.header.Get("Location"), to)
	}
	based := startConsole(t, server, "/base", newJWT())
	answer := based.do(t, based.request(t, http.MethodGet, "/?to=/base/y", nil))
	assert.Equal(t, "/y", answer.header.Get("Location"), "below the path of console_url")
}

func TestA401InTheMiddle(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", maxReplay+1)
	for name, tt := range map[string]struct {
		method, body string
		prepare      func(*http.Request)
		sameJWT      bool // at Vault
		noneIsValid  bool // at Console
		vault        error
		attempts     int
		want         int
		says         string
	}{
		"no body":             {method: "GET", attempts: 2, want: 200},
		"a small body":        {method: "POST", body: "small", attempts: 2, want: 200},
		"the same JWT":        {method: "GET", sameJWT: true, attempts: 1, want: 401, says: "refuses the JWT that Vault has just handed out"},
		"the other as well":   {method: "GET", noneIsValid: true, attempts: 2, want: 401, says: "refuses the JWT that Vault has just handed out"},
		"Vault out of reach":  {method: "GET", vault: errors.New("cannot reach Vault"), attempts: 1, want: 401, says: "could not get a new JWT"},
		"a large body":        {method: "POST", body: large, attempts: 1, want: 401},
		"of unknown length":   {method: "POST", body: "small", attempts: 1, want: 401, prepare: func(r *http.Request) { r.ContentLength = -1 }},
		"held back by Expect": {method: "POST", body: "small", attempts: 1, want: 401, prepare: func(r *http.Request) { r.Header.Set("Expect", "100-continue") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			second := newJWT()
			var attempts atomic.Int64
			c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
				attempts.Add(1)
				body, _ := io.ReadAll(r.Body)
				if tt.noneIsValid || r.Header.Get("Authorization") != "Bearer "+second {
					writeError(w, http.StatusUnauthorized, "invalid or expired JWT")
					return
				}
				assert.Equal(t, tt.body, string(body))
			})
			if !tt.sameJWT {
				c.jwt = second
			}
			c.err = tt.vault
			send := func() answer {
				request := c.request(t, tt.method, "/", strings.NewReader(tt.body))
				if tt.prepare != nil {
					tt.prepare(request)
				}
				return c.do(t, request)
			}
			answer := send()
			require.Equal(t, tt.want, answer.status)
			require.EqualValues(t, tt.attempts, attempts.Load())
			require.Equal(t, 2, c.reads, "Vault was read once more")
			if tt.want == 401 {
				require.JSONEq(t, `{"message": "invalid or expired JWT"}`, answer.body, "Console's own answer")
			}
			if tt.says != "" {
				require.Equal(t, 1, strings.Count(c.log.String(), "\n"), "one line: %s", &c.log)
				require.Contains(t, c.log.String(), tt.says)
				return
			}
			require.Equal(t, 200, send().status, "the tool's next attempt has the new JWT")
			require.Empty(t, c.log.String())
		})
	}
}

func TestALargeUploadIsStreamed(t *testing.T) {
	t.Parallel()
	const half = maxReplay
	content := bytes.Repeat([]byte("0123456789abcdef"), 2*half/16)
	begun := make(chan struct{})
	c := upstream(t, func(_ http.ResponseWriter, r *http.Request) {
		first, _ := io.ReadAll(io.LimitReader(r.Body, half))
		close(begun)
		rest, _ := io.ReadAll(r.Body)
		assert.True(t, bytes.Equal(content, append(first, rest...)))
	})
	reader, writer := io.Pipe()
	go func() {
		_, _ = writer.Write(content[:half])
		<-begun // Console has its beginning before the tool sends the rest
		_, _ = writer.Write(content[half:])
		_ = writer.Close()
	}()
	require.Equal(t, 200, c.do(t, c.request(t, http.MethodPost, "/", reader)).status)
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	// The client sends no body before it is asked to.
	c.client.Transport.(*http.Transport).ExpectContinueTimeout = time.Hour
	for path, want := range map[string]int{"/refused": 413, "/taken": 200} {
		body := strings.NewReader("body")
		request := c.request(t, http.MethodPost, path, body)
		request.Header.Set("Expect", "100-continue")
		got := c.do(t, request)
		require.Equal(t, want, got.status)
		require.Equal(t, want == 200, got.body == "body")
		require.Equal(t, want == 200, body.Len() == 0, "the body was sent")
	}
}

func TestEventsArriveAsTheyAreSent(t *testing.T) {
	t.Parallel()
	for name, packed := range map[string]bool{"plain": false, "gzip": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next, ended := make(chan struct{}), make(chan struct{})
			c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
				var out interface {
					io.Writer
					Flush() error
				} = bufio.NewWriter(w)
				if packed {
					w.Header().Set("Content-Encoding", "gzip")
					out = gzip.NewWriter(w)
				} else {
					w.Header().Set("Content-Length", "1000")
				}
				for i := range 3 {
					_, _ = fmt.Fprintln(out, "event", i)
					_ = out.Flush()
					_ = http.NewResponseController(w).Flush()
					<-next
				}
				<-r.Context().Done()
				close(ended)
			})
			response, err := c.client.Do(c.request(t, http.MethodGet, "/", nil))
			require.NoError(t, err)
			lines := bufio.NewReader(response.Body)
			for i := range 3 {
				line, err := lines.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintln("event", i), line, "it is here before Console goes on")
				next <- struct{}{}
			}
			require.NoError(t, response.Body.Close()) // the command hangs up
			select {
			case <-ended:
			case <-time.After(time.Minute):
				require.Fail(t, "Console's handler goes on")
			}
		})
	}
}

func pack(t *testing.T, text string) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := io.WriteString(w, text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return packed.Bytes()
}

func TestAnswersArriveUnpacked(t *testing.T) {
	t.Parallel()
	const text = "a text"
	packed := pack(t, text)
	for protocol, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, protocol, r.Proto)
				w.Header().Set("ETag", `"tag"`)
				switch r.URL.Path {
				case "/weak":
					w.Header().Set("ETag", `W/"tag"`)
					fallthrough
				case "/packed": // whatever was asked for
					w.Header().Set("Content-Encoding", "GZIP")
					w.Header().Set("Content-Length", fmt.Sprint(len(packed)))
					if r.Header.Get("If-None-Match") != "" {
						w.WriteHeader(http.StatusNotModified)
					} else {
						_, _ = w.Write(packed)
					}
				case "/br":
					w.Header().Set("Content-Encoding", "br")
					_, _ = w.Write(packed)
				case "/empty":
					w.Header().Set("Content-Encoding", "gzip")
				default:
					http.ServeContent(w, r, "text", time.Time{}, strings.NewReader(text))
				}
			}))
			server.EnableHTTP2 = http2
			server.StartTLS()
			t.Cleanup(server.Close)
			c := startConsole(t, server, "", newJWT())
			for _, tt := range []struct {
				method, path, header string // NAME=value
				status               int
				body, etag, length   string
			}{
				{"GET", "/plain", "Accept-Encoding=br", 200, text, `"tag"`, "6"},
				{"GET", "/packed", "Accept-Encoding=gzip", 200, text, `W/"tag"`, ""},
				{"GET", "/packed", "Accept-Encoding=identity", 200, text, `W/"tag"`, ""},
				{"GET", "/weak", "X-Other=", 200, text, `W/"tag"`, ""},
				{"HEAD", "/plain", "X-Other=", 200, "", `"tag"`, "6"},
				{"HEAD", "/packed", "X-Other=", 200, "", `W/"tag"`, ""},
				{"GET", "/empty", "X-Other=", 200, "", `W/"tag"`, ""},
				{"GET", "/plain", `If-None-Match="tag"`, 304, "", `"tag"`, ""},
				{"GET", "/plain", `If-None-Match="other", W/"tag"`, 304, "", `W/"tag"`, ""},
				{"GET", "/packed", `If-None-Match=W/"tag"`, 304, "", `W/"tag"`, ""},
				{"GET", "/plain", "Range=bytes=2-", 200, text, `"tag"`, "6"}, // the JWT could be had in pieces
				{"GET", "/packed", "Range=bytes=2-", 200, text, `W/"tag"`, ""},
				{"GET", "/br", "X-Other=", 502, "", "", ""},
			} {
				request := c.request(t, tt.method, tt.path, nil)
				name, value, _ := strings.Cut(tt.header, "=")
				request.Header.Set(name, value)
				got := c.do(t, request)
				assert.Equal(t, tt.status, got.status, tt)
				assert.Empty(t, got.header.Get("Content-Encoding"), tt)
				if tt.status == 502 {
					assert.Contains(t, got.body, "which was not asked for", tt)
					continue
				}
				assert.Equal(t, tt.body, got.body, tt)
				assert.Equal(t, tt.etag, got.header.Get("ETag"), tt)
				if tt.path != "/empty" { // chunked or not is a matter of time
					assert.Equal(t, tt.length, got.header.Get("Content-Length"), tt)
				}
			}
		})
	}
}

func TestConsoleThatRepeatsTheJWT(t *testing.T) {
	t.Parallel()
	const stars = "*********"
	for name, jwt := range map[string]string{"JWT": newJWT(), "opaque": "canary-opaque-token-do-not-leak"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				authorization := r.Header.Get("Authorization")
				switch r.URL.Path {
				case "/header":
					w.Header().Set("X-Echo", authorization)
				case "/early":
					w.Header().Set("Link", authorization)
					w.WriteHeader(http.StatusEarlyHints)
					w.Header().Del("Link")
				case "/body":
					_, _ = io.WriteString(w, authorization+" "+authorization)
				case "/gzip":
					w.Header().Set("Content-Encoding", "gzip")
					_, _ = w.Write(pack(t, authorization))
				case "/trailer":
					w.Header().Set("Trailer", "X-Echo")
					_, _ = io.WriteString(w, "body")
					w.Header().Set("X-Echo", authorization)
				case "/name":
					answerRaw(t, w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: %s\r\nX%s: y\r\n\r\n0\r\n\r\n", authorization, newSecret(jwt))
				case "/malformed":
					answerRaw(t, w, "%s\r\n\r\n", authorization)
				case "/switched":
					answerRaw(t, w, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n%s", authorization)
				}
			}))
			t.Cleanup(server.Close)
			c := startConsole(t, server, "", jwt)
			for path, want := range map[string]string{
				"/header": stars, "/early": stars, "/body": stars, "/gzip": stars, "/trailer": stars, "/name": "200 OK",
				"/malformed": "502 Bad Gateway", "/switched": "502 Bad Gateway",
			} {
				// On the wire, so that nothing goes unseen.
				raw, err := io.ReadAll(c.send(t, "GET "+path+" HTTP/1.1", "Connection: close\r\nTE: trailers\r\n"))
				require.NoError(t, err)
				assert.NotContains(t, strings.ToLower(string(raw)), strings.ToLower(string(newSecret(jwt))), path)
				assert.Contains(t, string(raw), want, path)
			}
			assert.NotContains(t, c.log.String(), string(newSecret(jwt)))
		})
	}
}

func TestWhyConsoleCannotBeReached(t *testing.T) {
	t.Parallel()
	const checkNetwork = ": check the network and the proxy variables"
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(server.Close)
	closed := httptest.NewUnstartedServer(nil)
	closed.StartTLS()
	closed.Close()
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answerRaw(t, w, "HTTP/1.1 407 %s\r\n\r\n", r.Header.Get("Proxy-Authorization"))
	}))
	t.Cleanup(refusing.Close)
	by := func(proxy string) func(*http.Transport) {
		return func(transport *http.Transport) {
			transport.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://user:canary@" + proxy) }
		}
	}
	for name, tt := range map[string]struct {
		server  *httptest.Server
		prepare func(*http.Transport)
		status  int
		says    string
	}{
		"refused":              {closed, func(*http.Transport) {}, 502, "connect: connection refused" + checkNetwork},
		"unknown CA":           {server, func(transport *http.Transport) { transport.TLSClientConfig.RootCAs = nil }, 502, "-ca-cert"},
		"no answer":            {server, func(transport *http.Transport) { transport.ResponseHeaderTimeout = time.Millisecond }, 504, "it does not answer" + checkNetwork},
		"a proxy that refuses": {server, by(refusing.Listener.Addr().String()), 502, "the proxy answered with status 407 Proxy Authentication Required" + checkNetwork},
		"a proxy that is off":  {server, by(closed.Listener.Addr().String()), 502, "the proxy cannot be reached: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startConsole(t, tt.server, "", newJWT())
			tt.prepare(c.transport)
			got := c.do(t, c.request(t, http.MethodGet, "/", nil))
			require.Equal(t, tt.status, got.status)
			for where, text := range map[string]string{"answer": got.body, "log": c.log.String()} {
				assert.Contains(t, text, "cannot reach Snowplow Console at "+strings.TrimPrefix(tt.server.URL, "https://"), where)
				assert.Contains(t, text, tt.says, where)
				assert.NotContains(t, text, "canary", where)
				assert.NotContains(t, text, base64.StdEncoding.EncodeToString([]byte("user:canary")), where)
			}
		})
	}
}

func TestWhatIsWrongWithConsoleIsLoggedOnceInARow(t *testing.T) {
	t.Parallel()
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/unreachable":
			panic(http.ErrAbortHandler)
		case "/refused":
			w.WriteHeader(http.StatusUnauthorized)
		case "/failed":
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	lines := 0
	for _, step := range []struct {
		path string
		line string // "": none
	}{
		{"/unreachable", "cannot reach"}, {"/unreachable", ""}, {"/refused", "refuses the JWT"}, {"/refused", ""},
		{"/unreachable", "cannot reach"}, {"/", ""}, {"/unreachable", "cannot reach"}, {"/failed", ""}, {"/unreachable", "cannot reach"}, {"/", ""},
	} {
		c.do(t, c.request(t, http.MethodPost, step.path, nil)) // Go repeats a GET by itself
		logged := strings.Split(strings.TrimSuffix(c.log.String(), "\n"), "\n")
		if step.line != "" {
			lines++
			require.Contains(t, logged[len(logged)-1], step.line)
		}
		require.Len(t, logged, lines, step)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	request := httptest.NewRequestWithContext(ctx, http.MethodPost, c.URL, nil)
	request.Header.Set("Authorization", "Bearer "+c.standIn)
	recorder := httptest.NewRecorder()
	c.ServeHTTP(recorder, request)
	require.Equal(t, 502, recorder.Code)
	require.Equal(t, lines, strings.Count(c.log.String(), "\n"), "a command that hangs up is no fault of Console's")
}

func TestConsoleURLs(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		"https://console.snowplowanalytics.com", "https://console.example:8443/base", "http://127.0.0.1:8080", "http://localhost", "http://[::1]:80",
	} {
		_, err := parseConsoleURL(raw)
		assert.NoError(t, err, raw)
	}
	for _, raw := range []string{
		"http://console.example", "http://localhost.example", "ftp://127.0.0.1", "https://user:password@console.example",
		"https://console.example?x", "https://console.example#x", "console.example", "https://", ":",
	} {
		_, err := parseConsoleURL(raw)
		assert.Error(t, err, raw)
	}
}
