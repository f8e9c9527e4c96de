package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/go-hclog"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/proxy"
)

// answerTimeout is how long Console may take to begin its answer. Bodies may take any time.
const answerTimeout = 5 * time.Minute

// newTransport makes the transport to Console. Proxies are the environment's, never for a loopback address.
func newTransport(caCert string) (*http.Transport, error) {
	transport := cleanhttp.DefaultPooledTransport()
	transport.Proxy = proxy.FromEnvironment
	transport.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
		if answer.StatusCode != http.StatusOK { // Go would quote the proxy's text, which can repeat the password for it
			return fmt.Errorf("the proxy answered with status %d", answer.StatusCode)
		}
		return nil
	}
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	transport.ResponseHeaderTimeout = answerTimeout
	transport.DisableCompression = true // what the command asks for is what it gets
	if caCert == "" {
		return transport, nil
	}
	pem, err := os.ReadFile(caCert)
	if err != nil {
		return nil, fmt.Errorf("cannot read the CA certificates of -ca-cert: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a system without any
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("-ca-cert is %s, which holds no certificate: it must be a PEM file", caCert)
	}
	transport.TLSClientConfig.RootCAs = roots
	return transport, nil
}

// newForwarder passes requests on to Console with the JWT in place of the stand-in, and changes as little else as it can.
func newForwarder(source *tokenSource, transport http.RoundTripper, logger hclog.Logger) http.Handler {
	target := source.consoleURL()
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			// Nothing of the target but path and query, the query also where Go cannot parse it.
			in := r.In.URL
			r.Out.URL = &url.URL{Path: in.Path, RawPath: in.RawPath, RawQuery: in.RawQuery, ForceQuery: in.ForceQuery}
			r.SetURL(target)
			// Another protocol could not be watched for the JWT.
			r.Out.Header.Del("Connection")
			r.Out.Header.Del("Upgrade")
			limitEncodings(r.Out.Header)
		},
		Transport:     &authorizer{source: source, transport: transport},
		FlushInterval: -1, // at once
		ModifyResponse: func(resp *http.Response) error {
			keepRedirect(resp, target)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				logger.Debug("could not pass a request on", "error", err)
			}
			status := http.StatusBadGateway
			if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
				status = http.StatusGatewayTimeout
			}
			writeError(w, status, "snowplow-exec: "+err.Error())
		},
		ErrorLog: log.New(io.Discard, "", 0), // it can quote what Console sends
	}
}

// authorizer sends requests with the JWT.
type authorizer struct {
	source    *tokenSource
	transport http.RoundTripper
}

// RoundTrip sends a request once more if Console refuses the JWT, Vault has another one, and the body can be had again.
// Console has done nothing for a request that it answers with 401, whatever its method.
func (a *authorizer) RoundTrip(r *http.Request) (*http.Response, error) {
	t, err := a.source.get(r.Context())
	if err != nil {
		return nil, err
	}
	resp, err := a.send(r, t.jwt)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	fresh := a.source.replace(r.Context(), t)
	if fresh.jwt == t.jwt || r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
		return resp, nil
	}
	_ = resp.Body.Close()
	return a.send(r, fresh.jwt)
}

func (a *authorizer) send(r *http.Request, jwt string) (*http.Response, error) {
	secret := newSecret(jwt)
	out := r.Clone(secret.maskEarlyHeaders(r.Context()))
	out.Header.Set("Authorization", "Bearer "+jwt)
	if r.GetBody != nil {
		out.Body, _ = r.GetBody() // never fails: it is in memory
	}
	resp, err := a.transport.RoundTrip(out)
	if err != nil {
		// The error can quote what Console has sent.
		return nil, &consoleError{secret.maskText(fmt.Sprintf("cannot reach Snowplow Console at %s: %s", out.URL.Host, oneLine(err.Error()))), err}
	}
	if err := secret.maskResponse(resp); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// consoleError is a failure to get an answer of Console's.
type consoleError struct {
	message string
	cause   error
}

func (e *consoleError) Error() string { return e.message }

func (e *consoleError) Unwrap() error { return e.cause }

// Timeout and Temporary make it a net.Error.
func (e *consoleError) Timeout() bool {
	var timeout net.Error
	return errors.Is(e.cause, context.DeadlineExceeded) || errors.As(e.cause, &timeout) && timeout.Timeout()
}

// Temporary is part of net.Error, and deprecated there.
func (e *consoleError) Temporary() bool { return false }

// limitEncodings takes out of Accept-Encoding what maskResponse cannot look into.
func limitEncodings(header http.Header) {
	accepted := header.Values("Accept-Encoding")
	if len(accepted) == 0 {
		return
	}
	all := strings.Split(strings.Join(accepted, ","), ",")
	kept := slices.DeleteFunc(slices.Clone(all), func(encoding string) bool {
		name, _, _ := strings.Cut(encoding, ";")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "gzip", "x-gzip", "identity":
			return false
		}
		return true
	})
	switch {
	case len(kept) == len(all):
	case len(kept) == 0:
		header.Set("Accept-Encoding", "identity")
	default:
		header.Set("Accept-Encoding", strings.TrimSpace(strings.Join(kept, ",")))
	}
}

// keepRedirect makes a redirect within Console lead here again: the stand-in opens nothing else. One to another host
// goes to the command as it is.
func keepRedirect(resp *http.Response, target *url.URL) {
	location, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		return
	}
	base := strings.TrimSuffix(target.EscapedPath(), "/")
	switch {
	case location.Host != "":
		if !strings.EqualFold(location.Host, target.Host) || location.Scheme != "" && location.Scheme != target.Scheme {
			return
		}
	case base == "" || !strings.HasPrefix(location.Path, "/"):
		return // leads here as it is
	}
	path, below := strings.CutPrefix(location.EscapedPath(), base)
	if path == "" {
		path = "/"
	}
	// Two slashes at the beginning would name a host.
	if !below || path[0] != '/' || strings.HasPrefix(path, "//") {
		return
	}
	if location.RawQuery != "" || location.ForceQuery {
		path += "?" + location.RawQuery
	}
	if fragment := location.EscapedFragment(); fragment != "" {
		path += "#" + fragment
	}
	resp.Header.Set("Location", path)
}
