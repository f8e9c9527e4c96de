package console

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/proxy"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

// Reason classifies why an exchange failed, by what the reader should do next.
type Reason string

// The reasons, as metrics name them.
const (
	ReasonUnreachable         Reason = "unreachable"          // no connection, a proxy, DNS, or TLS
	ReasonTimeout             Reason = "timeout"              // no answer within request_timeout
	ReasonRateLimited         Reason = "rate_limited"         // 429
	ReasonRefused             Reason = "refused"              // 401 or 403: the key is wrong or was deleted
	ReasonUnknownOrganization Reason = "unknown_organization" // 404
	ReasonRejected            Reason = "rejected"             // any other 4xx
	ReasonUpstream            Reason = "upstream"             // 5xx, a redirect, or an answer that is malformed or too large
)

// Reasons lists every Reason.
var Reasons = []Reason{
	ReasonUnreachable, ReasonTimeout, ReasonRateLimited, ReasonRefused,
	ReasonUnknownOrganization, ReasonRejected, ReasonUpstream,
}

// Error is a failed exchange. It wraps no cause on purpose: what a server or a proxy says can repeat a secret, so only
// the filtered message is passed on.
type Error struct {
	Reason Reason
	// RetryAfter is what the answer's Retry-After asked for, 5 minutes at most; 0 if it asked for nothing.
	RetryAfter time.Duration

	message   string
	permanent bool // another try within the same exchange would fail the same way
}

func (e *Error) Error() string { return e.message }

// Transient reports whether the same request may well succeed a little later: the fault is not the caller's.
func (e *Error) Transient() bool { return e.Status() != http.StatusBadRequest }

// Status returns the HTTP status that a reader of Vault gets for the failure.
func (e *Error) Status() int {
	switch e.Reason {
	case ReasonUnreachable, ReasonUpstream:
		return http.StatusBadGateway
	case ReasonTimeout:
		return http.StatusGatewayTimeout
	case ReasonRateLimited:
		return http.StatusTooManyRequests
	default:
		return http.StatusBadRequest
	}
}

// errorf makes an Error whose message begins with the URL that was asked.
func (e *exchange) errorf(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, message: "Snowplow Console at " + e.target() + " " + fmt.Sprintf(format, args...)}
}

func (e *exchange) timedOut() *Error {
	return e.errorf(ReasonTimeout, "has not answered within request_timeout (%s)", e.Timeout)
}

func (e *exchange) redirected(how string) *Error {
	failed := e.errorf(ReasonUpstream, "answered with a redirect, %s, which is not followed: check %s", how, e.urlField())
	failed.permanent = true
	return failed
}

// unreachable says where an operator should look: the address, and what stands between Vault and it.
func (e *exchange) unreachable(format string, args ...any) *Error {
	return e.errorf(ReasonUnreachable, "is unreachable: %s: check %s, egress from Vault, and the proxy variables of the plugin's environment",
		fmt.Sprintf(format, args...), e.urlField())
}

// broken says why no answer came, without what a server or a proxy may have put into the error. handshake is the
// error of the TLS handshake, nil if that did not fail.
func (e *exchange) broken(err, handshake error) *Error {
	var dns *net.DNSError
	var op *net.OpError
	_ = errors.As(err, &op)
	var variable proxy.VariableError
	switch {
	case errors.As(err, &variable):
		failed := e.unreachable("%s", variable)
		failed.permanent = true
		return failed
	case handshake != nil:
		return e.tlsFailed(handshake)
	case op != nil && op.Op == "remote error": // an alert after the handshake: a client certificate is asked for
		return e.tlsFailed(op)
	case op != nil && op.Op == "proxyconnect":
		return e.unreachable("the proxy cannot be reached: %s", op.Err)
	case errors.As(err, &dns):
		return e.unreachable("its host name cannot be resolved (%s)", dns.Err)
	case op != nil && op.Op == "dial":
		return e.unreachable("%s", op.Err)
	// net/http has no types for these.
	case strings.Contains(err.Error(), "response headers exceeded"):
		return e.errorf(ReasonUpstream, "sent an oversized answer: more than %d bytes of header", maxAnswerHeader)
	case strings.Contains(err.Error(), "failed to parse Location header"):
		return e.redirected("to no URL")
	default:
		return e.errorf(ReasonUpstream, "sent a malformed answer, or broke the connection before it was whole")
	}
}

// tlsFailed names the cause of a failed handshake and how to fix it.
func (e *exchange) tlsFailed(err error) *Error {
	var (
		unverified *tls.CertificateVerificationError
		authority  x509.UnknownAuthorityError
		hostname   x509.HostnameError
		invalid    x509.CertificateInvalidError
		notTLS     tls.RecordHeaderError
	)
	remedy := "check the TLS settings of the server and of anything in between"
	switch {
	case errors.As(err, &authority):
		remedy = "if a CA of your own signed its certificate, write that CA's certificate to ca_cert"
	case errors.As(err, &hostname):
		remedy = "its certificate is for another name: check " + e.urlField()
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		remedy = "its certificate has expired, or Vault's clock is wrong"
	case errors.As(err, &notTLS):
		remedy = "it does not speak TLS on this port: check " + e.urlField()
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		remedy = "the connection was cut: check egress from Vault, and the proxy variables of the plugin's environment"
	}
	reason := redact.Printable(err.Error(), maxExcerpt)
	if redact.Repeats(reason, e.Credential.secrets()) { // names in a certificate are the server's to choose
		reason = redact.Withheld
	}
	failed := e.errorf(ReasonUnreachable, "failed the TLS handshake (%s): %s", reason, remedy)
	failed.permanent = errors.As(err, &unverified)
	return failed
}
