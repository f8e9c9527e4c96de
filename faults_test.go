package snowplow

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// Secrets of these tests. Each holds the word canary, which no encoding of text changes; all are shorter than what
// is taken for a key by its look alone, and have in them what encodings differ in.
const (
	canaryKey          = `canary"k&y<%>/+~`
	canaryPassword     = `canary "p&ss/wörd' +%`
	canaryClientSecret = `canary/s3cr~t?&=`
	// canarySignature ends the JWTs that these tests make up.
	canarySignature = "canary-signature"
)

// upstream is a fake Console behind a listener that counts.
type upstream struct {
	*consoletest.Console
	url  string
	dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: the system's

	sent        atomic.Int64 // bytes that the server could write
	connections atomic.Int64 // accepted
	open        atomic.Int64 // and not closed yet

	mu     sync.Mutex
	dialed []string // on pipes, whatever the address
}

// onPipes is an upstream without sockets, for bubbles of synctest: fake time passes while both ends wait, and the
// server can send no byte that the engine does not read.
func onPipes(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{Console: newCanaryConsole(), url: "http://127.0.0.1"}
	listener := &pipeListener{accepted: make(chan net.Conn), closed: make(chan struct{})}
	u.dial = func(ctx context.Context, _, address string) (net.Conn, error) {
		u.mu.Lock()
		u.dialed = append(u.dialed, address)
		u.mu.Unlock()
		if address != "127.0.0.1:80" {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
		}
		ours, theirs := net.Pipe()
		select {
		case listener.accepted <- theirs:
			return ours, nil
		case <-listener.closed:
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
		}
	}
	u.serve(t, listener, u.Console)
	return u
}

// onTCP is an upstream on a port of the loopback interface.
func onTCP(t *testing.T) *upstream {
	t.Helper()
	listener := listenTCP(t)
	u := &upstream{Console: newCanaryConsole(), url: "http://" + listener.Addr().String()}
	u.serve(t, listener, u.Console)
	return u
}

func newCanaryConsole() *consoletest.Console {
	console := consoletest.New(consoletest.WithKeys(consoletest.Key{ID: consoletest.DefaultAPIKeyID, Secret: canaryKey}))
	console.AddBotUser(consoletest.BotUser{
		Username: consoletest.DefaultUsername, Password: canaryPassword,
		ClientID: consoletest.DefaultClientID, ClientSecret: canaryClientSecret,
	})
	return console
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return listener
}

func (u *upstream) serve(t *testing.T, listener net.Listener, handler http.Handler) {
	t.Helper()
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(countingListener{listener, u})
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

type pipeListener struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

type countingListener struct {
	net.Listener
	u *upstream
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.u.connections.Add(1)
	l.u.open.Add(1)
	return &countedConn{Conn: conn, u: l.u}, nil
}

type countedConn struct {
	net.Conn
	u    *upstream
	once sync.Once
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.u.sent.Add(int64(n))
	return n, err
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.u.open.Add(-1) })
	return c.Conn.Close()
}

// reset closes the connection with an RST where there is a kernel to send one.
func reset(conn net.Conn) {
	if counted, ok := conn.(*countedConn); ok {
		if tcp, ok := counted.Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	}
	_ = conn.Close()
}

// canaryConfig is the credential of these tests for each exchange, as it is written to config.
func canaryConfig(u *upstream, version string) map[string]any {
	fields := map[string]any{
		"organization_id":     consoletest.DefaultOrganizationID,
		"credentials_version": version,
		"console_url":         u.url,
		"auth_url":            u.url,
		"request_timeout":     "60s",
		"verify_connection":   false,
	}
	if version == versionV1 {
		maps.Copy(fields, map[string]any{
			"username": consoletest.DefaultUsername, "password": canaryPassword,
			"client_id": consoletest.DefaultClientID, "client_secret": canaryClientSecret,
		})
		return fields
	}
	fields["api_key"] = canaryKey
	if version == versionV3 {
		fields["api_key_id"] = consoletest.DefaultAPIKeyID
	}
	return fields
}

// mountOn is a mount whose config names u, verified by nothing.
func mountOn(t *testing.T, u *upstream, version string, more ...map[string]any) *mount {
	t.Helper()
	m := newMount(t)
	m.mustWrite("config", append([]map[string]any{canaryConfig(u, version)}, more...)...)
	if u.dial != nil {
		connection, err := m.backend.current.Load().connection(t.Context(), m.storage)
		require.NoError(t, err)
		connection.client.http.Transport.(*http.Transport).DialContext = u.dial
	}
	return m
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
		if trace := traceOfCanary(text); trace != "" {
			require.Failf(t, "a secret is seen", "%q in: %s", trace, text)
		}
	}
}

// traceOfCanary finds the word canary in a text, also where base64 or hexadecimal hides it.
func traceOfCanary(text string) string {
	lower := strings.ToLower(text)
	for _, trace := range []string{"canary", hex.EncodeToString([]byte("canary"))} {
		if strings.Contains(lower, trace) {
			return trace
		}
	}
	// What base64 makes of the word depends on where in a group of three bytes it begins.
	for before := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", before) + "canary"))
		whole := encoded[(before*8+5)/6 : (before+len("canary"))*8/6]
		if strings.Contains(text, whole) {
			return whole
		}
	}
	return ""
}

func TestTraceOfCanaryFindsEveryEncoding(t *testing.T) {
	t.Parallel()
	for before := range 4 {
		plain := strings.Repeat("x", before) + canaryKey
		for _, text := range []string{
			plain,
			base64.StdEncoding.EncodeToString([]byte(plain)),
			base64.RawURLEncoding.EncodeToString([]byte(plain)),
			url.QueryEscape(plain),
			html.EscapeString(plain),
			hex.EncodeToString([]byte(plain)),
		} {
			assert.NotEmpty(t, traceOfCanary("seen: "+text), "%q", text)
		}
	}
	assert.Empty(t, traceOfCanary("a canter in the library, Y2FuYXI="))
}

// upstreamFault is one thing that can go wrong with Console, and what a reader gets for it.
type upstreamFault struct {
	name      string
	fault     http.Handler
	timeout   time.Duration // request_timeout; 0: longer than all retries take
	status    int
	says      []string
	exchanges int // 0: one and three retries
}

const allTries = 1 + maxRetries

