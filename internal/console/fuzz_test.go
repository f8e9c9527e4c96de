package console

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/faulttest"
)

// FuzzAnswer reads an answer as the bytes of a connection. Whatever comes, it is a token that can be leased, or an
// error that holds neither a secret nor anything unprintable.
func FuzzAnswer(f *testing.F) {
	madeUp := faulttest.MadeUpJWT
	jwts := []string{
		madeUp(`{}`), madeUp(`{"exp":"soon"}`), madeUp(`{"exp":-1}`), madeUp(`{"exp":1e300}`), madeUp(`{"exp":NaN}`),
		madeUp(`{"iat":946684800,"exp":946771200}`), madeUp(`{"exp":1262044800}`), madeUp(`{"exp":946684801,"iat":946684801}`),
		"", "a.b", "a.b.c", `a.b.c\n`, `\u0000`, "\xff",
	}
	for _, jwt := range jwts {
		f.Add(V3, fmt.Sprintf("%s\r\n{\"accessToken\":\"%s\"}", okHeader, jwt))
		f.Add(V1, fmt.Sprintf("%s\r\n{\"access_token\":\"%s\",\"expires_in\":86400}", okHeader, jwt))
	}
	for _, expiresIn := range []string{"1", "0", "0.5", "-1", "1e300", `"3600"`, "null", "86399.9"} {
		f.Add(V1, fmt.Sprintf("%s\r\n{\"access_token\":\"a.b.c\",\"expires_in\":%s}", okHeader, expiresIn))
	}
	for _, body := range []string{
		``, `null`, `[]`, `{}`, `{"accessToken":null}`, `{"accessToken":1}`, `{"accessToken":"a.b.c","accessToken":"x"}`, `{"accessToken":"a.b.c"}x`,
		strings.Repeat("[", 20000), faulttest.CanaryKey, `{"message":` + strconv.Quote(faulttest.CanaryKey) + `}`, `{"detail":"` + url.QueryEscape(faulttest.CanaryPassword) + `"}`,
	} {
		for _, status := range []string{"200 OK", "400 Bad Request", "401 Unauthorized", "404 Not Found", "418 " + faulttest.CanaryKey, "500 Oops", "302 Found", "204 No Content", "999 x"} {
			f.Add(V3, "HTTP/1.1 "+status+"\r\nLocation: http://x/"+faulttest.CanaryKey+"\r\n\r\n"+body)
		}
	}
	for _, retryAfter := range []string{"1", "-1", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", faulttest.CanaryKey} {
		f.Add(V2, "HTTP/1.1 429 x\r\nRetry-After: "+retryAfter+"\r\n\r\n")
	}
	for _, date := range []string{"Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "now"} {
		f.Add(V3, okHeader+"Date: "+date+"\r\n\r\n{\"accessToken\":\""+madeUp(`{"iat":946684800,"exp":946771200}`)+"\"}")
	}
	f.Add(V3, okHeader+"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"acc\r\nZZ\r\n")
	f.Add(V3, okHeader+"Content-Length: 9\r\n\r\n{}")

	f.Fuzz(func(t *testing.T, version, raw string) {
		if !slices.Contains(Versions, version) {
			version = V3
		}
		answer, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), &http.Request{Method: http.MethodGet})
		if err != nil {
			return
		}
		cred := canaryCredential(version)
		synctest.Test(t, func(t *testing.T) { // a clock that stands still
			now := time.Now()
			e := &exchange{Request: Request{
				Credential: cred, Timeout: time.Second,
				Endpoints: Endpoints{ConsoleURL: "https://console.example.com", AuthURL: "https://id.example.com"},
			}, started: now, answered: now}
			token, failed := e.judge(answer)
			if failed == nil {
				assert.True(t, isBearerToken(token.Bearer.Reveal()), "%q", token.Bearer.Reveal())
				assert.GreaterOrEqual(t, token.Validity, MinValidity)
				assert.False(t, token.ExpiresAt.Before(now.Add(token.Validity)) && token.Validity < 290*365*24*time.Hour, "valid beyond its expiry")
				assert.NotContains(t, fmt.Sprintf("%v %+v %#v", token, token, token), `"`+token.Bearer.Reveal()+`"`)
				return
			}
			assert.Contains(t, Reasons, failed.Reason)
			assert.GreaterOrEqual(t, failed.RetryAfter, time.Duration(0))
			assert.LessOrEqual(t, failed.RetryAfter, maxRetryAfter)
			message := failed.Error()
			assert.Less(t, len(message), 5000)
			for _, r := range message {
				assert.True(t, strconv.IsPrint(r), "%q in %q", r, message)
			}
			for _, secret := range cred.secrets() {
				quoted := strconv.Quote(secret)
				assert.NotContains(t, message, secret)
				assert.NotContains(t, message, quoted[1:len(quoted)-1])
			}
		})
	})
}

// FuzzJWT reads the claims of whatever passes for a JWT. A time that comes back can be written as RFC 3339.
func FuzzJWT(f *testing.F) {
	for _, payload := range []string{
		`{}`, `null`, `[]`, `1`, ``, `{"exp":null}`, `{"exp":"1"}`, `{"exp":-1}`, `{"exp":1}`, `{"exp":1e300}`, `{"exp":-1e300}`, `{"exp":1e999}`,
		`{"exp":NaN}`, `{"exp":2015360000}`, `{"exp":253402300799,"iat":0}`, `{"exp":253402300800}`, `{"exp":1.5,"iat":0.1}`, `{"exp":{}}`,
		`{"exp":1,"exp":2}`, `{"exp":1}x`, `{"iat":-99999999999}`, `{"iat":1700000000,"exp":1700086400}`, "{\"x\":\"\xff\"}", strings.Repeat("[", 20000),
	} {
		f.Add([]byte(payload), "")
	}
	for _, jwt := range []string{"", ".", "..", "a.b", "a.b.c", "a.b.c.d", "a.=.c", "a.\n.c", "e30.e30.", "e30.e30.\xff"} {
		f.Add([]byte(nil), jwt)
	}
	f.Fuzz(func(t *testing.T, payload []byte, jwt string) {
		if jwt == "" {
			jwt = faulttest.MadeUpJWT(string(payload))
			require.Equal(t, len(jwt) <= maxToken, isBearerToken(jwt))
		}
		if isBearerToken(jwt) {
			assert.Empty(t, strings.Trim(jwt, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~+/="))
		}
		issued, expires := jwtTimes(jwt)
		for _, at := range []time.Time{issued, expires} {
			if at.IsZero() {
				continue
			}
			assert.LessOrEqual(t, at.Unix(), int64(maxNumericDate))
			assert.GreaterOrEqual(t, at.Unix(), -int64(maxNumericDate))
			text := at.Format(time.RFC3339)
			again, err := time.Parse(time.RFC3339, text)
			assert.NoError(t, err, text)
			assert.True(t, at.Equal(again), text)
		}
	})
}
