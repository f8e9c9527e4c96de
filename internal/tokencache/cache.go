// Package tokencache shares, refreshes and keeps JWTs, one for each credential. How a read behaves is described in the
// README; this package knows neither Vault nor HTTP.
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

// MaxReaderWait bounds how long a reader waits for an exchange while the cached JWT would do.
const MaxReaderWait = 2 * time.Second

// Key names what a JWT belongs to: one write of one credential, and the URLs that it was obtained from and is good for.
// A JWT of an older credential, or of another Console, is under a key that nobody asks for.
type Key struct {
	Path           string `json:"path"` // where the credential is stored: config, or roles/<name>
	CredentialID   string `json:"credential_id"`
	Version        string `json:"credentials_version"`
	OrganizationID string `json:"organization_id"`
	ConsoleURL     string `json:"console_url"`
	AuthURL        string `json:"auth_url"`
}

// Exchange makes one exchange; retry says whether another try is wanted. Its errors are a *console.Error, or the
// context's own.
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
	locks    [64]chan struct{} // serialize storage calls for one path; a reader can give them up, unlike a mutex
	seed     maphash.Seed

	mu     sync.Mutex // never held over a call of storage or of Snowplow
	slots  map[Key]*slot
	swept  string // the path that the last sweep ended with
	failed bool   // the last call of storage failed: a streak is logged once
}

// slot is what is known of one credential. The cache's mutex guards it.
type slot struct {
	health health
	held   *held
	flight *flight   // the exchange under way that readers share; nil: none
	used   time.Time // when anybody asked for it
}

// flight is an exchange under way.
type flight struct {
	into  *held // where its JWT goes
	began time.Time
	needy int // readers without a usable JWT that wait for it

	done  chan struct{} // closed when token and err are set
	token console.Token
	err   error
}

// New makes a cache whose exchanges end with lifetime.
func New(lifetime context.Context, store Store, logger hclog.Logger) *Cache {
	c := &Cache{lifetime: lifetime, store: store, logger: logger, slots: map[Key]*slot{}, seed: maphash.MakeSeed()}
	for i := range c.locks {
		c.locks[i] = make(chan struct{}, 1)
	}
	return c
}

// Get returns a JWT: the cached one while it is younger than reuse, or one from an exchange that all readers who
// arrive meanwhile share. Its errors are those of Exchange, or the reader's context's.
func (c *Cache) Get(ctx context.Context, key Key, reuse time.Duration, exchange Exchange) (Served, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.slot(key)
	if reuse == 0 {
		return c.getOwn(ctx, key, s, exchange)
	}
	if err := c.lookUp(ctx, key, s.held); err != nil {
		return Served{}, err
	}
	var led *flight
	for {
		now := time.Now()
		if s.flight == nil && !s.health.waiting(now) && s.held.due(now, reuse) {
			led = c.begin(key, s, exchange)
		}
		if answered, got, err := s.answer(now, reuse); answered {
			return got, err
		}
		f, mine := s.flight, s.flight.into == s.held // else the JWT that it brings was forgotten before this reader came
		ended, err := c.wait(ctx, s, f)
		switch {
		case err != nil:
			return Served{}, err
		case ended && mine && f.err == nil:
			return Served{Token: f.token, Exchanged: f == led}, nil
		case ended && mine:
			return s.inPlace(time.Now(), reuse, f.err)
		}
	}
}

// answer returns what a reader gets at once, if that is anything: else it waits for the exchange under way.
func (s *slot) answer(now time.Time, reuse time.Duration) (answered bool, got Served, err error) {
	usable := s.held.usable(now)
	switch {
	case s.held.fresh(now, reuse):
		got.Token = *s.held.token
	case s.flight == nil: // a wait
		got, err = s.inPlace(now, reuse, s.health.failure)
	case usable && s.health.failing():
		got = Served{Token: *s.held.token, Stale: s.health.failure.Error()}
	case usable && now.Sub(s.flight.began) >= MaxReaderWait:
		got = Served{Token: *s.held.token, Stale: fmt.Sprintf("Snowplow Console has not answered within %s", MaxReaderWait)}
	default:
		return false, Served{}, nil
	}
	return true, got, err
}

