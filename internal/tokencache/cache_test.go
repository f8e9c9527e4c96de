package tokencache

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

func TestACachedJWTIsServedForTheReusePeriod(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		first := c.mustGet(keyA, time.Hour)
		assert.True(t, first.Exchanged)
		assert.Empty(t, first.Stale)

		time.Sleep(44 * time.Minute)
		again := c.mustGet(keyA, time.Hour)
		assert.Equal(t, first.Bearer.Reveal(), again.Bearer.Reveal())
		assert.False(t, again.Exchanged)
		assert.Equal(t, 23*time.Hour+16*time.Minute, again.Remaining(time.Now()))

		time.Sleep(16 * time.Minute)
		newer := c.mustGet(keyA, time.Hour)
		assert.NotEqual(t, first.Bearer.Reveal(), newer.Bearer.Reveal())
		assert.True(t, newer.Exchanged)
		assert.Empty(t, newer.Stale)
		assert.Equal(t, 2, c.exchange.exchanges())
	})
}

func TestAJWTIsRefreshedAheadAndNobodyWaitsForIt(t *testing.T) {
	for name, test := range map[string]struct {
		reuse, validity, freshFor time.Duration
	}{
		"of reuse_period":  {time.Hour, 24 * time.Hour, time.Hour},
		"of a shorter JWT": {time.Hour, 30 * time.Minute, 29 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cacheUnderTest) {
				c.exchange.validity = test.validity
				c.exchange.set(time.Second, nil)
				c.mustGet(keyA, test.reuse)

				begun := time.Now()
				time.Sleep(test.freshFor * 74 / 100)
				assert.Equal(t, "jwt-1", c.mustGet(keyA, test.reuse).Bearer.Reveal())
				synctest.Wait()
				assert.Equal(t, 1, c.exchange.exchanges(), "refreshed too soon")

				time.Sleep(test.freshFor * 17 / 100)
				for range 3 {
					assert.Equal(t, "jwt-1", c.mustGet(keyA, test.reuse).Bearer.Reveal())
				}
				assert.Equal(t, test.freshFor*91/100, time.Since(begun), "a reader waited")
				synctest.Wait()
				assert.Equal(t, 2, c.exchange.exchanges(), "one exchange in the background")
				assert.False(t, c.exchange.retryWanted(), "it tries once")

				time.Sleep(time.Second)
				synctest.Wait()
				newer := c.mustGet(keyA, test.reuse)
				assert.Equal(t, "jwt-2", newer.Bearer.Reveal())
				assert.False(t, newer.Exchanged)
			})
		})
	}
}

func TestTheTimeOfTheRefreshIsDrawnAnew(t *testing.T) {
	t.Parallel()
	drawn := map[float64]bool{}
	for range 100 {
		s := &held{}
		s.take(console.Token{})
		assert.GreaterOrEqual(t, s.refresh, 0.75)
		assert.LessOrEqual(t, s.refresh, 0.9)
		drawn[s.refresh] = true
	}
	assert.Greater(t, len(drawn), 50)
}

func TestARefreshThatFailsIsNotStaleWhileTheJWTIsFresh(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		c.fails(503)
		time.Sleep(55 * time.Minute)
		c.mustGet(keyA, time.Hour)
		synctest.Wait()
		assert.Equal(t, 2, c.exchange.exchanges())
		assert.Empty(t, c.mustGet(keyA, time.Hour).Stale)
		assert.False(t, c.state(keyA, time.Hour).Stale)
		assert.Equal(t, 2, c.exchange.exchanges(), "the wait after a failure holds for refreshes too")
		time.Sleep(5 * time.Minute)
		assert.NotEmpty(t, c.mustGet(keyA, time.Hour).Stale)
		assert.True(t, c.state(keyA, time.Hour).Stale)
	})
}

func TestAReaderWithAShorterReusePeriodGetsANewerJWT(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		time.Sleep(time.Minute)
		c.mustGet(keyA, time.Minute)
		c.mustGet(keyA, time.Hour)
		assert.Equal(t, 2, c.exchange.exchanges())
	})
}

func TestAJWTIsNotServedAgainShortlyBeforeItExpires(t *testing.T) {
	for name, test := range map[string]struct{ validity, lastServed time.Duration }{
		"a day":      {24 * time.Hour, 24*time.Hour - time.Minute},
		"20 seconds": {20 * time.Second, 16 * time.Second},
		"2 seconds":  {2 * time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cacheUnderTest) {
				c.exchange.validity = test.validity
				first := c.mustGet(keyA, 48*time.Hour)
				time.Sleep(test.lastServed)
				assert.Equal(t, first.Bearer.Reveal(), c.mustGet(keyA, 48*time.Hour).Bearer.Reveal(), "still long enough")
				assert.True(t, c.state(keyA, 48*time.Hour).Usable)
				time.Sleep(time.Millisecond)
				assert.NotEqual(t, first.Bearer.Reveal(), c.mustGet(keyA, 48*time.Hour).Bearer.Reveal(), "too close to its expiry")
			})
		})
	}
}

func TestReadersOfAColdCredentialShareOneExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		const readers = 1000
		begun := time.Now()
		results := make(chan Served, readers)
		for range readers {
			go func() {
				got, err := c.get(keyA, time.Hour)
				assert.NoError(t, err)
				results <- got
			}()
		}
		led := 0
		for range readers {
			got := <-results
			assert.Equal(t, "jwt-1", got.Bearer.Reveal())
			if got.Exchanged {
				led++
			}
		}
		assert.Equal(t, 1, led)
		assert.Equal(t, 1, c.exchange.exchanges())
		assert.Equal(t, 100*time.Millisecond, time.Since(begun))
	})
}

func TestCredentialsDoNotShare(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		rotated := keyA
		rotated.CredentialID = "a2"
		seen := map[string]bool{}
		for _, key := range []Key{keyA, keyB, rotated} {
			seen[c.mustGet(key, time.Hour).Bearer.Reveal()] = true
		}
		assert.Len(t, seen, 3)
	})
}

func TestCacheReaderThatGivesUpFailsAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		impatient, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := c.Get(impatient, keyA, time.Hour, c.exchange.exchange)
			failed <- err
		}()
		synctest.Wait()
		patient := c.getLater(keyA, time.Hour)
		cancel()
		require.ErrorIs(t, <-failed, context.Canceled)
		assert.Equal(t, "jwt-1", (<-patient).Bearer.Reveal())
		assert.Equal(t, 1, c.exchange.exchanges())
	})
}

func TestCacheReaderThatGivesUpIsNoFailureOfTheCredential(t *testing.T) {
	for _, reuse := range []time.Duration{0, time.Hour} {
		t.Run(reuse.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cacheUnderTest) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				begun := time.Now()
				_, err := c.Get(ctx, keyA, reuse, c.exchange.exchange)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Equal(t, time.Millisecond, time.Since(begun))
				c.mustGet(keyA, reuse)
			})
		})
	}
}

func TestWithoutReuseEveryReadMakesItsOwnExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		var mu sync.Mutex
		seen := map[string]bool{}
		var readers sync.WaitGroup
		for range 10 {
			readers.Go(func() {
				got, err := c.get(keyA, 0)
				assert.NoError(t, err)
				assert.True(t, got.Exchanged)
				mu.Lock()
				defer mu.Unlock()
				seen[got.Bearer.Reveal()] = true
			})
		}
		readers.Wait()
		assert.Len(t, seen, 10)
		assert.Nil(t, c.cached(keyA), "a JWT that nobody may be given again is cached")
		assert.Empty(t, c.store.holds(keyA.Path), "or stored")

		c.mustGet(keyA, time.Minute)
		time.Sleep(time.Hour)
		failed := c.fails(503)
		_, err := c.get(keyA, 0)
		require.ErrorIs(t, err, failed)
		state, err := c.State(t.Context(), keyA, 0)
		require.NoError(t, err)
		state.NotBefore = time.Time{}
		assert.Equal(t, State{Failure: failed}, state, "nobody gets the JWT that readers with another reuse period share")
	})
}

func TestNoReaderWithAUsableJWTWaitsLongerThanTwoSeconds(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Minute)
		time.Sleep(time.Hour)
		c.exchange.set(time.Hour, nil)
		begun := time.Now()
		first := c.getLater(keyA, time.Minute)
		time.Sleep(1500 * time.Millisecond)
		second := c.getLater(keyA, time.Minute)
		for _, reader := range []<-chan Served{first, second} {
			got := <-reader
			assert.Equal(t, "jwt-1", got.Bearer.Reveal())
			assert.Equal(t, "Snowplow Console has not answered within 2s", got.Stale)
		}
		assert.Equal(t, 2*time.Second, time.Since(begun), "counted from the start of the exchange")
		assert.NotEmpty(t, c.mustGet(keyA, time.Minute).Stale)
		assert.Equal(t, 2*time.Second, time.Since(begun), "later readers do not wait")
		state := c.state(keyA, time.Minute)
		assert.True(t, state.Stale)

		time.Sleep(time.Hour)
		assert.Equal(t, "jwt-2", c.mustGet(keyA, time.Minute).Bearer.Reveal(), "the exchange was not given up")
		assert.Equal(t, 2, c.exchange.exchanges())
	})
}

