package snowplow

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// minStaleValidity is how long a kept JWT must still be valid to stand in for one that could not be had.
	minStaleValidity = time.Minute
	// lastPart is the share of a JWT's life, and minStaleValidity the time, in which it is no longer handed out
	// again: Vault Agent reads anew at 85 % of a lease, and would get the same JWT with ever shorter leases.
	lastPart = 5
)

// exchangeFunc makes one exchange. Its errors are a *failure, or the context's own.
type exchangeFunc func(context.Context) (token, error)

// issuer keeps, shares and renews JWTs, one for each credential.
type issuer struct {
	lifetime context.Context // of exchanges, which outlast the readers that began them

	mu    sync.RWMutex
	slots map[credential]*slot
}

func newIssuer(lifetime context.Context) *issuer {
	return &issuer{lifetime: lifetime, slots: map[credential]*slot{}}
}

// slot is what is known of one credential.
type slot struct {
	flight singleflight.Group

	// users are the readers and exchanges that hold the slot; one that is held is not swept away.
	users atomic.Int64

	mu        sync.Mutex
	kept      *token
	failed    *failure  // why the last exchange brought nothing; nil after one that did
	notBefore time.Time // no exchange until then
	forgotten int       // how often: an exchange that began before the last time keeps nothing
}

// issued is a JWT for one reader, and how it was come by.
type issued struct {
	token
	exchanged bool     // an exchange was made for this very reader
	stale     *failure // why no newer JWT could be had; nil otherwise
}

// issue hands out a JWT for cred: the kept one while it is younger than reuse, or one from an exchange that all
// readers who arrive meanwhile share. With a reuse of 0, every call makes an exchange of its own and none is kept.
func (i *issuer) issue(ctx context.Context, cred credential, reuse time.Duration, exchange exchangeFunc) (issued, error) {
	s := i.hold(cred)
	defer s.users.Add(-1)
	if reuse == 0 {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(i.lifetime, cancel)()
		t, made, err := s.exchange(ctx, exchange, false)
		if err != nil {
			return s.standIn(err)
		}
		return issued{token: t, exchanged: made}, nil
	}
	if t := s.reusable(reuse); t != nil {
		return issued{token: *t}, nil
	}
	led := false
	result := s.flight.DoChan("", func() (any, error) {
		// The flight before this one may have ended after reusable was asked above.
		if t := s.reusable(reuse); t != nil {
			return *t, nil
		}
		t, made, err := s.exchange(i.lifetime, exchange, true)
		led = made
		return t, err
	})
	select {
	case <-ctx.Done():
		return issued{}, fmt.Errorf("waiting for a JWT: %w", ctx.Err())
	case r := <-result:
		if r.Err != nil {
			return s.standIn(r.Err)
		}
		return issued{token: r.Val.(token), exchanged: led}, nil
	}
}

// find is the slot of a credential, nil if nothing is known of it.
func (i *issuer) find(cred credential) *slot {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.slots[cred]
}

// hold finds or makes the slot of a credential. The caller lets go of it by users.Add(-1).
func (i *issuer) hold(cred credential) *slot {
	i.mu.RLock()
	s := i.slots[cred]
	if s != nil {
		s.users.Add(1)
	}
	i.mu.RUnlock()
	if s != nil {
		return s
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if s = i.slots[cred]; s == nil {
		s = &slot{}
		i.slots[cred] = s
	}
	s.users.Add(1)
	return s
}

// kept is the JWT that is kept for cred, nil if there is none.
func (i *issuer) kept(cred credential) *token {
	s := i.find(cred)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept
}

// forget drops the JWT kept for cred. The wait after a failure goes on.
func (i *issuer) forget(cred credential) {
	if s := i.find(cred); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.kept = nil
		s.forgotten++
		s.flight.Forget("")
	}
}

// retry ends the wait after a failure.
func (i *issuer) retry(cred credential) {
	if s := i.find(cred); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.notBefore = time.Time{}
	}
}

// drop forgets everything about cred. An exchange under way is given to those who wait for it, and to no one else.
func (i *issuer) drop(cred credential) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.slots, cred)
}

// sweep releases the JWTs that have ended.
func (i *issuer) sweep() {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	for cred, s := range i.slots {
		s.mu.Lock()
		if s.kept != nil && s.kept.remaining(now) <= 0 {
			s.kept = nil
		}
		idle := s.kept == nil && s.users.Load() == 0 && !now.Before(s.notBefore)
		s.mu.Unlock()
		if idle {
			delete(i.slots, cred)
		}
	}
}

// reusable is the kept JWT if it may be handed out to a reader who accepts that age.
func (s *slot) reusable(reuse time.Duration) *token {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		return nil
	}
	now := time.Now()
	fresh := s.kept.age(now) < reuse
	if remaining := s.kept.remaining(now); !fresh || remaining < min(minStaleValidity, s.kept.Validity/lastPart) || remaining < minValidity {
		return nil
	}
	return s.kept
}

// exchange makes an exchange unless the last one failed a moment ago, and notes what came of it. made says whether
// it was made.
func (s *slot) exchange(ctx context.Context, exchange exchangeFunc, keep bool) (t token, made bool, err error) {
	s.users.Add(1)
	defer s.users.Add(-1)
	s.mu.Lock()
	if s.failed != nil && time.Now().Before(s.notBefore) {
		defer s.mu.Unlock()
		return token{}, false, s.failed
	}
	forgotten := s.forgotten
	s.mu.Unlock()

	t, err = exchange(ctx)
	t.ObtainedAt = time.Now()

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forgotten != forgotten {
		return t, true, err
	}
	var failed *failure
	switch {
	case err == nil:
		s.failed = nil
		if keep {
			s.kept = &t
		}
	case errors.As(err, &failed):
		s.failed = failed
		s.notBefore = time.Now().Add(failed.wait())
		if failed.kind == failureRefused {
			s.kept = nil
		}
	}
	return t, true, err
}

// standIn answers a reader whose exchange failed: with the kept JWT if the failure is a passing one.
func (s *slot) standIn(err error) (issued, error) {
	var failed *failure
	if !errors.As(err, &failed) || !failed.passing() {
		return issued{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil || s.kept.remaining(time.Now()) < minStaleValidity {
		return issued{}, err
	}
	return issued{token: *s.kept, stale: failed}, nil
}
