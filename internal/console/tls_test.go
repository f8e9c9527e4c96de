package console

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestAHandshakeThatFailsIsNamedByItsCause(t *testing.T) {
	t.Parallel()
	ca := consoletest.NewAuthority(t)
	with := func(certificate tls.Certificate) func(*testing.T) *consoletest.Upstream {
		return func(t *testing.T) *consoletest.Upstream {
			return consoletest.OnTLS(t, &tls.Config{Certificates: []tls.Certificate{certificate}})
		}
	}
	const (
		handshake = "failed the TLS handshake"
		unknownCA = "write that CA's certificate to ca_cert"
		wasCut    = "the connection was cut: check egress from Vault"
	)
	for _, f := range []struct {
		name        string
		upstream    func(*testing.T) *consoletest.Upstream
		caCert      string
		timeout     time.Duration
		says        []string
		connections int64
	}{
		{"self-signed", with((&consoletest.Authority{}).Certify(t, nil)), ca.PEM(), 0, []string{handshake, "x509", unknownCA}, 1},
		{"a CA that is unknown", with(ca.Certify(t, nil)), "", 0, []string{handshake, "unknown authority", unknownCA}, 1},
		{"wrong host", with(ca.Certify(t, func(c *x509.Certificate) {
			c.IPAddresses, c.DNSNames = nil, []string{"console.example.com"}
		})), ca.PEM(), 0, []string{handshake, "127.0.0.1", "for another name: check console_url"}, 1},
		{"expired", with(ca.Certify(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })), ca.PEM(), 0, []string{handshake, "its certificate has expired, or Vault's clock is wrong"}, 1},
		{"not for servers", with(ca.Certify(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })), ca.PEM(), 0, []string{handshake, "check the TLS settings"}, 1},
		{"TLS 1.1", func(t *testing.T) *consoletest.Upstream {
			return consoletest.OnTLS(t, &tls.Config{
				Certificates: []tls.Certificate{ca.Certify(t, nil)}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11,
			})
		}, ca.PEM(), 0, []string{handshake, "version", "check the TLS settings"}, allTries},
		{"a client certificate is asked for", func(t *testing.T) *consoletest.Upstream {
			return consoletest.OnTLS(t, &tls.Config{Certificates: []tls.Certificate{ca.Certify(t, nil)}, ClientAuth: tls.RequireAnyClientCert})
		}, ca.PEM(), 0, []string{handshake, "certificate required", "check the TLS settings"}, allTries},
		{"a handshake that is cut", func(t *testing.T) *consoletest.Upstream {
			return consoletest.OnRaw(t, func(conn net.Conn) {
				_, _ = conn.Read(make([]byte, 1<<14)) // all of it: else the kernel resets the connection
				_, _ = conn.Write([]byte{22, 3, 3, 0, 122, 2})
			})
		}, ca.PEM(), 0, []string{handshake, wasCut}, allTries},
		{"a handshake that is closed", func(t *testing.T) *consoletest.Upstream {
			return consoletest.OnRaw(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1<<14)) })
		}, ca.PEM(), 0, []string{handshake, wasCut}, allTries},
		{"a handshake that is reset", func(t *testing.T) *consoletest.Upstream {
			return consoletest.OnRaw(t, func(conn net.Conn) {
				_, _ = conn.Read(make([]byte, 1))
				consoletest.Reset(conn)
			})
		}, ca.PEM(), 0, []string{handshake, wasCut}, allTries},
		{"no TLS", func(t *testing.T) *consoletest.Upstream {
			u := consoletest.OnTCP(t)
			u.URL = strings.Replace(u.URL, "http:", "https:", 1)
			return u
		}, ca.PEM(), 0, []string{handshake, "does not speak TLS on this port: check console_url"}, allTries},
		{"a name that repeats the key", func(t *testing.T) *consoletest.Upstream {
			u := with(ca.Certify(t, func(c *x509.Certificate) { c.DNSNames = []string{"canary-k-y.example.com"} }))(t)
			u.URL = strings.Replace(u.URL, "127.0.0.1", "localhost", 1) // for a name, the error lists those of the certificate
			return u
		}, ca.PEM(), 0, []string{handshake, "not shown: it repeats the credential"}, 1},
		{"a handshake without end", func(t *testing.T) *consoletest.Upstream {
			return consoletest.OnRaw(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		}, ca.PEM(), time.Second, []string{"has not answered within request_timeout (1s)"}, 1},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			u := f.upstream(t)
			request := exchangeAt(u.URL, V3)
			if f.timeout > 0 {
				request.Timeout = f.timeout
			}
			client := newClient(t, f.caCert, nil)
			_, err := client.Exchange(t.Context(), request)
			assert.Equal(t, map[bool]Reason{true: ReasonTimeout, false: ReasonUnreachable}[f.timeout > 0], requireFailed(t, err).Reason)
			for _, words := range f.says {
				assert.ErrorContains(t, err, words)
			}
			for _, hint := range []string{"ca_cert", "egress"} {
				assert.Equal(t, strings.Contains(strings.Join(f.says, " "), hint), strings.Contains(err.Error(), hint), "%s in %s", hint, err)
			}
			assert.Equal(t, f.connections, u.Connections())
			assert.Zero(t, u.Exchanges(), "the key was sent")
			client.Close()
			u.RequireAllClosed(t)
		})
	}
}

