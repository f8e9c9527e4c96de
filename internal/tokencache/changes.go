package tokencache

import (
	"context"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

// What happens to a credential other than being read.

// Forget drops the JWT under key for good, in memory and in storage, and with it those that the same path's credential
// got at other URLs: config may name one of these again. The wait after a failure goes on, and an exchange under way
// serves only those who wait for it already. It fails if the stored copy could not be deleted.
func (c *Cache) Forget(ctx context.Context, key Key) error {
	c.mu.Lock()
	c.slot(key)
	for other, s := range c.slots {
		if other.Path == key.Path {
			s.drop()
		}
	}
	c.mu.Unlock()
	return c.Settle(ctx, key.Path)
}

// Verifying notes that the caller begins an exchange with the credential under key. Its result goes to Verified.
func (c *Cache) Verifying(key Key) (number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.slots[key]; s != nil {
		return s.health.begin()
	}
	return 0
}

// Verified records that the exchange of this number succeeded, and caches its JWT unless that is nil, or the key was
// refused or its JWT forgotten since the exchange began.
func (c *Cache) Verified(ctx context.Context, key Key, number uint64, token *console.Token) {
	c.mu.Lock()
	s := c.slot(key)
	s.health.succeeded(number)
	if token != nil && number >= s.held.since {
		s.held.take(*token)
		s.wake()
	}
	c.mu.Unlock()
	_ = c.Settle(ctx, key.Path) // the sweep tries again
}

// Refuse records that Snowplow refused the credential under key in an exchange of the caller's.
func (c *Cache) Refuse(ctx context.Context, key Key, failure *console.Error) {
	c.mu.Lock()
	s := c.slot(key)
	s.note(s.health.begin(), failure)
	c.mu.Unlock()
	_ = c.Settle(ctx, key.Path) // the sweep tries again
}

// EndWaits ends the waits after failures of the credentials stored at path, or of all if path is empty.
func (c *Cache) EndWaits(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, s := range c.slots {
		if path == "" || key.Path == path {
			s.health.endWait()
		}
	}
}
