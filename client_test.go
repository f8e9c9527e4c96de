package snowplow

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// canaryCredential is the credential of these tests for each exchange.
func canaryCredential(version string) credential {
	cred := credential{Version: version, OrganizationID: consoletest.DefaultOrganizationID}
	switch version {
	case versionV1:
		cred.Username, cred.Password = consoletest.DefaultUsername, canaryPassword
		cred.ClientID, cred.ClientSecret = consoletest.DefaultClientID, canaryClientSecret
	case versionV2:
		cred.APIKey = canaryKey
	case versionV3:
		cred.APIKeyID, cred.APIKey = consoletest.DefaultAPIKeyID, canaryKey
	}
	return cred
}

func TestWhatAnExchangeSends(t *testing.T) {
	t.Parallel()
	const organization = "/api/msc/v1/organizations/" + consoletest.DefaultOrganizationID
	for _, prefix := range []string{"", "/behind/a/gateway"} {
		for _, test := range []struct {
			version, method, path string
			header                map[string]string // beyond what every exchange sends
			form                  url.Values
		}{
			{versionV3, http.MethodGet, organization + "/credentials/v3/token",
				map[string]string{"X-Api-Key-Id": consoletest.DefaultAPIKeyID, "X-Api-Key": canaryKey}, nil},
			{versionV2, http.MethodGet, organization + "/credentials/v2/token",
				map[string]string{"X-Api-Key": canaryKey}, nil},
			{versionV1, http.MethodPost, "/oauth/token",
				map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, url.Values{
					"grant_type":    {"password"},
					"audience":      {"https://snowplowanalytics.com/api/"},
					"username":      {consoletest.DefaultUsername},
					"password":      {canaryPassword},
					"client_id":     {consoletest.DefaultClientID},
					"client_secret": {canaryClientSecret},
				}},
		} {
			t.Run(prefix+" "+test.version, func(t *testing.T) {
				t.Parallel()
				console := newCanaryConsole()
				type sent struct {
					method, uri, body string
					header            http.Header
				}
				requests := make(chan sent, 1)
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					requests <- sent{r.Method, r.RequestURI, string(body), r.Header.Clone()}
					r.Body = io.NopCloser(bytes.NewReader(body))
					http.StripPrefix(prefix, console).ServeHTTP(w, r)
				}))
				t.Cleanup(server.Close)

				c, err := newClient("", "agent/1", time.Now)
				require.NoError(t, err)
				defer c.close()
				to := endpoints{ConsoleURL: server.URL + prefix, AuthURL: server.URL + prefix}
				got, err := c.exchange(t.Context(), canaryCredential(test.version), to, time.Minute)
				require.NoError(t, err)
				_, ours := console.Issued(got.JWT)
				assert.True(t, ours)

				request := <-requests
				assert.Equal(t, test.method, request.method)
				assert.Equal(t, prefix+test.path, request.uri, "no query, so that no proxy logs a key")
				want := http.Header{"User-Agent": {"agent/1"}, "Accept": {"application/json"}}
				for name, value := range test.header {
					want.Set(name, value)
				}
				request.header.Del("Content-Length")
				assert.Equal(t, want, request.header)
				if test.form == nil {
					assert.Empty(t, request.body)
					return
				}
				form, err := url.ParseQuery(request.body)
				require.NoError(t, err)
				assert.Equal(t, test.form, form)
			})
		}
	}
}

// A retry sends the same again, the body of v1 included.
func TestARetrySendsTheSame(t *testing.T) {
	t.Parallel()
	u := onTCP(t)
	c, err := newClient("", "agent/1", time.Now)
	require.NoError(t, err)
	defer c.close()
	u.FailNext(1, consoletest.Status(http.StatusServiceUnavailable, "", nil))
	_, err = c.exchange(t.Context(), canaryCredential(versionV1), endpoints{AuthURL: u.url}, time.Minute)
	require.NoError(t, err)
	assert.Equal(t, 2, u.ExchangesOf(consoletest.DefaultUsername))
}

func TestUserAgentNamesPluginAndVault(t *testing.T) {
	t.Parallel()
	u := onTCP(t)
	mountOn(t, u, versionV3).mustRead("token")
	agent := u.LastRequest().UserAgent()
	assert.Contains(t, agent, "vault-plugin-secrets-snowplow/"+Version)
	assert.Contains(t, agent, "Vault/1.21.2", "what newMount says that Vault is")
}

func TestConnectionIsReused(t *testing.T) {
	t.Parallel()
	u := onTCP(t)
	m := mountOn(t, u, versionV3, map[string]any{"reuse_period": 0})
	for range 5 {
		m.mustRead("token")
	}
	assert.Equal(t, 5, u.Exchanges())
	assert.EqualValues(t, 1, u.connections.Load())
}

