package tokencache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	unavailable, limited, refused := failureOf(t, 503, 0), failureOf(t, 429, 5*time.Minute), failureOf(t, 401, 0)
	at := func(seconds float64) time.Time {
		return time.Unix(0, 0).Add(time.Duration(seconds * float64(time.Second)))
	}
	wait := func(h health, from float64) float64 { return h.notBefore.Sub(at(from)).Seconds() }

	var h health
	for i, want := range []float64{1, 2, 4, 8, 16, 32, 60, 60} {
		h.failed(at(float64(i)*100), at(float64(i)*100-1), unavailable, true)
		assert.InDelta(t, want, wait(h, float64(i)*100), 0.2*want, "failure %d in a row", i+1)
	}
	h.succeeded(at(10000))
	assert.Equal(t, health{}, h)

	for range 5 {
		h.failed(at(1), at(0), unavailable, false)
	}
	assert.InDelta(t, 1, wait(h, 1), 0.2, "in parallel they are one")
	h.failed(at(1.1), at(0), limited, false)
	assert.InDelta(t, 300, wait(h, 1.1), 0.001)
	h.failed(at(2), at(0), unavailable, false)
	h.succeeded(at(3))
	assert.InDelta(t, 300, wait(h, 1.1), 0.001, "neither a failure nor a success in parallel shortens a wait")
	h.endWait()
	assert.False(t, h.waiting(at(4)))
	assert.True(t, h.failing(), "nobody waits for what may fail again")
	h.failed(at(5), at(4), refused, false)
	assert.False(t, h.failing())
	assert.InDelta(t, 10, wait(h, 5), 0.001)
}