func TestTLSWithTheRightCA(t *testing.T) {
	t.Parallel()
	ca, other := consoletest.NewAuthority(t), consoletest.NewAuthority(t)
	for name, test := range map[string]struct {
		protocols []string
		bundle    string
	}{
		"HTTP/1 only": {[]string{"http/1.1"}, "\n" + other.PEM() + "\n" + ca.PEM()},
		"HTTP/2 too":  {[]string{"h2", "http/1.1"}, ca.PEM() + other.PEM()},
		"HTTP/2 only": {[]string{"h2"}, ca.PEM()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := consoletest.OnTLS(t, &tls.Config{Certificates: []tls.Certificate{ca.Certify(t, nil)}, NextProtos: test.protocols})
			client := newClient(t, test.bundle, nil)
			_, err := client.Exchange(t.Context(), exchangeAt(u.URL, V3))
			require.NoError(t, err)
			client.Close()
			u.RequireAllClosed(t)
		})
	}
}

func TestCACertBundles(t *testing.T) {
	t.Parallel()
	ca := consoletest.NewAuthority(t)
	good, der := ca.PEM(), ca.DER()
	block := func(kind string, bytes []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
	}
	const (
		notWhole = "ca_cert must hold whole PEM blocks of type CERTIFICATE"
		notX509  = "ca_cert must hold X.509 certificates as PEM"
	)
	for name, test := range map[string]struct {
		bundle string
		says   string // empty: accepted
	}{
		"one":                             {good, ""},
		"white space around and between":  {"\r\n \n" + good + "\n \n" + good + "\n ", ""},
		"comments around and between":     {"# the first\n" + good + "# the second\r\n" + good + "# the end", ""},
		"CRLF":                            {strings.ReplaceAll(good, "\n", "\r\n"), ""},
		"without a line break at the end": {strings.TrimSpace(good), ""},
		"nothing but white space":         {" \n", "ca_cert must hold at least one PEM block"},
		"a private key":                   {block("PRIVATE KEY", []byte("canary")), notX509},
		"text before a certificate":       {"canary\n" + good, notWhole},
		"text between certificates":       {good + "canary\n" + good, notWhole},
		"one that is cut off first":       {good[:len(good)/2] + "\n" + good, notWhole},
		"cut off":                         {good[:len(good)/2], notWhole},
		"no X.509 in it":                  {block("CERTIFICATE", []byte("canary")), notX509},
		"a request":                       {block("CERTIFICATE REQUEST", der), notX509},
		"too long":                        {strings.Repeat(good, maxCACert/len(good)+1), "ca_cert must be at most 65536 bytes long"},
	} {
		_, err := ParseCACert(test.bundle)
		if test.says == "" {
			assert.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, test.says, name)
		assert.Empty(t, consoletest.TraceOfCanary(err.Error()), name)
	}
}
