package console

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// Bounds of time.Time formatted as RFC 3339: the years 1 to 9999.
const (
	minNumericDate = -62135596799
	maxNumericDate = 253402300799
)

// jwtTimes reads the iat and exp claims of a JWT (RFC 7519, section 4.1). It returns the zero time for a claim that is
// absent or no NumericDate. The signature is not checked: TLS vouches for the sender.
func jwtTimes(jwt string) (issuedAt, expiresAt time.Time) {
	_, rest, _ := strings.Cut(jwt, ".")
	payload, _, _ := strings.Cut(rest, ".")
	// Accept base64's other alphabet as well, rather than lose the expiry.
	decoded, err := base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_").Replace(payload))
	var claims map[string]json.RawMessage
	if err != nil || json.Unmarshal(decoded, &claims) != nil {
		return time.Time{}, time.Time{}
	}
	return numericDate(claims["iat"]), numericDate(claims["exp"])
}

// numericDate reads seconds since 1970, which may have a fraction.
func numericDate(raw json.RawMessage) time.Time {
	var seconds *float64
	if err := json.Unmarshal(raw, &seconds); err != nil || seconds == nil || *seconds > maxNumericDate {
		return time.Time{}
	}
	// Clamp: anything earlier has expired, too.
	return time.Unix(int64(max(*seconds, minNumericDate)), 0).UTC()
}
