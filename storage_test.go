package snowplow

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
