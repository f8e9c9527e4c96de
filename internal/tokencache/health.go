package tokencache

import (
	"math/rand/v2"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

// Waits after a failed exchange.
const (
	FirstBackOff         = time.Second
	MaxBackOffWithoutJWT = 10 * time.Second
	BackOffJitter        = 0.2
	maxBackOff           = time.Minute
	waitAfterRefusal     = 10 * time.Second
)

// health is what the last exchanges of a credential came to, and when the next one may begin. It outlasts the JWTs: the
// wait of a credential is not forgotten with them.
type health struct {
	failure   *console.Error // the last exchange's; nil: it succeeded, or there was none
	row       int            // transient failures in a row
	counted   time.Time      // when the last of them ended
	notBefore time.Time      // no exchange until then
}

// waiting reports whether no exchange may begin.
func (h *health) waiting(now time.Time) bool { return now.Before(h.notBefore) }

// failing reports whether the last exchange failed, in a way that may well be over soon.
func (h *health) failing() bool { return h.failure != nil && h.failure.Transient() }

// succeeded notes an exchange that succeeded. During a wait that is one which began before the failure that asked for
// it, and ends nothing.
func (h *health) succeeded(now time.Time) {
	if !h.waiting(now) {
		*h = health{}
	}
}

// failed notes that an exchange which began at some time has failed. Of failures in parallel, only the first is one
// more in a row. A wait is never shortened.
func (h *health) failed(now, began time.Time, failure *console.Error, haveJWT bool) {
	wait := waitAfterRefusal
	if failure.Transient() {
		if !began.Before(h.counted) {
			h.row++
			h.counted = now
		}
		limit := MaxBackOffWithoutJWT
		if haveJWT {
			limit = maxBackOff
		}
		wait = min(limit, FirstBackOff<<min(h.row-1, 6))
		wait = time.Duration(float64(wait) * (1 - BackOffJitter + 2*BackOffJitter*rand.Float64()))
	}
	h.failure = failure
	if until := now.Add(max(wait, failure.RetryAfter)); until.After(h.notBefore) {
		h.notBefore = until
	}
}

// endWait lets the next exchange begin at once. The failure is kept: readers with a cached JWT do not wait for what
// may fail again.
func (h *health) endWait() { h.notBefore = time.Time{} }
