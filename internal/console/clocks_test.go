package console

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

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
