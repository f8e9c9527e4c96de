package snowplow

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeExchange is what Snowplow does for the issuer: each exchange takes a while and brings another JWT.
type fakeExchange struct {
	mu       sync.Mutex
	count    int
	takes    time.Duration
	validity time.Duration
	err      error
}

func (f *fakeExchange) exchange(ctx context.Context) (token, error) {
	f.mu.Lock()
	f.count++
	count, takes, validity, err := f.count, f.takes, f.validity, f.err
	f.mu.Unlock()
	select {
	case <-ctx.Done():
		return token{}, fmt.Errorf("exchanging: %w", ctx.Err())
	case <-time.After(takes):
	}
	if err != nil {
		return token{}, err
	}
	return token{JWT: fmt.Sprint("jwt-", count), Validity: validity}, nil
}

func (f *fakeExchange) set(change func(*fakeExchange)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeExchange) exchanges() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

var (
	keyA = credential{Version: versionV3, OrganizationID: "org", APIKeyID: "a", APIKey: "secret-a"}
	keyB = credential{Version: versionV3, OrganizationID: "org", APIKeyID: "b", APIKey: "secret-b"}
)

// inBubble runs a test in time of its own, with an issuer and an exchange that takes 100 ms for a JWT of 24 hours.
func inBubble(t *testing.T, test func(t *testing.T, i *issuer, f *fakeExchange)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		test(t, newIssuer(t.Context()), &fakeExchange{takes: 100 * time.Millisecond, validity: 24 * time.Hour})
	})
}

func TestKeptJWTIsHandedOutForTheReusePeriod(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		first, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
		require.NoError(t, err)
		assert.True(t, first.exchanged)

		time.Sleep(time.Hour - time.Second)
		again, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
		require.NoError(t, err)
		assert.Equal(t, first.JWT, again.JWT)
		assert.False(t, again.exchanged)
		assert.Equal(t, 23*time.Hour+time.Second, again.remaining(time.Now()))

		time.Sleep(time.Second)
		renewed, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
		require.NoError(t, err)
		assert.NotEqual(t, first.JWT, renewed.JWT)
		assert.Equal(t, 2, f.exchanges())
	})
}

func TestAReaderWithAShorterReusePeriodGetsANewerJWT(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		_, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		_, err = i.issue(t.Context(), keyA, time.Minute, f.exchange)
		require.NoError(t, err)
		_, err = i.issue(t.Context(), keyA, time.Hour, f.exchange)
		require.NoError(t, err)
		assert.Equal(t, 2, f.exchanges())
	})
}

func TestAJWTIsNotHandedOutAgainAtItsEnd(t *testing.T) {
	for name, test := range map[string]struct{ validity, lastReuse time.Duration }{
		"a day":      {24 * time.Hour, 24*time.Hour - time.Minute},
		"20 seconds": {20 * time.Second, 16 * time.Second},
		"2 seconds":  {2 * time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
				f.validity = test.validity
				first, err := i.issue(t.Context(), keyA, 48*time.Hour, f.exchange)
				require.NoError(t, err)
				time.Sleep(test.lastReuse)
				again, err := i.issue(t.Context(), keyA, 48*time.Hour, f.exchange)
				require.NoError(t, err)
				assert.Equal(t, first.JWT, again.JWT, "still long enough")
				time.Sleep(time.Millisecond)
				again, err = i.issue(t.Context(), keyA, 48*time.Hour, f.exchange)
				require.NoError(t, err)
				assert.NotEqual(t, first.JWT, again.JWT, "too close to its end")
			})
		})
	}
}

func TestReadersOfAColdCredentialShareOneExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		const readers = 1000
		begun := time.Now()
		results := make(chan issued, readers)
		for range readers {
			go func() {
				got, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
				assert.NoError(t, err)
				results <- got
			}()
		}
		led := 0
		for range readers {
			got := <-results
			assert.Equal(t, "jwt-1", got.JWT)
			if got.exchanged {
				led++
			}
		}
		assert.Equal(t, 1, led)
		assert.Equal(t, 1, f.exchanges())
		assert.Equal(t, f.takes, time.Since(begun))
	})
}

func TestAReaderThatGivesUpFailsAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		impatient, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := i.issue(impatient, keyA, time.Hour, f.exchange)
			failed <- err
		}()
		synctest.Wait()
		patient := make(chan issued, 1)
		go func() {
			got, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
			assert.NoError(t, err)
			patient <- got
		}()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-failed, context.Canceled)
		assert.Equal(t, "jwt-1", (<-patient).JWT)
		assert.Equal(t, 1, f.exchanges())
	})
}

func TestCredentialsDoNotShare(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		a, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
		require.NoError(t, err)
		b, err := i.issue(t.Context(), keyB, time.Hour, f.exchange)
		require.NoError(t, err)
		assert.NotEqual(t, a.JWT, b.JWT)
	})
}

