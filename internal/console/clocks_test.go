package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/faulttest"
)

func TestNoTokenIsValidLongerThanSnowplowsClockSays(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{ // Snowplow's clock before Vault's
		0, time.Second, time.Minute, time.Hour, 48 * time.Hour,
		500 * time.Millisecond, 999 * time.Millisecond, 1500 * time.Millisecond, time.Hour - time.Millisecond,
		-time.Second, -time.Minute, -time.Hour, -500 * time.Millisecond, -999 * time.Millisecond,
	} {
		for _, fraction := range []time.Duration{0, time.Millisecond, 500 * time.Millisecond, 999 * time.Millisecond} {
			t.Run(fmt.Sprintf("Snowplow %s ahead at %s", ahead, fraction), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					time.Sleep(fraction) // so that Vault's clock does not stand on a whole second
					u := faulttest.OnPipes(t)
					u.SetNow(func() time.Time { return time.Now().Add(ahead) })
					token, err := exchangeWith(t, u, V3)
					require.NoError(t, err)
					lease := token.Validity.Truncate(time.Second)
					issued := time.Now().Add(ahead).Truncate(time.Second)
					left := issued.Add(consoletest.DefaultValidity).Sub(time.Now().Add(ahead))
					// Both of Snowplow's times are cut to the second: what is below one cannot be known.
					assert.Less(t, lease, left+time.Second, "the lease outlives the JWT")
					assert.GreaterOrEqual(t, lease, left-max(0, -ahead)-2*time.Second, "the lease is needlessly short")
				})
			})
		}
	}
}

// The clocks in the answer are those of when it was begun, not of when it came.
func TestClocksWithAnAnswerThatTakesItsTime(t *testing.T) {
	t.Parallel()
	const takes = 20 * time.Second
	for _, ahead := range []time.Duration{0, 10 * time.Second, time.Minute, time.Hour, -10 * time.Second, -time.Hour} {
		for _, version := range []string{V3, V1} {
			for name, headerFirst := range map[string]bool{"nothing": false, "the header": true} {
				t.Run(fmt.Sprintf("Snowplow %s ahead with %s, %s at once", ahead, version, name), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						u := faulttest.OnPipes(t)
						u.SetNow(func() time.Time { return time.Now().Add(ahead) })
						expires := time.Now().Add(ahead).Add(consoletest.DefaultValidity)
						u.FailNext(1, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
							jwt := u.Mint(map[string]any{"iat": time.Now().Add(ahead).Unix(), "exp": expires.Unix()})
							body, _ := json.Marshal(map[string]any{"accessToken": jwt, "access_token": jwt, "expires_in": 86400})
							if headerFirst {
								_ = http.NewResponseController(w).Flush()
							}
							time.Sleep(takes)
							_, _ = w.Write(body)
						}))
						token, err := exchangeWith(t, u, version)
						require.NoError(t, err)
						lease := token.Validity.Truncate(time.Second)
						assert.Less(t, lease, expires.Sub(time.Now().Add(ahead))+time.Second, "the lease outlives the JWT")
					})
				})
			}
		}
	}
}

func TestAJWTThatHasExpiredByVaultsClockNamesBothClocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := faulttest.OnPipes(t)
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
		u := faulttest.OnPipes(t)
		u.FailAlways(said(okHeader + "\r\n" + `{"accessToken":"` + faulttest.MadeUpJWT(`{"exp":1}`) + `"}`)) // neither iat nor Date
		_, err := exchangeWith(t, u, V3)
		requireFailed(t, err)
		assert.ErrorContains(t, err, "Vault's clock says 2000-01-01T00:00:00Z and Snowplow's nothing")
	})
}

func TestASlowAnswerWithAShortJWTIsNotBlamedOnTheClocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := faulttest.OnPipes(t)
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
