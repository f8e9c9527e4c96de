package console

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestJWTTimes(t *testing.T) {
	t.Parallel()
	var none time.Time
	longAgo := none.Add(time.Second) // expired as any time before it, and not the zero time, which means absent
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }
	of := func(payload string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".x"
	}
	otherAlphabet := base64.RawStdEncoding.EncodeToString([]byte(`{"x":"???>>>","exp":1700086400}`))
	for jwt, want := range map[string]struct{ issued, expires time.Time }{
		of(`{"iat":1700000000,"exp":1700086400}`):               {at(1700000000), at(1700086400)},
		of(`{"iat":1700000000.9,"exp":1.7000864009e9}`):         {at(1700000000), at(1700086400)},
		of(`{"iat":-1,"exp":0}`):                                {at(-1), at(0)},
		of(`{"iat":"1700000000","exp":1700086400}`):             {none, at(1700086400)},
		of(`{"iat":1700000000,"exp":null}`):                     {at(1700000000), none},
		of(`{"iat":true,"exp":[1700086400]}`):                   {none, none},
		of(`{"iat":1e300,"exp":-1e300}`):                        {none, longAgo},
		of(`{"iat":1e999,"exp":-62135596800}`):                  {none, longAgo},
		of(`{"iat":253402300799,"exp":253402300800}`):           {at(253402300799), none},
		of(`{"exp":1,"exp":1700086400}`):                        {none, at(1700086400)},
		of(`{"EXP":1700086400,"Iat":1700000000}`):               {none, none},
		of(`{"exp":NaN,"iat":1700000000}`):                      {none, none},
		of(`["exp",1700086400]`):                                {none, none},
		of(`{"exp":1700086400,"a":` + strings.Repeat("[", 1e6)): {none, none},
		of("{\"exp\":1700086400,\"x\":\"\xff\"}"):               {none, at(1700086400)},
		"e30." + otherAlphabet + ".x":                           {none, at(1700086400)},
		otherAlphabet + "..":                                    {none, none},
		"e30." + otherAlphabet + "=.x":                          {none, none},
		"":                                                      {none, none},
		"\xff.\xff.\xff":                                        {none, none},
	} {
		issued, expires := jwtTimes(jwt)
		assert.Equal(t, want.issued, issued, "iat of %.80q", jwt)
		assert.Equal(t, want.expires, expires, "exp of %.80q", jwt)
	}
}

func TestIsBearerToken(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"a.b.c":                           true,
		"eyJ.eyJ.-_0":                     true,
		consoletest.MadeUpJWT(`{}`):       true,
		"a.b.c.d.e":                       true, // a JWE
		"opaque~token+with/all-of_it.0==": true,
		"a.b.":                            true, // alg none
		strings.Repeat("x", maxToken):     true,
		strings.Repeat("x", maxToken+1):   false,
		"":                                false,
		"=":                               false,
		"a=b":                             false,
		"a.b.c\n":                         false,
		"a.b.c\r\nX-Evil:":                false,
		"a.b.c\x00":                       false,
		"ä.b.c":                           false,
	} {
		assert.Equal(t, want, isBearerToken(s), "%.60q", s)
	}
}
