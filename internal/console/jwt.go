package console

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// What Go takes for no time, and what RFC 3339 cannot write, is out of these bounds: the years 1 to 9999.
const (
	minNumericDate = -62135596799
	maxNumericDate = 253402300799
)

// jwtTimes reads the iat and exp claims of a JWT (RFC 7519, section 4.1). It returns the zero time for a claim that is
// absent or no NumericDate. The signature is Snowplow's business: TLS vouches for who sent the JWT.
func jwtTimes(jwt string) (issuedAt, expiresAt time.Time) {
	_, rest, _ := strings.Cut(jwt, ".")
	payload, _, _ := strings.Cut(rest, ".")
	// An encoder that took base64's other alphabet must not cost the reader the expiry.
	decoded, err := base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_").Replace(payload))
	if err != nil {
		return time.Time{}, time.Time{}
	}
	var claims map[string]json.RawMessage
	if err := json.Unmarshal(decoded, &claims); err != nil {
		return time.Time{}, time.Time{}
	}
	return numericDate(claims["iat"]), numericDate(claims["exp"])
}

// numericDate reads seconds since 1970, fractions allowed. The two claims are read one by one, so that a bad one
// does not take the other with it.
func numericDate(raw json.RawMessage) time.Time {
	var seconds *float64
	if err := json.Unmarshal(raw, &seconds); err != nil || seconds == nil {
		return time.Time{}
	}
	if *seconds > maxNumericDate {
		return time.Time{}
	}
	// Before the year 1 is as long over as the year 1.
	return time.Unix(int64(max(*seconds, minNumericDate)), 0).UTC()
}
