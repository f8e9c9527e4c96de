// Package tokencache shares, refreshes, keeps and drops JWTs, one for each credential. docs/reliability.md describes how
// a read behaves; this package knows neither Vault nor HTTP.
package tokencache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

const (
	maxReaderWait = 2 * time.Second // how long a reader waits for an exchange while the cached JWT would do
	maxFlights    = 2               // shared exchanges of a credential: a second serves readers who come after a Forget
)

// Key identifies what a JWT belongs to: one write of one credential, and the URLs it came from and is valid at. A JWT of
// an older credential, or of another Console, is under a key that nobody asks for.
type Key struct {
	Path           string `json:"path"` // where the credential is stored: config, or roles/<name>
	CredentialID   string `json:"credential_id"`
	Version        string `json:"credentials_version"`
	OrganizationID string `json:"organization_id"`
	ConsoleURL     string `json:"console_url"`
	AuthURL        string `json:"auth_url"`
}

// Exchange makes one exchange; retry reports whether a reader still needs it to try again. Its errors are a
// *console.Error, or the context's own.
type Exchange func(ctx context.Context, retry func() bool) (console.Token, error)

// Served is the JWT that one reader gets, and where it came from.
type Served struct {
	console.Token
	Exchanged bool   // an exchange was made for this very reader
	Stale     string // why it is not a newer one; empty: it is fresh
}

// Cache holds the JWTs of one mount.
type Cache struct {
	lifetime context.Context // of exchanges, which outlast the readers that began them
	store    Store
	logger   hclog.Logger
	locks    [64]chan struct{} // serialize storage calls for one path; unlike a mutex, they end with a context
	seed     maphash.Seed

	mu      sync.Mutex // never held over a call of storage or of Snowplow
	slots   map[Key]*slot
	swept   string          // the path that the last sweep ended with
	failing map[string]bool // kinds of storage call that failed the last time: a streak is logged once
}

// slot is what is known of one credential. The cache's mutex guards it.
type slot struct {
	health  health
	held    *held
	flights int           // shared exchanges under way, also those of an older held
	changed chan struct{} // closed when there is something new for waiting readers; nil: nobody waits
	used    time.Time     // when a JWT was last asked for
}

// flight is an exchange that readers share.
type flight struct {
	number     uint64 // of this exchange, in order of beginning
	began      time.Time
	withoutJWT int // readers that wait for it and have no usable JWT: retries are worth it

	ended bool // token and err are set
	token console.Token
	err   error
}

// New makes a cache whose exchanges end with lifetime.
func New(lifetime context.Context, store Store, logger hclog.Logger) *Cache {
	c := &Cache{
		lifetime: lifetime,
		store:    store,
		logger:   logger,
		seed:     maphash.MakeSeed(),
		slots:    map[Key]*slot{},
		failing:  map[string]bool{},
	}
	for i := range c.locks {
		c.locks[i] = make(chan struct{}, 1)
	}
	return c
}

// Get returns a JWT: the cached one while it is younger than reuse, or one from an exchange that all readers who
// arrive meanwhile share. With a reuse of 0, every call makes its own exchange and nothing is cached. Its errors are
// those of Exchange, or the reader's context's.
func (c *Cache) Get(ctx context.Context, key Key, reuse time.Duration, exchange Exchange) (Served, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.slot(key)
	if reuse == 0 {
		return c.getOwn(ctx, key, s, exchange)
	}
	if err := c.lookUp(ctx, key, s); err != nil {
		return Served{}, err
	}
	var f *flight
	var led bool
	for {
		now := time.Now()
		if f == nil {
			f, led = c.join(key, s, now, reuse, exchange)
		}
		if got, answered, err := s.answer(f, now, reuse); answered {
			got.Exchanged = got.Exchanged && led
			return got, err
		}
		if err := c.wait(ctx, s, f); err != nil {
			return Served{}, err
		}
	}
}

// getOwn makes an exchange for one reader only, and gives it up with the reader. Nothing is cached or served from cache.
func (c *Cache) getOwn(ctx context.Context, key Key, s *slot, exchange Exchange) (Served, error) {
	if s.health.waiting(time.Now()) {
		return Served{}, s.health.failure
	}
	number := s.health.begin()
	own, cancel := context.WithCancel(c.lifetime)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	c.mu.Unlock()
	token, err := exchange(own, c.retry(s, &flight{withoutJWT: 1}))
	c.mu.Lock()
	if s.note(number, err) {
		go c.Settle(c.lifetime, key.Path) // beside the read; if storage fails, the sweep tries again
	}
	if ctx.Err() != nil {
		return Served{}, fmt.Errorf("waiting for a token: %w", ctx.Err())
	}
	return Served{Token: token, Exchanged: true}, err
}

// slot finds or makes the slot of a key.
func (c *Cache) slot(key Key) *slot {
	s := c.slots[key]
	if s == nil {
		s = &slot{held: &held{}}
		c.slots[key] = s
	}
	s.used = time.Now()
	return s
}