func TestRetriesAreWantedOnlyByReadersWithoutAUsableJWT(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		ctx, cancel := context.WithCancel(t.Context())
		c.exchange.set(time.Second, nil)
		go func() { _, _ = c.Get(ctx, keyA, time.Hour, c.exchange.exchange) }()
		synctest.Wait()
		assert.True(t, c.exchange.retryWanted())
		cancel()
		synctest.Wait()
		assert.False(t, c.exchange.retryWanted(), "the reader has given up")

		time.Sleep(2 * time.Hour)
		reader := c.getLater(keyA, time.Hour)
		assert.False(t, c.exchange.retryWanted(), "the reader has a JWT that will do")
		<-reader
	})
}

func TestAfterATransientFailureTheCachedJWTIsServed(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.exchange.validity = time.Hour
		first := c.mustGet(keyA, time.Minute)
		for _, status := range []int{503, 429} {
			time.Sleep(5 * time.Minute)
			failed := c.fails(status)
			c.mustGet(keyA, time.Minute) // of the failure before
			synctest.Wait()
			got := c.mustGet(keyA, time.Minute)
			assert.Equal(t, first.Bearer.Reveal(), got.Bearer.Reveal())
			assert.Equal(t, failed.Error(), got.Stale)
			assert.False(t, got.Exchanged)
		}

		time.Sleep(first.Remaining(time.Now()) - time.Minute)
		c.mustGet(keyA, time.Minute) // still valid for a minute
		time.Sleep(time.Millisecond)
		_, err := c.get(keyA, time.Minute)
		require.Error(t, err, "valid for less than a minute")
	})
}

func TestNoReaderWaitsAfterATransientFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Minute)
		time.Sleep(time.Hour)
		c.fails(503)
		assert.NotEmpty(t, c.mustGet(keyA, time.Minute).Stale)

		time.Sleep(time.Minute)
		c.exchange.set(time.Second, nil)
		begun := time.Now()
		for range 5 {
			assert.NotEmpty(t, c.mustGet(keyA, time.Minute).Stale)
		}
		assert.Zero(t, time.Since(begun), "a reader waited")
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, 3, c.exchange.exchanges(), "one exchange, in the background")
		assert.Empty(t, c.mustGet(keyA, time.Minute).Stale)
	})
}

func TestOnlyARefusalDropsTheCachedJWT(t *testing.T) {
	for status, drops := range map[int]bool{401: true, 403: true, 404: false, 422: false} {
		for _, reuse := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprintf("%d with reuse_period=%s", status, reuse), func(t *testing.T) {
				inBubble(t, func(t *testing.T, c *cacheUnderTest) {
					c.mustGet(keyA, time.Minute)
					synctest.Wait()
					require.Equal(t, "jwt-1", c.store.holds(keyA.Path))
					time.Sleep(time.Minute)
					failed := c.fails(status)
					_, err := c.get(keyA, reuse)
					require.ErrorIs(t, err, failed, "only a transient failure is answered with the cached JWT")
					synctest.Wait()
					assert.Equal(t, drops, c.cached(keyA) == nil)
					assert.Equal(t, drops, c.store.holds(keyA.Path) == "")

					time.Sleep(waitAfterRefusal)
					c.exchange.set(time.Second, nil)
					assert.True(t, c.mustGet(keyA, time.Minute).Exchanged, "a reader who can wait gets a new one")
				})
			})
		}
	}
}

func TestTheFirstWaitAfterAFailure(t *testing.T) {
	const jittered = 200 * time.Millisecond
	for name, test := range map[string]struct {
		status     int
		retryAfter time.Duration
		wait, plus time.Duration // at least, and at most that much more
	}{
		"transient":                   {503, 0, time.Second - jittered, 2 * jittered},
		"rate-limited":                {429, 0, time.Second - jittered, 2 * jittered},
		"refused":                     {401, 0, 10 * time.Second, 0},
		"unknown organization":        {404, 0, 10 * time.Second, 0},
		"rejected":                    {422, 0, 10 * time.Second, 0},
		"as Retry-After says":         {429, 42 * time.Second, 42 * time.Second, 0},
		"five minutes at most":        {429, time.Hour, 5 * time.Minute, 0},
		"Retry-After of a 503":        {503, 3 * time.Second, 3 * time.Second, 0},
		"Retry-After of a refusal":    {401, time.Minute, time.Minute, 0},
		"a shorter one of a refusal":  {401, time.Second, 10 * time.Second, 0},
		"a shorter one of a failure":  {503, time.Second, time.Second, jittered},
		"none of a bad gateway":       {502, 0, time.Second - jittered, 2 * jittered},
		"none of an answer like that": {204, 0, time.Second - jittered, 2 * jittered},
	} {
		for _, reuse := range []time.Duration{0, time.Hour} {
			t.Run(fmt.Sprintf("%s with reuse_period=%s", name, reuse), func(t *testing.T) {
				inBubble(t, func(t *testing.T, c *cacheUnderTest) {
					failed := failureOf(t, test.status, test.retryAfter)
					c.exchange.set(time.Second, failed)
					_, err := c.get(keyA, reuse)
					require.ErrorIs(t, err, failed)

					time.Sleep(test.wait - time.Nanosecond)
					begun := time.Now()
					_, err = c.get(keyA, reuse)
					require.ErrorIs(t, err, failed)
					assert.Zero(t, time.Since(begun), "the reader had to wait")
					assert.Equal(t, 1, c.exchange.exchanges())

					time.Sleep(test.plus + time.Nanosecond)
					assert.Zero(t, c.state(keyA, time.Hour).NotBefore)
					assert.Equal(t, time.Now(), c.NextAttempt(keyA))
					c.exchange.set(time.Second, nil)
					c.mustGet(keyA, reuse)
				})
			})
		}
	}
}

