package tokencache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

const (
	loadTimeout  = time.Second     // how long a reader waits for a stored JWT before it asks Snowplow
	storeTimeout = 5 * time.Second // for all that is done in storage for one path
	maxClockSkew = time.Minute     // how far in the future a stored JWT may have been obtained, by another node's clock
	maxSwept     = 100             // paths that one sweep compares with what is stored: each costs storage some calls
	keepUnread   = 24 * time.Hour  // how long a credential that nobody reads stays in memory
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

// same reports whether two entries are of the same JWT.
func (e *Entry) same(other *Entry) bool {
	if e == nil || other == nil {
		return e == other
	}
	return e.Key == other.Key && e.Token.Bearer == other.Token.Bearer
}

// of returns the JWT of an entry if it belongs to key and can be used, else nil.
func (e *Entry) of(key Key, now time.Time) *console.Token {
	if e == nil || e.Key != key || e.Token.Bearer.Reveal() == "" {
		return nil
	}
	token := e.Token
	if token.Remaining(now) <= 0 || !token.ExpiresAt.After(now) || token.ObtainedAt.After(now.Add(maxClockSkew)) {
		return nil
	}
	// The clock of the node that stored it may be ahead of this one's; the JWT does not last longer for that.
	if token.ObtainedAt.After(now) {
		token.ObtainedAt, token.Validity = now, min(token.Validity, token.ExpiresAt.Sub(now))
	}
	return &token
}

// lookUp waits until storage has been asked for a JWT, but no longer than loadTimeout: if storage fails or hangs, the
// reader gets its JWT from an exchange.
func (c *Cache) lookUp(ctx context.Context, key Key, s *slot) error {
	h := s.held
	if !h.known && h.loading.IsZero() {
		h.loading = time.Now()
		go c.load(key, s, h)
	}
	for !h.known && !h.loading.IsZero() && time.Since(h.loading) < loadTimeout {
		if err := c.sleep(ctx, s, h.loading.Add(loadTimeout)); err != nil {
			return err
		}
	}
	return nil
}

// load asks storage for a JWT, for as long as it takes: a reader who has given up on it may still wait for an exchange.
func (c *Cache) load(key Key, s *slot, h *held) {
	ctx, cancel := context.WithTimeout(c.lifetime, storeTimeout)
	defer cancel()
	entry, err := c.store.Load(ctx, key.Path)
	c.noteStorage("reading", key.Path, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer s.wake()
	h.loading = time.Time{}
	if err != nil || h.known {
		return // after a failure, the next reader looks again
	}
	h.known = true
	if token := entry.of(key, time.Now()); token != nil {
		h.take(*token)
	}
}

// Settle makes storage hold what memory holds for a path: the JWT of the credential that is stored there. JWTs of any
// other credential go from both. Whoever changes memory calls it afterwards, so the last call sees the last change.
// Readers never wait for it.
func (c *Cache) Settle(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	lock := c.locks[maphash.String(c.seed, path)%uint64(len(c.locks))]
	select {
	case lock <- struct{}{}:
		defer func() { <-lock }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for an earlier storage call for %s: %w", path, ctx.Err())
	}
	inMemory := c.keys(path) // a key that comes meanwhile may be newer than what is read here
	var stored *Entry
	current, err := c.store.Current(ctx, path)
	if err == nil {
		stored, err = c.store.Load(ctx, path)
	}
	c.noteStorage("reading", path, err)
	if err != nil {
		return err
	}
	wanted := c.keepOnly(current, inMemory, stored)
	if wanted.same(stored) {
		return nil
	}
	err = c.store.Save(ctx, path, wanted)
	c.noteStorage("storing", path, err)
	return err
}

// keys lists what is in memory for a path.
func (c *Cache) keys(path string) []Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Keys(c.slots)), func(key Key) bool { return key.Path != path })
}

// keepOnly drops all of these keys from memory but the current one; those who wait for an exchange still get its JWT. It
// returns what storage should hold: the JWT in memory or, if storage was not asked yet, the stored one; nil: nothing.
func (c *Cache) keepOnly(current *Key, inMemory []Key, stored *Entry) *Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range inMemory {
		if current == nil || key != *current {
			delete(c.slots, key)
		}
	}
	if current == nil {
		return nil
	}
	now := time.Now()
	if s := c.slots[*current]; s != nil && s.held.known {
		if token := s.held.valid(now); token != nil {
			return &Entry{*current, *token}
		}
		return nil
	}
	if stored.of(*current, now) == nil {
		return nil
	}
	return stored
}

// noteStorage logs the first failure of a streak.
func (c *Cache) noteStorage(doing, path string, err error) {
	failed := err != nil && !errors.Is(err, ErrReadOnly) // a node that may not write serves tokens from memory
	c.mu.Lock()
	first := failed && !c.failing[doing]
	c.failing[doing] = failed
	c.mu.Unlock()
	if first && c.lifetime.Err() == nil {
		c.logger.Warn(doing+" a token in Vault's storage failed; the next sweep tries again", "path", path, "error", err)
	}
}

// Sweep drops credentials that nobody reads from memory, and settles some paths; the next sweep continues after them.
func (c *Cache) Sweep(ctx context.Context) {
	now := time.Now()
	paths, err := c.store.Paths(ctx)
	c.mu.Lock()
	for key, s := range c.slots {
		if now.Sub(s.used) >= keepUnread {
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
	for _, path := range paths[:min(len(paths), maxSwept)] {
		_ = c.Settle(ctx, path) // one damaged entry must not keep the others from being looked at
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.swept = path
		c.mu.Unlock()
	}
}
