package snowplow

import (
	"net/http"
	"time"
)

// failureKind says what an exchange failed of, as far as a reader's next step depends on it.
type failureKind int

const (
	// failureUpstream is a 5xx, no connection, TLS, a redirect, or an answer that is malformed or too large.
	failureUpstream failureKind = iota
	// failureTimeout is no answer within request_timeout.
	failureTimeout
	// failureRateLimited is a 429.
	failureRateLimited
	// failureRefused is a 401 or 403: the key is wrong or was deleted.
	failureRefused
	// failureUnknownOrganization is a 404.
	failureUnknownOrganization
	// failureRejected is any other 4xx.
	failureRejected
)

// failure is an exchange that did not bring a JWT. It wraps no cause on purpose: what a server or a proxy says can
// hold a secret, so only what was cleaned into message goes on.
type failure struct {
	kind       failureKind
	message    string
	retryAfter time.Duration // what the answer's Retry-After asked for; 0: nothing
	permanent  bool          // trying again within the same exchange is of no use
}

func (f *failure) Error() string { return f.message }

// passing says whether the same request may well succeed a little later.
func (f *failure) passing() bool {
	return f.kind == failureUpstream || f.kind == failureTimeout || f.kind == failureRateLimited
}

// Waits after a failed exchange, before the same credential is tried again.
const (
	waitAfterPassing = time.Second
	waitAfterRefusal = 10 * time.Second
	maxWait          = 5 * time.Minute
)

// wait is how long the same credential is not to be tried again.
func (f *failure) wait() time.Duration {
	switch {
	case f.retryAfter > 0:
		return min(f.retryAfter, maxWait)
	case f.passing():
		return waitAfterPassing
	default:
		return waitAfterRefusal
	}
}

// status is the HTTP status that a reader of Vault gets for it.
func (f *failure) status() int {
	switch f.kind {
	case failureUpstream:
		return http.StatusBadGateway
	case failureTimeout:
		return http.StatusGatewayTimeout
	case failureRateLimited:
		return http.StatusTooManyRequests
	default:
		return http.StatusBadRequest
	}
}
