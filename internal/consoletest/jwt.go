package consoletest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// issuer names the fake in its JWTs, so that none passes for a real one.
const issuer = "consoletest"

// SetClaims lets edit change the claims of every exchanged JWT before it is
// signed. Nil ends that.
func (c *Console) SetClaims(edit func(claims map[string]any)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.editClaims = edit
}

// Mint returns a JWT with exactly these claims, signed by this Console. It
// panics if they cannot be written as JSON.
func (c *Console) Mint(claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(fmt.Errorf("consoletest: claims: %w", err))
	}
	signed := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(payload)
	return signed + "." + encode(c.sign(signed))
}

// Issued returns which API key or, for v1, which username a JWT was exchanged
// for. It is not ok if this Console did not sign the JWT.
func (c *Console) Issued(jwt string) (keyID string, ok bool) {
	claims, ok := c.verify(jwt)
	keyID, _ = claims["sub"].(string)
	return keyID, ok
}

// issue returns the JWT of an exchange and how long it is valid.
func (c *Console) issue(subject, organizationID string) (string, time.Duration) {
	c.mu.Lock()
	validity, edit := c.validity, c.editClaims
	c.mu.Unlock()

	now := c.clock()
	claims := map[string]any{
		"iss": issuer,
		"sub": subject,
		"org": organizationID,
		"iat": now.Unix(),
		"exp": now.Add(validity).Unix(),
		"jti": rand.Text(),
	}
	if edit != nil {
		edit(claims)
	}
	return c.Mint(claims), validity
}

// authorized returns the claims of the Bearer JWT, if it is ours and unexpired.
func (c *Console) authorized(r *http.Request) (map[string]any, bool) {
	jwt, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil, false
	}
	claims, ok := c.verify(jwt)
	exp, isNumber := claims["exp"].(float64)
	return claims, ok && isNumber && c.clock().Before(time.Unix(int64(exp), 0))
}

func (c *Console) verify(jwt string) (map[string]any, bool) {
	dot := strings.LastIndexByte(jwt, '.')
	if dot < 0 {
		return nil, false
	}
	signature, err := base64.RawURLEncoding.DecodeString(jwt[dot+1:])
	if err != nil || !hmac.Equal(signature, c.sign(jwt[:dot])) {
		return nil, false
	}
	_, part, _ := strings.Cut(jwt[:dot], ".")
	payload, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return nil, false
	}
	var claims map[string]any
	err = json.Unmarshal(payload, &claims)
	return claims, err == nil
}

func (c *Console) sign(signed string) []byte {
	mac := hmac.New(sha256.New, c.signingKey)
	mac.Write([]byte(signed))
	return mac.Sum(nil)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