func TestTheWaitGrowsWithFailuresInARow(t *testing.T) {
	seconds := func(s ...int) []time.Duration {
		var waits []time.Duration
		for _, n := range s {
			waits = append(waits, time.Duration(n)*time.Second)
		}
		return waits
	}
	for name, test := range map[string]struct {
		cached bool
		want   []time.Duration
	}{
		"with a usable JWT":    {true, seconds(1, 2, 4, 8, 16, 32, 60, 60, 60)},
		"without a usable JWT": {false, seconds(1, 2, 4, 8, 10, 10, 10, 10, 10)},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cacheUnderTest) {
				if test.cached {
					c.mustGet(keyA, time.Minute)
					time.Sleep(time.Minute)
				}
				c.fails(503)
				for round := range 2 {
					for _, want := range test.want {
						_, _ = c.get(keyA, time.Minute)
						synctest.Wait()
						state := c.state(keyA, time.Minute)
						wait := time.Until(state.NotBefore)
						assert.InDelta(t, want, wait, 0.2*float64(want), "round %d", round)
						time.Sleep(wait)
					}
					// A success ends the row.
					c.exchange.set(0, nil)
					c.mustGet(keyA, time.Minute)
					synctest.Wait()
					if !test.cached {
						require.NoError(t, c.Forget(t.Context(), keyA))
					}
					time.Sleep(time.Minute)
					c.fails(503)
				}
			})
		})
	}
}

func TestParallelFailuresAreOneInARow(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.exchange.set(time.Second, failureOf(t, 503, 0))
		for range 5 {
			go func() { _, _ = c.get(keyA, 0) }()
		}
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, 5, c.exchange.exchanges())
		assert.LessOrEqual(t, time.Until(c.NextAttempt(keyA)), 1200*time.Millisecond)
	})
}

func TestAWaitEndsWithAWriteButNotByForgetting(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.fails(401)
		for i, path := range []string{keyA.Path, ""} {
			_, err := c.get(keyA, time.Hour)
			require.Error(t, err)
			assert.Equal(t, i+1, c.exchange.exchanges())
			require.NoError(t, c.Forget(t.Context(), keyA))
			c.EndWaits(keyB.Path)
			_, err = c.get(keyA, time.Hour)
			require.Error(t, err)
			assert.Equal(t, i+1, c.exchange.exchanges(), "forgetting a JWT must not let anyone hammer Console")
			c.EndWaits(path)
		}
	})
}

func TestForgettingMakesTheNextReadExchange(t *testing.T) {
	for name, restart := range map[string]bool{"in memory": false, "in storage only": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cacheUnderTest) {
				c.mustGet(keyA, time.Hour)
				synctest.Wait()
				if restart {
					c.restart()
				}
				require.NoError(t, c.Forget(t.Context(), keyA))
				assert.Nil(t, c.cached(keyA))
				assert.Empty(t, c.store.holds(keyA.Path))
				c.restart()
				assert.Equal(t, "jwt-2", c.mustGet(keyA, time.Hour).Bearer.Reveal())
			})
		})
	}
}

func TestForgettingIsAnErrorWhileTheStoredCopyRemains(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		synctest.Wait()
		c.store.set(0, errStorage)
		require.ErrorIs(t, c.Forget(t.Context(), keyA), errStorage)
		assert.Equal(t, "jwt-1", c.store.holds(keyA.Path))
		assert.Nil(t, c.cached(keyA), "not served any more, in any case")
		c.fails(503)
		_, err := c.get(keyA, time.Hour)
		require.Error(t, err, "nor while Console is down")

		c.store.set(0, nil)
		c.Sweep(t.Context())
		assert.Empty(t, c.store.holds(keyA.Path), "the sweep tries again")
	})
}