// What the tests of a proxy say to the process that makes their exchange.
const (
	proxyChildTarget = "SNOWPLOW_TEST_PROXY_TARGET"
	proxyChildCACert = "SNOWPLOW_TEST_PROXY_CA_CERT"
	proxyChildAnswer = "exchange: "
)

// runProxyChild makes the exchange of a test of proxies, in a process of its own: Go reads the environment for proxies
// once, and takes none to a loopback address.
func runProxyChild(target string) {
	c, err := newClient(os.Getenv(proxyChildCACert), "agent/1", time.Now)
	if err == nil {
		_, err = c.exchange(context.Background(), canaryCredential(versionV3), endpoints{ConsoleURL: target}, 10*time.Second)
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

// proxy is an HTTP proxy that leads every tunnel to one address, and notes what it is asked in clear.
type proxy struct {
	url string

	mu    sync.Mutex
	asked string
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	p := &proxy{}
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

func (p *proxy) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func TestProxyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	// The certificate of httptest is good for example.com as well.
	console := consoletest.NewTLSServer(t, consoletest.WithKeys(consoletest.Key{ID: consoletest.DefaultAPIKeyID, Secret: canaryKey}))
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
			assert.Empty(t, traceOfCanary(p.String()), "what a proxy sees")
		}},
		{"NO_PROXY", func(t *testing.T) {
			p := newProxy(t, address)
			// A name that resolves nowhere, so that the test does not depend on the network.
			answer := exchangeInChild(t, "https://console.invalid", console.CACert(), "HTTPS_PROXY="+p.url, "NO_PROXY=.invalid")
			assert.Contains(t, answer, "cannot be resolved")
			assert.Empty(t, p.String())
		}},
		{"a loopback address in upper case", func(t *testing.T) {
			// Go itself exempts localhost in lower case alone, and the request is in clear.
			p := newProxy(t, address)
			answer := exchangeInChild(t, "http://LOCALHOST:1", "", "HTTP_PROXY="+p.url)
			assert.Contains(t, answer, "is unreachable")
			assert.Empty(t, p.String())
		}},
		{"a proxy that does not listen", func(t *testing.T) {
			answer := exchangeInChild(t, target, "", "HTTPS_PROXY=http://user:canary@"+refusingAddress(t))
			assert.Contains(t, answer, "is unreachable")
			assert.Empty(t, traceOfCanary(answer))
		}},
		{"a proxy that is no URL", func(t *testing.T) {
			answer := exchangeInChild(t, target, "", "HTTPS_PROXY=http://user:canary@[::1")
			assert.Contains(t, answer, "Snowplow Console at "+target)
			assert.Empty(t, traceOfCanary(answer))
		}},
		{"a proxy that refuses and echoes", func(t *testing.T) {
			url := strings.Replace(newEchoingProxy(t), "//", "//user:canary@", 1)
			answer := exchangeInChild(t, target, "", "HTTPS_PROXY="+url)
			assert.Contains(t, answer, "the proxy that the plugin's environment names answered with status 407")
			assert.Empty(t, traceOfCanary(answer))
		}},
	}, func(p proxied) string { return p.name }, func(t *testing.T, p proxied) { p.test(t) })
}

// newEchoingProxy starts a proxy that refuses everything and repeats, where it says why, how it was logged in to.
func newEchoingProxy(t *testing.T) (url string) {
	t.Helper()
	listener := listenTCP(t)
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

func TestCACertBundles(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	good := ca.pem()
	der := ca.certificate.Raw
	block := func(kind string, bytes []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
	}
	for name, test := range map[string]struct {
		bundle string
		says   string // empty: accepted
	}{
		"one":                             {good, ""},
		"two":                             {good + newAuthority(t).pem(), ""},
		"white space around and between":  {"\r\n " + good + "\n \n" + good + "\n ", ""},
		"CRLF":                            {strings.ReplaceAll(good, "\n", "\r\n"), ""},
		"without a line break at the end": {strings.TrimSpace(good), ""},
		"a word":                          {"canary", "ca_cert holds something that is no certificate"},
		"DER":                             {string(der), "ca_cert holds something that is no certificate"},
		"a private key":                   {block("PRIVATE KEY", []byte("canary")), "ca_cert holds something that is no certificate"},
		"a certificate and its key":       {good + block("EC PRIVATE KEY", []byte("canary")), "ca_cert holds something that is no certificate"},
		"text after a certificate":        {good + "canary", "ca_cert holds something that is no certificate"},
		"cut off":                         {good[:len(good)/2], "ca_cert holds something that is no certificate"},
		"one that is cut off last":        {good + good[:len(good)/2], "ca_cert holds something that is no certificate"},
		"no X.509 in it":                  {block("CERTIFICATE", []byte("canary")), "ca_cert holds a certificate that cannot be read"},
		"a request":                       {block("CERTIFICATE REQUEST", der), "ca_cert holds something that is no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newClient(test.bundle, "", time.Now)
			if test.says == "" {
				require.NoError(t, err)
				return
			}
			var invalid *invalidRequest
			require.ErrorAs(t, err, &invalid)
			assert.Contains(t, invalid.message, test.says)
			assert.Contains(t, invalid.message, "accepted are")
			assert.Empty(t, traceOfCanary(invalid.message))
		})
	}
}

