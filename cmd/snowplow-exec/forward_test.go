package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
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
		request.Header.Set("Accept-Encoding", "gzip")
		request.Header.Set("Connection", "X-Hop, Upgrade")
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
		want := http.Header{"Authorization": {"Bearer " + c.jwt}, "X-Snowplow-Cli": {"a", "b"}, "Accept-Encoding": {"gzip"}}
		if length := got.Header.Get("Content-Length"); length != "" {
			want.Set("Content-Length", fmt.Sprint(len(sent)))
		}
		require.Equal(t, want, got.Header, "nothing is added, and nothing but what belongs to one connection is taken away (%s)", method)
	}
	for _, method := range []string{"TRACE", "CONNECT"} {
		got = nil
		request := c.request(t, method, "/", nil)
		require.Equal(t, 405, c.do(t, request).status, method)
		require.Nil(t, got, method)
	}
}

func TestConsoleURLWithAPath(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/base"+r.URL.Query().Get("to"))
		w.Header().Set("X-Path", r.RequestURI)
		w.WriteHeader(http.StatusFound)
	}))
	t.Cleanup(server.Close)
	c := startConsole(t, server.URL+"/base", newTestTransport(t), newJWT())
	answer := c.do(t, c.request(t, http.MethodGet, "/api/x?to=/y", nil))
	require.Equal(t, "/base/api/x?to=/y", answer.header.Get("X-Path"))
	require.Equal(t, "/y", answer.header.Get("Location"))
}

func TestARedirectGoesBackToTheTool(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		assert.Fail(t, "a redirect was followed", "%s %v", r.URL, r.Header)
	}))
	t.Cleanup(elsewhere.Close)
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	here := c.source.consoleURL()
	jwt := c.jwt
	for to, want := range map[string]string{
		elsewhere.URL + "/x?y=z":          elsewhere.URL + "/x?y=z",
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
	_, signature, _ := splitJWT(jwt)
	answer := c.do(t, c.request(t, http.MethodGet, "/?to="+url.QueryEscape(elsewhere.URL+"/?token="+jwt), nil))
	assert.NotContains(t, answer.header.Get("Location"), signature, "credentials in a redirect")
}

func TestA401InTheMiddle(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", maxReplay+1)
	for name, tt := range map[string]struct {
		method, body string
		prepare      func(*http.Request)
		newJWT       bool
		want         int
		attempts     int
	}{
		"no body":           {method: "GET", newJWT: true, want: 200, attempts: 2},
		"a small body":      {method: "POST", body: "small", newJWT: true, want: 200, attempts: 2},
		"the same JWT":      {method: "GET", want: 401, attempts: 1},
		"a large body":      {method: "POST", body: large, newJWT: true, want: 401, attempts: 1},
		"of unknown length": {method: "POST", body: "small", newJWT: true, want: 401, attempts: 1, prepare: func(r *http.Request) { r.ContentLength = -1 }},
		"held back":         {method: "POST", body: "small", newJWT: true, want: 401, attempts: 1, prepare: func(r *http.Request) { r.Header.Set("Expect", "100-continue") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var valid atomic.Value
			var attempts atomic.Int64
			c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
				attempts.Add(1)
				body, _ := io.ReadAll(r.Body)
				if r.Header.Get("Authorization") != valid.Load() {
					writeError(w, http.StatusUnauthorized, "invalid or expired JWT")
					return
				}
				assert.Equal(t, tt.body, string(body))
			})
			second := newJWT()
			valid.Store("Bearer " + second)
			if tt.newJWT {
				c.hand(second)
			}
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
			require.Equal(t, 2, c.readsSoFar(), "Vault was read once more")
			if tt.want == 401 {
				require.JSONEq(t, `{"message": "invalid or expired JWT"}`, answer.body, "Console's own answer")
			}
			if tt.newJWT {
				require.Equal(t, 200, send().status, "the tool's next attempt has the new JWT")
			}
		})
	}
}

