package main

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// vaultFake is a Vault in a bubble of synctest.
type vaultFake struct {
	mu       sync.Mutex
	jwt      string
	org      string
	lease    time.Duration
	validity time.Duration
	takes    time.Duration
	err      error
	reads    int
	log      bytes.Buffer
	stop     func() // what the end of snowplow-exec does
}

func (v *vaultFake) read(ctx context.Context) (*token, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reads++
	now := wallClock()
	t := &token{
		jwt: v.jwt, organizationID: v.org, consoleURL: &url.URL{Scheme: "https", Host: "console.example"},
		refreshAt: now.Add(time.Duration(refreshAfter * float64(v.lease))), leaseEnd: now.Add(v.lease), expiresAt: now.Add(v.validity),
	}
	select {
	case <-time.After(v.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return t, v.err
}

// inBubble runs a test with a source whose leases are an hour long and whose JWTs are valid for a day.
func inBubble(t *testing.T, test func(t *testing.T, v *vaultFake, s *tokenSource)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := &vaultFake{jwt: "first", org: "mine", lease: time.Hour, validity: 24 * time.Hour}
		logger := hclog.New(&hclog.LoggerOptions{Output: &v.log})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		v.stop = stop
		s, err := newTokenSource(ctx, v.read, logger)
		require.NoError(t, err)
		v.jwt, v.reads = "second", 0
		test(t, v, s)
	})
}

// jwt gets a token that must be there.
func (s *tokenSource) jwt(t *testing.T) string {
	t.Helper()
	got, err := s.get(t.Context())
	require.NoError(t, err)
	return got.jwt
}

func TestVaultIsReadBeforeTheLeaseIsOver(t *testing.T) {
	inBubble(t, func(t *testing.T, v *vaultFake, s *tokenSource) {
		time.Sleep(48*time.Minute - time.Second)
		require.Equal(t, "first", s.jwt(t))
		require.Zero(t, v.reads, "the token is fresh")
		time.Sleep(time.Second)
		require.Equal(t, "second", s.jwt(t))
		require.Equal(t, 1, v.reads)
	})
}

func TestRequestsShareOneReadOfVault(t *testing.T) {
	inBubble(t, func(t *testing.T, v *vaultFake, s *tokenSource) {
		v.takes = time.Second
		time.Sleep(50 * time.Minute)
		first := s.peek()
		var requests sync.WaitGroup
		for i := range 20 {
			requests.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond) // some come after it
				got, err := s.get(t.Context())
				assert.NoError(t, err)
				assert.Equal(t, "second", got.jwt)
			})
		}
		requests.Wait()
		require.Equal(t, 1, v.reads)
		late, err := s.refresh(t.Context(), first, 0)
		require.NoError(t, err)
		require.Equal(t, "second", late.jwt)
		require.Equal(t, 1, v.reads, "a request that saw the first token needs no other read either")
	})
}

func TestARequestThatIsGivenUpLeavesTheReadToTheOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, v *vaultFake, s *tokenSource) {
		v.takes = time.Minute
		time.Sleep(25 * time.Hour) // nobody can do without Vault
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.get(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, "second", s.jwt(t))
		require.Equal(t, 1, v.reads)
	})
}

func TestASlowVaultIsNotWaitedForWhileTheJWTIsValid(t *testing.T) {
	inBubble(t, func(t *testing.T, v *vaultFake, s *tokenSource) {
		v.takes = 10 * time.Second
		time.Sleep(time.Hour)
		begun := time.Now()
		require.Equal(t, "first", s.jwt(t))
		require.Equal(t, maxWait, time.Since(begun))
		time.Sleep(8 * time.Second)
		require.Equal(t, "second", s.jwt(t), "the read has gone on")
		require.Equal(t, 1, v.reads)
	})
}

func TestAJWTThatExpiresWhileVaultIsWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, v *vaultFake, s *tokenSource) {
		v.takes = 10 * time.Second
		time.Sleep(24*time.Hour - time.Second)
		require.Equal(t, "second", s.jwt(t))
		require.Equal(t, 1, v.reads)
	})
}