// check makes a read that meets the fault, and one after it.
func (f upstreamFault) check(t *testing.T, u *upstream, slack time.Duration, afterwards func(*mount)) {
	t.Helper()
	timeout, exchanges := f.timeout, f.exchanges
	if timeout == 0 {
		timeout = time.Minute
	}
	if exchanges == 0 {
		exchanges = allTries
	}
	m := mountOn(t, u, versionV3, map[string]any{"request_timeout": timeout.String()})
	u.FailAlways(f.fault)

	started := time.Now()
	resp, err := m.request(t.Context(), logical.ReadOperation, "token")
	elapsed := time.Since(started)
	status, message := refusal(t, resp, err)

	assert.Equal(t, f.status, status, message)
	assert.Contains(t, message, "Snowplow Console at "+u.url)
	for _, words := range f.says {
		assert.Contains(t, message, words)
	}
	if f.status == http.StatusGatewayTimeout {
		assert.Contains(t, message, fmt.Sprintf("has not answered within request_timeout (%s)", timeout))
	}
	assert.LessOrEqual(t, elapsed, timeout+slack)
	assert.Equal(t, exchanges, u.Exchanges())
	assert.Less(t, len(message), 1000)
	assert.NotContains(t, strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return -1
		}
		return '!'
	}, message), "!", "something unprintable in %q", message)
	requireNoSecret(t, m, fmt.Sprintf("%+v %v %#v", resp, err, err))
	assert.Equal(t, int64(1), m.mustRead("status").Data["exchange_failures"])

	u.ClearFaults()
	afterwards(m)
	jwt := m.mustRead("token").Data["access_token"].(string)
	_, ours := u.Issued(jwt)
	assert.True(t, ours, "the next good answer brings a JWT")
	requireNoSecret(t, m)
	m.backend.Cleanup(t.Context())
}

// inBubble checks the fault in fake time and on pipes. What is not closed or not ended makes the bubble fail.
func (f upstreamFault) inBubble(t *testing.T) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		u := onPipes(t)
		f.check(t, u, 0, func(*mount) {
			assert.LessOrEqual(t, u.sent.Load(), int64(u.Exchanges()*(maxAnswer+maxAnswerHeader+32<<10)), "bytes read")
			time.Sleep(maxWait) // of fake time, which ends every wait after a failure
		})
		synctest.Wait()
		assert.Zero(t, u.open.Load(), "connections open after Cleanup")
	})
}

// onSockets checks the fault on real connections and in real time.
func (f upstreamFault) onSockets(t *testing.T) {
	t.Helper()
	u := onTCP(t)
	f.timeout *= 3 // A busy machine may take a second to begin.
	f.check(t, u, 10*time.Second, func(m *mount) {
		m.mustWrite("config", map[string]any{"verify_connection": false, "request_timeout": "60s"}) // ends the wait
	})
	requireAllClosed(t, u)
}

func requireAllClosed(t *testing.T, u *upstream) {
	t.Helper()
	require.Eventually(t, func() bool { return u.open.Load() == 0 }, 10*time.Second, 5*time.Millisecond,
		"connections open after Cleanup")
}

// together runs cases that wait more than they compute all at once; t.Parallel would run one for each core.
func together[T any](t *testing.T, cases []T, name func(T) string, run func(*testing.T, T)) {
	t.Helper()
	var wg sync.WaitGroup
	for _, c := range cases {
		wg.Go(func() { t.Run(name(c), func(t *testing.T) { run(t, c) }) })
	}
	wg.Wait()
}

