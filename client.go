package snowplow

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/go-retryablehttp"
)

const (
	// maxAnswer is how much of an answer is read: a JWT has a few kilobytes.
	maxAnswer = 1 << 20
	// maxAnswerHeader bounds the header block, which Go would read up to 10 MiB of.
	maxAnswerHeader = 64 << 10
	// maxRefusal is how much is read of an answer that is shown in part.
	maxRefusal = 64 << 10
	// maxExcerpt is how many characters of a refusal are shown.
	maxExcerpt = 200

	// Retries of one exchange, with a pause of retryPauseMin to retryPauseMax times the number of the try.
	maxRetries    = 3
	retryPauseMin = 200 * time.Millisecond
	retryPauseMax = 600 * time.Millisecond

	// assumedValidity is how long a JWT counts as valid that does not say itself; see
	// https://docs.snowplow.io/docs/account-management/managing-console-api-authentication/
	assumedValidity = 24 * time.Hour
	// minValidity is the shortest lease that Vault can give: it counts in seconds.
	minValidity = time.Second

	// v1Audience is the API that a JWT of the password flow is asked for.
	v1Audience = "https://snowplowanalytics.com/api/"
)

// token is a JWT and how long it may be used.
type token struct {
	JWT        string
	IssuedAt   time.Time     // by Snowplow's clock
	ExpiresAt  time.Time     // by Snowplow's clock
	Validity   time.Duration // counted from ObtainedAt, whatever Snowplow's clock says
	ObtainedAt time.Time     // by Vault's clock; set by the issuer
}

// String keeps the JWT out of whatever a token is printed into.
func (t token) String() string { return "JWT valid until " + t.ExpiresAt.Format(time.RFC3339) }

// GoString does for %#v what String does for the other verbs.
func (t token) GoString() string { return t.String() }

// age is the time since the exchange, by the clock that has run further: the monotonic one stands still while a
// machine sleeps, and the other one can be set back.
func (t token) age(now time.Time) time.Duration {
	return max(now.Sub(t.ObtainedAt), now.Round(0).Sub(t.ObtainedAt.Round(0)))
}

// remaining is how long the JWT is valid from now on.
func (t token) remaining(now time.Time) time.Duration { return t.Validity - t.age(now) }

// client exchanges credentials for JWTs at one Console. It keeps its connections open between exchanges.
type client struct {
	http      *http.Client
	userAgent string
	now       func() time.Time
}

// newClient makes a client that trusts the system's roots and the CA bundle caCert (PEM, may be empty).
func newClient(caCert, userAgent string, now func() time.Time) (*client, error) {
	transport := cleanhttp.DefaultPooledTransport()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	transport.Proxy = func(request *http.Request) (*url.URL, error) {
		// Go exempts localhost in lower case alone, and plain http is for this machine alone.
		if isLoopback(request.URL.Hostname()) {
			return nil, nil
		}
		return http.ProxyFromEnvironment(request)
	}
	// For one small request now and then, HTTP/2 would bring connections that outlive their mount, and no more.
	transport.ForceAttemptHTTP2 = false
	// The exchange as a whole is bounded by request_timeout; a shorter bound within it would blur "no answer".
	transport.TLSHandshakeTimeout = 0
	transport.MaxResponseHeaderBytes = maxAnswerHeader
	// An answer that unpacks to a gigabyte is none that Snowplow sends.
	transport.DisableCompression = true
	transport.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
		if answer.StatusCode == http.StatusOK {
			return nil
		}
		return &failure{message: "Snowplow Console is unreachable: the proxy that the plugin's environment names answered with status " + statusLine(answer.StatusCode)}
	}
	if caCert != "" {
		roots, err := trustedRoots(caCert)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return &client{
		http: &http.Client{
			Transport: transport,
			// Go would send X-API-Key along to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		userAgent: userAgent,
		now:       now,
	}, nil
}

// trustedRoots is the system's CA certificates and those of the bundle.
func trustedRoots(bundle string) (*x509.CertPool, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("reading the system's CA certificates: %w", err)
	}
	rest := []byte(strings.TrimSpace(bundle))
	for len(rest) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, invalidf("ca_cert holds something that is no certificate: accepted are PEM blocks of type CERTIFICATE alone")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, invalidf("ca_cert holds a certificate that cannot be read: accepted are X.509 certificates as PEM")
		}
		roots.AddCert(certificate)
	}
	return roots, nil
}

