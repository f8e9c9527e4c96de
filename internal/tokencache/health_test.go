package tokencache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	unavailable, limited := failureOf(t, 503, 0), failureOf(t, 429, 5*time.Minute)
	refused, unknown := failureOf(t, 401, 0), failureOf(t, 404, 0)
	epoch := time.Unix(0, 0)
	at := func(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }
	// fails ends an exchange at some second, and returns how long no other may begin from there on.
	fails := func(h *health, seconds float64, number uint64, failure *console.Error, haveJWT bool) float64 {
		h.failed(at(seconds), number, failure, haveJWT)
		return h.notBefore.Sub(at(seconds)).Seconds()
	}

	t.Run("the wait grows with failures in a row, and a success ends the row", func(t *testing.T) {
		t.Parallel()
		for haveJWT, waits := range map[bool][]float64{
			true:  {1, 2, 4, 8, 16, 32, 60, 60},
			false: {1, 2, 4, 8, 10, 10},
		} {
			var h health
			for i, want := range waits {
				assert.InDelta(t, want, fails(&h, float64(i)*100, h.begin(), unavailable, haveJWT), 0.2*want)
			}
			for _, between := range []*console.Error{refused, unknown} {
				fails(&h, 2000, h.begin(), between, haveJWT)
				h.succeeded(h.begin())
				assert.Equal(t, health{begun: h.begun}, h)
				assert.InDelta(t, 1, fails(&h, 3000, h.begin(), unavailable, haveJWT), 0.2)
			}
		}
	})

	t.Run("the wait is drawn anew, so that mounts do not ask in step", func(t *testing.T) {
		t.Parallel()
		drawn := map[float64]bool{}
		for range 100 {
			var h health
			drawn[fails(&h, 0, h.begin(), unavailable, false)] = true
		}
		assert.Greater(t, len(drawn), 50)
	})

	t.Run("of parallel failures, only the first is one more in a row", func(t *testing.T) {
		t.Parallel()
		var h health
		numbers := []uint64{h.begin(), h.begin(), h.begin()}
		for _, number := range numbers {
			fails(&h, 1, number, unavailable, false)
		}
		assert.InDelta(t, 2, fails(&h, 10, h.begin(), unavailable, false), 0.4)

		older, newer := h.begin(), h.begin()
		fails(&h, 20, older, unavailable, false)
		last := h.begin()
		fails(&h, 25, newer, unavailable, false)
		assert.InDelta(t, 8, fails(&h, 35, last, unavailable, false), 1.6, "after the older one, whatever the newer one did beside it")
	})

	t.Run("nothing parallel shortens a wait", func(t *testing.T) {
		t.Parallel()
		var h health
		first, second, third := h.begin(), h.begin(), h.begin()
		assert.InDelta(t, 300, fails(&h, 0, first, limited, false), 0)
		assert.InDelta(t, 299, fails(&h, 1, second, unavailable, false), 0)
		h.succeeded(third)
		assert.Equal(t, at(300), h.notBefore)
		assert.True(t, h.waiting(at(299)))
		assert.False(t, h.waiting(at(300)))
	})

	t.Run("a success does not hide a refusal that came after its beginning", func(t *testing.T) {
		t.Parallel()
		var h health
		older, other, last := h.begin(), h.begin(), h.begin()
		assert.InDelta(t, 10, fails(&h, 0, other, refused, false), 0)
		for _, number := range []uint64{older, last} {
			h.succeeded(number) // however much later
			assert.Equal(t, refused, h.failure)
		}
	})

	t.Run("an older failure does not hide that a newer exchange failed", func(t *testing.T) {
		t.Parallel()
		var h health
		older := h.begin()
		h.succeeded(h.begin())
		fails(&h, 0, h.begin(), unavailable, true)
		fails(&h, 1, older, limited, true)
		assert.True(t, h.failing())
	})

	t.Run("a write ends the wait, and keeps the failure", func(t *testing.T) {
		t.Parallel()
		var h health
		fails(&h, 0, h.begin(), unavailable, true)
		h.endWait()
		assert.False(t, h.waiting(at(0)))
		assert.True(t, h.failing())
	})
}