func TestFaultsOfStatus(t *testing.T) {
	t.Parallel()
	const makeKey = "Settings > Manage organization > API keys"
	write := "vault write snowplow/config "
	bodies := []struct {
		name  string
		fault func(code int) http.Handler
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
	for _, test := range []upstreamFault{
		{status: 400, exchanges: 1, says: []string{"rejected the request with status 400 Bad Request"}},
		{status: 400, exchanges: 1, says: []string{"refused the API key with status 401 Unauthorized", makeKey, write + "api_key_id=<ID> api_key=<key>"}},
		{status: 400, exchanges: 1, says: []string{"refused the API key with status 403 Forbidden", makeKey, write + "api_key_id=<ID> api_key=<key>"}},
		{status: 400, exchanges: 1, says: []string{"organization " + consoletest.DefaultOrganizationID + ", status 404 Not Found", "Manage organization page", write + "organization_id=<UUID>"}},
		{status: 400, exchanges: 1, says: []string{"status 408 Request Timeout"}},
		{status: 400, exchanges: 1, says: []string{"status 418 I'm a teapot"}},
		{status: 429, says: []string{"status 429 Too Many Requests", "try again after "}},
		{status: 502, says: []string{"status 500 Internal Server Error"}},
		{status: 502, says: []string{"status 502 Bad Gateway"}},
		{status: 502, says: []string{"status 503 Service Unavailable"}},
		{status: 502, says: []string{"status 504 Gateway Timeout"}},
		{status: 502, says: []string{"status 999"}},
		{status: 502, says: []string{"malformed answer: status 204 No Content"}},
		{status: 502, says: []string{"malformed answer: status 206 Partial Content"}},
		{status: 502, exchanges: 1, says: []string{"redirect, status 304 Not Modified"}},
	} {
		code := codeIn(t, test.says[0])
		for _, body := range bodies {
			test.name, test.fault = fmt.Sprintf("%d/%s", code, body.name), body.fault(code)
			t.Run(test.name, func(t *testing.T) {
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

// raw is a fault that writes to the connection itself, which is closed when write returns.
func raw(write func(conn net.Conn, r *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer conn.Close()
		write(conn, r)
	})
}

// said is the fault of an answer to the letter.
func said(answer string) http.Handler {
	return raw(func(conn net.Conn, _ *http.Request) { _, _ = io.WriteString(conn, answer) })
}

// endless says begin once and then more for as long as someone listens, up to 100 MB: an engine without bounds is to
// fail its test, not the machine.
func endless(begin, more string) http.Handler {
	return raw(func(conn net.Conn, _ *http.Request) {
		_, err := io.WriteString(conn, begin)
		for left := 100 << 20; err == nil && left > 0; left -= len(more) {
			_, err = io.WriteString(conn, more)
		}
	})
}

// drip says begin at once and then a byte of rest, over and over, every 100 ms.
func drip(begin, rest string) http.Handler {
	return raw(func(conn net.Conn, _ *http.Request) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		_, err := io.WriteString(conn, begin)
		for i := 0; err == nil; i++ {
			<-tick.C
			_, err = io.WriteString(conn, rest[i%len(rest):][:1])
		}
	})
}

// cut says something and resets the connection.
func cut(answer string) http.Handler {
	return raw(func(conn net.Conn, _ *http.Request) {
		_, _ = io.WriteString(conn, answer)
		reset(conn)
	})
}

const okHeader = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

func faultsOfConnections() []upstreamFault {
	whole := `{"accessToken":"` + madeUpJWT(`{}`) + `"}`
	brokeOff := []string{"malformed answer: it broke off"}
	noAnswer := []string{"malformed answer, or broke the connection"}
	oversized := []string{"oversized answer"}
	return []upstreamFault{
		{name: "reset before the headers", fault: cut(""), status: 502, says: noAnswer},
		{name: "reset within the headers", fault: cut(okHeader + "Content-Le"), status: 502, says: noAnswer},
		{name: "reset after the headers", fault: cut(okHeader + "Content-Length: 99\r\n\r\n"), status: 502, says: brokeOff},
		{name: "closed after the status line", fault: consoletest.Disconnect(), status: 502, says: noAnswer},
		{name: "closed early against Content-Length", fault: said(okHeader + "Content-Length: 9999\r\n\r\n" + whole), status: 502, says: brokeOff},
		{name: "refusal closed early against Content-Length", fault: said("HTTP/1.1 400 Bad Request\r\nContent-Length: 9999\r\n\r\nOops, and more"), status: 400, says: []string{"Oops"}, exchanges: 1},
		{name: "two lengths", fault: said(okHeader + "Content-Length: 3\r\nContent-Length: 4\r\n\r\n" + whole), status: 502, says: noAnswer},
		{name: "headers without end", fault: endless(okHeader, strings.Repeat("X-More: and more\r\n", 50)), status: 502, says: oversized},
		{name: "a header without end", fault: endless(okHeader+"X-More: ", strings.Repeat("and more", 100)), status: 502, says: oversized},
		{name: "a status line without end", fault: endless("HTTP/1.1 200 ", strings.Repeat("O and K", 100)), status: 502, says: oversized},
		{name: "headers that drip", fault: drip(okHeader, "X-More: drip\r\n"), timeout: time.Second, status: 504, exchanges: 1},
		{name: "a body that drips", fault: drip(okHeader+"Content-Length: 9999\r\n\r\n", `{"accessToken`), timeout: time.Second, status: 504, exchanges: 1},
		{name: "a refusal that drips", fault: drip("HTTP/1.1 400 Bad Request\r\nContent-Length: 9999\r\n\r\n", "Oops "), timeout: time.Second, status: 400, says: []string{"400 Bad Request", "Oops"}, exchanges: 1},
		{name: "a 401 that drips", fault: drip("HTTP/1.1 401 Unauthorized\r\nContent-Length: 9999\r\n\r\n", "Oops "), timeout: time.Second, status: 400, says: []string{"401 Unauthorized"}, exchanges: 1},
		{name: "silence", fault: consoletest.Silence(), timeout: time.Second, status: 504, exchanges: 1},
		{name: "silence after the headers", fault: silentAfter(okHeader + "Content-Length: 9999\r\n\r\n"), timeout: time.Second, status: 504, exchanges: 1},
		{name: "a chunk of no size", fault: said(okHeader + "Transfer-Encoding: chunked\r\n\r\nZZ\r\n" + whole), status: 502, says: brokeOff},
		{name: "a chunk of absurd size", fault: said(okHeader + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" + whole), status: 502, says: brokeOff},
		{name: "a chunk that is cut", fault: said(okHeader + "Transfer-Encoding: chunked\r\n\r\nff\r\n" + whole), status: 502, says: brokeOff},
		{name: "chunks without end", fault: endless(okHeader+"Transfer-Encoding: chunked\r\n\r\n", "4000\r\n"+strings.Repeat(" ", 1<<14)+"\r\n"), status: 502, says: oversized},
		{name: "an encoding that is unknown", fault: said(okHeader + "Transfer-Encoding: canary\r\n\r\n" + whole), status: 502, says: noAnswer},
		{name: "no HTTP, but an echo", fault: raw(func(conn net.Conn, r *http.Request) { _ = r.Header.Write(conn) }), status: 502, says: noAnswer},
		{name: "an echo as the status", fault: raw(func(conn net.Conn, r *http.Request) {
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 400 %s\r\nX-Key: %[1]s\r\nConnection: close\r\n\r\n", r.Header.Get("X-API-Key"))
		}), status: 400, says: []string{"400 Bad Request"}, exchanges: 1},
		{name: "an echo as a header that is none", fault: raw(func(conn net.Conn, r *http.Request) {
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s\r\n\r\n", r.Header.Get("X-API-Key"))
		}), status: 502, says: noAnswer},
		{name: "100 without end", fault: endless("", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 50)), status: 502, says: oversized},
		{name: "103 without end", fault: endless("", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 50)), status: 502, says: oversized},
		{name: "101", fault: silentAfter("HTTP/1.1 101 Switching Protocols\r\nUpgrade: canary\r\nConnection: Upgrade\r\n\r\n"), status: 502, says: []string{"malformed answer: status 101 Switching Protocols"}},
		{name: "100 MB", fault: endless(okHeader+"Content-Length: 104857600\r\n\r\n"+`{"pad":"`, strings.Repeat("x", 1<<16)), status: 502, says: oversized},
		{name: "gzip that unpacks to 1 GB", fault: gzipBomb(), status: 502, says: []string{"malformed answer"}},
	}
}

// silentAfter says something and waits for the client to go.
func silentAfter(answer string) http.Handler {
	return raw(func(conn net.Conn, _ *http.Request) {
		_, _ = io.WriteString(conn, answer)
		_, _ = io.Copy(io.Discard, conn)
	})
}

// gzipBomb is less than a megabyte that unpacks to a gigabyte: packed spaces, again and again, which gzip takes for
// one file.
func gzipBomb() http.Handler {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(bytes.Repeat([]byte(" "), 1<<20))
	_ = w.Close()
	return consoletest.Status(http.StatusOK, strings.Repeat(packed.String(), 954), http.Header{"Content-Encoding": {"gzip"}})
}

func TestFaultsOfConnections(t *testing.T) {
	t.Parallel()
	for _, test := range faultsOfConnections() {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.inBubble(t)
		})
	}
}

func TestFaultsOfConnectionsOnSockets(t *testing.T) {
	t.Parallel()
	together(t, faultsOfConnections(), func(f upstreamFault) string { return f.name }, func(t *testing.T, f upstreamFault) {
		f.onSockets(t)
	})
}

// What one read makes the plugin allocate, over all tries. Not parallel: other tests allocate too.
func TestMemoryOfAReadIsBounded(t *testing.T) {
	for _, test := range []upstreamFault{
		{name: "100 MB", fault: endless(okHeader+"Content-Length: 104857600\r\n\r\n", strings.Repeat("x", 1<<16))},
		{name: "100 MB of a refusal", fault: endless("HTTP/1.1 400 Bad Request\r\nContent-Length: 104857600\r\n\r\n", strings.Repeat("x ", 1<<15))},
		{name: "gzip that unpacks to 1 GB", fault: gzipBomb()},
		{name: "headers without end", fault: endless(okHeader, "X-More: "+strings.Repeat("x", 1<<10)+"\r\n")},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := onPipes(t)
				m := mountOn(t, u, versionV3)
				u.FailAlways(test.fault)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				resp, err := m.request(t.Context(), logical.ReadOperation, "token")
				runtime.ReadMemStats(&after)
				_, _ = refusal(t, resp, err)
				assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
			})
		})
	}
}