func TestASecond401GoesToTheTool(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int64
	c := upstream(t, func(w http.ResponseWriter, _ *http.Request) {
		attempts.Add(1)
		w.WriteHeader(http.StatusUnauthorized)
	})
	c.hand(newJWT())
	require.Equal(t, 401, c.do(t, c.request(t, http.MethodGet, "/", nil)).status)
	require.EqualValues(t, 2, attempts.Load())
}

func TestALargeUploadIsStreamed(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	begun := make(chan struct{})
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		_, _ = io.CopyN(hash, r.Body, 1<<20)
		close(begun)
		n, _ := io.Copy(hash, r.Body)
		_, _ = fmt.Fprintf(w, "%d %x", n+1<<20, hash.Sum(nil))
	})
	reader, writer := io.Pipe()
	hash := sha256.New()
	go func() {
		chunk := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		for sent := 0; sent < size; sent += len(chunk) {
			if sent == 2*len(chunk) {
				<-begun // Console has its beginning before the tool has sent the rest
			}
			hash.Write(chunk)
			if _, err := writer.Write(chunk); err != nil {
				return
			}
		}
		_ = writer.Close()
	}()
	answer := c.do(t, c.request(t, http.MethodPost, "/", reader))
	require.Equal(t, 200, answer.status)
	require.Equal(t, fmt.Sprintf("%d %x", size, hash.Sum(nil)), answer.body)
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
	exchange := func(path string) (int, *bufio.Reader, net.Conn) {
		conn, err := net.Dial("tcp", c.address.String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
			path, c.address, c.standIn)
		require.NoError(t, err)
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode, reader, conn
	}
	status, _, _ := exchange("/refused")
	require.Equal(t, 413, status, "Console's refusal comes without the body")

	status, reader, conn := exchange("/taken")
	require.Equal(t, 100, status)
	_, err := io.WriteString(conn, "body")
	require.NoError(t, err)
	response, err := http.ReadResponse(reader, nil)
	require.NoError(t, err)
	for response.StatusCode == 100 { // one is Console's, another may be the server's own
		require.NoError(t, response.Body.Close())
		response, err = http.ReadResponse(reader, nil)
		require.NoError(t, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4))
	require.NoError(t, err)
	require.Equal(t, "body", string(body))
}

func TestADownloadIsStreamed(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"identity", "gzip"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			next := make(chan struct{})
			c := upstream(t, func(w http.ResponseWriter, _ *http.Request) {
				out, flush := io.Writer(w), func() error { return nil }
				if encoding == "gzip" {
					w.Header().Set("Content-Encoding", "gzip")
					compressed := gzip.NewWriter(w)
					defer compressed.Close()
					out, flush = compressed, compressed.Flush
				}
				for i := range 3 {
					_, _ = fmt.Fprintln(out, "event", i)
					_ = flush()
					_ = http.NewResponseController(w).Flush()
					<-next
				}
			})
			request := c.request(t, http.MethodGet, "/", nil)
			request.Header.Set("Accept-Encoding", encoding)
			response, err := c.client.Do(request)
			require.NoError(t, err)
			defer response.Body.Close()
			body := io.Reader(response.Body)
			if encoding == "gzip" {
				body, err = gzip.NewReader(body)
				require.NoError(t, err)
			}
			lines := bufio.NewReader(body)
			for i := range 3 {
				line, err := lines.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintln("event", i), line, "it is here before Console goes on")
				next <- struct{}{}
			}
		})
	}
}

func TestAClientThatHangsUpEndsTheRequestToConsole(t *testing.T) {
	t.Parallel()
	begun, ended := make(chan struct{}), make(chan struct{})
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	request := c.request(t, http.MethodGet, "/", nil).WithContext(ctx)
	response, err := c.client.Do(request)
	require.NoError(t, err)
	<-begun
	cancel()
	_ = response.Body.Close()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		require.Fail(t, "Console's handler goes on")
	}
}

