package tokencache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

func TestWhichStoredJWTsAreUsed(t *testing.T) {
	t.Parallel()
	now := time.Now()
	entry := func(change func(*Entry)) *Entry {
		e := &Entry{keyA, console.Token{Bearer: redact.NewSecret("jwt"), ObtainedAt: now.Add(-time.Hour), ExpiresAt: now.Add(time.Hour), Validity: 2 * time.Hour}}
		change(e)
		return e
	}
	for name, change := range map[string]func(*Entry){
		"another credential":             func(e *Entry) { e.Key.CredentialID = "old" },
		"another Console":                func(e *Entry) { e.Key.ConsoleURL = "https://other.example" },
		"no token":                       func(e *Entry) { e.Token.Bearer = redact.Secret{} },
		"expired":                        func(e *Entry) { e.Token.ObtainedAt = now.Add(-2 * time.Hour) },
		"expired by Snowplow's clock":    func(e *Entry) { e.Token.ExpiresAt = now },
		"obtained too far in the future": func(e *Entry) { e.Token.ObtainedAt = now.Add(maxClockSkew + time.Second) },
	} {
		assert.Nil(t, entry(change).of(keyA, now), name)
	}
	assert.Nil(t, (*Entry)(nil).of(keyA, now))
	got := entry(func(e *Entry) { e.Token.ObtainedAt = now.Add(maxClockSkew) }).of(keyA, now)
	require.NotNil(t, got, "a little in the future")
	assert.Equal(t, time.Hour, got.Remaining(now), "it does not last longer for that")
}