// getOwn makes an exchange for one reader only, and gives it up with the reader. Nothing of it is cached, and nothing
// cached is served.
func (c *Cache) getOwn(ctx context.Context, key Key, s *slot, exchange Exchange) (Served, error) {
	began := time.Now()
	if s.health.waiting(began) {
		return Served{}, s.health.failure
	}
	own, cancel := context.WithCancel(c.lifetime)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	c.mu.Unlock()
	token, err := exchange(own, c.retry(s, &flight{needy: 1}))
	c.mu.Lock()
	if c.note(s, began, err) {
		go func() { _ = c.Settle(c.lifetime, key.Path) }() // the sweep tries again
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

// begin starts the exchange that readers share. It lives as long as the mount, not as the reader.
func (c *Cache) begin(key Key, s *slot, exchange Exchange) *flight {
	f := &flight{into: s.held, began: time.Now(), done: make(chan struct{})}
	s.flight = f
	go func() {
		token, err := exchange(c.lifetime, c.retry(s, f))
		c.mu.Lock()
		s.flight = nil
		changed := c.note(s, f.began, err)
		if err == nil {
			f.into.take(token)
			changed = true
		}
		f.token, f.err = token, err
		close(f.done)
		c.mu.Unlock()
		if changed {
			_ = c.Settle(c.lifetime, key.Path) // the sweep tries again
		}
	}()
	return f
}

// retry reports whether an exchange may ask once more: while someone needs it, unless one beside it was told to wait.
func (c *Cache) retry(s *slot, f *flight) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return f.needy > 0 && !s.health.waiting(time.Now())
	}
}

// wait waits for an exchange, and reports whether it has ended. A reader with a usable JWT waits until MaxReaderWait
// after its beginning; one without, until storage has one after all. It releases the mutex meanwhile.
func (c *Cache) wait(ctx context.Context, s *slot, f *flight) (ended bool, err error) {
	var patience <-chan time.Time
	var stored <-chan struct{}
	if s.held.usable(time.Now()) {
		patience = time.After(time.Until(f.began.Add(MaxReaderWait)))
	} else {
		f.needy++
		defer func() { f.needy-- }()
		stored = s.held.lookingUp()
	}
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-ctx.Done():
		return false, fmt.Errorf("waiting for a token: %w", ctx.Err())
	case <-patience:
		return false, nil
	case <-stored:
		return false, nil
	case <-f.done:
		return true, nil
	}
}

// note records the outcome of an exchange, and reports whether that drops the cached JWT.
func (c *Cache) note(s *slot, began time.Time, err error) (dropped bool) {
	now := time.Now()
	var failure *console.Error
	switch {
	case err == nil:
		s.health.succeeded(now)
	case errors.As(err, &failure): // any other error means that the mount was unloaded or the reader gave up
		dropped = failure.Reason == console.ReasonRefused
		if dropped {
			s.held = &held{known: true}
		}
		s.health.failed(now, began, failure, s.held.usable(now))
	}
	return dropped
}

// inPlace answers a reader whose exchange failed, or may not be made yet: with the cached JWT if the failure is
// transient and the JWT will do, else with the error.
func (s *slot) inPlace(now time.Time, reuse time.Duration, err error) (Served, error) {
	var failure *console.Error
	switch {
	case s.held.fresh(now, reuse): // a verification has brought it
		return Served{Token: *s.held.token}, nil
	case errors.As(err, &failure) && failure.Transient() && s.held.usable(now):
		return Served{Token: *s.held.token, Stale: failure.Error()}, nil
	default:
		return Served{}, err
	}
}
