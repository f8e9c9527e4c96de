package tokencache

import (
	"math/rand/v2"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

const (
	// FirstBackOff is the wait after the first transient failure in a row.
	FirstBackOff = time.Second

	maxBackOff           = time.Minute
	maxBackOffWithoutJWT = 10 * time.Second
	backOffJitter        = 0.2
	waitAfterRefusal     = 10 * time.Second
)

// health is how the last exchanges of a credential ended, and when the next one may begin. It outlasts the JWTs:
// forgetting one does not end a wait.
type health struct {
	failure   *console.Error // the last one; nil: an exchange that began after it has succeeded, or there was none
	begun     uint64         // exchanges so far; numbers them
	overlap   uint64         // begun at the last failure: a success of an exchange up to it is older news
	row       int            // transient failures in a row
	counted   uint64         // begun when row last grew: a failure of an exchange up to it is parallel, not one more in a row
	notBefore time.Time      // no exchange until then
}

// begin numbers an exchange that begins.
func (h *health) begin() (number uint64) {
	h.begun++
	return h.begun
}

// waiting reports whether no exchange may begin.
func (h *health) waiting(now time.Time) bool { return now.Before(h.notBefore) }

// failing reports whether the last exchange failed transiently.
func (h *health) failing() bool { return h.failure != nil && h.failure.Transient() }

// succeeded notes a success. If the exchange began before the last failure, the wait goes on: Snowplow asked for it, or
// refused the key, later.
func (h *health) succeeded(number uint64) {
	if number > h.overlap {
		*h = health{begun: h.begun}
	}
}

// failed notes a failure. Of parallel failures, only the first is one more in a row, and no wait is ever shortened.
func (h *health) failed(now time.Time, number uint64, failure *console.Error, haveJWT bool) {
	wait := waitAfterRefusal
	if failure.Transient() {
		if number > h.counted || h.row == 0 {
			h.row++
			h.counted = h.begun
		}
		limit := maxBackOffWithoutJWT
		if haveJWT {
			limit = maxBackOff
		}
		wait = min(limit, FirstBackOff<<min(h.row-1, 6))
		wait = time.Duration(float64(wait) * (1 - backOffJitter + 2*backOffJitter*rand.Float64()))
	}
	h.failure, h.overlap = failure, h.begun
	if until := now.Add(max(wait, failure.RetryAfter)); until.After(h.notBefore) {
		h.notBefore = until
	}
}

// endWait lets the next exchange begin at once. The failure stays, so readers with a cached JWT still do not wait.
func (h *health) endWait() { h.notBefore = time.Time{} }