// refusingAddress is where no one listens: the client's end of a connection, which keeps its port from other tests.
func refusingAddress(t *testing.T) string {
	t.Helper()
	listener := listenTCP(t)
	conn, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		_ = listener.Close()
	})
	return conn.LocalAddr().String()
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	type unreachable struct{ name, url, says string }
	together(t, []unreachable{
		{"refused", "http://" + refusingAddress(t), "is unreachable: connect: connection refused"},
		{"unknown host", "https://console.invalid", "is unreachable: its host name cannot be resolved"},
	}, func(u unreachable) string { return u.name }, func(t *testing.T, test unreachable) {
		m := mountOn(t, &upstream{url: test.url}, versionV3)
		resp, err := m.request(t.Context(), logical.ReadOperation, "token")
		status, message := refusal(t, resp, err)
		assert.Equal(t, 502, status)
		assert.Contains(t, message, test.says)
		requireNoSecret(t, m, message)
	})
}

// madeUpJWT is a JWT with this payload, whatever it is.
func madeUpJWT(payload string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"HS256"}`)) + "." + encode([]byte(payload)) + "." + canarySignature
}

// bubbleNow is when time begins in a bubble of synctest.
var bubbleNow = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC).Unix()

func TestFaultsOfAnswers(t *testing.T) {
	t.Parallel()
	good := madeUpJWT(fmt.Sprintf(`{"exp":%d}`, bubbleNow+3600))
	notAJWT := []string{"malformed answer: its accessToken is not a JWT"}
	noObject := []string{"malformed answer: it is no JSON object"}
	expired := []string{"already expired on arrival", "Vault's clock (2000-01-01T00:00:00Z)", "Snowplow's (2000-01-01T00:00:00Z)", "one of them may be wrong"}
	for _, test := range []struct {
		name, body string
		says       []string
		exchanges  int
	}{
		{"empty", ``, noObject, 0},
		{"HTML", `<html>` + good + `</html>`, noObject, 0},
		{"a list", `["` + good + `"]`, noObject, 0},
		{"a string", `"` + good + `"`, noObject, 0},
		{"null", `null`, notAJWT, 0},
		{"no accessToken", `{}`, notAJWT, 0},
		{"accessToken in another case", `{"AccessToken":"` + good + `"}`, notAJWT, 0},
		{"that of v1", `{"access_token":"` + good + `"}`, notAJWT, 0},
		{"accessToken null", `{"accessToken":null}`, notAJWT, 0},
		{"accessToken a number", `{"accessToken":1e300}`, notAJWT, 0},
		{"accessToken an object", `{"accessToken":{"accessToken":"` + good + `"}}`, notAJWT, 0},
		{"accessToken empty", `{"accessToken":""}`, notAJWT, 0},
		{"accessToken with a line break", `{"accessToken":"` + good + `\n"}`, notAJWT, 0},
		{"accessToken with a header in it", `{"accessToken":"` + good + `\r\nX-Evil: 1"}`, notAJWT, 0},
		{"accessToken with a control character", `{"accessToken":"\u0000` + good + `"}`, notAJWT, 0},
		{"accessToken with a raw control character", "{\"accessToken\":\"\x01" + good + "\"}", noObject, 0},
		{"accessToken with invalid UTF-8", "{\"accessToken\":\"\xff" + good + "\"}", notAJWT, 0},
		{"accessToken of two parts", `{"accessToken":"a.b"}`, notAJWT, 0},
		{"accessToken of four parts", `{"accessToken":"` + good + `.x"}`, notAJWT, 0},
		{"accessToken with an empty part", `{"accessToken":"a..c"}`, notAJWT, 0},
		{"accessToken with a scheme", `{"accessToken":"Bearer ` + good + `"}`, notAJWT, 0},
		{"accessToken twice, the last one bad", `{"accessToken":"` + good + `","accessToken":"x"}`, notAJWT, 0},
		{"trailing garbage", `{"accessToken":"` + good + `"} x`, noObject, 0},
		{"a second object", `{"accessToken":"` + good + `"}{}`, noObject, 0},
		{"a byte order mark", "\ufeff" + `{"accessToken":"` + good + `"}`, noObject, 0},
		{"deep nesting", strings.Repeat(`{"a":`, 100_000) + strings.Repeat(`}`, 100_000), noObject, 0},
		{"deep lists", `{"accessToken":"` + good + `","a":` + strings.Repeat(`[`, 100_000) + strings.Repeat(`]`, 100_000) + `}`, noObject, 0},
		{"a byte too much", padded(good, maxAnswer+1), []string{"oversized answer: more than 1048576 bytes"}, 0},
		{"exp negative", `{"accessToken":"` + madeUpJWT(`{"exp":-1}`) + `"}`, expired, 1},
		{"exp zero", `{"accessToken":"` + madeUpJWT(`{"exp":0}`) + `"}`, expired, 1},
		{"exp in the past", `{"accessToken":"` + madeUpJWT(`{"exp":946684799}`) + `"}`, expired, 1},
		{"exp now", `{"accessToken":"` + madeUpJWT(`{"exp":946684800}`) + `"}`, expired, 1},
		{"exp within the second", `{"accessToken":"` + madeUpJWT(`{"exp":946684800.9}`) + `"}`, expired, 1},
		{"exp in the year 1", `{"accessToken":"` + madeUpJWT(`{"exp":-62135596800}`) + `"}`, []string{"already expired on arrival"}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			upstreamFault{
				fault: consoletest.Status(http.StatusOK, test.body, nil), status: 502, says: test.says, exchanges: test.exchanges,
			}.inBubble(t)
		})
	}
}

// padded is a good answer of this many bytes.
func padded(jwt string, size int) string {
	body := `{"accessToken":"` + jwt + `","pad":"`
	return body + strings.Repeat("x", size-len(body)-2) + `"}`
}

