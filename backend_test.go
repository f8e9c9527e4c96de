package snowplow

import (
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestStorageThatFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		verb      string
		operation logical.Operation
		path      string
		fields    map[string]any
	}{
		"read token":     {"get", logical.ReadOperation, "token/analytics", nil},
		"read status":    {"get", logical.ReadOperation, "status/analytics", nil},
		"read config":    {"get", logical.ReadOperation, "config", nil},
		"read role":      {"get", logical.ReadOperation, "roles/analytics", nil},
		"existence":      {"get", logical.UpdateOperation, "roles/analytics", map[string]any{"ttl": 60}},
		"write config":   {"put", logical.UpdateOperation, "config", map[string]any{"ttl": 60}},
		"write role":     {"put", logical.UpdateOperation, "roles/analytics", map[string]any{"ttl": 60}},
		"unread config":  {"get", logical.PatchOperation, "config", map[string]any{"ttl": 60}},
		"unread role":    {"get", logical.PatchOperation, "roles/analytics", map[string]any{"ttl": 60}},
		"patch role":     {"put", logical.PatchOperation, "roles/analytics", map[string]any{"ttl": 60}},
		"delete config":  {"delete", logical.DeleteOperation, "config", nil},
		"delete role":    {"delete", logical.DeleteOperation, "roles/analytics", nil},
		"list the roles": {"list", logical.ListOperation, "roles/", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := newConfiguredMount(t)
			m.mustWrite("roles/analytics", map[string]any{"ttl": 30})

			m.storage.fail(test.verb)
			_, err := m.request(t.Context(), test.operation, test.path, test.fields)
			require.ErrorIs(t, err, errStorage)
			assert.Contains(t, err.Error(), "storage", "the error must say what was attempted")

			m.storage.fail()
			assert.EqualValues(t, 0, m.mustRead("config").Data["ttl"], "something was written")
			assert.EqualValues(t, 30, m.mustRead("roles/analytics").Data["ttl"], "something was written")
			assert.NotEmpty(t, m.mustRead("token/analytics").Data["access_token"], "the mount did not recover")
		})
	}
}

func TestSealWrapCoversWhatHoldsSecrets(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	m.mustWrite("roles/analytics", map[string]any{"api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey})
	keys, err := logical.CollectKeys(t.Context(), m.storage)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"config", "roles/analytics", "tokens/roles/analytics"}, keys)
	for _, key := range keys {
		// Vault's rule: an entry that ends in a slash is a prefix, any other one key.
		sealed := slices.ContainsFunc(m.backend.SpecialPaths().SealWrapStorage, func(entry string) bool {
			return entry == key || entry[len(entry)-1] == '/' && len(key) > len(entry) && key[:len(entry)] == entry
		})
		assert.True(t, sealed, "%s is not seal-wrapped", key)
	}
	assert.Equal(t, []string{"tokens/"}, m.backend.SpecialPaths().LocalStorage, "each cluster has JWTs of its own")
}

func TestEveryOperationIsDocumented(t *testing.T) {
	t.Parallel()
	for _, path := range newMount(t).backend.Paths {
		assert.NotEmpty(t, path.HelpSynopsis, path.Pattern)
		assert.Contains(t, path.HelpDescription, "$ vault ", "%s has no example", path.Pattern)
		assert.Equal(t, operationPrefix, path.DisplayAttrs.OperationPrefix, path.Pattern)
		for name, field := range path.Fields {
			assert.NotEmpty(t, field.Description, "%s of %s", name, path.Pattern)
			secret := slices.ContainsFunc(console.Fields, func(f console.Field) bool { return f.Name == name && f.Secret })
			assert.Equal(t, secret, field.DisplayAttrs.Sensitive, "%s of %s", name, path.Pattern)
		}
		for name, operation := range path.Operations {
			properties := operation.Properties()
			assert.NotEmpty(t, properties.Summary, "%s %s", name, path.Pattern)
			assert.NotEmpty(t, properties.Responses, "%s %s", name, path.Pattern)
			require.NotNil(t, properties.DisplayAttrs, "%s %s", name, path.Pattern)
			assert.NotEmpty(t, properties.DisplayAttrs.OperationVerb, "%s %s", name, path.Pattern)
		}
	}
}

// A field that is in no table of docs/api.md, or that changes nothing, was forgotten in one of the places where it
// belongs.
func TestEveryFieldIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/api.md")
	require.NoError(t, err)
	_, sections, _ := strings.Cut(string(page), "\n## Config\n")
	documented := map[string][]string{}
	section := "Config"
	for line := range strings.Lines(sections) {
		if heading, found := strings.CutPrefix(line, "## "); found {
			section = strings.TrimSpace(heading)
		} else if row := regexp.MustCompile("^\\| `(\\w+)` \\|").FindStringSubmatch(line); row != nil {
			documented[section] = append(documented[section], row[1])
		}
	}
	fields := func(schemas ...map[string]*framework.FieldSchema) []string {
		all := map[string]*framework.FieldSchema{}
		for _, schema := range schemas {
			maps.Copy(all, schema)
		}
		return slices.Collect(maps.Keys(all))
	}
	assert.ElementsMatch(t, fields(configFields(), readableFields(configFields())), documented["Config"])
	assert.ElementsMatch(t, fields(roleFields(), readableRoleFields()), documented["Roles"])
	assert.ElementsMatch(t, fields(tokenFields), documented["Token"])
	assert.ElementsMatch(t, fields(statusFields()), documented["Status"])
}