func TestWithVaultOutOfReachTheJWTServesAsLongAsItIsValid(t *testing.T) {
	inBubble(t, func(t *testing.T, v *vaultFake, s *tokenSource) {
		for outage := 1; outage <= 2; outage++ {
			v.err, v.reads = errors.New("cannot reach Vault"), 0
			current := s.peek()
			time.Sleep(24*time.Hour - time.Minute)
			for range 59 {
				require.Equal(t, current.jwt, s.jwt(t))
				time.Sleep(time.Second)
			}
			require.Equal(t, 6, v.reads, "one in 10 seconds")
			time.Sleep(time.Second)
			_, err := s.get(t.Context())
			require.ErrorIs(t, err, v.err)
			require.Equal(t, outage, bytes.Count(v.log.Bytes(), []byte("could not get a new JWT: error=\"cannot reach Vault\"\n")), "each outage is logged once: %s", &v.log)
			v.err = nil
			time.Sleep(retryPause)
			require.Equal(t, "second", s.jwt(t), "Vault is back")
		}
	})
}

func TestTheEndStopsAReadOfVault(t *testing.T) {
	inBubble(t, func(t *testing.T, v *vaultFake, s *tokenSource) {
		v.takes = time.Hour
		time.Sleep(25 * time.Hour)
		time.AfterFunc(time.Second, v.stop)
		_, err := s.get(t.Context())
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestARefusalOfVaultEndsAccessWithTheLease(t *testing.T) {
	inBubble(t, func(t *testing.T, v *vaultFake, s *tokenSource) {
		v.err = refusalError{errors.New("permission denied")}
		time.Sleep(time.Hour - time.Second)
		require.Equal(t, "first", s.jwt(t), "the lease goes on")
		time.Sleep(time.Second)
		_, err := s.get(t.Context())
		require.ErrorContains(t, err, "permission denied")
	})
}

func TestATokenForSomewhereElseIsNotUsed(t *testing.T) {
	inBubble(t, func(t *testing.T, v *vaultFake, s *tokenSource) {
		v.org = "other"
		time.Sleep(50 * time.Minute)
		require.Equal(t, "first", s.jwt(t))
		time.Sleep(10 * time.Minute)
		_, err := s.get(t.Context())
		require.ErrorContains(t, err, "now for organization other at https://console.example")
		require.Equal(t, "mine", s.organizationID())
	})
}

// replacement gets a token in place of one that Console has refused.
func (s *tokenSource) replacement(t *testing.T, refused *token) string {
	got, err := s.replace(t.Context(), refused)
	if assert.NoError(t, err) {
		return got.jwt
	}
	return ""
}

func TestVaultIsReadOnceMoreWhenConsoleRefusesTheJWT(t *testing.T) {
	inBubble(t, func(t *testing.T, v *vaultFake, s *tokenSource) {
		first := s.peek()
		v.takes = time.Second
		var requests sync.WaitGroup
		for range 10 {
			requests.Go(func() { assert.Equal(t, "second", s.replacement(t, first)) })
		}
		requests.Wait()
		require.Equal(t, 1, v.reads, "all share one")
		require.Equal(t, "second", s.replacement(t, first), "there is a newer one already")
		require.Equal(t, 1, v.reads)

		// Vault has no other: it is not asked for each of the tool's requests.
		second := s.peek()
		for range 15 {
			require.Equal(t, "second", s.replacement(t, second))
			time.Sleep(time.Second)
		}
		require.Equal(t, 3, v.reads)
	})
}

func TestAJWTThatConsoleRefusesIsKeptWhileVaultIsOutOfReach(t *testing.T) {
	inBubble(t, func(t *testing.T, v *vaultFake, s *tokenSource) {
		v.err = errors.New("cannot reach Vault")
		for range 5 {
			_, err := s.replace(t.Context(), s.peek())
			require.ErrorIs(t, err, v.err)
		}
		require.Equal(t, 1, v.reads)
		require.Equal(t, "first", s.jwt(t))
	})
}