// What is accepted although it is odd, and for how long the contract leaves open in part.
func TestOddAnswersThatAreAccepted(t *testing.T) {
	t.Parallel()
	const day, tenYears = 24 * time.Hour, 10 * 365 * 24 * time.Hour
	claims := func(payload string) string { return `{"accessToken":"` + madeUpJWT(payload) + `"}` }
	hour := madeUpJWT(fmt.Sprintf(`{"exp":%d}`, bubbleNow+3600))
	for name, test := range map[string]struct {
		body  string
		lease time.Duration
	}{
		"exp absent":                     {claims(`{}`), day},
		"exp null":                       {claims(`{"exp":null}`), day},
		"exp a string":                   {claims(`{"exp":"946688400"}`), day},
		"exp 1e300":                      {claims(`{"exp":1e300}`), day},
		"exp 1e999":                      {claims(`{"exp":1e999}`), day},
		"exp NaN":                        {claims(`{"exp":NaN}`), day},
		"exp 10 years ahead":             {claims(fmt.Sprintf(`{"exp":%d}`, bubbleNow+int64(tenYears.Seconds()))), tenYears},
		"exp with a fraction":            {claims(fmt.Sprintf(`{"exp":%d.9}`, bubbleNow+3600)), time.Hour},
		"exp as 9.466884e8":              {claims(`{"exp":9.466884e8}`), time.Hour},
		"exp twice":                      {claims(fmt.Sprintf(`{"exp":1,"exp":%d}`, bubbleNow+3600)), time.Hour},
		"claims that are no object":      {claims(`[1]`), day},
		"claims of invalid UTF-8":        {claims("{\"x\":\"\xff\",\"exp\":946688400}"), time.Hour},
		"claims nested deep":             {claims(`{"exp":946688400,"a":` + strings.Repeat(`[`, 100_000) + strings.Repeat(`]`, 100_000) + `}`), day},
		"iat in the past":                {claims(`{"iat":1,"exp":946688400}`), time.Hour},
		"iat later than exp, which is 2": {claims(`{"iat":946684800,"exp":946684802}`), 2 * time.Second},
		"accessToken twice":              {`{"accessToken":"x","accessToken":"` + hour + `"}`, time.Hour},
		"accessToken in two cases":       {`{"accessToken":"` + hour + `","AccessToken":"x"}`, time.Hour},
		"white space around":             {"\r\n\t " + `{"accessToken":"` + hour + `"}` + "\n\n", time.Hour},
		"invalid UTF-8 elsewhere":        {"{\"x\":\"\xff\xfe\",\"accessToken\":\"" + hour + "\"}", time.Hour},
		"as large as may be":             {padded(hour, maxAnswer), time.Hour},
		"expires_in, which is v1's":      {`{"expires_in":1,"accessToken":"` + hour + `"}`, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				u := onPipes(t)
				m := mountOn(t, u, versionV3)
				u.FailNext(1, consoletest.Status(http.StatusOK, test.body, nil))
				resp := m.mustRead("token")
				assert.Equal(t, test.lease, resp.Secret.TTL)
				assert.Contains(t, test.body, resp.Data["access_token"])
				assert.Equal(t, time.Now().Add(test.lease).UTC().Format(time.RFC3339), resp.Data["expires_at"])
				assert.Empty(t, resp.Warnings)
				assert.NotContains(t, fmt.Sprint(resp.Secret.InternalData), canarySignature)
				requireNoSecret(t, m)
			})
		})
	}
}

func TestInformationBeforeTheAnswerIsPassedOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := onPipes(t)
		m := mountOn(t, u, versionV3)
		u.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusProcessing)
			return false
		})
		assert.NotEmpty(t, m.mustRead("token").Data["access_token"])
		assert.Equal(t, 1, u.Exchanges())
	})
}

// Go's transport writes what a server says unasked to the standard log, which the plugin's main program throws away.
// Here: it gets into nothing else, and the connection is given up.
func TestWhatAServerSaysUnasked(t *testing.T) {
	t.Parallel()
	u := onTCP(t)
	m := mountOn(t, u, versionV3)
	body := `{"accessToken":"` + u.Mint(map[string]any{}) + `"}`
	u.FailNext(1, raw(func(conn net.Conn, r *http.Request) {
		_, _ = fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\n%sHTTP/1.1 400 %s\r\n\r\n", okHeader, len(body), body, r.Header.Get("X-API-Key"))
		_, _ = io.Copy(io.Discard, conn) // until the engine has seen it and gone
	}))
	m.mustRead("token")
	requireAllClosed(t, u)
	m.must(logical.DeleteOperation, "token")
	m.mustRead("token")
	requireNoSecret(t, m)
}

func TestFaultsOfRedirects(t *testing.T) {
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
			{"an echo", "http://%zz/" + canaryKey, "to no URL"},
		} {
			for _, version := range []string{versionV3, versionV1} {
				t.Run(fmt.Sprintf("%d to %s with %s", code, to.name, version), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						u := onPipes(t)
						m := mountOn(t, u, version)
						u.FailAlways(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							location := to.location
							if location == "" {
								location = r.URL.String()
							}
							w.Header().Set("Location", location)
							w.WriteHeader(code)
						}))
						resp, err := m.request(t.Context(), logical.ReadOperation, "token")
						status, message := refusal(t, resp, err)
						assert.Equal(t, 502, status)
						assert.Contains(t, message, "redirect, "+cmp.Or(to.says, fmt.Sprintf("status %d", code)))
						assert.Contains(t, message, map[string]string{versionV3: "check console_url", versionV1: "check auth_url"}[version])
						assert.Equal(t, 1, u.Exchanges(), "what is not followed is not tried again")
						for _, address := range u.dialed {
							assert.Equal(t, "127.0.0.1:80", address)
						}
						requireNoSecret(t, m, fmt.Sprintf("%+v %v", resp, err))
					})
				})
			}
		}
	}
}

