package console

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// What the tests of a proxy say to the process that makes their exchange.
const (
	proxyChildTarget = "SNOWPLOW_TEST_PROXY_TARGET"
	proxyChildCACert = "SNOWPLOW_TEST_PROXY_CA_CERT"
	proxyChildAnswer = "exchange: "
)

// runProxyChild makes the exchange of a test of proxies, in a process of its own: Go reads the environment for proxies
// once, and takes none to a loopback address.
func runProxyChild(target string) {
	transport, err := NewTransport(os.Getenv(proxyChildCACert))
	if err == nil {
		request := exchangeAt(target, V3)
		request.Timeout = 10 * time.Second
		_, err = NewClient(transport, "agent/1").Exchange(context.Background(), request)
	}
	fmt.Printf("%s%v\n", proxyChildAnswer, err)
}

// exchangeInChild makes an exchange with target in a process with these variables and gives what came of it.
func exchangeInChild(t *testing.T, target, caCert string, env ...string) string {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), proxyChildTarget+"="+target, proxyChildCACert+"="+caCert)
	child.Env = append(child.Env, env...)
	output, err := child.CombinedOutput()
	require.NoError(t, err, "%s", output)
	_, answer, found := strings.Cut(string(output), proxyChildAnswer)
	require.True(t, found, "%s", output)
	answer, _, _ = strings.Cut(answer, "\n")
	return answer
}

// fakeProxy is an HTTP proxy that leads every tunnel to one address, and notes what it is asked in clear.
type fakeProxy struct {
	url string

	mu    sync.Mutex
	asked string
}

func newProxy(t *testing.T, to string) *fakeProxy {
	t.Helper()
	p := &fakeProxy{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked += fmt.Sprintf("%s %s %v\n", r.Method, r.RequestURI, r.Header)
		p.mu.Unlock()
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		inside, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer inside.Close()
		outside, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer outside.Close()
		_, _ = io.WriteString(outside, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(inside, buffered)
			_ = inside.Close()
		}()
		_, _ = io.Copy(outside, inside)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *fakeProxy) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func TestProxyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	// The certificate of httptest is good for example.com as well.
	console := consoletest.NewTLSServer(t, consoletest.WithKeys(consoletest.Key{ID: consoletest.DefaultAPIKeyID, Secret: consoletest.CanaryKey}))
	address := strings.TrimPrefix(console.URL, "https://")
	const target = "https://example.com"

	type proxied struct {
		name string
		test func(*testing.T)
	}
	together(t, []proxied{
		{"HTTPS_PROXY", func(t *testing.T) {
			p := newProxy(t, address)
			assert.Equal(t, "<nil>", exchangeInChild(t, target, console.CACert(), "HTTPS_PROXY="+p.url))
			assert.Contains(t, p.String(), "CONNECT example.com:443")
			assert.Empty(t, consoletest.TraceOfCanary(p.String()), "what a proxy sees")
		}},
		{"NO_PROXY", func(t *testing.T) {
			p := newProxy(t, address)
			// A name that resolves nowhere, so that the test does not depend on the network.
			answer := exchangeInChild(t, "https://console.invalid", console.CACert(), "HTTPS_PROXY="+p.url, "NO_PROXY=.invalid")
			assert.Contains(t, answer, "cannot be resolved")
			assert.Empty(t, p.String())
		}},
		{"a proxy that does not listen", func(t *testing.T) {
			answer := exchangeInChild(t, target, "", "HTTPS_PROXY=http://user:canary@"+consoletest.RefusingAddress(t))
			assert.Contains(t, answer, "is unreachable: the proxy cannot be reached")
			assert.Empty(t, consoletest.TraceOfCanary(answer))
		}},
		{"a proxy that is no URL", func(t *testing.T) {
			answer := exchangeInChild(t, target, "", "HTTPS_PROXY=http://user:canary%@127.0.0.1:1")
			assert.Contains(t, answer, "is unreachable: the proxy variable HTTPS_PROXY is not a valid URL")
			assert.Empty(t, consoletest.TraceOfCanary(answer))
		}},
		{"a proxy that refuses and echoes", func(t *testing.T) {
			url := strings.Replace(newEchoingProxy(t), "//", "//user:canary@", 1)
			answer := exchangeInChild(t, target, "", "HTTPS_PROXY="+url)
			assert.Contains(t, answer, "is unreachable: the proxy answered with status 407")
			assert.Empty(t, consoletest.TraceOfCanary(answer))
		}},
	}, func(p proxied) string { return p.name }, func(t *testing.T, p proxied) { p.test(t) })
}

// newEchoingProxy starts a proxy that refuses everything and repeats, where it says why, how it was logged in to.
func newEchoingProxy(t *testing.T) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = fmt.Fprintf(conn, "HTTP/1.1 407 %s\r\nConnection: close\r\n\r\n", r.Header.Get("Proxy-Authorization"))
			}
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	return "http://" + listener.Addr().String()
}
