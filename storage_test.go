package snowplow

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

func TestEntriesThatCannotBeUsedAreNamed(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	const (
		damaged = "the entry is damaged: delete it and write it again"
		later   = `credentials_version "v9" was written by a later version`
		urls    = `{"console_url":"https://x","auth_url":"https://x","request_timeout":1000000000,`
	)
	for _, test := range []struct{ key, value, says string }{
		{"config", `{`, damaged},
		{"config", `{}`, damaged},
		{"config", urls + `"credential":{"organization_id":"org"}}`, damaged},
		{"config", urls + `"credential":{"organization_id":"org","credentials_version":"v9"}}`, later},
		{"roles/analytics", `{"credential":1}`, damaged},
		{"roles/analytics", `{"credential":{}}`, damaged},
		{"roles/analytics", `{"credential":{"credentials_version":"v9"}}`, later},
	} {
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: test.key, Value: []byte(test.value)}))
		status, message := m.refused(logical.ReadOperation, test.key)
		assert.Equal(t, 500, status, test.value)
		assert.Contains(t, message, "reading "+test.key+" from storage: ", test.value)
		assert.Contains(t, message, test.says, test.value)
		kept, err := m.storage.Get(t.Context(), test.key)
		require.NoError(t, err)
		assert.Equal(t, test.value, string(kept.Value), "nothing is changed or deleted")
	}
}

func TestACachedJWTSurvivesARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		console.AddKey(consoletest.Key{ID: "team", Secret: "team-secret"})
		m.mustWrite("roles/team", map[string]any{"api_key_id": "team", "api_key": "team-secret"})
		first, ofTeam := m.accessToken("token"), m.accessToken("token/team")
		assert.Equal(t, []string{"tokens/config", "tokens/roles/team"}, m.storedTokens())
		before := console.Exchanges()
		down(console)
		m.restart()
		assert.Equal(t, first, m.accessToken("token"))
		assert.Equal(t, ofTeam, m.accessToken("token/team"))
		assert.Equal(t, before, console.Exchanges(), "a JWT that is still fresh needs no exchange")

		time.Sleep(2 * time.Hour)
		m.restart()
		assert.Equal(t, first, m.accessToken("token"), "stale, but Console is down")
	})
}

func TestAThousandRolesCostARestartNoExchange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		for i := range 1000 {
			id := fmt.Sprint("key-", i)
			console.AddKey(consoletest.Key{ID: id, Secret: "secret-of-" + id})
			m.mustWrite(fmt.Sprint("roles/", i), map[string]any{"api_key_id": id, "api_key": "secret-of-" + id})
		}
		before := console.Exchanges()
		m.restart()
		for i := range 1000 {
			m.mustRead(fmt.Sprint("token/", i))
		}
		assert.Equal(t, before, console.Exchanges())
	})
}

// An exchange of the old key that ends after the write of the new one gets neither into memory nor into storage.
func TestAnOldExchangeIsNotStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		console.AddKey(consoletest.Key{ID: "new", Secret: "new-secret"})
		time.Sleep(2 * time.Hour)
		console.SetDelay(time.Second)
		done := make(chan string)
		go func() { done <- m.accessToken("token") }()
		synctest.Wait()
		console.SetDelay(0)
		m.mustWrite("config", map[string]any{"api_key_id": "new", "api_key": "new-secret"})
		<-done
		synctest.Wait()
		down(console)
		for range 2 {
			id, _ := console.Issued(m.accessToken("token"))
			assert.Equal(t, "new", id)
			m.restart()
		}
	})
}

func TestStorageThatFailsNeverFailsARead(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"put", "get", "delete", "list"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, console := warmMount(t, map[string]any{"reuse_period": "1m"})
				m.restart()
				m.storage.failKeys(verb, tokenStoragePrefix)
				for range 5 {
					m.mustRead("token")
					m.sweep()
					time.Sleep(2 * time.Minute)
				}
				assert.LessOrEqual(t, strings.Count(m.logs.String(), "in Vault's storage failed"), 2, "a streak of failures is logged once")
				m.storage.fail()
				m.sweep()
				m.sweep()
				assert.Len(t, m.storedTokens(), 1)
				down(console)
				m.restart()
				m.mustRead("token")
			})
		})
	}
}

func TestOnReadOnlyStorageNothingIsStoredOrLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, map[string]any{"reuse_period": "1m"})
		require.NoError(t, m.storage.Delete(t.Context(), "tokens/config"))
		time.Sleep(2 * time.Minute)
		m.storage.readOnly()
		m.mustRead("token")
		m.sweep()
		assert.Empty(t, m.storedTokens())
		assert.NotContains(t, m.logs.String(), "storage failed")
	})
}

