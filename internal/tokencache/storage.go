package tokencache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

const (
	// LoadTimeout is how long a reader waits for a stored JWT before it asks Snowplow.
	LoadTimeout = time.Second
	// StoreTimeout bounds what is done in storage for one path.
	StoreTimeout = 5 * time.Second
	// MaxClockSkew is how far in the future a stored JWT may have been obtained: the clock of another node wrote it.
	MaxClockSkew = time.Minute
	// MaxSwept is how many paths one sweep compares with what is stored: each costs storage some calls.
	MaxSwept = 100
	// KeepUnread is how long what nobody asks for stays in memory.
	KeepUnread = 24 * time.Hour
)

// Entry is a JWT in storage.
type Entry struct {
	Key   Key           `json:"key"`
	Token console.Token `json:"token"`
}

// Store keeps JWTs across restarts, one for each path.
type Store interface {
	// Load returns what is stored for a path, nil if that is nothing. What is damaged is an Entry without a key.
	Load(ctx context.Context, path string) (*Entry, error)
	// Save stores an entry for a path; nil deletes it.
	Save(ctx context.Context, path string, entry *Entry) error
	// Paths lists the paths for which something is stored.
	Paths(ctx context.Context) ([]string, error)
	// Current returns the key of the credential that is stored at a path, nil if none is.
	Current(ctx context.Context, path string) (*Key, error)
}

// ErrReadOnly is a Store's refusal on a node that may not write.
var ErrReadOnly = errors.New("this node may not write to storage")

// of returns the JWT of an entry if it belongs to key and can be used, else nil.
func (e *Entry) of(key Key, now time.Time) *console.Token {
	if e == nil || e.Key != key || e.Token.Bearer == "" {
		return nil
	}
	token := e.Token
	if token.Remaining(now) <= 0 || !token.ExpiresAt.After(now) || token.ObtainedAt.After(now.Add(MaxClockSkew)) {
		return nil
	}
	// The clock of the node that stored it may be ahead of this one's; the JWT does not last longer for that.
	if token.ObtainedAt.After(now) {
		token.ObtainedAt, token.Validity = now, min(token.Validity, token.ExpiresAt.Sub(now))
	}
	return &token
}

// lookUp looks for a stored JWT, until it is known whether there is one. It releases the mutex meanwhile. Storage that
// fails or hangs costs a reader an exchange, not the token.
func (c *Cache) lookUp(ctx context.Context, key Key, h *held) error {
	if h.known {
		return nil
	}
	if h.lookingUp() == nil {
		var done func()
		var ctx context.Context
		ctx, done = context.WithTimeout(c.lifetime, StoreTimeout)
		h.lookUp = ctx
		go func() {
			defer done()
			entry, err := c.store.Load(ctx, key.Path)
			c.noteStorage("reading", key.Path, err)
			c.mu.Lock()
			defer c.mu.Unlock()
			if err != nil || h.known {
				return
			}
			h.known = true
			if token := entry.of(key, time.Now()); token != nil {
				h.take(*token)
			}
		}()
	}
	ended := h.lookUp.Done()
	end, _ := h.lookUp.Deadline()
	patience := time.After(time.Until(end.Add(LoadTimeout - StoreTimeout)))
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-ctx.Done():
		return fmt.Errorf("waiting for a stored token: %w", ctx.Err())
	case <-ended:
	case <-patience:
	}
	return nil
}

// lookingUp returns what is closed when the lookup under way ends; nil: there is none.
func (h *held) lookingUp() <-chan struct{} {
	if h.lookUp == nil || h.lookUp.Err() != nil {
		return nil
	}
	return h.lookUp.Done()
}

// Settle makes storage hold what memory holds for a path: the JWT of the credential that is stored there. Whoever
// changes memory calls it afterwards, so the last call sees the last change. Readers never wait for it.
func (c *Cache) Settle(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, StoreTimeout)
	defer cancel()
	lock := c.locks[maphash.String(c.seed, path)%uint64(len(c.locks))]
	select {
	case lock <- struct{}{}:
		defer func() { <-lock }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for an earlier storage call for %s: %w", path, ctx.Err())
	}
	current, err := c.store.Current(ctx, path)
	if err != nil {
		return err
	}
	stored, err := c.store.Load(ctx, path)
	if err != nil {
		return err
	}
	var wanted *Entry
	if current != nil {
		wanted = c.wanted(*current, stored)
	}
	if wanted == stored || wanted != nil && stored != nil && wanted.Key == stored.Key && wanted.Token.Bearer == stored.Token.Bearer {
		return nil
	}
	err = c.store.Save(ctx, path, wanted)
	c.noteStorage("storing", path, err)
	return err
}

// wanted returns what storage should hold of a credential: what memory does, or what is stored already.
func (c *Cache) wanted(key Key, stored *Entry) *Entry {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.slots[key]
	switch {
	case s != nil && s.held.validFor(now, 1):
		return &Entry{key, *s.held.token}
	case s != nil && s.held.known, stored.of(key, now) == nil:
		return nil
	default:
		return stored
	}
}

// noteStorage logs the first failure of a streak.
func (c *Cache) noteStorage(doing, path string, err error) {
	failed := err != nil && !errors.Is(err, ErrReadOnly) // a node that may not write serves tokens from memory
	c.mu.Lock()
	first := failed && !c.failed
	c.failed = failed
	c.mu.Unlock()
	if first && c.lifetime.Err() == nil {
		c.logger.Warn(doing+" a token in Vault's storage failed; the next sweep tries again", "path", path, "error", err)
	}
}

// Sweep drops what nobody asks for from memory, and settles some paths; the next sweep goes on behind them.
func (c *Cache) Sweep(ctx context.Context) {
	now := time.Now()
	paths, err := c.store.Paths(ctx)
	c.mu.Lock()
	for key, s := range c.slots {
		if now.Sub(s.used) >= KeepUnread {
			delete(c.slots, key)
			continue
		}
		paths = append(paths, key.Path)
	}
	last := c.swept
	c.mu.Unlock()
	if err != nil {
		return // storage fails: the next sweep tries again
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	begin, found := slices.BinarySearch(paths, last)
	if found {
		begin++
	}
	paths = slices.Concat(paths[begin:], paths[:begin])
	for _, path := range paths[:min(len(paths), MaxSwept)] {
		_ = c.Settle(ctx, path) // one damaged entry must not keep the others from being looked at
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.swept = path
		c.mu.Unlock()
	}
}
