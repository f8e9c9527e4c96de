package console

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestWhichFailuresAreTriedAgain(t *testing.T) {
	t.Parallel()
	unavailable := consoletest.Status(http.StatusServiceUnavailable, "", nil)
	for _, test := range []struct {
		name      string
		faults    []http.Handler
		exchanges int
		works     bool
	}{
		{"one 503", []http.Handler{unavailable}, 2, true},
		{"four 503", []http.Handler{unavailable, unavailable, unavailable, unavailable}, 4, false},
		{"different faults", []http.Handler{consoletest.Disconnect(), said("x"), consoletest.Status(200, "{}", nil)}, 4, true},
		{"429", []http.Handler{consoletest.Status(http.StatusTooManyRequests, "", nil)}, 2, true},
		{"401", []http.Handler{consoletest.Status(http.StatusUnauthorized, "", nil)}, 1, false},
		{"503, then 401", []http.Handler{unavailable, consoletest.Status(http.StatusUnauthorized, "", nil)}, 2, false},
		{"400", []http.Handler{consoletest.Status(http.StatusBadRequest, "", nil)}, 1, false},
	} {
		for _, version := range Versions {
			t.Run(test.name+" with "+version, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					u := consoletest.OnPipes(t)
					var arrived []time.Time
					u.Intercept(func(http.ResponseWriter, *http.Request) bool {
						arrived = append(arrived, time.Now())
						return false
					})
					for _, fault := range test.faults {
						u.FailNext(1, fault)
					}
					_, err := exchangeWith(t, u, version)
					assert.Equal(t, test.works, err == nil, "%v", err)
					assert.Equal(t, test.exchanges, u.Exchanges())
					for try := 1; try < len(arrived); try++ {
						pause := arrived[try].Sub(arrived[try-1])
						assert.GreaterOrEqual(t, pause, time.Duration(try)*retryPauseMin)
						assert.LessOrEqual(t, pause, time.Duration(try)*retryPauseMax)
					}
				})
			})
		}
	}
}

func TestARetryIsMadeOnlyWhileItIsWanted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		wanted    func(asked int) bool // the first time after a failure, the second time after the pause
		exchanges int
		takes     time.Duration // at most
	}{
		"always":                       {func(int) bool { return true }, allTries, time.Minute},
		"never":                        {func(int) bool { return false }, 1, 0},
		"no more after a pause":        {func(asked int) bool { return asked == 1 }, 1, retryPauseMax},
		"once, and no more after that": {func(asked int) bool { return asked <= 2 }, 2, retryPauseMax},
		"nobody to ask":                {nil, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				u := consoletest.OnPipes(t)
				u.FailAlways(consoletest.Status(http.StatusServiceUnavailable, "", nil))
				request := exchangeAt(u.URL, V3)
				request.Retry = nil
				if asked := 0; test.wanted != nil {
					request.Retry = func() bool {
						asked++
						return test.wanted(asked)
					}
				}
				started := time.Now()
				_, err := newClient(t, "", u.Dial).Exchange(t.Context(), request)
				requireFailed(t, err)
				assert.Equal(t, test.exchanges, u.Exchanges())
				assert.LessOrEqual(t, time.Since(started), test.takes)
			})
		})
	}
}

func TestRequestTimeoutIsThatOfAllTriesTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := consoletest.OnPipes(t)
		u.SetDelay(1200 * time.Millisecond)
		u.FailAlways(consoletest.Status(http.StatusServiceUnavailable, "", nil))
		request := exchangeAt(u.URL, V3)
		request.Timeout = 2 * time.Second
		started := time.Now()
		_, err := newClient(t, "", u.Dial).Exchange(t.Context(), request)
		assert.Equal(t, ReasonTimeout, requireFailed(t, err).Reason)
		assert.Equal(t, request.Timeout, time.Since(started))
		assert.Equal(t, 2, u.Exchanges())
	})
}

func TestExchangeThatIsGivenUpDuringAPauseEndsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := consoletest.OnPipes(t)
		u.FailAlways(consoletest.Status(http.StatusServiceUnavailable, "", nil))
		ctx, cancel := context.WithCancel(t.Context())
		started := time.Now()
		time.AfterFunc(retryPauseMin/2, cancel)
		_, err := newClient(t, "", u.Dial).Exchange(ctx, exchangeAt(u.URL, V3))
		require.ErrorIs(t, err, context.Canceled)
		assert.NotErrorAs(t, err, new(*Error))
		assert.Equal(t, retryPauseMin/2, time.Since(started))
	})
}

func TestRetryAfterIsWaitedForAndPassedOn(t *testing.T) {
	t.Parallel()
	const quick, slow = 1200 * time.Millisecond, 3600 * time.Millisecond // three pauses without a Retry-After
	at := func(d time.Duration) string {
		return time.Unix(bubbleNow, 0).Add(d).UTC().Format(http.TimeFormat)
	}
	for _, test := range []struct {
		name, header string
		exchanges    int
		least, most  time.Duration // that the exchange takes
		asked        time.Duration
	}{
		{"absent", "", allTries, quick, slow, 0},
		{"no number", "soon", allTries, quick, slow, 0},
		{"a date in the past", at(-time.Hour), allTries, quick, slow, 0},
		{"2 s", "2", allTries, 6 * time.Second, 6 * time.Second, 2 * time.Second},
		{"almost the whole time", "59", 2, 59 * time.Second, 59 * time.Second, 59 * time.Second},
		{"the whole time", "60", 1, 0, 0, time.Minute},
		{"a date", at(90 * time.Second), 1, 0, 0, 90 * time.Second},
		{"an hour", "3600", 1, 0, 0, maxRetryAfter},
		{"a date in an hour", at(time.Hour), 1, 0, 0, maxRetryAfter},
		{"more than 32 bits", "4294967296", 1, 0, 0, maxRetryAfter},
	} {
		for code, reason := range map[int]Reason{429: ReasonRateLimited, 503: ReasonUpstream} {
			t.Run(fmt.Sprintf("%d %s", code, test.name), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					u := consoletest.OnPipes(t)
					header := http.Header{}
					if test.header != "" {
						header.Set("Retry-After", test.header)
					}
					u.FailAlways(consoletest.Status(code, "", header))
					started := time.Now()
					_, err := exchangeWith(t, u, V3)
					elapsed := time.Since(started)
					failed := requireFailed(t, err)
					assert.Equal(t, reason, failed.Reason)
					assert.Equal(t, test.asked, failed.RetryAfter)
					assert.Equal(t, test.exchanges, u.Exchanges())
					assert.GreaterOrEqual(t, elapsed, test.least)
					assert.LessOrEqual(t, elapsed, test.most)
				})
			})
		}
	}
}
