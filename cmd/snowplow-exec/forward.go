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
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/proxy"
)

// answerTimeout is how long Console may take to begin its answer. Bodies may take any time.
const answerTimeout = 5 * time.Minute

// newTransport makes the transport to Console. Proxies are the environment's, never for a loopback address.
func newTransport(caCert string) (*http.Transport, error) {
	transport := cleanhttp.DefaultPooledTransport()
	proxy.Configure(transport)
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	transport.ResponseHeaderTimeout = answerTimeout
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
		return nil, fmt.Errorf("-ca-cert is %s, which contains no certificate: it must be a PEM file", caCert)
	}
	transport.TLSClientConfig.RootCAs = roots
	return transport, nil
}

// newForwarder passes requests on to Console with the JWT in place of the stand-in, and changes as little else as it can.
func newForwarder(source *tokenSource, transport http.RoundTripper) http.Handler {
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
			r.Out.Header.Del("Accept-Encoding") // the transport asks for gzip by itself, and unpacks it
			r.Out.Header.Del("Range")           // in pieces, the JWT could not be recognized
		},
		Transport:     &authorizer{source: source, transport: transport},
		FlushInterval: -1, // at once
		ModifyResponse: func(resp *http.Response) error {
			keepRedirect(resp, target)
			describePlain(resp)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				source.logger.Debug("could not pass a request on", "error", err)
			}
			status := http.StatusBadGateway
			if failed := (*consoleError)(nil); errors.As(err, &failed) && failed.timeout {
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
	last      atomic.Int32 // the outcome of the last request that had one
}

// outcome is how a request to Console went.
type outcome int32

const (
	answered outcome = iota
	unreachable
	refused // the JWT that Vault has just handed out
)

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
	fresh, err := a.source.replace(r.Context(), t)
	if err != nil {
		return resp, nil // Console's answer: the failure of Vault is logged already
	}
	if fresh.jwt != t.jwt {
		if r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
			return resp, nil // the next request has the other JWT
		}
		_ = resp.Body.Close()
		if resp, err = a.send(r, fresh.jwt); err != nil || resp.StatusCode != http.StatusUnauthorized {
			return resp, err
		}
	}
	a.note(refused, fmt.Sprintf("Snowplow Console at %s refuses the JWT that Vault has just handed out: its API key may have been deleted; "+
		"ask whoever manages the secrets engine to check it (a new API key for the command does not help)", r.URL.Host))
	return resp, nil
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
		failed := newConsoleError(out.URL.Host, err)
		if r.Context().Err() == nil { // else the command has hung up
			a.note(unreachable, failed.Error())
		}
		return nil, failed
	}
	if resp.StatusCode != http.StatusUnauthorized {
		a.note(answered, "")
	}
	if err := secret.maskResponse(resp); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// note logs what is wrong once in a row: tools tell their users to make a new API key instead, or show only a 502.
func (a *authorizer) note(o outcome, message string) {
	if a.last.Swap(int32(o)) != int32(o) && o != answered {
		a.source.logger.Warn(message)
	}
}

// consoleError is a failure to get an answer of Console's. Its message quotes nothing of what a server has sent.
type consoleError struct {
	message string
	timeout bool
}

func newConsoleError(host string, err error) *consoleError {
	var (
		variable    proxy.VariableError
		tunnel      proxy.ConnectError
		certificate *tls.CertificateVerificationError
		operation   *net.OpError
		timeout     net.Error
	)
	timedOut := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
	reason, remedy := "the connection broke, or the answer is malformed", ": check the network and the proxy variables"
	switch {
	case errors.As(err, &variable):
		reason, remedy = variable.Error(), ""
	case errors.As(err, &tunnel):
		reason = tunnel.Error()
	case errors.As(err, &certificate):
		reason, remedy = oneLine(certificate.Error()), ": if a CA of your own signed the certificate, name that CA's file with -ca-cert"
	case errors.As(err, &operation) && operation.Op == "proxyconnect":
		reason = "the proxy cannot be reached: " + oneLine(operation.Err.Error())
	case errors.As(err, &operation):
		reason = oneLine(operation.Err.Error())
	case timedOut:
		reason = "it does not answer"
	}
	return &consoleError{fmt.Sprintf("cannot reach Snowplow Console at %s: %s%s", host, reason, remedy), timedOut}
}

func (e *consoleError) Error() string { return e.message }

// describePlain makes the header describe what the command gets: a body that the transport has unpacked, or for HEAD and
// 304 the one that it would unpack. What was an exact name for Console's bytes is a weak one for these.
func describePlain(resp *http.Response) {
	etag := resp.Header.Get("ETag")
	changed := resp.Uncompressed
	if resp.Body == http.NoBody && resp.Header.Get("Content-Encoding") != "" {
		resp.Header.Del("Content-Encoding")
		resp.Header.Del("Content-Length")
		changed = true
	}
	if resp.StatusCode == http.StatusNotModified { // about an answer that the command knows by its weak name
		known := strings.Join(resp.Request.Header.Values("If-None-Match"), ",")
		changed = changed || strings.Contains(known, "W/"+etag)
	}
	if changed && strings.HasPrefix(etag, `"`) {
		resp.Header.Set("ETag", "W/"+etag)
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
