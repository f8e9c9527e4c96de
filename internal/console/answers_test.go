package console

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// bubbleNow is when time begins in a bubble of synctest.
var bubbleNow = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC).Unix()

func TestAnswersWithoutAUsableToken(t *testing.T) {
	t.Parallel()
	good := consoletest.MadeUpJWT(fmt.Sprintf(`{"exp":%d}`, bubbleNow+3600))
	claims := func(payload string) string { return `{"accessToken":"` + consoletest.MadeUpJWT(payload) + `"}` }
	noToken := []string{"malformed answer: its accessToken is not a Bearer token"}
	noObject := []string{"malformed answer: it is not a JSON object"}
	expired := []string{"already expired on arrival", "Vault's clock says 2000-01-01T00:00:00Z and Snowplow's 2000-01-01T00:00:00Z", "one of them may be wrong"}
	for _, test := range []struct {
		name, body string
		says       []string
		exchanges  int
	}{
		{"empty", ``, noObject, 0},
		{"HTML", `<html>` + good + `</html>`, noObject, 0},
		{"a list", `["` + good + `"]`, noObject, 0},
		{"null", `null`, noToken, 0},
		{"accessToken in another case", `{"AccessToken":"` + good + `"}`, noToken, 0},
		{"that of v1", `{"access_token":"` + good + `"}`, noToken, 0},
		{"accessToken a number", `{"accessToken":1e300}`, noToken, 0},
		{"accessToken empty", `{"accessToken":""}`, noToken, 0},
		{"accessToken with a header in it", `{"accessToken":"` + good + `\r\nX-Evil: 1"}`, noToken, 0},
		{"accessToken with a raw control character", "{\"accessToken\":\"\x01" + good + "\"}", noObject, 0},
		{"accessToken too long", `{"accessToken":"` + strings.Repeat("x", maxToken+1) + `"}`, noToken, 0},
		{"accessToken twice, the last one bad", `{"accessToken":"` + good + `","accessToken":"\n"}`, noToken, 0},
		{"a token_type that is not Bearer", `{"accessToken":"` + good + `","token_type":"DPoP"}`, []string{"malformed answer: its token_type is not Bearer"}, 0},
		{"trailing garbage", `{"accessToken":"` + good + `"} x`, noObject, 0},
		{"a byte order mark", "\ufeff" + `{"accessToken":"` + good + `"}`, noObject, 0},
		{"deep nesting", strings.Repeat(`{"a":`, 100_000) + strings.Repeat(`}`, 100_000), noObject, 0},
		{"a byte too much", padded(good, maxAnswer+1), []string{"oversized answer: more than 1048576 bytes"}, 0},
		{"exp negative", claims(`{"exp":-1}`), expired, 1},
		{"exp now", claims(`{"exp":946684800}`), expired, 1},
		{"exp within the second", claims(`{"exp":946684800.9}`), expired, 1},
		{"exp in the year 1", claims(`{"exp":-62135596800}`), []string{"already expired on arrival"}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fault{
				answer: consoletest.Status(http.StatusOK, test.body, nil), reason: ReasonUpstream, says: test.says, exchanges: test.exchanges,
			}.inBubble(t)
		})
	}
}

// padded is a good answer of this many bytes.
func padded(jwt string, size int) string {
	body := `{"accessToken":"` + jwt + `","pad":"`
	return body + strings.Repeat("x", size-len(body)-2) + `"}`
}

// What is accepted although it is odd.
func TestOddAnswersThatAreAccepted(t *testing.T) {
	t.Parallel()
	const day, tenYears = 24 * time.Hour, 10 * 365 * 24 * time.Hour
	claims := func(payload string) string { return `{"accessToken":"` + consoletest.MadeUpJWT(payload) + `"}` }
	hour := consoletest.MadeUpJWT(fmt.Sprintf(`{"exp":%d}`, bubbleNow+3600))
	for name, test := range map[string]struct {
		body     string
		validity time.Duration
	}{
		"exp absent":                     {claims(`{}`), day},
		"exp 10 years ahead":             {claims(fmt.Sprintf(`{"exp":%d}`, bubbleNow+int64(tenYears.Seconds()))), tenYears},
		"exp with a fraction":            {claims(fmt.Sprintf(`{"exp":%d.9}`, bubbleNow+3600)), time.Hour},
		"claims nested too deep":         {claims(`{"exp":946688400,"a":` + strings.Repeat(`[`, 11_000)), day},
		"iat in the past":                {claims(`{"iat":1,"exp":946688400}`), time.Hour},
		"iat later than exp, which is 2": {claims(`{"iat":946684800,"exp":946684802}`), 2 * time.Second},
		"accessToken twice":              {`{"accessToken":"\n","accessToken":"` + hour + `"}`, time.Hour},
		"accessToken in two cases":       {`{"accessToken":"` + hour + `","AccessToken":"\n"}`, time.Hour},
		"token_type in another case":     {`{"accessToken":"` + hour + `","token_type":"bearer"}`, time.Hour},
		"white space around":             {"\r\n\t " + `{"accessToken":"` + hour + `"}` + "\n\n", time.Hour},
		"invalid UTF-8 elsewhere":        {"{\"x\":\"\xff\xfe\",\"accessToken\":\"" + hour + "\"}", time.Hour},
		"as large as may be":             {padded(hour, maxAnswer), time.Hour},
		"expires_in beside an exp":       {`{"expires_in":1,"accessToken":"` + hour + `"}`, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				u := consoletest.OnPipes(t)
				u.FailNext(1, consoletest.Status(http.StatusOK, test.body, nil))
				token, err := exchangeWith(t, u, V3)
				require.NoError(t, err)
				assert.Contains(t, test.body, token.Bearer.Reveal())
				assert.Equal(t, test.validity, token.Validity)
				assert.Equal(t, time.Now().Add(test.validity).UTC(), token.ExpiresAt)
				assert.True(t, time.Now().Equal(token.ObtainedAt))
				assert.False(t, token.IssuedAt.IsZero())
			})
		})
	}
}