func TestGzipIsUntouched(t *testing.T) {
	t.Parallel()
	var compressed bytes.Buffer
	for _, text := range []string{strings.Repeat("a large text, ", 100_000), "and a second member"} {
		w, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
		require.NoError(t, err)
		w.Name = "with-a-name"
		_, _ = io.WriteString(w, text)
		require.NoError(t, w.Close())
	}
	var accepted atomic.Value
	c := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		accepted.Store(strings.Join(r.Header.Values("Accept-Encoding"), "|"))
		switch r.URL.Path {
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Length", fmt.Sprint(compressed.Len()))
			_, _ = w.Write(compressed.Bytes())
		case "/broken":
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "this is not gzip")
		case "/none":
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(http.StatusNotModified)
		case "/br":
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, "brotli")
		}
	})
	ask := func(method, path string, accept ...string) answer {
		request := c.request(t, method, path, nil)
		request.Header["Accept-Encoding"] = accept
		return c.do(t, request)
	}
	got := ask(http.MethodGet, "/gzip", "gzip, deflate, br")
	require.NoError(t, got.err)
	require.Equal(t, compressed.Bytes(), []byte(got.body))
	require.Equal(t, "gzip", got.header.Get("Content-Encoding"))
	require.Equal(t, fmt.Sprint(compressed.Len()), got.header.Get("Content-Length"))
	require.Equal(t, "gzip", accepted.Load(), "Console is asked for what can be checked")

	for accept, want := range map[string]string{
		"gzip;q=0.5,  identity": "gzip;q=0.5,  identity",
		"br;q=1, *":             "identity",
		"br, GZIP;q=0.1":        "GZIP;q=0.1",
	} {
		ask(http.MethodGet, "/", accept)
		assert.Equal(t, want, accepted.Load(), accept)
	}
	require.Equal(t, 200, ask(http.MethodHead, "/gzip", "gzip").status)
	require.Equal(t, 304, ask(http.MethodGet, "/none", "gzip").status)
	// What cannot be decompressed cannot be checked. Whether the headers are through already is a matter of time.
	broken, err := c.client.Do(c.request(t, http.MethodGet, "/broken", nil))
	if err == nil {
		_, err = io.ReadAll(broken.Body)
		_ = broken.Body.Close()
	}
	require.Error(t, err)
	got = ask(http.MethodGet, "/br", "br")
	require.Equal(t, 502, got.status)
	require.Contains(t, got.body, `encoding \"br\"`)
}

