package snowplow

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// withoutSocket answers requests in the same process, so that fake time passes while one of them waits.
type withoutSocket struct{ http.Handler }

func (s withoutSocket) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r.Clone(r.Context()))
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// simulation is a mount and its Console in fake time; all but the sockets is real.
type simulation struct {
	backend *backend
	console *consoletest.Console
	storage logical.Storage
	failed  atomic.Int64 // reads without a JWT
	stale   atomic.Int64 // reads with a kept JWT and a warning
}

// simulate is to be called in a bubble of synctest.
func simulate(t *testing.T, config map[string]any) *simulation {
	t.Helper()
	storage := &logical.InmemStorage{}
	made, err := Factory(t.Context(), &logical.BackendConfig{StorageView: storage, System: &logical.StaticSystemView{}})
	require.NoError(t, err)
	s := &simulation{backend: made.(*backend), console: consoletest.New(), storage: storage}
	t.Cleanup(func() { s.backend.Cleanup(context.Background()) })

	data := map[string]any{
		"organization_id":   consoletest.DefaultOrganizationID,
		"api_key_id":        consoletest.DefaultAPIKeyID,
		"api_key":           consoletest.DefaultAPIKey,
		"verify_connection": false,
	}
	for field, value := range config {
		data[field] = value
	}
	resp, err := s.backend.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.CreateOperation, Path: "config", Storage: storage, Data: data,
	})
	require.NoError(t, err)
	require.False(t, resp.IsError(), "%v", resp)
	connection, err := s.backend.current.Load().connection(t.Context(), storage)
	require.NoError(t, err)
	connection.client.http.Transport = withoutSocket{s.console}
	return s
}

func (s *simulation) read() {
	resp, err := s.backend.HandleRequest(context.Background(), &logical.Request{
		Operation: logical.ReadOperation, Path: "token", Storage: s.storage,
	})
	switch {
	case err != nil || resp.IsError():
		s.failed.Add(1)
	case len(resp.Warnings) > 0:
		s.stale.Add(1)
	}
}

// A day of 50 readers, each of which reads every five minutes, as jobs on a schedule do. The hour without Console
// begins when the kept JWT is about to turn too old to be reused: at no other time would more of it be felt.
func TestDayWithAnHourWithoutConsole(t *testing.T) {
	const (
		readers = 50
		every   = 5 * time.Minute
		day     = 24 * time.Hour
		down    = 10*time.Hour - time.Second
		up      = down + time.Hour
	)
	for name, fault := range map[string]http.Handler{
		"503":    consoletest.Status(http.StatusServiceUnavailable, "", nil),
		"silent": consoletest.Silence(),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := simulate(t, nil)
				var wg sync.WaitGroup
				for i := range readers {
					wg.Go(func() {
						time.Sleep(every / readers * time.Duration(i))
						for range day / every {
							s.read()
							time.Sleep(every)
						}
					})
				}
				time.Sleep(down)
				before := s.console.Exchanges()
				s.console.FailAlways(fault)
				time.Sleep(up - down)
				during := s.console.Exchanges() - before
				s.console.ClearFaults()
				wg.Wait()

				stats := s.backend.statsOf("")
				t.Logf("%d reads, %d failed, %d with the kept JWT; %d exchanges; requests to Console: %d before the outage, %d in it, %d after",
					stats.reads.Load(), s.failed.Load(), s.stale.Load(), stats.exchange.count, before, during, s.console.Exchanges()-before-during)
				require.Zero(t, s.failed.Load())
				require.NotZero(t, s.stale.Load(), "the outage was not felt")
				require.LessOrEqual(t, during, int(readers*(up-down)/every)*(1+maxRetries))
				require.LessOrEqual(t, s.console.Exchanges()-during, 25, "one exchange an hour while Console is up")
			})
		})
	}
}

// 500 readers a second for half a minute, with a key that was deleted in Console, where an exchange takes 100 ms.
func TestDeletedKeyUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const persecond, seconds = 500, 30
		s := simulate(t, nil)
		s.console.RemoveKey(consoletest.DefaultAPIKeyID)
		s.console.SetDelay(100 * time.Millisecond)
		var wg sync.WaitGroup
		for range persecond * seconds {
			wg.Go(s.read)
			time.Sleep(time.Second / persecond)
		}
		wg.Wait()
		t.Logf("%d reads, %d failed, %d requests to Console", persecond*seconds, s.failed.Load(), s.console.Exchanges())
		require.EqualValues(t, persecond*seconds, s.failed.Load())
		require.LessOrEqual(t, s.console.Exchanges(), 4)
	})
}

// One request in three is answered by 503, at random. Without reuse every read makes an exchange: it fails if four
// tries in a row do, one time in 81.
func TestOneRequestInThreeFails(t *testing.T) {
	const reads = 5000
	for _, test := range []struct {
		reuse      string
		mostFailed int64
	}{
		{"0", reads / 50},
		{"1h", 0},
	} {
		t.Run(fmt.Sprintf("reuse_period=%s", test.reuse), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := simulate(t, map[string]any{"reuse_period": test.reuse})
				s.read() // what was kept before the trouble began
				random := rand.New(rand.NewPCG(1, 2))
				unavailable := consoletest.Status(http.StatusServiceUnavailable, "", nil)
				s.console.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
					if random.IntN(3) > 0 {
						return false
					}
					unavailable.ServeHTTP(w, r)
					return true
				})
				for range reads {
					s.read()
					time.Sleep(10 * time.Second)
				}
				t.Logf("%d reads, %d failed, %d with the kept JWT, %d requests to Console", reads, s.failed.Load(), s.stale.Load(), s.console.Exchanges())
				require.LessOrEqual(t, s.failed.Load(), test.mostFailed)
			})
		})
	}
}