func TestEveryFieldChangesSomething(t *testing.T) {
	t.Parallel()
	values := map[string]any{
		"credentials_version": "v2", "console_url": "https://another.example", "auth_url": "https://another.example",
		"ca_cert": consoletest.NewAuthority(t).PEM(), "request_timeout": 7, "ttl": 7, "reuse_period": 7,
	}
	botUser := map[string]any{"credentials_version": "v1", "username": "a", "password": "b", "client_id": "c", "client_secret": "d"}
	changing := regexp.MustCompile(`"(id|written_at)":"[^"]*"`) // with each write
	for path, schema := range map[string]map[string]*framework.FieldSchema{"config": configFields(), "roles/team": roleFields()} {
		for field := range schema {
			if field == "verify_connection" { // not stored, see TestAFailedVerificationStoresNothing
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				m, _ := mountWithTeam(t)
				write := func(fields map[string]any) string {
					m.mustWrite(path, fields, map[string]any{"verify_connection": false})
					entry, err := m.storage.Get(t.Context(), path)
					require.NoError(t, err)
					return changing.ReplaceAllString(string(entry.Value), "")
				}
				written := map[string]any{"api_key": "key"}
				if botUser[field] != nil && field != "credentials_version" {
					written = maps.Clone(botUser)
				}
				before := write(written)
				if written[field] = values[field]; written[field] == nil {
					written[field] = "another"
				}
				assert.NotEqual(t, before, write(written), "%s of %s", field, path)
			})
		}
	}
}

func TestWritesAndLeasesAreForwarded(t *testing.T) {
	t.Parallel()
	for _, path := range newMount(t).backend.Paths {
		for name, operation := range path.Operations {
			properties := operation.Properties()
			fromMemory := path.Pattern != "config" && path.Pattern[:5] != "roles"
			writes := !fromMemory && name != logical.ReadOperation && name != logical.ListOperation
			assert.Equal(t, fromMemory || writes, properties.ForwardPerformanceStandby, "%s %s", name, path.Pattern)
			assert.Equal(t, writes, properties.ForwardPerformanceSecondary, "%s %s", name, path.Pattern)
		}
	}
}

func TestInvalidateDropsWhatWasDerived(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	m.mustWrite("roles/analytics", map[string]any{"ttl": 60})
	m.mustRead("token")
	m.mustRead("token/analytics")

	// Another node changes what is stored.
	entry, err := loadConfig(t.Context(), m.storage)
	require.NoError(t, err)
	entry.TTL = 2 * time.Minute
	require.NoError(t, store(t.Context(), m.storage, configStorageKey, entry))
	assert.Greater(t, m.mustRead("token").Secret.TTL, time.Hour, "config is read again without being invalidated")
	m.backend.InvalidateKey(t.Context(), configStorageKey)
	assert.Equal(t, 2*time.Minute, m.mustRead("token").Secret.TTL)

	assert.Equal(t, time.Minute, m.mustRead("token/analytics").Secret.TTL)
	role := 30 * time.Second
	require.NoError(t, store(t.Context(), m.storage, "roles/analytics", &roleEntry{TTL: &role}))
	assert.Equal(t, time.Minute, m.mustRead("token/analytics").Secret.TTL, "a role is read again without being invalidated")
	m.backend.InvalidateKey(t.Context(), "roles/analytics")
	assert.Equal(t, 30*time.Second, m.mustRead("token/analytics").Secret.TTL)
}

func TestAReplicatedChangeEndsTheWait(t *testing.T) {
	t.Parallel()
	m, console := newConfiguredMount(t)
	m.mustWrite("roles/own", scopedKey(console, "scoped"), map[string]any{"verify_connection": false})
	console.FailAlways(consoletest.Status(http.StatusUnauthorized, "", nil))
	for key, path := range map[string]string{"config": "token", "roles/own": "token/own"} {
		m.refused(logical.ReadOperation, path)
		exchanges := console.Exchanges()
		m.refused(logical.ReadOperation, path)
		assert.Equal(t, exchanges, console.Exchanges())
		m.backend.InvalidateKey(t.Context(), key)
		m.refused(logical.ReadOperation, path)
		assert.Equal(t, exchanges+1, console.Exchanges(), key)
	}
}

func TestRunningVersionIsTheLinkedOne(t *testing.T) {
	t.Parallel()
	assert.Equal(t, Version, newMount(t).backend.PluginVersion().Version)
}

func TestCountersOfARoleThatIsGoneAreDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		m.mustWrite("roles/here", map[string]any{"ttl": 60})
		m.mustRead("token/here")
		m.mustWrite("roles/elsewhere", map[string]any{"ttl": 60})
		m.mustRead("token/elsewhere")
		require.NoError(t, m.storage.Delete(t.Context(), "roles/elsewhere"))
		m.backend.InvalidateKey(t.Context(), "roles/elsewhere")
		m.sweep()
		_, kept := m.backend.stats.Load("here")
		assert.True(t, kept)
		_, kept = m.backend.stats.Load("elsewhere")
		assert.False(t, kept)
	})
}

// A role that is written and read while the sweep lists the roles is not on its list.
func TestARoleWrittenDuringASweepKeepsItsCounters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		m.storage.slowAfter("list", roleStoragePrefix, time.Second)
		go m.sweep()
		synctest.Wait()
		m.mustWrite("roles/new", map[string]any{"ttl": 60})
		m.mustRead("token/new")
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Contains(t, m.metrics(), `snowplow_token_reads_total{path="token/new"} 1`)
	})
}

func TestVaultSweepsTheMount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		time.Sleep(25 * time.Hour)
		_, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
		require.NoError(t, err)
		assert.Empty(t, m.storedTokens())
	})
}