// On sockets, with a second server that must see nothing, and from https to http.
func TestRedirectsReachNoOtherServer(t *testing.T) {
	t.Parallel()
	for _, version := range []string{versionV3, versionV1} {
		for _, code := range []int{301, 302, 303, 307, 308} {
			t.Run(fmt.Sprintf("%s %d", version, code), func(t *testing.T) {
				t.Parallel()
				console, other := consoletest.NewTLSServer(t), onTCP(t)
				console.FailAlways(http.RedirectHandler(other.url+"/oauth/token", code))
				m := mountOn(t, &upstream{url: console.URL}, version, map[string]any{"ca_cert": console.CACert()})
				resp, err := m.request(t.Context(), logical.ReadOperation, "token")
				status, message := refusal(t, resp, err)
				assert.Equal(t, 502, status)
				assert.Contains(t, message, "redirect")
				assert.Equal(t, 1, console.Exchanges())
				assert.Zero(t, other.connections.Load())
			})
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	at := func(d time.Duration) string {
		return time.Unix(bubbleNow, 0).Add(d).UTC().Format(http.TimeFormat)
	}
	for _, test := range []struct {
		name, retryAfter string
		exchanges        int
		least, most      time.Duration // that the read takes
		wait             time.Duration // after it
	}{
		{"absent", "", allTries, 1200 * time.Millisecond, 3600 * time.Millisecond, time.Second},
		{"no number", "soon", allTries, 1200 * time.Millisecond, 3600 * time.Millisecond, time.Second},
		{"negative", "-5", allTries, 1200 * time.Millisecond, 3600 * time.Millisecond, time.Second},
		{"a fraction", "1.5", allTries, 1200 * time.Millisecond, 3600 * time.Millisecond, time.Second},
		{"0", "0", allTries, 1200 * time.Millisecond, 3600 * time.Millisecond, time.Second},
		{"a date in the past", at(-time.Hour), allTries, 1200 * time.Millisecond, 3600 * time.Millisecond, time.Second},
		{"2 s", "2", allTries, 6 * time.Second, 6 * time.Second, 2 * time.Second},
		{"almost the whole time", "59", 2, 59 * time.Second, 59 * time.Second, 59 * time.Second},
		{"the whole time", "60", 1, 0, 0, time.Minute},
		{"2 min", "120", 1, 0, 0, 2 * time.Minute},
		{"a date", at(90 * time.Second), 1, 0, 0, 90 * time.Second},
		{"an hour", "3600", 1, 0, 0, maxWait},
		{"a date far ahead", "Fri, 31 Dec 9999 23:59:59 GMT", 1, 0, 0, maxWait},
		{"more than 32 bits", "4294967296", 1, 0, 0, maxWait},
		{"more than 64 bits", "99999999999999999999", 1, 0, 0, maxWait},
	} {
		for _, code := range []int{429, 503} {
			t.Run(fmt.Sprintf("%d %s", code, test.name), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					u := onPipes(t)
					m := mountOn(t, u, versionV3)
					header := http.Header{}
					if test.retryAfter != "" {
						header.Set("Retry-After", test.retryAfter)
					}
					u.FailAlways(consoletest.Status(code, "", header))
					started := time.Now()
					resp, err := m.request(t.Context(), logical.ReadOperation, "token")
					elapsed := time.Since(started)
					_, message := refusal(t, resp, err)
					assert.Equal(t, test.exchanges, u.Exchanges())
					assert.GreaterOrEqual(t, elapsed, test.least)
					assert.LessOrEqual(t, elapsed, test.most)
					if code == 429 {
						assert.Contains(t, message, "try again after "+time.Now().Add(test.wait).UTC().Format(time.RFC3339))
					}

					u.ClearFaults()
					time.Sleep(test.wait - time.Millisecond)
					resp, err = m.request(t.Context(), logical.ReadOperation, "token")
					_, again := refusal(t, resp, err)
					assert.Equal(t, message, again, "the same error at once")
					assert.Equal(t, test.exchanges, u.Exchanges())
					time.Sleep(time.Millisecond)
					m.mustRead("token")
				})
			})
		}
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	unavailable := consoletest.Status(http.StatusServiceUnavailable, "", nil)
	for _, test := range []struct {
		name      string
		faults    []http.Handler
		exchanges int
		works     bool
	}{
		{"one 503", []http.Handler{unavailable}, 2, true},
		{"three 503", []http.Handler{unavailable, unavailable, unavailable}, 4, true},
		{"four 503", []http.Handler{unavailable, unavailable, unavailable, unavailable}, 4, false},
		{"different faults", []http.Handler{consoletest.Disconnect(), said("x"), consoletest.Status(200, "{}", nil)}, 4, true},
		{"429", []http.Handler{consoletest.Status(http.StatusTooManyRequests, "", nil)}, 2, true},
		{"401", []http.Handler{consoletest.Status(http.StatusUnauthorized, "", nil)}, 1, false},
		{"503, then 401", []http.Handler{unavailable, consoletest.Status(http.StatusUnauthorized, "", nil)}, 2, false},
		{"400", []http.Handler{consoletest.Status(http.StatusBadRequest, "", nil)}, 1, false},
		{"404", []http.Handler{consoletest.Status(http.StatusNotFound, "", nil)}, 1, false},
	} {
		for _, version := range []string{versionV3, versionV2, versionV1} {
			t.Run(test.name+" with "+version, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					u := onPipes(t)
					m := mountOn(t, u, version)
					var arrived []time.Time
					u.Intercept(func(http.ResponseWriter, *http.Request) bool {
						arrived = append(arrived, time.Now())
						return false
					})
					for _, fault := range test.faults {
						u.FailNext(1, fault)
					}
					resp, err := m.request(t.Context(), logical.ReadOperation, "token")
					assert.Equal(t, test.works, err == nil && !resp.IsError(), "%v %v", resp, err)
					assert.Equal(t, test.exchanges, u.Exchanges())
					for try := 1; try < len(arrived); try++ {
						pause := arrived[try].Sub(arrived[try-1])
						assert.GreaterOrEqual(t, pause, time.Duration(try)*retryPauseMin)
						assert.LessOrEqual(t, pause, time.Duration(try)*retryPauseMax)
					}
				})
			})
		}
	}
}

// Whatever each try takes: all of them together end within request_timeout.
func TestRetriesEndWithinRequestTimeout(t *testing.T) {
	t.Parallel()
	for _, timeout := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 80 * time.Second} {
		for _, delay := range []time.Duration{0, 300 * time.Millisecond, 900 * time.Millisecond, 30 * time.Second} {
			t.Run(fmt.Sprintf("%s in tries of %s", timeout, delay), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					u := onPipes(t)
					m := mountOn(t, u, versionV3, map[string]any{"request_timeout": timeout.String()})
					u.SetDelay(delay)
					u.FailAlways(consoletest.Status(http.StatusServiceUnavailable, "", nil))
					started := time.Now()
					resp, err := m.request(t.Context(), logical.ReadOperation, "token")
					assert.LessOrEqual(t, time.Since(started), timeout)
					status, _ := refusal(t, resp, err)
					assert.Contains(t, []int{502, 504}, status)
				})
			})
		}
	}
}

func TestClocks(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{ // Snowplow's clock before Vault's
		0, time.Second, time.Minute, time.Hour, 48 * time.Hour,
		500 * time.Millisecond, 999 * time.Millisecond, 1500 * time.Millisecond, time.Hour - time.Millisecond,
		-time.Second, -time.Minute, -time.Hour, -500 * time.Millisecond, -999 * time.Millisecond,
	} {
		for _, fraction := range []time.Duration{0, time.Millisecond, 500 * time.Millisecond, 999 * time.Millisecond} {
			t.Run(fmt.Sprintf("Snowplow %s ahead at %s", ahead, fraction), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					time.Sleep(fraction) // so that Vault's clock does not stand on a whole second
					u := onPipes(t)
					u.SetNow(func() time.Time { return time.Now().Add(ahead) })
					lease := mountOn(t, u, versionV3).mustRead("token").Secret.TTL
					left := leftAtSnowplow(t, u, ahead)
					// Both of Snowplow's times are cut to the second: what is below one cannot be known.
					assert.Less(t, lease, left+time.Second, "the lease outlives the JWT")
					assert.GreaterOrEqual(t, lease, left-max(0, -ahead)-2*time.Second, "the lease is needlessly short")
				})
			})
		}
	}
}