func TestConsoleThatRepeatsTheJWT(t *testing.T) {
	t.Parallel()
	for name, jwt := range map[string]string{"JWT": newJWT(), "opaque": "canary-opaque-token-do-not-leak"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				authorization := r.Header.Get("Authorization")
				flush := http.NewResponseController(w).Flush
				switch r.URL.Path {
				case "/header":
					w.Header().Set("X-Echo", authorization)
				case "/early":
					w.Header().Set("Link", authorization)
					w.WriteHeader(http.StatusEarlyHints)
					w.Header().Del("Link")
				case "/body":
					w.WriteHeader(http.StatusBadRequest)
					_, _ = fmt.Fprintf(w, "before %s between %s after", authorization, authorization)
				case "/pieces":
					_, _ = io.WriteString(w, "before ")
					for i := range len(authorization) {
						_, _ = io.WriteString(w, authorization[i:i+1])
						_ = flush()
					}
					_, _ = io.WriteString(w, " after")
				case "/gzip":
					w.Header().Set("Content-Encoding", "gzip")
					compressed := gzip.NewWriter(w)
					_, _ = io.WriteString(compressed, "before ")
					_ = compressed.Flush()
					_ = flush()
					for _, part := range []string{authorization[:len(authorization)/2], authorization[len(authorization)/2:]} {
						_, _ = io.WriteString(compressed, part)
						_ = compressed.Flush()
						_ = flush()
					}
					_ = compressed.Close()
				case "/trailer":
					w.Header().Set("Trailer", "X-Echo")
					_, _ = io.WriteString(w, "body")
					w.Header().Set("X-Echo", authorization)
				case "/malformed":
					conn, _, err := http.NewResponseController(w).Hijack()
					if assert.NoError(t, err) {
						_, _ = io.WriteString(conn, authorization+"\r\n\r\n")
						_ = conn.Close()
					}
				}
			}))
			t.Cleanup(server.Close)
			c := startConsole(t, server.URL, newTestTransport(t), jwt)
			secret := string(newSecret(jwt))
			for path, want := range map[string]struct {
				status int
				body   string
			}{
				"/header": {200, ""}, "/early": {200, ""}, "/body": {400, "***"}, "/pieces": {200, "***"},
				"/trailer": {200, "body"}, "/malformed": {502, "***"}, "/gzip": {200, ""},
			} {
				// On the wire, so that nothing goes unseen.
				conn, err := net.Dial("tcp", c.address.String())
				require.NoError(t, err)
				_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\nTE: trailers\r\n\r\n", path, c.address, c.standIn)
				require.NoError(t, err)
				raw, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.NoError(t, conn.Close())
				dechunked := regexpChunk.ReplaceAllString(string(raw), "")
				assert.NotContains(t, dechunked, secret, path)
				assert.Contains(t, string(raw), want.body, path)

				got := c.do(t, c.request(t, http.MethodGet, path, nil))
				assert.Equal(t, want.status, got.status, path)
				switch path {
				case "/header":
					assert.Contains(t, got.header.Get("X-Echo"), "***")
				case "/trailer":
					assert.Contains(t, got.trailer.Get("X-Echo"), "***")
				case "/body":
					masked := strings.ReplaceAll(jwt, secret, strings.Repeat("*", len(secret)))
					assert.Equal(t, "before Bearer "+masked+" between Bearer "+masked+" after", got.body)
				case "/pieces":
					assert.True(t, strings.HasSuffix(got.body, "* after"), got.body)
				case "/gzip":
					assert.Error(t, got.err, "the answer breaks off")
					reader, err := gzip.NewReader(strings.NewReader(got.body))
					require.NoError(t, err)
					text, _ := io.ReadAll(reader)
					assert.True(t, strings.HasPrefix(string(text), "before "), "what came before it has arrived: %q", text)
					assert.Zero(t, newSecret(jwt).openEnd(text), "not even the beginning of the secret")
				}
			}
		})
	}
}

func TestConsoleOutOfReach(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(nil)
	server.Close()
	c := startConsole(t, server.URL, newTestTransport(t), newJWT())
	got := c.do(t, c.request(t, http.MethodGet, "/", nil))
	require.Equal(t, 502, got.status)
	require.Contains(t, got.body, `{"message":"snowplow-exec: cannot reach Snowplow Console at `+strings.TrimPrefix(server.URL, "http://"))

	var timeout net.Error = &consoleError{"", context.DeadlineExceeded}
	require.True(t, timeout.Timeout())
}

func TestConsoleURLs(t *testing.T) {
	t.Parallel()
	for raw, ok := range map[string]bool{
		"https://console.snowplowanalytics.com": true,
		"https://console.example:8443/base":     true,
		"http://127.0.0.1:8080":                 true,
		"http://localhost":                      true,
		"http://[::1]:80":                       true,
		"http://console.example":                false,
		"http://localhost.example":              false,
		"ftp://127.0.0.1":                       false,
		"https://user:password@console.example": false,
		"https://console.example?x":             false,
		"https://console.example#x":             false,
		"console.example":                       false,
		"https://":                              false,
		":":                                     false,
	} {
		_, err := parseConsoleURL(raw)
		assert.Equal(t, ok, err == nil, "%s: %v", raw, err)
	}
}