func TestAStorageCallThatLandsLateDoesNotBringAForgottenJWTBack(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		synctest.Wait()
		stored := c.store.tokens[keyA.Path]
		require.NoError(t, c.Forget(t.Context(), keyA))
		c.Sweep(t.Context())
		require.NoError(t, c.store.Save(t.Context(), keyA.Path, stored)) // the cache has given up on it long ago
		time.Sleep(time.Minute)
		c.Sweep(t.Context())
		assert.Empty(t, c.store.holds(keyA.Path))
	})
}

func TestWhoWaitsForStorageThatHangsGivesUpWithItsRequest(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		synctest.Wait()
		c.store.set(time.Hour, nil)
		go func() { _ = c.Forget(t.Context(), keyA) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := c.Forget(ctx, keyA)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Contains(t, err.Error(), "waiting for an earlier storage call for config")
		assert.Equal(t, time.Second, time.Since(began))
		time.Sleep(storeTimeout)
	})
}

func TestAReaderWhoComesAfterAForgetBeginsItsOwnExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.exchange.set(time.Hour, nil)
		first := c.getLater(keyA, time.Hour)
		require.NoError(t, c.Forget(t.Context(), keyA))
		begun := time.Now()
		c.exchange.set(time.Minute, nil)
		second := c.getLater(keyA, time.Hour)
		require.NoError(t, c.Forget(t.Context(), keyA))
		third := c.getLater(keyA, time.Hour)
		assert.Equal(t, 2, c.exchange.exchanges(), "two exchanges at a time")

		assert.Equal(t, "jwt-2", (<-second).Bearer.Reveal())
		assert.Equal(t, time.Minute, time.Since(begun), "a reader waited for an exchange from before the forget")
		assert.Equal(t, "jwt-3", (<-third).Bearer.Reveal())
		assert.Equal(t, 2*time.Minute, time.Since(begun))
		assert.Equal(t, "jwt-3", (<-first).Bearer.Reveal(), "a reader went on waiting")
		time.Sleep(time.Hour - 2*time.Minute)
		synctest.Wait()
		assert.Equal(t, "jwt-3", c.cached(keyA).Bearer.Reveal(), "an older exchange's JWT was cached")
		assert.Equal(t, "jwt-3", c.store.holds(keyA.Path), "or stored")
	})
}

func TestAReaderWithAUsableJWTDoesNotWaitUntilAnExchangeMayBegin(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.exchange.set(time.Hour, nil)
		for range maxFlights {
			c.getLater(keyA, time.Hour)
			require.NoError(t, c.Forget(t.Context(), keyA))
		}
		c.exchange.set(0, nil)
		c.verify(keyA)
		time.Sleep(time.Minute)
		begun := time.Now()
		assert.NotEmpty(t, c.mustGet(keyA, time.Minute).Stale)
		assert.Zero(t, time.Since(begun))
		assert.Equal(t, maxFlights+1, c.exchange.exchanges())
		time.Sleep(time.Hour)
	})
}

func TestAJWTOnItsWayIsGivenToThoseWhoWaitAndNotCached(t *testing.T) {
	for name, drop := range map[string]func(c *cacheUnderTest){
		"after a forget":  func(c *cacheUnderTest) { require.NoError(c.t, c.Forget(c.t.Context(), keyA)) },
		"after a refusal": func(c *cacheUnderTest) { c.Refuse(c.t.Context(), keyA, failureOf(c.t, 401, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cacheUnderTest) {
				reader := c.getLater(keyA, time.Hour)
				drop(c)
				assert.Equal(t, "jwt-1", (<-reader).Bearer.Reveal())
				synctest.Wait()
				assert.Nil(t, c.cached(keyA))
				assert.Empty(t, c.store.holds(keyA.Path))
			})
		})
	}
}

func TestAWaitingReaderGetsTheJWTOfAVerification(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.exchange.set(time.Hour, nil)
		begun := time.Now()
		reader := c.getLater(keyA, time.Hour)
		c.exchange.set(time.Second, nil)
		c.verify(keyA)
		assert.Equal(t, "jwt-2", (<-reader).Bearer.Reveal())
		assert.Equal(t, time.Second, time.Since(begun))
	})
}

func TestDuringAWaitReadersGetTheErrorAlsoBesideAnOlderExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.exchange.set(time.Hour, nil)
		older := c.getLater(keyA, time.Hour)
		failed := c.fails(503)
		_, err := c.get(keyA, 0)
		require.ErrorIs(t, err, failed)
		begun := time.Now()
		_, err = c.get(keyA, time.Hour)
		require.ErrorIs(t, err, failed)
		assert.Zero(t, time.Since(begun))
		assert.Equal(t, "jwt-1", (<-older).Bearer.Reveal(), "the reader who waited already goes on")
	})
}

