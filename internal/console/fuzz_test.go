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

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// FuzzAnswer reads an answer as the bytes of a connection. Whatever comes, it is a token that can be leased, or an
// error that holds neither a secret nor anything unprintable.
func FuzzAnswer(f *testing.F) {
	madeUp := consoletest.MadeUpJWT
	for _, jwt := range []string{
		madeUp(`{}`), madeUp(`{"exp":"soon"}`), madeUp(`{"exp":-1}`), madeUp(`{"exp":1e300}`), madeUp(`{"iat":946684800,"exp":946771200}`),
		madeUp(`{"exp":946684801,"iat":946684801}`), madeUp(strings.Repeat("[", 20000)), "", "a.b", "a.b.c", `a.b.c\n`, `\u0000`, "\xff",
	} {
		f.Add(V3, fmt.Sprintf("%s\r\n{\"accessToken\":\"%s\"}", okHeader, jwt))
		f.Add(V3, okHeader+"Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n\r\n{\"accessToken\":\""+jwt+"\"}")
	}
	for _, expiresIn := range []string{"86400", "0.5", "-1", "1e300", `"3600"`, "null"} {
		f.Add(V1, fmt.Sprintf("%s\r\n{\"access_token\":\"a.b.c\",\"expires_in\":%s}", okHeader, expiresIn))
	}
	for _, body := range []string{
		``, `null`, `[]`, `{"accessToken":1}`, `{"accessToken":"a.b.c"}x`, consoletest.CanaryKey,
		`{"message":` + strconv.Quote(consoletest.CanaryKey) + `}`, `{"detail":"` + url.QueryEscape(consoletest.CanaryPassword) + `"}`,
	} {
		for _, status := range []string{"200 OK", "400 Bad Request", "401 Unauthorized", "404 Not Found", "418 " + consoletest.CanaryKey, "500 Oops", "302 Found", "999 x"} {
			f.Add(V3, "HTTP/1.1 "+status+"\r\nLocation: http://x/"+consoletest.CanaryKey+"\r\n\r\n"+body)
		}
	}
	for _, retryAfter := range []string{"1", "-1", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", consoletest.CanaryKey} {
		f.Add(V2, "HTTP/1.1 429 x\r\nRetry-After: "+retryAfter+"\r\n\r\n")
	}
	f.Add(V3, okHeader+"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"acc\r\nZZ\r\n")

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
				for _, at := range []time.Time{token.IssuedAt, token.ExpiresAt} {
					_, err := at.MarshalJSON()
					assert.NoError(t, err, "a time that storage cannot hold")
				}
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
