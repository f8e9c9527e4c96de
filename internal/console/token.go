package console

import (
	"regexp"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

// Token is what an exchange returns: a JWT, or whatever Snowplow uses in its place.
type Token struct {
	Bearer    redact.Secret `json:"bearer"`
	IssuedAt  time.Time     `json:"issued_at"`  // by Snowplow's clock
	ExpiresAt time.Time     `json:"expires_at"` // by Snowplow's clock
	Validity  time.Duration `json:"validity"`   // counted from ObtainedAt, whatever Snowplow's clock says
	// ObtainedAt is when the answer was judged, by Vault's clock.
	ObtainedAt time.Time `json:"obtained_at"`
}

// MinValidity is the shortest lease that Vault can give: it counts in seconds.
const MinValidity = time.Second

// assumedValidity is assumed for a token without a readable exp claim; see
// https://docs.snowplow.io/docs/account-management/managing-console-api-authentication/
const assumedValidity = 24 * time.Hour

const maxToken = 16 << 10 // bytes

// b64token is what a Bearer token may consist of (RFC 6750, section 2.1): nothing in it can break a header or a file.
var b64token = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

func isBearerToken(s string) bool { return len(s) <= maxToken && b64token.MatchString(s) }

// Age returns the time since the exchange, by the clock that has run further: the monotonic one stands still while a
// machine sleeps, and the other one can be set back.
func (t Token) Age(now time.Time) time.Duration {
	return max(0, now.Sub(t.ObtainedAt), now.Round(0).Sub(t.ObtainedAt.Round(0)))
}

// Remaining returns how long the token is valid from now on.
func (t Token) Remaining(now time.Time) time.Duration { return t.Validity - t.Age(now) }