func TestAVerificationDoesNotOutliveALaterRefusal(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Minute)
		time.Sleep(time.Hour)
		number := c.Verifying(keyA)
		token, err := c.exchange.exchange(t.Context(), nil)
		require.NoError(t, err)
		failed := c.fails(401)
		_, err = c.get(keyA, time.Minute)
		require.ErrorIs(t, err, failed)
		c.Verified(t.Context(), keyA, number, &token)
		_, err = c.get(keyA, time.Minute)
		require.ErrorIs(t, err, failed)
		assert.Empty(t, c.store.holds(keyA.Path))

		time.Sleep(waitAfterRefusal)
		c.exchange.set(0, nil)
		c.verify(keyA)
		state := c.state(keyA, time.Hour)
		assert.Nil(t, state.Failure, "a verification that began after the refusal ends it")
		assert.NotNil(t, state.Token)

		number = c.Verifying(keyA)
		c.fails(401)
		time.Sleep(time.Hour)
		_, err = c.get(keyA, time.Minute)
		require.Error(t, err)
		time.Sleep(waitAfterRefusal)
		c.exchange.set(0, nil)
		c.mustGet(keyA, 0)
		c.Verified(t.Context(), keyA, number, &token)
		assert.Nil(t, c.cached(keyA), "also where the key works again")
	})
}

func TestAVerificationDoesNotOutliveALaterForget(t *testing.T) {
	for _, warm := range []bool{true, false} {
		t.Run(fmt.Sprintf("in memory %t", warm), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cacheUnderTest) {
				c.mustGet(keyA, time.Hour)
				synctest.Wait()
				if !warm {
					c.restart()
				}
				number := c.Verifying(keyA)
				token, err := c.exchange.exchange(t.Context(), nil)
				require.NoError(t, err)
				require.NoError(t, c.Forget(t.Context(), keyA))
				c.Verified(t.Context(), keyA, number, &token)
				assert.Nil(t, c.cached(keyA))
				assert.Empty(t, c.store.holds(keyA.Path))
				c.verify(keyA)
				assert.NotNil(t, c.cached(keyA), "one that began afterwards is cached")
			})
		})
	}
}

func TestExchangesEndWithTheMount(t *testing.T) {
	for _, reuse := range []time.Duration{0, time.Hour} {
		t.Run(reuse.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cacheUnderTest) {
				lifetime, end := context.WithCancel(t.Context())
				c.lifetime = lifetime
				c.exchange.set(time.Hour, nil)
				failed := make(chan error, 1)
				go func() {
					_, err := c.get(keyA, reuse)
					failed <- err
				}()
				synctest.Wait()
				begun := time.Now()
				end()
				require.ErrorIs(t, <-failed, context.Canceled)
				assert.Zero(t, time.Since(begun))
			})
		})
	}
}

func TestCachedJWTsSurviveARestart(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		synctest.Wait()
		c.restart()
		c.fails(503)
		got := c.mustGet(keyA, time.Hour)
		assert.Equal(t, "jwt-1", got.Bearer.Reveal())
		assert.False(t, got.Exchanged)
		time.Sleep(2 * time.Hour)
		c.restart()
		assert.NotEmpty(t, c.mustGet(keyA, time.Hour).Stale, "the stored one is served like any other")
	})
}

func TestStorageThatHangsCostsAReaderASecondAndAnExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		synctest.Wait()
		c.restart()
		c.store.set(3*time.Second, nil)
		begun := time.Now()
		assert.Equal(t, "jwt-2", c.mustGet(keyA, time.Hour).Bearer.Reveal())
		assert.Equal(t, 1100*time.Millisecond, time.Since(begun))
		time.Sleep(time.Minute)
		assert.Equal(t, "jwt-2", c.mustGet(keyA, time.Hour).Bearer.Reveal(), "a JWT that storage returns late is out of date")

		c.restart()
		c.store.set(time.Hour, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := c.Get(ctx, keyA, time.Hour, c.exchange.exchange)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = c.State(ctx, keyA, time.Hour)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestReadersAreAnsweredBeforeTheirJWTIsStored(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour) // so that nothing is left to load
		synctest.Wait()
		require.NoError(t, c.Forget(t.Context(), keyA))
		c.store.set(time.Second, nil)
		begun := time.Now()
		c.mustGet(keyA, time.Hour)
		assert.Equal(t, 100*time.Millisecond, time.Since(begun))
		c.mustGet(keyA, time.Hour)
		assert.Equal(t, 100*time.Millisecond, time.Since(begun), "a warm read waited for storage")
		time.Sleep(4 * time.Second)
		synctest.Wait()
		assert.Equal(t, "jwt-2", c.store.holds(keyA.Path))
	})
}