// close gives up the connections that are kept open. An exchange under way ends on its own, and its connection with it.
func (c *client) close() { c.http.CloseIdleConnections() }

// exchange gets a JWT for cred, retries of passing failures included, within timeout. Its errors are a *failure, the
// context's own, or an *invalidRequest where no request can be made of cred and to.
func (c *client) exchange(ctx context.Context, cred credential, to endpoints, timeout time.Duration) (token, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	attempt := &attempt{client: c, cred: cred, to: to, timeout: timeout}
	request, err := attempt.request(bounded)
	if err != nil {
		return token{}, err
	}
	retrying := &retryablehttp.Client{
		HTTPClient:   c.http,
		RetryMax:     maxRetries,
		RetryWaitMin: retryPauseMin,
		RetryWaitMax: retryPauseMax,
		CheckRetry:   attempt.mayRetry,
		Backoff:      attempt.pause,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
		// Called before each try, logger or not.
		RequestLogHook: func(retryablehttp.Logger, *http.Request, int) { attempt.started = c.now() },
	}
	// What came of it is in attempt: retryablehttp forgets the last answer when time runs out in a pause.
	answer, err := retrying.Do(request)
	if answer != nil {
		answer.Body.Close()
	}
	switch {
	case ctx.Err() != nil:
		return token{}, fmt.Errorf("exchanging the credential for a JWT: %w", ctx.Err())
	case err == nil:
		return attempt.token, nil
	case attempt.failure != nil:
		return token{}, attempt.failure
	default:
		return token{}, attempt.timedOut()
	}
}

// attempt is the state of one exchange over its retries.
type attempt struct {
	client  *client
	cred    credential
	to      endpoints
	timeout time.Duration

	tlsFailed atomic.Pointer[error] // set where the transport dials, which may outlive the try
	started   time.Time             // the last try, by the client's clock
	answered  time.Time             // when its answer's header had come
	token     token
	failure   *failure // of the last try
}

// request builds the exchange that the credential's version asks for.
func (a *attempt) request(ctx context.Context) (*retryablehttp.Request, error) {
	_, target := a.to.of(a.cred.Version)
	method, body := http.MethodGet, ""
	header := http.Header{"User-Agent": {a.client.userAgent}, "Accept": {"application/json"}}
	switch a.cred.Version {
	case versionV1:
		method = http.MethodPost
		target += "/oauth/token"
		header.Set("Content-Type", "application/x-www-form-urlencoded")
		body = url.Values{
			"grant_type":    {"password"},
			"audience":      {v1Audience},
			"username":      {a.cred.Username},
			"password":      {a.cred.Password},
			"client_id":     {a.cred.ClientID},
			"client_secret": {a.cred.ClientSecret},
		}.Encode()
	default:
		target += "/api/msc/v1/organizations/" + url.PathEscape(a.cred.OrganizationID) + "/credentials/" + a.cred.Version + "/token"
		header.Set("X-API-Key", a.cred.APIKey)
		if a.cred.Version == versionV3 {
			header.Set("X-API-Key-ID", a.cred.APIKeyID)
		}
	}

	trace := &httptrace.ClientTrace{TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
		if err != nil {
			a.tlsFailed.Store(&err)
		}
	}}
	var rawBody any
	if body != "" {
		rawBody = []byte(body)
	}
	request, err := retryablehttp.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), method, target, rawBody)
	if err != nil {
		return nil, invalidf("no request can be made of console_url and organization_id: check both")
	}
	request.Header = header
	request.SetResponseHandler(a.read)
	return request, nil
}

// mayRetry is asked by retryablehttp after a connection failed, before an answer is read, and after it was judged.
func (a *attempt) mayRetry(ctx context.Context, answer *http.Response, err error) (bool, error) {
	var judged *failure
	deadline, _ := ctx.Deadline()
	switch {
	case err == nil:
		return false, nil // a.read judges it
	case errors.As(err, &judged):
		a.failure = judged
	case !time.Now().Before(deadline):
		a.failure = a.timedOut()
	default:
		a.failure = a.broken(err)
	}
	retry := a.failure.passing() && !a.failure.permanent && time.Now().Add(a.failure.retryAfter).Before(deadline)
	return retry, a.failure
}

