package snowplow

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// inBackground reads a token, and returns where its answer will be: the access token, or the error.
func (m *mount) inBackground(path string) chan string {
	answer := make(chan string, 1)
	go func() {
		resp, err := m.request(m.t.Context(), logical.ReadOperation, path)
		switch {
		case err != nil:
			answer <- err.Error()
		case resp.IsError():
			answer <- resp.Error().Error()
		default:
			answer <- resp.Data["access_token"].(string)
		}
	}()
	return answer
}

func TestForgettingKeepsTheFailureOfAnExchangeUnderWay(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]http.Handler{
		"401": consoletest.Status(http.StatusUnauthorized, "", nil),
		"429": consoletest.Status(http.StatusTooManyRequests, "", http.Header{"Retry-After": {"300"}}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, console := warmMount(t, nil)
				m.must(logical.DeleteOperation, "token")
				console.SetDelay(time.Second)
				console.FailAlways(fault)
				before := console.Exchanges()
				for range 10 {
					answer := m.inBackground("token")
					time.Sleep(500 * time.Millisecond)
					m.must(logical.DeleteOperation, "token")
					<-answer
				}
				assert.Equal(t, before+1, console.Exchanges())
			})
		})
	}
}

func TestForgettingLeavesAtMostOneExchangeBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		console.FailAlways(consoletest.Silence())
		before := console.Exchanges()
		var answers []chan string
		for range 100 {
			m.must(logical.DeleteOperation, "token")
			answers = append(answers, m.inBackground("token"))
			time.Sleep(10 * time.Millisecond)
		}
		assert.Equal(t, before+2, console.Exchanges())
		for _, answer := range answers {
			assert.Contains(t, <-answer, "has not answered")
		}
	})
}

func TestReadersAfterAForgetGetANewerJWT(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		m.must(logical.DeleteOperation, "token")
		hold := console.Hold()
		first := m.inBackground("token")
		<-hold.Started()
		m.must(logical.DeleteOperation, "token")
		second := m.accessToken("token")
		hold.Release()
		assert.NotEqual(t, second, <-first, "it waited for the older exchange")
		assert.Equal(t, second, m.accessToken("token"), "the older exchange's JWT is cached for nobody")
	})
}

func TestARefusalCountsWhoeversExchangeItWas(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*mount){
		"forgotten":         func(m *mount) { m.must(logical.DeleteOperation, "token") },
		"a role is written": func(m *mount) { m.mustWrite("roles/plain", map[string]any{"ttl": 60}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, console := warmMount(t, nil)
				m.must(logical.DeleteOperation, "token")
				hold := console.Hold()
				first := m.inBackground("token")
				<-hold.Started()
				change(m)
				if name == "forgotten" {
					m.mustRead("token")
				}
				console.RemoveKey(consoletest.DefaultAPIKeyID)
				hold.Release()
				assert.Contains(t, <-first, "401")
				_, message := m.refused(logical.ReadOperation, "token")
				assert.Contains(t, message, "401")
				assert.Empty(t, m.storedTokens())
			})
		})
	}
}

func TestAJWTThatHasJustArrivedIsNotStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		m.must(logical.DeleteOperation, "token")
		hold := console.Hold()
		old := make(chan *logical.Response)
		go func() { old <- m.mustRead("token") }()
		<-hold.Started()
		m.must(logical.DeleteOperation, "token")
		second := m.accessToken("token")
		down(console)
		hold.Release()
		resp := <-old
		assert.Equal(t, second, resp.Data["access_token"])
		assert.Empty(t, resp.Warnings)
		assert.Equal(t, "ok", m.mustRead("status").Data["state"])
	})
}

func TestAFailedRefreshAheadIsNotStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		time.Sleep(55 * time.Minute)
		down(console)
		before := console.Exchanges()
		for range 100 {
			assert.Empty(t, m.mustRead("token").Warnings)
		}
		synctest.Wait()
		assert.Equal(t, before+1, console.Exchanges(), "one try, and no other while the engine waits")
		status := m.mustRead("status").Data
		assert.Equal(t, "ok", status["state"])
		assert.NotNil(t, status["next_attempt_at"])
		time.Sleep(10 * time.Minute)
		assert.NotEmpty(t, m.mustRead("token").Warnings)
		assert.Equal(t, "stale", m.mustRead("status").Data["state"])
	})
}