func TestJWTsWithoutAnOwnerAreDeleted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*mount)
		sweep  bool // no request on this node says so
		left   []string
	}{
		"role deleted": {func(m *mount) { m.must(logical.DeleteOperation, "roles/team") }, false, []string{"tokens/config"}},
		"role deleted on another node": {func(m *mount) {
			require.NoError(m.t, m.storage.Delete(m.t.Context(), "roles/team"))
			m.backend.InvalidateKey(m.t.Context(), "roles/team")
		}, true, []string{"tokens/config"}},
		"key replaced, unverified": {func(m *mount) {
			m.mustWrite("roles/team", map[string]any{"api_key_id": "x", "api_key": "y", "verify_connection": false})
		}, false, []string{"tokens/config"}},
		"key replaced on another node": {func(m *mount) {
			entry, err := loadRole(m.t.Context(), m.storage, "team")
			require.NoError(m.t, err)
			entry.Credential.ID, entry.Credential.APIKey = "another", redact.NewSecret("another")
			require.NoError(m.t, store(m.t.Context(), m.storage, "roles/team", entry))
			m.backend.InvalidateKey(m.t.Context(), "roles/team")
		}, true, []string{"tokens/config"}},
		"config deleted":                       {func(m *mount) { m.must(logical.DeleteOperation, "config") }, false, []string{"tokens/roles/team"}},
		"config deleted, and the role useless": {func(m *mount) { m.must(logical.DeleteOperation, "config") }, true, nil},
		"expired":                              {func(*mount) { time.Sleep(25 * time.Hour) }, true, nil},
		"nothing":                              {func(*mount) {}, true, []string{"tokens/config", "tokens/roles/team"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, console := warmMount(t, nil)
				console.AddKey(consoletest.Key{ID: "team", Secret: "team-secret"})
				m.mustWrite("roles/team", map[string]any{"api_key_id": "team", "api_key": "team-secret"})
				m.mustRead("token/team")
				test.change(m)
				if test.sweep {
					m.sweep()
				}
				assert.Equal(t, test.left, m.storedTokens())
			})
		})
	}
}

func TestInvalidatingAStoredJWTDropsNoSettings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		settings := m.backend.current.Load()
		m.backend.InvalidateKey(t.Context(), "tokens/config")
		m.mustRead("token")
		assert.Same(t, settings, m.backend.current.Load())
		assert.Equal(t, 1, console.Exchanges())
	})
}

func TestStorageOfALaterVersion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		m.mustWrite("roles/team", map[string]any{"api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey})
		later := func(path string) *logical.StorageEntry {
			entry, err := m.storage.Storage.Get(t.Context(), path)
			require.NoError(t, err)
			entry.Value = []byte(strings.Replace(string(entry.Value), `"credentials_version":"v3"`, `"credentials_version":"v4"`, 1))
			require.NoError(t, m.storage.Put(t.Context(), entry))
			m.restart()
			return entry
		}
		check := func(stored *logical.StorageEntry, reads ...string) {
			for _, path := range reads {
				status, message := m.refused(logical.ReadOperation, path)
				assert.Equal(t, 500, status)
				assert.Contains(t, message, "v4")
				assert.Contains(t, message, "later version")
			}
			status, _ := m.refused(logical.UpdateOperation, stored.Key, map[string]any{"ttl": 60})
			assert.Equal(t, 500, status)
			now, err := m.storage.Storage.Get(t.Context(), stored.Key)
			require.NoError(t, err)
			assert.Equal(t, string(stored.Value), string(now.Value))
		}
		before := console.Exchanges()
		check(later("roles/team"), "token/team", "roles/team", "status/team")
		check(later("config"), "token", "config", "status")
		assert.Equal(t, before, console.Exchanges())
	})
}

func TestAnEntryWithHolesIsDamaged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		for _, entry := range []*logical.StorageEntry{{Key: "config", Value: []byte("{}")}, {Key: "roles/x", Value: []byte(`{"credential":{}}`)}} {
			require.NoError(t, m.storage.Put(t.Context(), entry))
			m.restart()
			status, message := m.refused(logical.ReadOperation, entry.Key)
			assert.Equal(t, 500, status)
			assert.Contains(t, message, entry.Key+" from storage: the entry is damaged")
		}
	})
}

func TestTheFactoryReadsNothing(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.restart()
	assert.Zero(t, m.storage.count())
}

func TestCleanEndsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, map[string]any{"reuse_period": "1m"})
		time.Sleep(50 * time.Second)
		console.FailAlways(consoletest.Silence())
		m.mustRead("token") // begins a refresh ahead
		synctest.Wait()
		m.backend.Cleanup(context.Background())
		synctest.Wait() // the bubble fails if anything is left
	})
}

func TestOnReadOnlyStorageForgettingIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		m.storage.readOnly()
		_, message := m.refused(logical.DeleteOperation, "token")
		assert.Contains(t, message, "stored copy could not be deleted")
	})
}

func TestADamagedEntryDoesNotKeepTheOthersFromBeingSwept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: "roles/a", Value: []byte("{")}))
		for _, name := range []string{"a", "gone"} {
			require.NoError(t, store(t.Context(), m.storage, "tokens/roles/"+name, tokencache.Entry{}))
		}
		m.sweep()
		assert.Equal(t, []string{"tokens/config", "tokens/roles/a"}, m.storedTokens())
	})
}
