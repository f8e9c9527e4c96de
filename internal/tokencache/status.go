package tokencache

import (
	"context"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

// State is what is known of a credential.
type State struct {
	Token     *console.Token // nil: none is cached
	Failure   *console.Error // the last exchange's; nil: it succeeded, or there was none
	Usable    bool           // the JWT may be served in place of a new one
	Stale     bool           // readers get a JWT that is older than they accept
	NotBefore time.Time      // the next attempt; zero: at the next read
}

// State reports what is cached under key for readers who accept an age of reuse. Unlike a read, it leaves no slot behind.
func (c *Cache) State(ctx context.Context, key Key, reuse time.Duration) (State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.slots[key]
	if s == nil {
		s = &slot{held: &held{}}
	}
	if err := c.lookUp(ctx, key, s); err != nil {
		return State{}, err
	}
	now := time.Now()
	cached := s.held
	if reuse == 0 {
		cached = &held{} // what others share is not for these readers
	}
	fresh, usable := cached.fresh(now, reuse), cached.usable(now)
	slow := cached.flight != nil && now.Sub(cached.flight.began) >= maxReaderWait
	state := State{
		Token:   cached.valid(now),
		Failure: s.health.failure,
		Usable:  usable || fresh,
		Stale:   usable && !fresh && (s.health.failing() || slow),
	}
	if s.health.waiting(now) {
		state.NotBefore = s.health.notBefore
	}
	return state, nil
}

// NextAttempt returns when the credential under key may be tried again.
func (c *Cache) NextAttempt(key Key) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if s := c.slots[key]; s != nil && s.health.waiting(now) {
		return s.health.notBefore
	}
	return now
}