// There is no way to switch it off, and nothing older than TLS 1.2.
func TestTLSIsVerified(t *testing.T) {
	t.Parallel()
	for _, caCert := range []string{"", newAuthority(t).pem()} {
		c, err := newClient(caCert, "", time.Now)
		require.NoError(t, err)
		config := c.http.Transport.(*http.Transport).TLSClientConfig
		assert.False(t, config.InsecureSkipVerify)
		assert.GreaterOrEqual(t, config.MinVersion, uint16(0x0303))
	}
}

func TestAReaderWhoGivesUpIsNoFailure(t *testing.T) {
	t.Parallel()
	u := onTCP(t)
	c, err := newClient("", "", time.Now)
	require.NoError(t, err)
	defer c.close()
	hold := u.Hold()
	defer hold.Release()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-hold.Started()
		cancel()
	}()
	_, err = c.exchange(ctx, canaryCredential(versionV3), endpoints{ConsoleURL: u.url}, time.Minute)
	require.ErrorIs(t, err, context.Canceled)
	var failed *failure
	assert.NotErrorAs(t, err, &failed)
}

func TestASlowAnswerWithAShortJWTIsNotBlamedOnTheClocks(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	a := &attempt{client: &client{now: func() time.Time { return now }}, started: now.Add(-3 * time.Second), answered: now}
	jwt := madeUpJWT(fmt.Sprintf(`{"iat":%d,"exp":%d}`, now.Unix(), now.Unix()+3))
	var failed *failure
	require.ErrorAs(t, a.accept(jwt, nil, ""), &failed)
	assert.Contains(t, failed.message, "took 3s to answer")
	assert.NotContains(t, failed.message, "clock")
	assert.False(t, failed.permanent, "the next answer may be quicker")
}

func TestAConsoleThatAsksForAClientCertificate(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	caCert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	c, err := newClient(caCert, "agent/1", time.Now)
	require.NoError(t, err)
	defer c.close()
	_, err = c.exchange(t.Context(), canaryCredential(versionV3), endpoints{ConsoleURL: server.URL}, 10*time.Second)
	assert.ErrorContains(t, err, "failed the TLS handshake")
	assert.ErrorContains(t, err, "certificate required")
}

func TestNotFoundOfABotUserIsNotBlamedOnTheOrganization(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	m := newMount(t)
	m.mustWrite("config", v1Config(console))
	console.FailAlways(consoletest.Status(http.StatusNotFound, "no such path", nil))
	status, message := m.refused(logical.ReadOperation, "token")
	assert.Equal(t, 400, status)
	assert.Contains(t, message, "404")
	assert.NotContains(t, message, "organization", "the request names none")
}

func TestTheAdviceAfterARefusalWorksForEveryVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{
		versionV3: "vault write snowplow/config api_key_id=",
		versionV2: "vault write snowplow/config credentials_version=v3 api_key_id=",
		versionV1: "vault write snowplow/config credentials_version=v3 api_key_id=",
	} {
		console := consoletest.NewServer(t)
		m := newMount(t)
		config := v3Config(console)
		switch version {
		case versionV2:
			config["credentials_version"] = version
			delete(config, "api_key_id")
		case versionV1:
			config = v1Config(console)
		}
		m.mustWrite("config", config)
		console.RemoveKey(consoletest.DefaultAPIKeyID)
		console.RemoveBotUser(consoletest.DefaultUsername)
		_, message := m.refused(logical.ReadOperation, "token")
		assert.Contains(t, message, want)

		console.AddKey(consoletest.Key{ID: "new", Secret: "new-key"})
		m.mustWrite("config", map[string]any{"credentials_version": "v3", "api_key_id": "new", "api_key": "new-key"})
		assert.NotEmpty(t, m.mustRead("token").Data["access_token"])
	}
}
