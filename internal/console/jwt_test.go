package console

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/faulttest"
)

func TestJWTTimes(t *testing.T) {
	t.Parallel()
	var none time.Time
	longAgo := none.Add(time.Second) // as long over as any time before it, and not the zero time, which means absent
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }
	for payload, want := range map[string]struct{ issued, expires time.Time }{
		`{"iat":1700000000,"exp":1700086400}`: {at(1700000000), at(1700086400)},
		`{"exp":1700086400}`:                  {none, at(1700086400)},
		`{"iat":1700000000}`:                  {at(1700000000), none},
		`{}`:                                  {none, none},
		`{"iat":1700000000.9,"exp":1700086400.9}`:           {at(1700000000), at(1700086400)},
		`{"iat":1.7e9,"exp":1.7000864e9}`:                   {at(1700000000), at(1700086400)},
		`{"iat":0,"exp":0}`:                                 {at(0), at(0)},
		`{"iat":-1,"exp":-86400}`:                           {at(-1), at(-86400)},
		`{"iat":"1700000000","exp":1700086400}`:             {none, at(1700086400)},
		`{"iat":1700000000,"exp":"1700086400"}`:             {at(1700000000), none},
		`{"iat":null,"exp":null}`:                           {none, none},
		`{"iat":true,"exp":[1700086400]}`:                   {none, none},
		`{"iat":{},"exp":1700086400}`:                       {none, at(1700086400)},
		`{"iat":1e300,"exp":-1e300}`:                        {none, longAgo},
		`{"exp":-62135596800}`:                              {none, longAgo},
		`{"iat":1e999,"exp":1700086400}`:                    {none, at(1700086400)},
		`{"iat":253402300799,"exp":253402300800}`:           {at(253402300799), none},
		`{"exp":1,"exp":1700086400}`:                        {none, at(1700086400)},
		`{"EXP":1700086400,"Iat":1700000000}`:               {none, none},
		`{"exp":NaN,"iat":1700000000}`:                      {none, none},
		`{"exp":1700086400} trailing`:                       {none, none},
		`["exp",1700086400]`:                                {none, none},
		`1700086400`:                                        {none, none},
		`null`:                                              {none, none},
		``:                                                  {none, none},
		`{"exp":1700086400`:                                 {none, none},
		`{"exp":1700086400,"a":` + strings.Repeat("[", 1e6): {none, none},
		"{\"exp\":1700086400,\"x\":\"\xff\"}":               {none, at(1700086400)},
	} {
		name := payload[:min(len(payload), 60)]
		issued, expires := jwtTimes("e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".x")
		assert.Equal(t, want.issued, issued, "iat of %s", name)
		assert.Equal(t, want.expires, expires, "exp of %s", name)
	}
}

func TestJWTTimesOfWhatIsNoJWT(t *testing.T) {
	t.Parallel()
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"iat":1,"exp":1}`))
	for _, jwt := range []string{
		"", ".", "..", "...", claims, claims + "..", "." + "!" + claims + ".", "e30.====.x", "e30." + claims + "=.x",
		"e30.\x00.x", "\xff.\xff.\xff",
	} {
		issued, expires := jwtTimes(jwt)
		assert.Zero(t, issued, "%q", jwt)
		assert.Zero(t, expires, "%q", jwt)
	}
}

func TestJWTTimesInBase64sOtherAlphabet(t *testing.T) {
	t.Parallel()
	claims := base64.RawStdEncoding.EncodeToString([]byte(`{"x":"???>>>","iat":1700000000,"exp":1700086400}`))
	assert.Contains(t, claims, "/")
	_, expires := jwtTimes("e30." + claims + ".x")
	assert.EqualValues(t, 1700086400, expires.Unix())
}

func TestIsBearerToken(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"a.b.c":                           true,
		"eyJ.eyJ.-_0":                     true,
		faulttest.MadeUpJWT(`{}`):         true,
		"a":                               true,
		"a.b.c.d.e":                       true, // a JWE
		"opaque~token+with/all-of_it.0==": true,
		"a.b.":                            true, // alg none
		strings.Repeat("x", maxToken):     true,
		strings.Repeat("x", maxToken+1):   false,
		"":                                false,
		"=":                               false,
		"a=b":                             false,
		"a.b.c\n":                         false,
		"\na.b.c":                         false,
		"a.b\n.c":                         false,
		"a.b.c\r\nX-Evil:":                false,
		"a.b.c\x00":                       false,
		"a.b.c ":                          false,
		"Bearer a.b.c":                    false,
		"a\"b":                            false,
		"a.b.c\u2028":                     false,
		"ä.b.c":                           false,
		"a.b.\xff":                        false,
	} {
		assert.Equal(t, want, isBearerToken(s), "%.60q", s)
	}
}