// pause is how long to wait before the next try: what the answer asks for, or growing and jittered.
func (a *attempt) pause(least, most time.Duration, try int, _ *http.Response) time.Duration {
	if a.failure.retryAfter > 0 {
		return a.failure.retryAfter
	}
	return retryablehttp.LinearJitterBackoff(least, most, try, nil)
}

// read judges an answer: a nil error means that a.token holds the JWT.
func (a *attempt) read(answer *http.Response) error {
	defer answer.Body.Close()
	a.answered = a.client.now()
	switch status := answer.StatusCode; {
	case status == http.StatusOK:
		return a.readToken(answer)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return a.failuref(failureRefused, "refused the %s with status %s", a.cred.noun(), statusLine(status))
	case status == http.StatusNotFound && a.cred.Version != versionV1: // a bot user's request names no organization
		return a.failuref(failureUnknownOrganization, "does not know the organization %s, status %s", a.cred.OrganizationID, statusLine(status))
	case status == http.StatusTooManyRequests:
		failed := a.failuref(failureRateLimited, "has had too many requests, status %s", statusLine(status))
		failed.retryAfter = a.retryAfter(answer)
		failed.message += ": try again after " + a.client.now().Add(failed.wait()).UTC().Format(time.RFC3339)
		return failed
	case status >= 500:
		failed := a.failuref(failureUpstream, "answered with status %s", statusLine(status))
		failed.retryAfter = a.retryAfter(answer)
		return failed
	case status >= 400:
		return a.failuref(failureRejected, "rejected the request with status %s: %q", statusLine(status), a.excerpt(answer.Body))
	case status >= 300:
		return a.redirected("status " + statusLine(status))
	default:
		return a.failuref(failureUpstream, "sent a malformed answer: status %s where 200 is expected", statusLine(status))
	}
}

// readToken takes the JWT out of an answer with status 200.
func (a *attempt) readToken(answer *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return a.timedOut()
	case err != nil:
		return a.failuref(failureUpstream, "sent a malformed answer: it broke off")
	case len(body) > maxAnswer:
		return a.failuref(failureUpstream, "sent an oversized answer: more than %d bytes", maxAnswer)
	}
	// A map, because a struct's fields would also match names in another case.
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return a.failuref(failureUpstream, "sent a malformed answer: it is no JSON object")
	}
	name := "accessToken"
	if a.cred.Version == versionV1 {
		name = "access_token"
	}
	var jwt string
	if err := json.Unmarshal(fields[name], &jwt); err != nil || !isJWT(jwt) {
		return a.failuref(failureUpstream, "sent a malformed answer: its %s is not a JWT", name)
	}
	return a.accept(jwt, fields["expires_in"], answer.Header.Get("Date"))
}

// accept works out how long a JWT may be used. Of the two clocks the later one counts, so that no lease outlives
// its JWT where Vault's clock is behind; where it is ahead, the lease ends early. Snowplow tells its time to the
// second, so a smaller difference goes unseen.
func (a *attempt) accept(jwt string, expiresIn json.RawMessage, date string) error {
	now := a.client.now()
	took := now.Sub(a.started)
	issuedAt, expiresAt := jwtTimes(jwt)
	theirs := issuedAt
	if sentAt, err := http.ParseTime(date); err == nil && sentAt.After(issuedAt) {
		theirs = sentAt
	}
	latest := now
	switch {
	case expiresAt.IsZero():
		expiresAt = a.started.Add(validityOf(expiresIn)).UTC()
	case theirs.After(a.answered), took >= time.Second:
		// It was cut to the second, and written at any time since the try began: a slow answer hides a difference.
		if bound := theirs.Add(time.Second + took); bound.After(now) {
			latest = bound
		}
	}
	validity := expiresAt.Sub(latest)
	if validity < minValidity && expiresAt.Sub(now) >= minValidity && !theirs.After(a.answered) {
		return a.failuref(failureUpstream, "took %s to answer, too long for a JWT that ends at %s", took.Round(time.Second), expiresAt.Format(time.RFC3339))
	}
	if validity < minValidity {
		failed := a.failuref(failureUpstream, "sent a JWT that had already expired on arrival, at %s, by Vault's clock (%s) or Snowplow's (%s): one of them may be wrong",
			expiresAt.Format(time.RFC3339), now.UTC().Format(time.RFC3339), clockReading(theirs))
		failed.permanent = true
		return failed
	}
	if issuedAt.IsZero() {
		issuedAt = a.started.UTC()
	}
	a.token = token{JWT: jwt, IssuedAt: issuedAt, ExpiresAt: expiresAt, Validity: validity}
	return nil
}