func TestWithoutReuseEveryReadMakesItsOwnExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		var mu sync.Mutex
		seen := map[string]bool{}
		var readers sync.WaitGroup
		for range 10 {
			readers.Go(func() {
				got, err := i.issue(t.Context(), keyA, 0, f.exchange)
				assert.NoError(t, err)
				mu.Lock()
				defer mu.Unlock()
				seen[got.JWT] = true
			})
		}
		readers.Wait()
		assert.Len(t, seen, 10)
		assert.Nil(t, i.kept(keyA), "a JWT that nobody may be given again is kept")
	})
}

func TestForgettingMakesTheNextReadExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		_, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
		require.NoError(t, err)
		i.forget(keyA)
		assert.Nil(t, i.kept(keyA))
		got, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
		require.NoError(t, err)
		assert.Equal(t, "jwt-2", got.JWT)
	})
}

func TestWhatAnOlderExchangeBringsIsNeverKept(t *testing.T) {
	for name, change := range map[string]func(*issuer){
		"forgotten": func(i *issuer) { i.forget(keyA) },
		"dropped":   func(i *issuer) { i.drop(keyA) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
				f.takes = time.Minute
				old := make(chan issued, 1)
				go func() {
					got, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
					assert.NoError(t, err)
					old <- got
				}()
				synctest.Wait()
				change(i)

				f.set(func(f *fakeExchange) { f.takes = time.Second })
				got, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
				require.NoError(t, err)
				assert.Equal(t, "jwt-2", got.JWT, "a later read waited for the older exchange")
				assert.Equal(t, "jwt-1", (<-old).JWT, "the one who waited for it gets it")
				got, err = i.issue(t.Context(), keyA, time.Hour, f.exchange)
				require.NoError(t, err)
				assert.Equal(t, "jwt-2", got.JWT, "the older exchange's JWT was kept")
			})
		})
	}
}

func TestAPassingFailureIsStoodInForByTheKeptJWT(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		f.validity = time.Hour
		first, err := i.issue(t.Context(), keyA, time.Minute, f.exchange)
		require.NoError(t, err)
		for _, kind := range []failureKind{failureUpstream, failureTimeout, failureRateLimited} {
			time.Sleep(2 * time.Minute)
			f.set(func(f *fakeExchange) { f.err = &failure{kind: kind, message: "down"} })
			got, err := i.issue(t.Context(), keyA, time.Minute, f.exchange)
			require.NoError(t, err)
			assert.Equal(t, first.JWT, got.JWT)
			require.NotNil(t, got.stale)
			assert.Equal(t, "down", got.stale.Error())
		}

		time.Sleep(first.remaining(time.Now()) - time.Minute - f.takes)
		_, err = i.issue(t.Context(), keyA, time.Minute, f.exchange)
		require.NoError(t, err, "still valid for a minute")
		time.Sleep(2 * time.Second)
		_, err = i.issue(t.Context(), keyA, time.Minute, f.exchange)
		require.Error(t, err, "valid for less than a minute")
	})
}

func TestARefusalForgetsTheKeptJWT(t *testing.T) {
	for kind, forgets := range map[failureKind]bool{
		failureRefused:             true,
		failureUnknownOrganization: false,
		failureRejected:            false,
	} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
				_, err := i.issue(t.Context(), keyA, time.Minute, f.exchange)
				require.NoError(t, err)
				time.Sleep(time.Minute)
				f.set(func(f *fakeExchange) { f.err = &failure{kind: kind, message: "no"} })
				_, err = i.issue(t.Context(), keyA, time.Minute, f.exchange)
				require.EqualError(t, err, "no", "what is no passing failure is not stood in for")
				assert.Equal(t, forgets, i.kept(keyA) == nil)
			})
		})
	}
}

func TestAFailedCredentialIsNotTriedAgainForAMoment(t *testing.T) {
	for name, test := range map[string]struct {
		failed failure
		wait   time.Duration
	}{
		"passing":                 {failure{kind: failureUpstream}, time.Second},
		"refused":                 {failure{kind: failureRefused}, 10 * time.Second},
		"unknown organization":    {failure{kind: failureUnknownOrganization}, 10 * time.Second},
		"as Retry-After says":     {failure{kind: failureRateLimited, retryAfter: 42 * time.Second}, 42 * time.Second},
		"five minutes at most":    {failure{kind: failureRateLimited, retryAfter: time.Hour}, 5 * time.Minute},
		"Retry-After of a 503":    {failure{kind: failureUpstream, retryAfter: 3 * time.Second}, 3 * time.Second},
		"less than usual is fine": {failure{kind: failureRateLimited, retryAfter: time.Millisecond}, time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			for _, reuse := range []time.Duration{0, time.Hour} {
				synctest.Test(t, func(t *testing.T) {
					i, f := newIssuer(t.Context()), &fakeExchange{takes: time.Second, validity: time.Hour, err: &test.failed}
					_, first := i.issue(t.Context(), keyA, reuse, f.exchange)
					require.ErrorIs(t, first, &test.failed)

					time.Sleep(test.wait - time.Nanosecond)
					begun := time.Now()
					_, again := i.issue(t.Context(), keyA, reuse, f.exchange)
					assert.Equal(t, first, again)
					assert.Zero(t, time.Since(begun), "the reader had to wait")
					assert.Equal(t, 1, f.exchanges())

					time.Sleep(time.Nanosecond)
					f.set(func(f *fakeExchange) { f.err = nil })
					_, err := i.issue(t.Context(), keyA, reuse, f.exchange)
					require.NoError(t, err)
				})
			}
		})
	}
}