func TestBackOffGrows(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cached bool
		waits  []time.Duration
	}{
		"with a cached JWT": {true, []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}},
		"without one":       {false, []time.Duration{1, 2, 4, 8, 10, 10}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, console := warmMount(t, map[string]any{"reuse_period": "1s"})
				if !test.cached {
					m.must(logical.DeleteOperation, "token")
				}
				down(console)
				time.Sleep(time.Minute)
				for _, seconds := range test.waits {
					before := console.Exchanges()
					<-m.inBackground("token")
					synctest.Wait()
					require.Greater(t, console.Exchanges(), before)
					before = console.Exchanges()
					time.Sleep(time.Duration(0.79 * float64(seconds*time.Second)))
					<-m.inBackground("token")
					synctest.Wait()
					assert.Equal(t, before, console.Exchanges(), "sooner than %d s", seconds)
					time.Sleep(time.Duration(0.42 * float64(seconds*time.Second)))
				}
				console.ClearFaults()
				<-m.inBackground("token")
				synctest.Wait()
				assert.Equal(t, "ok", m.mustRead("status").Data["state"])
				assert.Nil(t, m.mustRead("status").Data["next_attempt_at"])
			})
		})
	}
}

func TestAParallelResultLeavesTheWaitAlone(t *testing.T) {
	t.Parallel()
	for _, parallel := range []int{200, 503} {
		t.Run(fmt.Sprint(parallel), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, console := warmMount(t, map[string]any{"reuse_period": 0})
				hold := console.Hold()
				var readers sync.WaitGroup
				readers.Go(func() { <-m.inBackground("token") })
				<-hold.Started()
				time.Sleep(time.Millisecond)
				console.FailNext(1, consoletest.Status(http.StatusTooManyRequests, "", http.Header{"Retry-After": {"300"}}))
				m.refused(logical.ReadOperation, "token")
				until := time.Now().Add(300 * time.Second)
				if parallel == 503 {
					down(console)
				}
				hold.Release()
				readers.Wait()
				console.ClearFaults()
				before := console.Exchanges()
				time.Sleep(time.Until(until) - time.Second)
				_, message := m.refused(logical.ReadOperation, "token")
				assert.NotEmpty(t, message)
				assert.Equal(t, before, console.Exchanges())
				time.Sleep(2 * time.Second)
				m.mustRead("token")
			})
		})
	}
}

func TestASweepLeavesAnExchangeThatNobodyWaitsForAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, map[string]any{"reuse_period": "1m"})
		time.Sleep(2 * time.Minute)
		console.SetDelay(10 * time.Second)
		before := console.Exchanges()
		m.mustRead("token") // left after 2 s
		m.sweep()
		m.mustRead("token")
		assert.Equal(t, before+1, console.Exchanges())
		time.Sleep(10 * time.Second)
		assert.Empty(t, m.mustRead("token").Warnings, "the JWT of the exchange is cached")
	})
}

func TestABackgroundExchangeTriesOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, map[string]any{"reuse_period": "1m"})
		time.Sleep(2 * time.Minute)
		down(console)
		before := console.Exchanges()
		assert.NotEmpty(t, m.mustRead("token").Warnings)
		assert.Equal(t, before+1, console.Exchanges())
		m.must(logical.DeleteOperation, "token")
		time.Sleep(5 * time.Minute)
		m.refused(logical.ReadOperation, "token")
		assert.Equal(t, before+1+4, console.Exchanges(), "a reader without a JWT is worth retries")
	})
}

func TestNoReaderWaitsWhileConsoleIsKnownToFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, map[string]any{"reuse_period": "1m"})
		time.Sleep(2 * time.Minute)
		console.FailAlways(consoletest.Silence())
		begun := time.Now()
		resp := m.mustRead("token")
		assert.Equal(t, maxReaderWait, time.Since(begun))
		assert.Contains(t, resp.Warnings[0], "has not answered within 2s")
		assert.Equal(t, "stale", m.mustRead("status").Data["state"])
		time.Sleep(time.Second)
		begun = time.Now()
		m.mustRead("token")
		assert.Zero(t, time.Since(begun), "the exchange began more than 2 s ago")
		time.Sleep(time.Minute)
		m.mustWrite("config", map[string]any{"ttl": 60}) // ends the wait, but not the knowledge
		before := console.Exchanges()
		for range 10 {
			m.mustRead("token")
		}
		assert.Zero(t, time.Since(begun.Add(time.Minute)))
		synctest.Wait()
		assert.Equal(t, before+1, console.Exchanges())
	})
}

func TestStateSaysWhoHasToAct(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, map[string]any{"reuse_period": "1m"})
		state := func(path string) any { return m.mustRead(path).Data["state"] }
		console.AddKey(consoletest.Key{ID: "team", Secret: "team-secret"})
		m.mustWrite("roles/team", map[string]any{"api_key_id": "team", "api_key": "team-secret"})
		assert.Equal(t, "idle", state("status/team"))
		assert.Equal(t, "role", m.mustRead("status/team").Data["credential_source"])
		m.mustRead("token/team")
		assert.Equal(t, "ok", state("status/team"))
		m.must(logical.DeleteOperation, "token/team")
		down(console)
		m.refused(logical.ReadOperation, "token/team")
		assert.Equal(t, "failing", state("status/team"))
		time.Sleep(2 * time.Hour)
		m.sweep()
		assert.Equal(t, "failing", state("status/team"), "also when the cache has forgotten it")
		console.ClearFaults()
		m.mustRead("token/team")
		assert.NotNil(t, m.mustRead("status/team").Data["last_success_at"])
		console.RemoveKey("team")
		m.must(logical.DeleteOperation, "token/team")
		m.refused(logical.ReadOperation, "token/team")
		assert.Equal(t, "refused", state("status/team"))
		m.mustWrite("config", map[string]any{"console_url": "https://elsewhere.example", "api_key": "x", "verify_connection": false})
		m.restart()
		assert.Equal(t, "refused", state("status/team"), "its key may not go to the new URL")
	})
}