// validityOf is how long a JWT counts as valid that does not say it itself, by the expires_in that comes with those of
// v1 (RFC 6749, section 5.1) if that is shorter.
func validityOf(expiresIn json.RawMessage) time.Duration {
	var seconds float64
	if json.Unmarshal(expiresIn, &seconds) == nil && seconds > 0 && seconds < assumedValidity.Seconds() {
		return time.Duration(seconds * float64(time.Second))
	}
	return assumedValidity
}

func clockReading(at time.Time) string {
	if at.IsZero() {
		return "not told"
	}
	return at.UTC().Format(time.RFC3339)
}

// broken says why no answer came, without what a server or a proxy may have put into the error.
func (a *attempt) broken(err error) *failure {
	var dns *net.DNSError
	var op *net.OpError
	_ = errors.As(err, &op)
	handshake := a.tlsFailed.Swap(nil)
	switch {
	case handshake != nil:
		return a.tlsFailure(*handshake)
	case op != nil && op.Op == "remote error": // an alert after the handshake: a client certificate is asked for
		return a.tlsFailure(op)
	case op != nil && op.Op == "proxyconnect":
		return a.failuref(failureUpstream, "is unreachable through the proxy that the plugin's environment names: %s", op.Err)
	case errors.As(err, &dns):
		return a.failuref(failureUpstream, "is unreachable: its host name cannot be resolved (%s)", dns.Err)
	case op != nil && op.Op == "dial":
		return a.failuref(failureUpstream, "is unreachable: %s", op.Err)
	// net/http has no types for these.
	case strings.Contains(err.Error(), "response headers exceeded"):
		return a.failuref(failureUpstream, "sent an oversized answer: more than %d bytes of header", maxAnswerHeader)
	case strings.Contains(err.Error(), "failed to parse Location header"):
		return a.redirected("to no URL")
	default:
		return a.failuref(failureUpstream, "sent a malformed answer, or broke the connection before it was whole")
	}
}

func (a *attempt) tlsFailure(err error) *failure {
	reason := printable(err.Error(), maxExcerpt)
	if repeatsAny(reason, a.cred.secrets()) { // names in a certificate are the server's to choose
		reason = withheld
	}
	failed := a.failuref(failureUpstream, "failed the TLS handshake: %s; if its certificate is signed by a CA of your own, write that CA's certificate to ca_cert", reason)
	var certificate *tls.CertificateVerificationError
	failed.permanent = errors.As(err, &certificate)
	return failed
}

func (a *attempt) redirected(how string) *failure {
	field, _ := a.to.of(a.cred.Version)
	failed := a.failuref(failureUpstream, "answered with a redirect, %s, which is not followed: check %s", how, field)
	failed.permanent = true
	return failed
}

func (a *attempt) timedOut() *failure {
	return a.failuref(failureTimeout, "has not answered within request_timeout (%s)", a.timeout)
}

// failuref begins with whom the exchange was made with.
func (a *attempt) failuref(kind failureKind, format string, args ...any) *failure {
	_, target := a.to.of(a.cred.Version)
	return &failure{kind: kind, message: "Snowplow Console at " + target + " " + fmt.Sprintf(format, args...)}
}

func (a *attempt) excerpt(body io.Reader) string {
	read, err := io.ReadAll(io.LimitReader(body, maxRefusal))
	return excerpt(string(read), err == nil && len(read) < maxRefusal, maxExcerpt, a.cred.secrets())
}

// retryAfter reads Retry-After (RFC 9110, section 10.2.3): seconds or a date; 0 where it is absent or neither.
func (a *attempt) retryAfter(answer *http.Response) time.Duration {
	value := answer.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(a.client.now()))
	}
	return 0
}

func statusLine(status int) string {
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}
