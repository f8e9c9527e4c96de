package snowplow

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// readers counts what readers of token met.
type readers struct {
	mount *mount

	mu      sync.Mutex
	reads   int
	failed  int
	stale   int // served with a warning
	waited  int // longer than 2 s
	longest time.Duration
	lock    sync.RWMutex // held to replace the mount
}

func (r *readers) read() {
	r.lock.RLock()
	backend, storage := r.mount.backend, r.mount.storage
	r.lock.RUnlock()
	begun := time.Now()
	resp, err := backend.HandleRequest(r.mount.t.Context(), &logical.Request{
		Operation: logical.ReadOperation, Path: "token", MountPoint: "snowplow/", Storage: storage,
	})
	took := time.Since(begun)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	r.longest = max(r.longest, took)
	if took > maxReaderWait {
		r.waited++
	}
	switch {
	case err != nil || resp.IsError():
		r.failed++
	case len(resp.Warnings) > 0:
		r.stale++
	}
}

// every lets count readers read once per period until total is over, evenly spread.
func (r *readers) every(period, total time.Duration, count int) {
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			time.Sleep(period / time.Duration(count) * time.Duration(i))
			for range total / period {
				next := time.Now().Add(period)
				r.read()
				time.Sleep(time.Until(next))
			}
		})
	}
	wg.Wait()
}

// The hour of docs/reliability.md: 50 readers once a minute, with a JWT that is one hour old and valid for 23 more.
func TestHourWithoutConsole(t *testing.T) {
	t.Parallel()
	for _, weather := range []struct {
		name         string
		fault        http.Handler
		mostRequests int
	}{
		{"silent", consoletest.Silence(), 60},
		{"503", consoletest.Status(http.StatusServiceUnavailable, "", nil), 80},
	} {
		for change, during := range map[string]func(*readers){
			"nothing changes": func(*readers) {},
			"ttl and request_timeout are written": func(r *readers) {
				r.mount.mustWrite("config", map[string]any{"ttl": "2h", "request_timeout": "20s"})
			},
			"the plugin restarts": func(r *readers) {
				synctest.Wait() // what is under way belongs to the old process
				r.lock.Lock()
				defer r.lock.Unlock()
				r.mount.restart()
			},
			"config is replicated": func(r *readers) { r.mount.backend.InvalidateKey(t.Context(), configStorageKey) },
		} {
			t.Run(weather.name+", "+change, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					m, console := warmMount(t, map[string]any{"request_timeout": "30s"})
					time.Sleep(time.Hour)
					before := console.Exchanges()
					console.FailAlways(weather.fault)
					r := &readers{mount: m}
					time.AfterFunc(30*time.Minute+500*time.Millisecond, func() { during(r) })
					r.every(time.Minute, time.Hour, 50)
					requests := console.Exchanges() - before
					t.Logf("%d reads, %d failed, %d stale, %d waited longer than 2 s, longest %s, %d requests", r.reads, r.failed, r.stale, r.waited, r.longest, requests)
					assert.Zero(t, r.failed)
					assert.Zero(t, r.waited)
					assert.LessOrEqual(t, requests, weather.mostRequests)
					assert.NotZero(t, r.stale, "the outage was not felt")
				})
			})
		}
	}
}

func TestNoReaderOfAWarmMountWaitsForASlowConsole(t *testing.T) {
	t.Parallel()
	for range 20 { // the moment of a refresh is drawn
		synctest.Test(t, func(t *testing.T) {
			m, console := warmMount(t, map[string]any{"reuse_period": "20s"})
			console.SetDelay(2 * time.Second)
			r := &readers{mount: m}
			r.every(time.Second, 10*time.Minute, 1)
			assert.Zero(t, r.longest)
			assert.Zero(t, r.stale)
			assert.LessOrEqual(t, console.Exchanges(), 41, "one exchange for each three quarters of reuse_period")
			assert.GreaterOrEqual(t, console.Exchanges(), 30, "one exchange for each reuse_period")
		})
	}
}

func TestACredentialThatNobodyReadsMakesNoExchanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, console := warmMount(t, nil)
		before := console.Exchanges()
		time.Sleep(12 * time.Hour)
		assert.Equal(t, before, console.Exchanges())
	})
}

// A day of 50 readers that read every five minutes. The hour without Console begins when the cached JWT is about to be
// refreshed: at no other time would more of it be felt.
func TestDayWithAnHourWithoutConsole(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]http.Handler{
		"503":    consoletest.Status(http.StatusServiceUnavailable, "", nil),
		"silent": consoletest.Silence(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, console := warmMount(t, nil)
				var before, during int
				time.AfterFunc(10*time.Hour-15*time.Minute, func() {
					before = console.Exchanges()
					console.FailAlways(fault)
				})
				time.AfterFunc(11*time.Hour-15*time.Minute, func() {
					during = console.Exchanges() - before
					console.ClearFaults()
				})
				r := &readers{mount: m}
				r.every(5*time.Minute, 24*time.Hour, 50)
				t.Logf("%d reads, %d failed, %d stale, longest wait %s; requests: %d before, %d during, %d after", r.reads, r.failed, r.stale, r.longest, before, during, console.Exchanges()-before-during)
				assert.Zero(t, r.failed)
				assert.Zero(t, r.waited)
				assert.LessOrEqual(t, during, 80)
				assert.LessOrEqual(t, console.Exchanges()-during, 34, "about one exchange in 48 minutes while Console is up")
			})
		})
	}
}

// One request in three is answered by 503, at random. Without reuse every read makes an exchange: it fails if four
// tries in a row do, one time in 81.
func TestOneRequestInThreeFails(t *testing.T) {
	t.Parallel()
	const reads = 5000
	for _, test := range []struct {
		reuse      string
		mostFailed int
	}{
		{"0", reads / 50},
		{"1h", 0},
	} {
		t.Run(fmt.Sprintf("reuse_period=%s", test.reuse), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, console := warmMount(t, map[string]any{"reuse_period": test.reuse})
				random := rand.New(rand.NewPCG(1, 2))
				unavailable := consoletest.Status(http.StatusServiceUnavailable, "", nil)
				console.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
					if random.IntN(3) > 0 {
						return false
					}
					unavailable.ServeHTTP(w, r)
					return true
				})
				r := &readers{mount: m}
				r.every(10*time.Second, reads*10*time.Second, 1)
				t.Logf("%d reads, %d failed, %d stale, %d requests to Console", r.reads, r.failed, r.stale, console.Exchanges())
				assert.LessOrEqual(t, r.failed, test.mostFailed)
			})
		})
	}
}