// An exchange that began before Snowplow refused the key may still return a JWT: nobody else gets it.
func TestAnOlderSuccessDoesNotOutlastARefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		m.mustWrite("roles/each", map[string]any{"reuse_period": 0}) // config's key, an exchange for each read
		m.must(logical.DeleteOperation, "token")
		hold := console.Hold()
		first := m.inBackground("token")
		<-hold.Started()
		console.RemoveKey(consoletest.DefaultAPIKeyID)
		m.refused(logical.ReadOperation, "token/each")
		console.AddKey(consoletest.Key{ID: consoletest.DefaultAPIKeyID, Secret: consoletest.DefaultAPIKey})
		hold.Release()
		<-first
		_, message := m.refused(logical.ReadOperation, "token")
		assert.Contains(t, message, "401")
		assert.Empty(t, m.storedTokens())
	})
}

func TestAReaderWithoutReuseGetsNobodyElsesJWT(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		m.mustWrite("roles/each", map[string]any{"reuse_period": 0})
		down(console)
		m.mustRead("token")
		for range 2 {
			m.refused(logical.ReadOperation, "token/each")
		}
	})
}

func TestARateLimitedReaderIsToldWhenTheEngineTriesAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		m.must(logical.DeleteOperation, "token")
		console.FailAlways(consoletest.Status(http.StatusTooManyRequests, "", nil))
		for range 6 {
			status, message := m.refused(logical.ReadOperation, "token")
			assert.Equal(t, 429, status)
			_, at, _ := strings.Cut(message, "try again after ")
			said, err := time.Parse(time.RFC3339, at)
			require.NoError(t, err, message)
			next, err := time.Parse(time.RFC3339, m.mustRead("status").Data["next_attempt_at"].(string))
			require.NoError(t, err)
			assert.WithinRange(t, said, next, next.Add(time.Second))
			time.Sleep(15 * time.Second)
		}
	})
}

// blockedWriter is a log that hangs.
type blockedWriter struct{ release chan struct{} }

func (w blockedWriter) Write(p []byte) (int, error) {
	<-w.release
	return len(p), nil
}

func TestAWarmReadWaitsForNoLogAndNoEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		release := make(chan struct{})
		m.backend.cache.logger = hclog.New(&hclog.LoggerOptions{Output: blockedWriter{release}})
		console.AddKey(consoletest.Key{ID: "team", Secret: "team-secret"})
		m.storage.failKeys("get", tokenStoragePrefix)
		m.mustWrite("roles/team", map[string]any{"api_key_id": "team", "api_key": "team-secret", "verify_connection": false})
		other := m.inBackground("token/team")
		synctest.Wait()
		m.mustRead("token")
		close(release)
		<-other

		m.storage.fail()
		m.events = hungEvents{}
		m.restart()
		m.must(logical.DeleteOperation, "token")
		down(console)
		m.refused(logical.ReadOperation, "token")
	})
}

// hungEvents is an event bus that answers when the context ends.
type hungEvents struct{}

func (hungEvents) SendEvent(ctx context.Context, _ logical.EventType, _ *logical.EventData) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestARetryHeedsTheWaitThatAParallelExchangeWasTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, map[string]any{"reuse_period": 0})
		console.FailNext(1, consoletest.Status(http.StatusServiceUnavailable, "", nil))
		first := m.inBackground("token")
		synctest.Wait() // it pauses before its first retry
		console.FailNext(1, consoletest.Status(http.StatusTooManyRequests, "", http.Header{"Retry-After": {"300"}}))
		m.refused(logical.ReadOperation, "token")
		before := console.Exchanges()
		<-first
		assert.Equal(t, before, console.Exchanges())
	})
}

// P fails, then R begins, then Q, which began beside P, fails: R's failure is still one more in a row.
func TestAParallelFailureDoesNotHideTheNextOneInARow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, map[string]any{"reuse_period": 0, "request_timeout": "30s"})
		console.FailAlways(consoletest.Silence())
		p := m.inBackground("token")
		time.Sleep(29 * time.Second)
		q := m.inBackground("token")
		<-p
		time.Sleep(2 * time.Second)
		r := m.inBackground("token")
		<-q
		<-r
		before := console.Exchanges()
		time.Sleep(1300 * time.Millisecond) // more than 1 s and 20 %, less than 2 s less 20 %
		m.refused(logical.ReadOperation, "token")
		assert.Equal(t, before, console.Exchanges())
	})
}