func TestValidityOfATokenOfV1WithoutExp(t *testing.T) {
	t.Parallel()
	for expiresIn, want := range map[string]time.Duration{
		"3600":   time.Hour,
		"1.5":    1500 * time.Millisecond,
		"86400":  24 * time.Hour,
		"864000": 24 * time.Hour,
		"0":      24 * time.Hour,
		"-1":     24 * time.Hour,
		"null":   24 * time.Hour,
		`"3600"`: 24 * time.Hour,
	} {
		synctest.Test(t, func(t *testing.T) {
			u := consoletest.OnPipes(t)
			u.FailNext(1, consoletest.Status(http.StatusOK, `{"access_token":"opaque","token_type":"Bearer","expires_in":`+expiresIn+`}`, nil))
			token, err := exchangeWith(t, u, V1)
			require.NoError(t, err)
			assert.Equal(t, want, token.Validity, expiresIn)
		})
	}
}

// The times in an answer are those of its beginning: a slow one hides a difference between the clocks.
func TestNoLeaseOutlivesItsJWTBySnowplowsClock(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{ // Snowplow's clock before Vault's
		0, time.Second, time.Minute, time.Hour, 48 * time.Hour,
		500 * time.Millisecond, 999 * time.Millisecond, 1500 * time.Millisecond, time.Hour - time.Millisecond, 10 * time.Second,
		-time.Second, -time.Minute, -time.Hour, -500 * time.Millisecond, -999 * time.Millisecond,
	} {
		for _, fraction := range []time.Duration{0, 500 * time.Millisecond, 999 * time.Millisecond} {
			for name, takes := range map[string]struct{ header, body time.Duration }{
				"at once": {}, "slowly": {header: 20 * time.Second}, "with a slow body": {body: 20 * time.Second},
			} {
				t.Run(fmt.Sprintf("Snowplow %s ahead at %s, %s", ahead, fraction, name), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						time.Sleep(fraction) // so that Vault's clock does not stand on a whole second
						u := consoletest.OnPipes(t)
						snowplows := func() time.Time { return time.Now().Add(ahead) }
						u.SetNow(snowplows)
						expires := snowplows().Add(consoletest.DefaultValidity).Truncate(time.Second)
						u.FailNext(1, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
							jwt := u.Mint(map[string]any{"iat": snowplows().Unix(), "exp": expires.Unix()})
							time.Sleep(takes.header)
							_ = http.NewResponseController(w).Flush()
							time.Sleep(takes.body)
							_, _ = io.WriteString(w, `{"accessToken":"`+jwt+`"}`)
						}))
						token, err := exchangeWith(t, u, V3)
						require.NoError(t, err)
						lease, left := token.Validity.Truncate(time.Second), expires.Sub(snowplows())
						assert.Less(t, lease, left+time.Second, "the lease outlives the JWT")
						if ahead >= time.Second { // Snowplow's times are cut to the second, so a smaller difference does not show
							assert.LessOrEqual(t, lease, left, "the lease outlives the JWT")
						}
						assert.GreaterOrEqual(t, lease, left-max(0, -ahead)-takes.header-takes.body-2*time.Second, "the lease is needlessly short")
					})
				})
			}
		}
	}
}

func TestAJWTThatHasExpiredByVaultsClockNamesBothClocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := consoletest.OnPipes(t)
		u.SetNow(func() time.Time { return time.Now().Add(-48 * time.Hour) })
		_, err := exchangeWith(t, u, V3)
		assert.Equal(t, ReasonUpstream, requireFailed(t, err).Reason)
		assert.ErrorContains(t, err, "expires at 1999-12-31T00:00:00Z")
		assert.ErrorContains(t, err, "Vault's clock says 2000-01-01T00:00:00Z and Snowplow's 1999-12-30T00:00:00Z")
		assert.ErrorContains(t, err, "one of them may be wrong")
		assert.Equal(t, 1, u.Exchanges(), "another JWT would be no better")
	})
}

func TestAClockThatSnowplowDoesNotTellIsNotMadeUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := consoletest.OnPipes(t)
		u.FailAlways(said(okHeader + "\r\n" + `{"accessToken":"` + consoletest.MadeUpJWT(`{"exp":1}`) + `"}`)) // neither iat nor Date
		_, err := exchangeWith(t, u, V3)
		requireFailed(t, err)
		assert.ErrorContains(t, err, "Vault's clock says 2000-01-01T00:00:00Z and Snowplow's nothing")
	})
}

func TestASlowAnswerWithAShortJWTIsNotBlamedOnTheClocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := consoletest.OnPipes(t)
		u.SetValidity(3 * time.Second)
		u.SetDelay(3 * time.Second)
		request := exchangeAt(u.URL, V3)
		_, err := newClient(t, "", u.Dial).Exchange(t.Context(), request)
		requireFailed(t, err)
		assert.ErrorContains(t, err, "took 3s to answer")
		assert.NotContains(t, err.Error(), "clock")
		assert.Equal(t, allTries, u.Exchanges(), "the next answer may be quicker")
	})
}
