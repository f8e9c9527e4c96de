package console

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

const (
	maxAnswer     = 1 << 20         // bytes read of an answer: a JWT has a few kilobytes
	maxRefusal    = 64 << 10        // bytes read of an answer that is shown in part
	maxExcerpt    = 200             // characters shown of a refusal
	maxRetryAfter = 5 * time.Minute // how long a server may ask not to be asked again
)

// judge returns the token of an answer, or what the answer means instead.
func (e *exchange) judge(answer *http.Response) (Token, *Error) {
	if answer.StatusCode == http.StatusOK {
		return e.readToken(answer)
	}
	failed := e.refusal(answer)
	failed.RetryAfter = retryAfter(answer)
	return Token{}, failed
}

// refusal says what an answer other than 200 means.
func (e *exchange) refusal(answer *http.Response) *Error {
	code, line := answer.StatusCode, statusLine(answer.StatusCode)
	switch {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return e.errorf(ReasonRefused, "refused the %s with status %s", e.Credential.KeyName(), line)
	case code == http.StatusNotFound && e.Credential.Version != V1: // a bot user's request names no organization
		return e.errorf(ReasonUnknownOrganization, "does not know the organization %s (status %s)", e.Credential.OrganizationID, line)
	case code == http.StatusTooManyRequests:
		return e.errorf(ReasonRateLimited, "is rate-limiting requests (status %s)", line)
	case code >= 500:
		return e.errorf(ReasonUpstream, "answered with status %s", line)
	case code >= 400:
		return e.errorf(ReasonRejected, "rejected the request with status %s%s", line, e.excerpt(answer.Body))
	case code >= 300:
		return e.redirected("status " + line)
	default:
		return e.errorf(ReasonUpstream, "sent a malformed answer: status %s instead of 200", line)
	}
}

// readToken takes the token out of an answer with status 200.
func (e *exchange) readToken(answer *http.Response) (Token, *Error) {
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Token{}, e.timedOut()
	case err != nil:
		return Token{}, e.errorf(ReasonUpstream, "sent a malformed answer: it ended early")
	case len(body) > maxAnswer:
		return Token{}, e.errorf(ReasonUpstream, "sent an oversized answer: more than %d bytes", maxAnswer)
	}
	// A map, because a struct's fields would also match names in another case.
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return Token{}, e.errorf(ReasonUpstream, "sent a malformed answer: it is not a JSON object")
	}
	name := "accessToken"
	if e.Credential.Version == V1 {
		name = "access_token"
	}
	var bearer, kind string
	if err := json.Unmarshal(fields[name], &bearer); err != nil || !isBearerToken(bearer) {
		return Token{}, e.errorf(ReasonUpstream, "sent a malformed answer: its %s is not a Bearer token", name)
	}
	if json.Unmarshal(fields["token_type"], &kind) == nil && kind != "" && !strings.EqualFold(kind, "Bearer") {
		return Token{}, e.errorf(ReasonUpstream, "sent a malformed answer: its token_type is not Bearer")
	}
	return e.accept(bearer, fields["expires_in"], answer.Header.Get("Date"))
}

// accept works out how long a token may be used. Of Vault's clock and Snowplow's the later one counts, so that no lease
// outlives its token where Vault's is behind; where Vault's is ahead, the lease ends early.
func (e *exchange) accept(bearer string, expiresIn json.RawMessage, date string) (Token, *Error) {
	now := time.Now()
	took := now.Sub(e.started)
	issuedAt, expiresAt := jwtTimes(bearer)
	theirs := issuedAt
	if sentAt, err := http.ParseTime(date); err == nil && sentAt.After(issuedAt) {
		theirs = sentAt
	}
	latest := now
	switch {
	case expiresAt.IsZero():
		expiresAt = e.started.Add(validityOf(expiresIn)).UTC()
	case theirs.After(e.answered), took >= time.Second:
		// Their time has whole seconds and may have been set any time during the request, so allow for both.
		if bound := theirs.Add(time.Second + took); bound.After(now) {
			latest = bound
		}
	}
	validity := expiresAt.Sub(latest)
	if validity < MinValidity && expiresAt.Sub(now) >= MinValidity && !theirs.After(e.answered) {
		return Token{}, e.errorf(ReasonUpstream, "took %s to answer, too long for a JWT that expires at %s", took.Round(time.Second), expiresAt.Format(time.RFC3339))
	}
	if validity < MinValidity {
		failed := e.errorf(ReasonUpstream, "sent a JWT that had already expired on arrival: it expires at %s, Vault's clock says %s and Snowplow's %s, so one of them may be wrong",
			expiresAt.Format(time.RFC3339), now.UTC().Format(time.RFC3339), clockReading(theirs))
		failed.permanent = true
		return Token{}, failed
	}
	if issuedAt.IsZero() {
		issuedAt = e.started.UTC()
	}
	return Token{Bearer: redact.NewSecret(bearer), IssuedAt: issuedAt, ExpiresAt: expiresAt, Validity: validity, ObtainedAt: now}, nil
}

// validityOf returns the validity assumed for a token without a readable exp claim: the expires_in that comes with
// those of v1 (RFC 6749, section 5.1), or assumedValidity if that is shorter.
func validityOf(expiresIn json.RawMessage) time.Duration {
	var seconds float64
	if json.Unmarshal(expiresIn, &seconds) == nil && seconds > 0 && seconds < assumedValidity.Seconds() {
		return time.Duration(seconds * float64(time.Second))
	}
	return assumedValidity
}

func clockReading(at time.Time) string {
	if at.IsZero() {
		return "nothing"
	}
	return at.UTC().Format(time.RFC3339)
}

// excerpt returns what may be shown of the body of a refusal: the text of the members in which APIs explain
// themselves, filtered and cut. It begins with a colon, or is empty if there is nothing to show.
func (e *exchange) excerpt(body io.Reader) string {
	read, err := io.ReadAll(io.LimitReader(body, maxRefusal))
	var members map[string]json.RawMessage
	if err != nil || json.Unmarshal(read, &members) != nil {
		return ""
	}
	var texts []string
	for _, name := range []string{"message", "error", "error_description", "title", "detail"} {
		var text string
		if json.Unmarshal(members[name], &text) == nil && text != "" {
			texts = append(texts, text)
		}
	}
	if len(texts) == 0 {
		return ""
	}
	return ": " + strconv.Quote(redact.Excerpt(strings.Join(texts, "; "), maxExcerpt, e.Credential.secrets()))
}

// retryAfter reads Retry-After (RFC 9110, section 10.2.3): seconds or a date; 0 if it is absent or neither,
// maxRetryAfter if it is more.
func retryAfter(answer *http.Response) time.Duration {
	value := answer.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(0, time.Until(at)), maxRetryAfter)
	}
	return 0
}

func statusLine(status int) string {
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}