func TestTheWaitEndsWithAWriteButNotByForgetting(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		f.err = &failure{kind: failureRefused, message: "no"}
		for _, end := range []func(credential){i.retry, i.drop} {
			_, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
			require.Error(t, err)
			before := f.exchanges()
			i.forget(keyA)
			_, err = i.issue(t.Context(), keyA, time.Hour, f.exchange)
			require.Error(t, err)
			assert.Equal(t, before, f.exchanges(), "forgetting a JWT must not let anyone hammer Console")
			end(keyA)
			_, err = i.issue(t.Context(), keyA, time.Hour, f.exchange)
			require.Error(t, err)
			assert.Equal(t, before+1, f.exchanges())
			end(keyA)
		}
	})
}

func TestAReaderThatGivesUpIsNoFailureOfTheCredential(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := i.issue(ctx, keyA, 0, f.exchange)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = i.issue(t.Context(), keyA, 0, f.exchange)
		require.NoError(t, err)
	})
}

func TestExchangesEndWithTheMount(t *testing.T) {
	t.Parallel()
	for _, reuse := range []time.Duration{0, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			lifetime, end := context.WithCancel(t.Context())
			i, f := newIssuer(lifetime), &fakeExchange{takes: time.Hour}
			failed := make(chan error, 1)
			go func() {
				_, err := i.issue(t.Context(), keyA, reuse, f.exchange)
				failed <- err
			}()
			synctest.Wait()
			begun := time.Now()
			end()
			assert.ErrorIs(t, <-failed, context.Canceled)
			assert.Zero(t, time.Since(begun))
		})
	}
}

func TestSweepReleasesWhatHasEnded(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		f.validity = time.Hour
		_, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
		require.NoError(t, err)
		f.set(func(f *fakeExchange) { f.err = &failure{kind: failureRefused} })
		_, err = i.issue(t.Context(), keyB, time.Hour, f.exchange)
		require.Error(t, err)

		i.sweep()
		assert.Len(t, i.slots, 2, "a JWT that is valid, or a wait, was released")
		time.Sleep(10 * time.Second)
		i.sweep()
		assert.Len(t, i.slots, 1)
		time.Sleep(time.Hour)
		i.sweep()
		assert.Empty(t, i.slots)
	})
}

func TestSweepLeavesAnExchangeUnderWay(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		go i.issue(t.Context(), keyA, time.Hour, f.exchange)
		synctest.Wait()
		i.sweep()
		got, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
		require.NoError(t, err)
		assert.Equal(t, "jwt-1", got.JWT)
		assert.Equal(t, 1, f.exchanges())
	})
}

func TestSweepLeavesASlotThatAReaderHolds(t *testing.T) {
	t.Parallel()
	i := newIssuer(t.Context())
	s := i.hold(keyA)
	i.sweep()
	assert.Same(t, s, i.slots[keyA], "readers that come now would make an exchange of their own")
	s.users.Add(-1)
	i.sweep()
	assert.Empty(t, i.slots)
}

func TestTheKeptJWTStandsInForReadersWithoutReuseToo(t *testing.T) {
	inBubble(t, func(t *testing.T, i *issuer, f *fakeExchange) {
		kept, err := i.issue(t.Context(), keyA, time.Hour, f.exchange)
		require.NoError(t, err)
		f.set(func(f *fakeExchange) { f.err = &failure{kind: failureUpstream, message: "down"} })
		got, err := i.issue(t.Context(), keyA, 0, f.exchange)
		require.NoError(t, err)
		assert.Equal(t, kept.JWT, got.JWT)
		assert.NotNil(t, got.stale)
	})
}

func TestTokensAndCredentialsDoNotPrintTheirSecrets(t *testing.T) {
	t.Parallel()
	cred := credential{Version: versionV1, APIKey: "canary", Password: "canary", ClientSecret: "canary"}
	for _, value := range []any{
		cred, &cred, configEntry{Credential: cred}, roleEntry{Credential: &cred},
		token{JWT: "canary"}, issued{token: token{JWT: "canary"}}, source{credential: cred},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			assert.NotContains(t, fmt.Sprintf(verb, value), "canary", "%T with %s", value, verb)
		}
	}
	assert.NotContains(t, errors.Join(fmt.Errorf("%v", cred)).Error(), "canary")
}
