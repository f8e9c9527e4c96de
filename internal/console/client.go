// Package console exchanges a credential for a token at Snowplow Console over HTTP. It knows nothing of Vault: the code
// that puts a key on the wire can reach neither storage nor a logger.
package console

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/proxy"
)

const (
	// maxAnswerHeader bounds the header block, which Go would read up to 10 MiB of.
	maxAnswerHeader = 64 << 10

	// Retries of one exchange, with a pause of retryPauseMin to retryPauseMax times the number of the retry.
	maxRetries    = 3
	retryPauseMin = 200 * time.Millisecond
	retryPauseMax = 600 * time.Millisecond

	maxCACert = 64 << 10 // bytes
)

// Client exchanges credentials for tokens at one Console. It keeps its connections open between exchanges.
type Client struct {
	http      *http.Client
	userAgent string
	closed    atomic.Bool
}

// NewClient makes a client that sends its requests through transport, see NewTransport.
func NewClient(transport http.RoundTripper, userAgent string) *Client {
	return &Client{
		http: &http.Client{
			Transport: transport,
			// Go would send X-API-Key along to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		userAgent: userAgent,
	}
}

// NewTransport makes a transport that trusts the system's roots and the CA bundle caCert (PEM, may be empty).
func NewTransport(caCert string) (http.RoundTripper, error) {
	transport := cleanhttp.DefaultPooledTransport()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	proxy.Configure(transport)
	// For one small request now and then, HTTP/2 gains nothing, and its connections would outlive their mount.
	transport.ForceAttemptHTTP2 = false
	// The exchange as a whole is bounded by request_timeout; a shorter bound within it would blur "no answer".
	transport.TLSHandshakeTimeout = 0
	transport.MaxResponseHeaderBytes = maxAnswerHeader
	// Snowplow sends no answer that unpacks to a gigabyte.
	transport.DisableCompression = true
	if caCert != "" {
		certificates, err := ParseCACert(caCert)
		if err != nil {
			return nil, err
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("reading the system's CA certificates: %w", err)
		}
		for _, certificate := range certificates {
			roots.AddCert(certificate)
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return transport, nil
}

// ParseCACert reads a bundle of PEM certificates. Around them it may have blank lines and lines that begin with #:
// anything else is a damaged block, which would silently not be trusted.
func ParseCACert(bundle string) ([]*x509.Certificate, error) {
	if len(bundle) > maxCACert {
		return nil, fmt.Errorf("ca_cert must be at most %d bytes long", maxCACert)
	}
	var certificates []*x509.Certificate
	for rest := []byte(bundle); ; {
		block, after := pem.Decode(rest)
		between := rest
		if block != nil {
			// What pem.Decode skipped: all before the block that it found.
			between = rest[:strings.LastIndex(string(rest[:len(rest)-len(after)]), "-----BEGIN")]
		}
		for line := range strings.Lines(string(between)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				return nil, errors.New("ca_cert must hold whole PEM blocks of type CERTIFICATE, and beside them only lines that begin with #")
			}
		}
		if block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("ca_cert must hold X.509 certificates as PEM, and one of its blocks is not")
		}
		certificates = append(certificates, certificate)
		rest = after
	}
	if len(certificates) == 0 {
		return nil, errors.New("ca_cert must hold at least one PEM block of type CERTIFICATE")
	}
	return certificates, nil
}

// Close closes idle connections. An exchange under way finishes first, and then its connection is closed.
func (c *Client) Close() {
	c.closed.Store(true)
	c.http.CloseIdleConnections()
}

// Request is one exchange to make.
type Request struct {
	Credential Credential
	Endpoints  Endpoints
	Timeout    time.Duration // of the whole exchange, retries included
	// Retry is asked before another try after a transient failure; nil: never.
	Retry func() bool
}

// Exchange gets a token. Its errors are an *Error, or the context's own.
func (c *Client) Exchange(ctx context.Context, request Request) (Token, error) {
	// A try may have opened connections after Close.
	defer func() {
		if c.closed.Load() {
			c.http.CloseIdleConnections()
		}
	}()
	bounded, cancel := context.WithTimeout(ctx, request.Timeout)
	defer cancel()
	e := &exchange{Request: request, client: c}
	for retries := 0; ; retries++ {
		token, failed := e.try(bounded)
		switch {
		case ctx.Err() != nil:
			return Token{}, fmt.Errorf("exchanging the credential for a token: %w", ctx.Err())
		case failed == nil:
			return token, nil
		}
		again := func() bool {
			return failed.Transient() && !failed.permanent && retries < maxRetries && request.Retry != nil && request.Retry()
		}
		jittered := retryPauseMin + rand.N(retryPauseMax-retryPauseMin)
		pause := cmp.Or(failed.RetryAfter, time.Duration(retries+1)*jittered)
		if deadline, _ := bounded.Deadline(); !again() || !time.Now().Add(pause).Before(deadline) {
			return Token{}, failed
		}
		select {
		case <-ctx.Done():
			return Token{}, fmt.Errorf("exchanging the credential for a token: %w", ctx.Err())
		case <-time.After(pause):
		}
		if !again() {
			return Token{}, failed
		}
	}
}
