package acceptance

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// A new key takes an older one's place, several times, under readers that do not pause, and each time while
// a slow exchange of the older key is under way.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	const readers, rotations, readsOfEach = 8, 4, 40
	for name, test := range map[string]struct {
		path, token string
		reuse       any
	}{
		"config":                {"config", "token", "1h"},
		"config without reuse":  {"config", "token", 0},
		"a role's own key":      {"roles/team", "token/team", "1h"},
		"a role, without reuse": {"roles/team", "token/team", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, console := configured(t)
			rotate := func(number int) {
				t.Helper()
				key := consoletest.Key{ID: fmt.Sprintf("key-%d", number), Secret: fmt.Sprintf("secret-of-key-%d", number)}
				console.AddKey(key)
				m.write(t, test.path, with(keyOf(key), fields{"reuse_period": test.reuse}))
			}

			rotate(0)
			var newest, reads atomic.Int64 // number of the newest key whose write has returned; reads that began since
			var stop atomic.Bool
			var wait sync.WaitGroup
			defer wait.Wait()
			defer stop.Store(true)
			read := func() {
				floor := newest.Load()
				secret, err := m.tryRead(test.token)
				if !assert.NoError(t, err, "a read while keys change") {
					return
				}
				id, ok := console.Issued(secret.Data["access_token"].(string))
				if assert.True(t, ok, "the JWT is not one of this Console") {
					var number int64
					_, err := fmt.Sscanf(id, "key-%d", &number)
					assert.NoError(t, err, "the ID of the key")
					assert.GreaterOrEqual(t, number, floor, "the key of a JWT whose read began after the write of another had returned")
				}
				if floor == newest.Load() {
					reads.Add(1)
				}
			}
			for range readers {
				wait.Go(func() {
					for !stop.Load() && !t.Failed() {
						read()
					}
				})
			}
			awaitReads := func(what string) {
				t.Helper()
				eventually(t, patience, what, func() error {
					if n := reads.Load(); n < readsOfEach && !t.Failed() {
						return fmt.Errorf("%d reads so far", n)
					}
					return nil
				})
			}
			awaitReads("reads before the first rotation")

			for number := 1; number <= rotations && !t.Failed(); number++ {
				hold := console.Hold()
				defer hold.Release() // or else readers would wait long when this test fails
				m.remove(t, test.token)
				<-hold.Started() // an exchange of the old key; with reuse, all readers wait for it
				rotate(number)
				newest.Store(int64(number))
				reads.Store(0)
				if test.reuse == 0 {
					awaitReads("reads of the new key while the old one's exchange is under way")
				} else {
					for range readsOfEach {
						requireKeyID(t, console, m.jwt(t, test.token), fmt.Sprintf("key-%d", number))
					}
				}
				hold.Release()
				awaitReads("reads after the rotation")
			}
		})
	}
}