// join returns the exchange that a reader shares, and begins it if it is due. It returns nil while the credential waits
// after a failure, and while maxFlights exchanges that began before a Forget are under way.
func (c *Cache) join(key Key, s *slot, now time.Time, reuse time.Duration, exchange Exchange) (f *flight, led bool) {
	if s.health.waiting(now) {
		return nil, false
	}
	if s.held.flight == nil && s.flights < maxFlights && s.held.due(now, reuse) {
		s.held.flight, led = c.begin(key, s, exchange), true
	}
	return s.held.flight, led
}

// answer returns what a reader who joined f gets at once. If it is not answered, the reader waits.
func (s *slot) answer(f *flight, now time.Time, reuse time.Duration) (got Served, answered bool, err error) {
	usable := s.held.usable(now)
	switch {
	case f != nil && f.ended && f.err == nil:
		return Served{Token: f.token, Exchanged: true}, true, nil
	case s.held.fresh(now, reuse):
		return Served{Token: *s.held.token}, true, nil
	case f != nil && f.ended:
		got, err = s.staleIfError(now, f.err)
		return got, true, err
	case f == nil && s.health.waiting(now):
		got, err = s.staleIfError(now, s.health.failure)
		return got, true, err
	case usable && s.health.failing():
		return Served{Token: *s.held.token, Stale: s.health.failure.Error()}, true, nil
	case usable && (f == nil || now.Sub(f.began) >= maxReaderWait):
		return Served{Token: *s.held.token, Stale: fmt.Sprintf("Snowplow Console has not answered within %s", maxReaderWait)}, true, nil
	}
	return Served{}, false, nil
}

// staleIfError answers a reader whose exchange failed, or may not begin yet: after a transient failure, with the cached
// JWT if that is usable, else with the error.
func (s *slot) staleIfError(now time.Time, err error) (Served, error) {
	var failure *console.Error
	if errors.As(err, &failure) && failure.Transient() && s.held.usable(now) {
		return Served{Token: *s.held.token, Stale: failure.Error()}, nil
	}
	return Served{}, err
}

// begin starts the exchange that readers share. It lives as long as the mount, not as the reader.
func (c *Cache) begin(key Key, s *slot, exchange Exchange) *flight {
	f := &flight{number: s.health.begin(), began: time.Now()}
	into := s.held
	s.flights++
	go func() {
		token, err := exchange(c.lifetime, c.retry(s, f))
		c.mu.Lock()
		s.flights--
		into.flight = nil
		f.ended, f.token, f.err = true, token, err
		changed := s.note(f.number, err)
		if err == nil {
			into.take(token)
			changed = true
		}
		s.wake()
		c.mu.Unlock()
		if changed {
			_ = c.Settle(c.lifetime, key.Path) // the sweep tries again
		}
	}()
	return f
}

// retry makes the function that reports whether an exchange may try again: someone needs it, and no parallel one failed.
func (c *Cache) retry(s *slot, f *flight) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return f.withoutJWT > 0 && !s.health.waiting(time.Now())
	}
}

// wait waits until the slot changes, or until a reader with a usable JWT has waited for maxReaderWait. f is nil if the
// exchange that the reader needs cannot begin yet.
func (c *Cache) wait(ctx context.Context, s *slot, f *flight) error {
	switch {
	case f == nil:
		return c.sleep(ctx, s, time.Time{})
	case s.held.usable(time.Now()):
		return c.sleep(ctx, s, f.began.Add(maxReaderWait))
	default:
		f.withoutJWT++
		defer func() { f.withoutJWT-- }()
		return c.sleep(ctx, s, time.Time{})
	}
}

// sleep releases the mutex until the slot changes, or until a time unless that is zero.
func (c *Cache) sleep(ctx context.Context, s *slot, until time.Time) error {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	changed := s.changed
	var timeout <-chan time.Time
	if !until.IsZero() {
		timeout = time.After(time.Until(until))
	}
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-ctx.Done():
		return fmt.Errorf("waiting for a token: %w", ctx.Err())
	case <-timeout:
	case <-changed:
	}
	return nil
}

// wake lets waiting readers look again.
func (s *slot) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// drop forgets the JWT for good, and those that exchanges under way will bring.
func (s *slot) drop() { s.held = &held{known: true, since: s.health.begun + 1} }

// note records the outcome of an exchange, and reports whether that drops the cached JWT.
func (s *slot) note(number uint64, err error) (dropped bool) {
	now := time.Now()
	var failure *console.Error
	switch {
	case err == nil:
		s.health.succeeded(number)
	case errors.As(err, &failure): // any other error means that the mount was unloaded or the reader gave up
		if dropped = failure.Reason == console.ReasonRefused; dropped {
			s.drop()
		}
		s.health.failed(now, number, failure, s.held.usable(now))
	}
	return dropped
}