// leftAtSnowplow is how long the last JWT of validity 24 h is still good for by Snowplow's clock.
func leftAtSnowplow(t *testing.T, u *upstream, ahead time.Duration) time.Duration {
	t.Helper()
	issued := time.Now().Add(ahead).Truncate(time.Second)
	return issued.Add(consoletest.DefaultValidity).Sub(time.Now().Add(ahead))
}

// The clocks in the answer are those of when it was begun, not of when it came.
func TestClocksWithAnAnswerThatTakesItsTime(t *testing.T) {
	t.Parallel()
	const takes = 20 * time.Second
	for _, ahead := range []time.Duration{0, 10 * time.Second, time.Minute, time.Hour, -10 * time.Second, -time.Hour} {
		for _, version := range []string{versionV3, versionV1} {
			for name, part := range map[string]int{"nothing": 0, "the header": 1} {
				t.Run(fmt.Sprintf("Snowplow %s ahead with %s, %s at once", ahead, version, name), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						u := onPipes(t)
						u.SetNow(func() time.Time { return time.Now().Add(ahead) })
						expires := time.Now().Add(ahead).Add(consoletest.DefaultValidity)
						u.FailNext(1, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
							jwt := u.Mint(map[string]any{"iat": time.Now().Add(ahead).Unix(), "exp": expires.Unix()})
							body, _ := json.Marshal(map[string]any{"accessToken": jwt, "access_token": jwt, "expires_in": 86400})
							if part > 0 {
								_ = http.NewResponseController(w).Flush()
							}
							time.Sleep(takes)
							_, _ = w.Write(body)
						}))
						lease := mountOn(t, u, version).mustRead("token").Secret.TTL
						assert.Less(t, lease, expires.Sub(time.Now().Add(ahead))+time.Second, "the lease outlives the JWT")
					})
				})
			}
		}
	}
}

func TestVaultTwoDaysAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := onPipes(t)
		m := mountOn(t, u, versionV3)
		u.SetNow(func() time.Time { return time.Now().Add(-48 * time.Hour) })
		resp, err := m.request(t.Context(), logical.ReadOperation, "token")
		status, message := refusal(t, resp, err)
		assert.Equal(t, 502, status)
		assert.Contains(t, message, "at 1999-12-31T00:00:00Z")
		assert.Contains(t, message, "Vault's clock (2000-01-01T00:00:00Z)")
		assert.Contains(t, message, "Snowplow's (1999-12-30T00:00:00Z)")
		assert.Contains(t, message, "one of them may be wrong")
		assert.Equal(t, 1, u.Exchanges(), "another JWT would be no better")
		requireNoSecret(t, m, message)
	})
}

// echoes are the ways in which servers give back what they were sent.
var echoes = map[string]func(string) string{
	"plain":                 func(s string) string { return s },
	"JSON":                  func(s string) string { b, _ := json.Marshal(s); return string(b) },
	"JSON, not for HTML":    jsonPlain,
	"JSON in ASCII":         jsonASCII,
	"HTML":                  html.EscapeString,
	"HTML by name":          strings.NewReplacer(`&`, "&amp;", `<`, "&lt;", `>`, "&gt;", `"`, "&quot;", `'`, "&#039;").Replace,
	"a query":               url.QueryEscape,
	"a path":                url.PathEscape,
	"a query in lower case": func(s string) string { return strings.ReplaceAll(lowerPercent(url.QueryEscape(s)), "+", "%20") },
	"base64":                func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64 without =":      func(s string) string { return base64.RawStdEncoding.EncodeToString([]byte(s)) },
	"base64url":             func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) },
	"base64url without =":   func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"a Go string":           strconv.Quote,
	"with control characters": func(s string) string {
		return s[:3] + "\x00\x1b\u200b" + s[3:]
	},
	"with a line break": func(s string) string { return s[:7] + "\n" + s[7:] },
}

func jsonPlain(s string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(s)
	return strings.TrimSpace(b.String())
}