func TestAStreakOfStorageFailuresIsLoggedOnceAndMadeUpFor(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.store.set(0, errStorage)
		c.mustGet(keyA, time.Hour)
		c.mustGet(keyB, time.Hour)
		synctest.Wait()
		c.Sweep(t.Context())
		assert.Equal(t, 1, strings.Count(c.logs.String(), "a token in Vault's storage failed"), c.logs)
		assert.NotContains(t, c.logs.String(), "jwt-")

		c.store.set(0, nil)
		c.Sweep(t.Context())
		assert.Equal(t, "jwt-1", c.store.holds(keyA.Path))
		assert.Equal(t, "jwt-2", c.store.holds(keyB.Path))

		c.store.set(0, errStorage)
		_, _ = c.get(keyC, time.Hour)
		synctest.Wait()
		assert.Equal(t, 2, strings.Count(c.logs.String(), "a token in Vault's storage failed"), "a new streak")
	})
}

func TestAJWTFromElsewhereIsServed(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.verify(keyA)
		assert.Equal(t, "jwt-1", c.mustGet(keyA, time.Hour).Bearer.Reveal())

		c.verify(keyA)
		assert.Equal(t, "jwt-2", c.mustGet(keyA, time.Hour).Bearer.Reveal(), "a credential that was read already")
		assert.Equal(t, "jwt-2", c.store.holds(keyA.Path))

		c.store.set(0, errStorage)
		c.verify(keyB)
		assert.Equal(t, "jwt-3", c.mustGet(keyB, time.Hour).Bearer.Reveal(), "storage that fails")
	})
}

func TestARefusalElsewhereDropsTheCachedJWT(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		synctest.Wait()
		failed := failureOf(t, 401, 0)
		c.Refuse(t.Context(), keyA, failed)
		_, err := c.get(keyA, time.Hour)
		require.ErrorIs(t, err, failed)
		assert.Empty(t, c.store.holds(keyA.Path))
		assert.Equal(t, 1, c.exchange.exchanges())
	})
}

func TestSweepReleasesWhatHasExpired(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.exchange.validity = time.Hour
		c.mustGet(keyA, time.Hour)
		c.fails(401)
		_, err := c.get(keyB, time.Hour)
		require.Error(t, err)
		synctest.Wait()

		c.Sweep(t.Context())
		assert.NotNil(t, c.cached(keyA), "a JWT that is valid was released")
		_, err = c.get(keyB, time.Hour)
		require.Error(t, err)
		assert.Equal(t, 2, c.exchange.exchanges(), "a failure, or the wait after it, was released")
		time.Sleep(time.Hour)
		assert.Nil(t, c.cached(keyA), "an expired JWT is none")
		c.Sweep(t.Context())
		assert.Empty(t, c.store.holds(keyA.Path))
		time.Sleep(keepUnread)
		c.Sweep(t.Context())
		assert.Empty(t, c.slots)
	})
}

func TestEachSweepGoesOnBehindTheOneBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		const paths = 5*maxSwept/2 + 1
		for i := range paths {
			path := fmt.Sprintf("roles/%04d", i)
			c.store.tokens[path] = &Entry{Key: Key{Path: path}, Token: console.Token{Bearer: redact.NewSecret("x"), ObtainedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), Validity: time.Hour}}
			c.store.current[path] = Key{Path: path}
		}
		for sweep := range 3 {
			c.Sweep(t.Context())
			assert.Len(t, c.store.settled, (sweep+1)*maxSwept)
		}
		seen := map[string]bool{}
		for _, path := range c.store.settled {
			seen[path] = true
		}
		assert.Len(t, seen, paths)
		assert.Zero(t, c.store.saves, "what is stored already was written again")
		c.store.set(0, errStorage)
		c.Sweep(t.Context())
		assert.Len(t, c.store.settled, 3*maxSwept)
	})
}

func TestAStoredJWTThatCouldNotBeReadIsLookedForAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		synctest.Wait()
		c.fails(503)
		for _, fault := range []func(){
			func() { c.store.set(0, errStorage) },
			func() { c.store.set(time.Hour, nil) },
		} {
			c.restart()
			fault()
			_, err := c.get(keyA, time.Hour)
			require.Error(t, err)
			c.store.set(0, nil)
			time.Sleep(storeTimeout)
			assert.Equal(t, "jwt-1", c.mustGet(keyA, time.Hour).Bearer.Reveal())
		}
	})
}

func TestNoExchangeIsRetriedDuringAWait(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.exchange.set(time.Second, nil)
		first := c.getLater(keyA, 0)
		retry := c.exchange.retry
		assert.True(t, retry())
		c.exchange.set(0, failureOf(t, 429, time.Minute))
		_, err := c.get(keyA, 0)
		require.Error(t, err)
		assert.False(t, retry())
		<-first
	})
}

