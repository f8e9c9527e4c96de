package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/singleflight"
)

const (
	// refreshAfter is the part of a lease after which the next request reads Vault again.
	refreshAfter = 0.8
	// maxWait is how long a request waits for Vault while it can do with the JWT at hand.
	maxWait = 2 * time.Second
	// replacementWait is how long a request that Console answered with 401 waits for another JWT.
	replacementWait = 30 * time.Second
	// retryPause is the time between two reads of Vault after one that failed, or brought a JWT that Console refuses.
	retryPause = 10 * time.Second
)

// token is a JWT as Vault has handed it out, and the Console that it is for.
type token struct {
	jwt            string
	organizationID string
	consoleURL     *url.URL
	refreshAt      time.Time
	leaseEnd       time.Time
	expiresAt      time.Time // of the JWT; not before leaseEnd unless clocks differ
}

// usable says whether the token may still be used. A lease that is over does not end the JWT, and while Vault is out of
// reach it serves on; if Vault refuses the login, the lease's end is the end.
func (t *token) usable(now time.Time, refused bool) bool {
	return now.Before(t.leaseEnd) || !refused && now.Before(t.expiresAt)
}

// refusalError is Vault's refusal to hand out a token: asking again will not help before someone has acted.
type refusalError struct{ error }

// tokenSource has the current token, and reads another from Vault before its lease is over. It has no timer: a command
// that is idle for a night makes no requests to Vault.
type tokenSource struct {
	ctx    context.Context // of reads: one that a request began goes on for the others
	read   func(context.Context) (*token, error)
	logger hclog.Logger
	reads  singleflight.Group

	mu        sync.Mutex
	current   *token
	err       error     // of the last read
	pausedTo  time.Time // no read before, after one that failed
	recheckAt time.Time // no read before on account of a 401, after one that brought the same JWT
}

// newTokenSource reads the first token. All later ones must be for the same organization and Console.
func newTokenSource(ctx context.Context, read func(context.Context) (*token, error), logger hclog.Logger) (*tokenSource, error) {
	first, err := read(ctx)
	if err != nil {
		return nil, err
	}
	return &tokenSource{ctx: ctx, read: read, logger: logger, current: first}, nil
}

// organizationID and consoleURL are the same for every token of a source.
func (s *tokenSource) organizationID() string { return s.peek().organizationID }
func (s *tokenSource) consoleURL() *url.URL   { return s.peek().consoleURL }

func (s *tokenSource) peek() *token {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// get returns a token to use now.
func (s *tokenSource) get(ctx context.Context) (*token, error) {
	current := s.peek()
	if wallClock().Before(current.refreshAt) {
		return current, nil
	}
	wait := time.Duration(0) // as long as ctx lets it
	if s.mayUse(current) {
		wait = maxWait
	}
	fresh, err := s.refresh(ctx, current, wait)
	if err == nil {
		return fresh, nil
	}
	// With what the read has shown: Vault may have refused.
	if s.mayUse(current) {
		return current, nil
	}
	if errors.Is(err, errStillReading) { // and meanwhile the token has ended
		return s.refresh(ctx, current, 0)
	}
	return nil, err
}

func (s *tokenSource) mayUse(t *token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return t.usable(wallClock(), errors.As(s.err, new(refusalError)))
}

// replace returns a token with another JWT than one that Console has refused, or the same if Vault has no other.
func (s *tokenSource) replace(ctx context.Context, refused *token) (*token, error) {
	s.mu.Lock()
	current, recheckAt := s.current, s.recheckAt
	s.mu.Unlock()
	if current.jwt != refused.jwt || wallClock().Before(recheckAt) {
		return current, nil
	}
	fresh, err := s.refresh(ctx, current, replacementWait)
	if err != nil {
		return nil, err
	}
	if fresh.jwt == refused.jwt {
		s.mu.Lock()
		s.recheckAt = wallClock().Add(retryPause)
		s.mu.Unlock()
	}
	return fresh, nil
}

var errStillReading = errors.New("no answer from Vault yet")

// refresh takes part in one read of Vault that all requests share, unless there is a newer token than seen already.
func (s *tokenSource) refresh(ctx context.Context, seen *token, wait time.Duration) (*token, error) {
	var timeout <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		timeout = timer.C
	}
	result := s.reads.DoChan("", func() (any, error) { return s.readOnce(seen) })
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*token), nil
	case <-timeout:
		return nil, errStillReading
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *tokenSource) readOnce(seen *token) (*token, error) {
	s.mu.Lock()
	current, err, paused := s.current, s.err, wallClock().Before(s.pausedTo)
	s.mu.Unlock()
	if current != seen {
		return current, nil
	}
	if paused {
		return nil, err
	}

	fresh, err := s.read(s.ctx)
	if err == nil && (fresh.organizationID != current.organizationID || fresh.consoleURL.String() != current.consoleURL.String()) {
		err = refusalError{fmt.Errorf("the token in Vault is now for organization %s at %s: start the command again", fresh.organizationID, fresh.consoleURL)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.err == nil || s.err.Error() != err.Error() { // once, not for each request of an outage
			s.logger.Warn("could not get a new JWT", "error", err)
		}
		s.err, s.pausedTo = err, wallClock().Add(retryPause)
		return nil, err
	}
	s.current, s.err, s.pausedTo = fresh, nil, time.Time{}
	s.logger.Debug("read a token from Vault", "lease_ends", fresh.leaseEnd.UTC().Format(time.RFC3339))
	return fresh, nil
}

// wallClock is the time of day. The monotonic clock that Go otherwise compares stands still while a laptop sleeps.
func wallClock() time.Time { return time.Now().Round(0) }
