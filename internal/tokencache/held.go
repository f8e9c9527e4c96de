package tokencache

import (
	"math/rand/v2"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

const (
	// minStaleValidity is how long a cached JWT must still be valid to be served in place of a new one.
	minStaleValidity = time.Minute
	// A JWT is not served as fresh in the last fifth of its life, or in the last minute if that is shorter: Vault Agent
	// reads again at 85 % of a lease, and would get the same JWT with ever shorter leases.
	lastPart = 5

	// A refresh ahead begins at this share of the time for which a JWT is fresh, drawn anew for each JWT so that
	// mounts do not refresh in step. The rest must cover one more gap between reads, plus the exchange.
	earliestRefresh, latestRefresh = 0.75, 0.85
)

// held is what is cached of a credential. Forgetting puts a fresh held in its place: an exchange under way writes its
// JWT into the one that it began with, where nobody looks.
type held struct {
	token   *console.Token // nil: none
	refresh float64        // the share of its fresh time after which it is refreshed
	known   bool           // storage need not be asked for a JWT
	loading time.Time      // since when storage is asked for one; zero: it is not
	flight  *flight        // the exchange that readers share; nil: none
	since   uint64         // the number of the first verification whose JWT may be cached here
}

// take caches a JWT.
func (h *held) take(token console.Token) {
	h.token, h.known = &token, true
	h.refresh = earliestRefresh + rand.Float64()*(latestRefresh-earliestRefresh)
}

// lastServed returns the age up to which the JWT is far enough from its expiry to be served as fresh.
func (h *held) lastServed() time.Duration {
	validity := h.token.Validity
	return validity - max(console.MinValidity, min(minStaleValidity, validity/lastPart))
}

// fresh reports whether the JWT may be served to a reader who accepts an age of reuse.
func (h *held) fresh(now time.Time, reuse time.Duration) bool {
	return h.token != nil && h.token.Age(now) < reuse && h.token.Age(now) <= h.lastServed()
}

// due reports whether a reader who accepts an age of reuse needs an exchange: the JWT is not fresh, or will soon not be.
func (h *held) due(now time.Time, reuse time.Duration) bool {
	return !h.fresh(now, reuse) || float64(h.token.Age(now)) >= h.refresh*float64(min(reuse, h.lastServed()))
}

// usable reports whether the JWT may be served in place of a new one.
func (h *held) usable(now time.Time) bool {
	return h.token != nil && h.token.Remaining(now) >= minStaleValidity
}

// valid returns the JWT unless it has expired; nil: none.
func (h *held) valid(now time.Time) *console.Token {
	if h.token == nil || h.token.Remaining(now) <= 0 {
		return nil
	}
	return h.token
}
