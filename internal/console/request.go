package console

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/proxy"
)

// v1Audience is the API that a JWT of the password flow is asked for.
const v1Audience = "https://snowplowanalytics.com/api/"

// exchange is one exchange and its tries.
type exchange struct {
	Request

	client *Client

	// When the request of the try under way began, and when the header of its answer came.
	started, answered time.Time
}

// target returns the URL that the credential is sent to.
func (e *exchange) target() string {
	_, target := e.Endpoints.forVersion(e.Credential.Version)
	return target
}

// urlField returns the name of the field that holds target.
func (e *exchange) urlField() string {
	field, _ := e.Endpoints.forVersion(e.Credential.Version)
	return field
}

// try makes one request and judges its answer.
func (e *exchange) try(ctx context.Context) (Token, *Error) {
	var handshake atomic.Pointer[error] // set where the transport dials, which may outlive the try
	handshake.Store(new(error))
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
		if err != nil {
			handshake.Store(&err)
		}
	}})
	request, err := e.httpRequest(ctx)
	if err != nil {
		return Token{}, e.errorf(ReasonRejected, "cannot be asked: its URL and organization_id do not form a valid URL; check both")
	}
	e.started = time.Now()
	answer, err := e.client.http.Do(request)
	e.answered = time.Now()
	var tunnel proxy.ConnectError
	switch {
	case err == nil:
		defer answer.Body.Close()
		return e.judge(answer)
	case errors.As(err, &tunnel):
		return Token{}, e.unreachable("%s", tunnel)
	case ctx.Err() != nil:
		return Token{}, e.timedOut() // or the caller's context has ended, which is the caller's to see
	}
	return Token{}, e.broken(err, *handshake.Load())
}

// httpRequest builds the request that the credential's version asks for.
func (e *exchange) httpRequest(ctx context.Context) (*http.Request, error) {
	target, cred := e.target(), e.Credential
	method, form := http.MethodGet, url.Values{}
	header := http.Header{
		"User-Agent": {e.client.userAgent},
		"Accept":     {"application/json"},
		// A shared cache on the way must not answer with the token of another key.
		"Cache-Control": {"no-store"},
	}
	switch cred.Version {
	case V1:
		method = http.MethodPost
		target += "/oauth/token"
		header.Set("Content-Type", "application/x-www-form-urlencoded")
		form = url.Values{
			"grant_type":    {"password"},
			"audience":      {v1Audience},
			"username":      {cred.Username.Reveal()},
			"password":      {cred.Password.Reveal()},
			"client_id":     {cred.ClientID.Reveal()},
			"client_secret": {cred.ClientSecret.Reveal()},
		}
	default:
		target += "/api/msc/v1/organizations/" + url.PathEscape(cred.OrganizationID) + "/credentials/" + cred.Version + "/token"
		header.Set("X-API-Key", cred.APIKey.Reveal())
		if cred.Version == V3 {
			header.Set("X-API-Key-ID", cred.APIKeyID.Reveal())
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err // not shown: it repeats the URL
	}
	request.Header = header
	return request, nil
}