func jsonASCII(s string) string {
	ascii := strconv.QuoteToASCII(jsonPlain(s))
	return strings.ReplaceAll(ascii[1:len(ascii)-1], `\\`, `\`)
}

// lowerPercent writes the escapes of a URL in lower case.
func lowerPercent(s string) string {
	parts := strings.Split(s, "%")
	for i := 1; i < len(parts); i++ {
		parts[i] = strings.ToLower(parts[i][:2]) + parts[i][2:]
	}
	return strings.Join(parts, "%")
}

// A refusal is the one answer that is shown to readers in part.
func TestARefusalThatEchoesTheKeyInAnyEncoding(t *testing.T) {
	t.Parallel()
	for name, encode := range echoes {
		for _, version := range []string{versionV3, versionV2, versionV1} {
			t.Run(version+"/"+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					u := onPipes(t)
					m := mountOn(t, u, version)
					u.FailAlways(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						w.WriteHeader(http.StatusBadRequest)
						for _, sent := range []string{r.Header.Get("X-API-Key"), r.PostForm.Get("password"), r.PostForm.Get("client_secret")} {
							if sent == "" {
								continue
							}
							_, _ = fmt.Fprintf(w, "we do not like [%s] ", encode(sent))
						}
					}))
					resp, err := m.request(t.Context(), logical.ReadOperation, "token")
					_, message := refusal(t, resp, err)
					assert.Contains(t, message, "status 400 Bad Request")
					requireNoSecret(t, m, message)
				})
			})
		}
	}
}

// The verification of a write shows answers too.
func TestAVerificationThatEchoesTheKey(t *testing.T) {
	t.Parallel()
	for _, version := range []string{versionV3, versionV2, versionV1} {
		for _, code := range []int{400, 401, 404, 302} {
			t.Run(fmt.Sprintf("%s %d", version, code), func(t *testing.T) {
				t.Parallel()
				u := onTCP(t)
				m := newMount(t)
				u.FailAlways(consoletest.Echo(code))
				resp, err := m.request(t.Context(), logical.UpdateOperation, "config", canaryConfig(u, version), map[string]any{"verify_connection": true})
				_, message := refusal(t, resp, err)
				assert.Contains(t, message, "nothing was stored")
				requireNoSecret(t, m, message, fmt.Sprintf("%+v %v", resp, err))
			})
		}
	}
}

// authority is a CA that signs certificates for these tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	der, key := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "consoletest CA"}, IsCA: true, BasicConstraintsValid: true,
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	})
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	a.certificate, a.key = certificate, key
	return a
}

// sign makes a certificate, self-signed if the authority has none of its own yet.
func (a *authority) sign(t *testing.T, template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-48 * time.Hour)
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	return der, key
}

// certify makes a server's certificate for 127.0.0.1, changed by edit.
func (a *authority) certify(t *testing.T, edit func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "console"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if edit != nil {
		edit(template)
	}
	der, key := a.sign(t, template)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

// onTLS is an upstream over TLS.
func onTLS(t *testing.T, config *tls.Config) *upstream {
	t.Helper()
	listener := listenTCP(t)
	u := &upstream{Console: newCanaryConsole(), url: "https://" + listener.Addr().String()}
	u.serveTLS(t, listener, config)
	return u
}

func (u *upstream) serveTLS(t *testing.T, listener net.Listener, config *tls.Config) {
	t.Helper()
	server := &http.Server{Handler: u.Console, TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(countingListener{listener, u}, "", "")
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

// onRaw is an upstream whose connections are handled by serve alone, from their first byte.
func onRaw(t *testing.T, serve func(net.Conn)) *upstream {
	t.Helper()
	listener := listenTCP(t)
	u := &upstream{Console: newCanaryConsole(), url: "https://" + listener.Addr().String()}
	counting := countingListener{listener, u}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := counting.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	return u
}

func TestFaultsOfTLS(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	with := func(certificate tls.Certificate) func(*testing.T) *upstream {
		return func(t *testing.T) *upstream {
			return onTLS(t, &tls.Config{Certificates: []tls.Certificate{certificate}})
		}
	}
	handshake := []string{"failed the TLS handshake", "ca_cert"}
	type tlsFault struct {
		name        string
		upstream    func(*testing.T) *upstream
		caCert      string
		timeout     string
		status      int
		says        []string
		connections int64
	}
	together(t, []tlsFault{
		{"self-signed", with((&authority{}).certify(t, nil)), ca.pem(), "60s", 502, append(handshake, "x509"), 1},
		{"a CA that is unknown", with(ca.certify(t, nil)), "", "60s", 502, append(handshake, "unknown authority"), 1},
		{"another CA", with(ca.certify(t, nil)), other.pem(), "60s", 502, append(handshake, "x509"), 1},
		{"wrong host", with(ca.certify(t, func(c *x509.Certificate) {
			c.IPAddresses, c.DNSNames = nil, []string{"console.example.com"}
		})), ca.pem(), "60s", 502, append(handshake, "127.0.0.1"), 1},
		{"expired", with(ca.certify(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })), ca.pem(), "60s", 502, append(handshake, "expired"), 1},
		{"TLS 1.1", func(t *testing.T) *upstream {
			return onTLS(t, &tls.Config{
				Certificates: []tls.Certificate{ca.certify(t, nil)}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11,
			})
		}, ca.pem(), "60s", 502, append(handshake, "version"), allTries},
		{"a handshake that is cut", func(t *testing.T) *upstream {
			return onRaw(t, func(conn net.Conn) {
				_, _ = conn.Read(make([]byte, 1))
				_, _ = conn.Write([]byte{22, 3, 3, 0, 122, 2})
			})
		}, ca.pem(), "60s", 502, handshake, allTries},
		{"a handshake that is reset", func(t *testing.T) *upstream {
			return onRaw(t, func(conn net.Conn) {
				_, _ = conn.Read(make([]byte, 1))
				reset(conn)
			})
		}, ca.pem(), "60s", 502, handshake, allTries},
		{"no TLS", func(t *testing.T) *upstream {
			u := onTCP(t)
			u.url = strings.Replace(u.url, "http:", "https:", 1)
			return u
		}, ca.pem(), "60s", 502, handshake, allTries},
		{"a handshake without end", func(t *testing.T) *upstream {
			return onRaw(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		}, ca.pem(), "1s", 504, []string{"has not answered within request_timeout (1s)"}, 1},
	}, func(f tlsFault) string { return f.name }, func(t *testing.T, f tlsFault) {
		u := f.upstream(t)
		m := mountOn(t, u, versionV3, map[string]any{"ca_cert": f.caCert, "request_timeout": f.timeout})
		resp, err := m.request(t.Context(), logical.ReadOperation, "token")
		status, message := refusal(t, resp, err)
		assert.Equal(t, f.status, status)
		for _, words := range f.says {
			assert.Contains(t, message, words)
		}
		assert.Equal(t, f.connections, u.connections.Load())
		assert.Zero(t, u.Exchanges(), "the key was sent")
		requireNoSecret(t, m, message)
		m.backend.Cleanup(t.Context())
		requireAllClosed(t, u)
	})
}

func TestTLSWithTheRightCA(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	for _, protocols := range [][]string{{"http/1.1"}, {"h2", "http/1.1"}, {"h2"}} {
		t.Run(strings.Join(protocols, " and "), func(t *testing.T) {
			t.Parallel()
			u := onTLS(t, &tls.Config{Certificates: []tls.Certificate{ca.certify(t, nil)}, NextProtos: protocols})
			m := mountOn(t, u, versionV3, map[string]any{"ca_cert": "\n" + other.pem() + "\n" + ca.pem()})
			assert.NotEmpty(t, m.mustRead("token").Data["access_token"])
			m.backend.Cleanup(t.Context())
			requireAllClosed(t, u)
		})
	}
}

// A mount that is unloaded in the middle of an exchange leaves nothing behind, whatever protocol the server offers.
// Eight times, as the end of the exchange and the end of the mount race.
func TestCleanupDuringAnExchange(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for _, protocols := range [][]string{{"http/1.1"}, {"h2", "http/1.1"}} {
		t.Run(strings.Join(protocols, " and "), func(t *testing.T) {
			t.Parallel()
			u := onTLS(t, &tls.Config{Certificates: []tls.Certificate{ca.certify(t, nil)}, NextProtos: protocols})
			for range 8 {
				m := mountOn(t, u, versionV3, map[string]any{"ca_cert": ca.pem()})
				hold := u.Hold()
				read := make(chan error, 1)
				go func() {
					_, err := m.request(context.Background(), logical.ReadOperation, "token")
					read <- err
				}()
				<-hold.Started()
				m.backend.Cleanup(t.Context())
				require.ErrorIs(t, <-read, context.Canceled)
				hold.Release()
			}
			requireAllClosed(t, u)
		})
	}
}