func TestForgettingDropsTheJWTsOfOtherURLsToo(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		elsewhere := keyA
		elsewhere.ConsoleURL = "https://elsewhere.example"
		require.NoError(t, c.Forget(t.Context(), elsewhere))
		assert.Equal(t, "jwt-2", c.mustGet(keyA, time.Hour).Bearer.Reveal(), "config names the first URL again")
	})
}

func TestWhatIsReplacedOrDeletedLeavesMemoryWithTheWrite(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyB, time.Hour)
		c.exchange.set(time.Minute, nil)
		older := c.getLater(keyA, time.Hour)
		c.exchange.set(0, nil)
		rotated := keyA
		rotated.CredentialID = "a2"
		c.store.current = map[string]Key{keyA.Path: rotated}
		c.mustGet(rotated, time.Hour)
		synctest.Wait()
		require.NoError(t, c.Settle(t.Context(), keyB.Path))
		assert.Equal(t, []Key{rotated}, slices.Collect(maps.Keys(c.slots)))

		assert.Equal(t, "jwt-2", (<-older).Bearer.Reveal(), "who waits already gets a JWT of the old credential")
		synctest.Wait()
		assert.Equal(t, []Key{rotated}, slices.Collect(maps.Keys(c.slots)))
		assert.Equal(t, "jwt-3", c.store.holds(keyA.Path))
	})
}

func TestWhatAWriteBringsOutlastsASettleThatBeganBeforeIt(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		synctest.Wait()
		c.store.set(time.Second, nil)
		go func() { _ = c.Settle(t.Context(), keyA.Path) }()
		synctest.Wait()
		rotated := keyA
		rotated.CredentialID = "a2"
		c.store.current = map[string]Key{keyA.Path: rotated}
		assert.Equal(t, "jwt-2", c.mustGet(rotated, time.Hour).Bearer.Reveal())
		time.Sleep(storeTimeout)
		synctest.Wait()
		assert.Equal(t, "jwt-2", c.mustGet(rotated, time.Hour).Bearer.Reveal())
		assert.Equal(t, "jwt-2", c.store.holds(keyA.Path))
	})
}

func TestLookingAtTheStateKeepsNothingInMemory(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		synctest.Wait()
		c.restart()
		assert.NotNil(t, c.cached(keyA))
		assert.Empty(t, c.slots)
		c.mustGet(keyA, time.Hour)
		c.mustGet(keyB, time.Hour)
		for range 24 {
			time.Sleep(time.Hour)
			c.cached(keyA)
			c.mustGet(keyB, time.Hour)
		}
		c.Sweep(t.Context())
		assert.Equal(t, []Key{keyB}, slices.Collect(maps.Keys(c.slots)), "only what was read")
	})
}

func TestSweepDeletesTheStoredJWTsOfCredentialsThatAreGone(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		c.mustGet(keyB, time.Hour)
		synctest.Wait()
		rotated := keyA
		rotated.CredentialID = "a2"
		c.store.current = map[string]Key{keyA.Path: rotated}
		c.Sweep(t.Context())
		assert.Empty(t, c.store.tokens)
	})
}

// blockedWriter is a log that hangs.
type blockedWriter struct{ release chan struct{} }

func (w blockedWriter) Write(p []byte) (int, error) {
	<-w.release
	return len(p), nil
}

func TestAWarmReadWaitsForNoLog(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Hour)
		synctest.Wait()
		release := make(chan struct{})
		c.logger = hclog.New(&hclog.LoggerOptions{Output: blockedWriter{release}})
		c.store.set(0, errStorage)
		other := c.getLater(keyB, time.Hour)
		c.mustGet(keyA, time.Hour)
		close(release)
		<-other
	})
}

func TestAStoredJWTThatIsLateBoundsTheWait(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cacheUnderTest) {
		c.mustGet(keyA, time.Minute)
		synctest.Wait()
		time.Sleep(2 * time.Minute)
		c.restart()
		c.store.set(1500*time.Millisecond, nil)
		c.exchange.set(time.Minute, nil)
		begun := time.Now()
		assert.Equal(t, "jwt-1", c.mustGet(keyA, time.Minute).Bearer.Reveal())
		assert.Equal(t, loadTimeout+maxReaderWait, time.Since(begun))
	})
}

// Not parallel: it counts goroutines, of which other tests have some.
func TestFewGoroutinesWaitForStorageThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCacheUnderTest(t)
		c.store.set(time.Hour, nil)
		before := runtime.NumGoroutine()
		for range 100 {
			time.Sleep(time.Second)
			c.mustGet(keyA, time.Second)
		}
		assert.LessOrEqual(t, runtime.NumGoroutine(), before+10)
		time.Sleep(storeTimeout)
	})
}
