package snowplow

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// mountWithTeam is a mount in a bubble with config and the role team, each with a key of its own.
func mountWithTeam(t *testing.T) (*mount, *consoletest.Console) {
	t.Helper()
	m, console := warmMount(t, nil)
	console.AddKey(consoletest.Key{ID: "team", Secret: "team-secret"})
	m.mustWrite("roles/team", map[string]any{"api_key_id": "team", "api_key": "team-secret"})
	return m, console
}

func TestARoleLosesItsOwnCredentialOnlyOnPurpose(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		operation logical.Operation
		fields    map[string]any
		says      string
	}{
		"empty variables":                {logical.UpdateOperation, map[string]any{"api_key_id": "", "api_key": ""}, "api_key_id is empty"},
		"an empty file":                  {logical.UpdateOperation, map[string]any{"api_key": "\n"}, "api_key is empty"},
		"empty values in a patch":        {logical.PatchOperation, map[string]any{"api_key": ""}, "api_key is empty"},
		"another version":                {logical.UpdateOperation, map[string]any{"credentials_version": "v1"}, "username, password, client_id, client_secret is missing"},
		"the version of config":          {logical.PatchOperation, map[string]any{"credentials_version": nil}, "is missing: credentials_version v1 needs"},
		"an empty version":               {logical.UpdateOperation, map[string]any{"credentials_version": ""}, "is missing: credentials_version v1 needs"},
		"half of it":                     {logical.PatchOperation, map[string]any{"api_key_id": nil}, "api_key_id is missing"},
		"the key, with an ID beside it":  {logical.PatchOperation, map[string]any{"api_key": nil, "api_key_id": "x"}, "api_key is missing"},
		"everything, but in another way": {logical.PatchOperation, map[string]any{"api_key": nil, "api_key_id": nil, "password": "x"}, "password does not belong"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, console := mountWithTeam(t)
				m.mustWrite("config", map[string]any{
					"credentials_version": "v1", "username": consoletest.DefaultUsername, "password": consoletest.DefaultPassword,
					"client_id": consoletest.DefaultClientID, "client_secret": consoletest.DefaultClientSecret,
				})
				status, message := m.refused(test.operation, "roles/team", test.fields)
				assert.Equal(t, 400, status)
				assert.Contains(t, message, test.says)
				m.must(logical.DeleteOperation, "token/team")
				id, _ := console.Issued(m.accessToken("token/team"))
				assert.Equal(t, "team", id)
			})
		})
	}
}

func TestAPatchThatNullsTheSecretsRemovesTheCredential(t *testing.T) {
	t.Parallel()
	for _, fields := range []map[string]any{{"api_key": nil}, {"api_key": nil, "api_key_id": nil}, {"api_key": nil, "organization_id": nil}} {
		synctest.Test(t, func(t *testing.T) {
			m, _ := mountWithTeam(t)
			m.mustWrite("roles/team", map[string]any{"organization_id": consoletest.DefaultOrganizationID})
			resp := m.must(logical.PatchOperation, "roles/team", fields)
			assert.Equal(t, []string{"the role has no credential of its own: its tokens are those of config's key"}, resp.Warnings)
			assert.Equal(t, map[string]any{"credential_source": "config"}, m.mustRead("roles/team").Data)
			assert.Equal(t, m.accessToken("token"), m.accessToken("token/team"))
		})
	}
}

func TestCreatingARoleWithUnsetVariablesIsRefused(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	_, message := m.refused(logical.UpdateOperation, "roles/new", map[string]any{"api_key_id": "", "api_key": ""})
	assert.Contains(t, message, "api_key_id is empty")
	assert.Nil(t, m.must(logical.ReadOperation, "roles/new"))
}

func TestEachWriteThatLeavesARoleWithoutACredentialWarns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		for range 2 {
			resp := m.mustWrite("roles/plain", map[string]any{"ttl": "1h"})
			assert.Equal(t, []string{"the role has no credential of its own: its tokens are those of config's key"}, resp.Warnings)
		}
		m.must(logical.DeleteOperation, "config")
		resp := m.mustWrite("roles/plain", map[string]any{"ttl": "1h"})
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "reads of its token fail")
	})
}

func TestAMountWithoutADefaultKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := consoletest.New()
		fake.AddKey(consoletest.Key{ID: "team", Secret: "team-secret"})
		m := newMountInBubble(t, fake)
		resp := m.mustWrite("config", map[string]any{"organization_id": consoletest.DefaultOrganizationID})
		assert.Contains(t, fmt.Sprint(resp.Warnings), "config has no credential")
		assert.Zero(t, fake.Exchanges(), "there is nothing to verify")
		for _, path := range []string{"token", "status"} {
			status, message := m.refused(logical.ReadOperation, path)
			assert.Equal(t, 400, status)
			assert.Contains(t, message, "config has no credential")
			assert.Contains(t, message, "api_key=@<file>")
		}
		m.mustWrite("roles/plain", map[string]any{"ttl": 60})
		_, message := m.refused(logical.ReadOperation, "token/plain")
		assert.Contains(t, message, `role "plain" has no credential of its own, and config has none`)
		m.mustWrite("roles/team", map[string]any{"api_key_id": "team", "api_key": "team-secret"})
		assert.NotEmpty(t, m.accessToken("token/team"))

		for _, half := range []map[string]any{{"api_key_id": "x"}, {"api_key": "x"}} {
			_, message := m.refused(logical.UpdateOperation, "config", half)
			assert.Contains(t, message, "is missing")
		}
		m.mustWrite("config", map[string]any{"api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey})
		assert.NotEmpty(t, m.accessToken("token/plain"))
		m.must(logical.PatchOperation, "config", map[string]any{"api_key": nil})
		m.refused(logical.ReadOperation, "token")
	})
}

func TestAKeyInTheWrongFieldIsRefusedWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	const key = "canary-pasted-key"
	for _, field := range []string{"organization_id", "api_key_id"} {
		synctest.Test(t, func(t *testing.T) {
			m, _ := warmMount(t, nil)
			m.mustWrite("config", map[string]any{"api_key": key, "verify_connection": false})
			for _, fields := range []map[string]any{
				{field: key}, // it is stored already
				{field: "canary-2", "api_key": "canary-2"}, // both in one write
			} {
				status, message := m.refused(logical.UpdateOperation, "config", fields)
				assert.Equal(t, 400, status)
				assert.Contains(t, message, field+" has the same value as a secret")
				assert.NotContains(t, message, "canary")
			}
			assert.NotContains(t, m.logs.String(), "canary")
			assert.NotContains(t, fmt.Sprint(m.mustRead("config").Data), "canary")
		})
	}
}

func TestFieldsHaveAnEnd(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	for field, length := range map[string]int{"api_key": 4097, "api_key_id": 4097, "organization_id": 257, "ca_cert": 64<<10 + 1} {
		status, message := m.refused(logical.UpdateOperation, "config", map[string]any{field: strings.Repeat("x", length), "verify_connection": false})
		assert.Equal(t, 400, status)
		assert.Contains(t, message, field+" must be")
		assert.Less(t, len(message), 300)
	}
	m.mustWrite("config", map[string]any{"api_key": strings.Repeat("x", 4096), "organization_id": strings.Repeat("x", 256), "verify_connection": false})
}

func TestOnlyWhatAnExchangeDependsOnIsVerified(t *testing.T) {
	t.Parallel()
	certificate := someCertificate(t)
	synctest.Test(t, func(t *testing.T) {
		m, fake := mountWithTeam(t)
		first := m.accessToken("token")
		before := fake.Exchanges()
		fake.FailAlways(consoletest.Silence())
		m.mustWrite("config", map[string]any{"ttl": 60, "reuse_period": "2h", "request_timeout": "5s"})
		m.mustWrite("roles/team", map[string]any{"ttl": 60, "reuse_period": "2h"})
		assert.Equal(t, before, fake.Exchanges())
		assert.Equal(t, first, m.accessToken("token"), "a JWT that the write has nothing to do with")

		for _, fields := range []map[string]any{
			{"api_key": consoletest.DefaultAPIKey},
			{"organization_id": "22222222-2222-4222-8222-222222222222"},
			{"credentials_version": "v2"},
			{"ca_cert": certificate},
		} {
			status, message := m.refused(logical.UpdateOperation, "config", fields)
			assert.Equal(t, 504, status, "%v", fields)
			assert.Contains(t, message, "add verify_connection=false")
			m.mustWrite("config", fields, map[string]any{"verify_connection": false})
			m.mustWrite("config", map[string]any{"organization_id": consoletest.DefaultOrganizationID, "credentials_version": "v3",
				"api_key_id": consoletest.DefaultAPIKeyID, "ca_cert": "", "verify_connection": false})
		}
		_, message := m.refused(logical.UpdateOperation, "config", map[string]any{"console_url": console.DefaultConsoleURL + "/path"})
		assert.Contains(t, message, "check console_url, which has a path")
	})
}

func someCertificate(t *testing.T) string {
	t.Helper()
	return consoletest.NewTLSServer(t).CACert()
}

func TestAJWTIsNotCarriedOverToAnotherURLOrOrganization(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string]map[string]any{
		"path":         {"console_url": console.DefaultConsoleURL + "/path"},
		"organization": {"organization_id": "22222222-2222-4222-8222-222222222222"},
		"version":      {"credentials_version": "v2"},
		"key":          {"api_key": consoletest.DefaultAPIKey},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, fake := warmMount(t, nil)
				down(fake)
				m.mustWrite("config", fields, map[string]any{"verify_connection": false})
				m.refused(logical.ReadOperation, "token")
				assert.Empty(t, m.storedTokens())
				// And back: what was dropped is gone.
				m.mustWrite("config", map[string]any{"console_url": "", "organization_id": consoletest.DefaultOrganizationID,
					"credentials_version": "v3", "api_key_id": consoletest.DefaultAPIKeyID, "verify_connection": false})
				m.refused(logical.ReadOperation, "token")
			})
		})
	}
}

func TestWritesAndDeletesDoNotWaitForAVerification(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"config", "roles/team"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, fake := mountWithTeam(t)
				fake.SetDelay(10 * time.Second)
				said := make(chan string)
				go func() {
					_, message := m.refused(logical.UpdateOperation, path, map[string]any{"api_key_id": "team", "api_key": "team-secret"})
					said <- message
				}()
				time.Sleep(time.Second)
				begun := time.Now()
				m.mustWrite("roles/other", map[string]any{"ttl": 60})
				m.must(logical.DeleteOperation, path)
				assert.Zero(t, time.Since(begun))
				assert.Contains(t, <-said, path+" was deleted while the new values were being verified, so nothing was stored")
				assert.Nil(t, m.must(logical.ReadOperation, path))
			})
		})
	}
}

func TestConcurrentWritesLoseNoFields(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := mountWithTeam(t)
		fake.AddKey(consoletest.Key{ID: "new", Secret: "new-secret"})
		fake.SetDelay(time.Second)
		for _, path := range []string{"config", "roles/team"} {
			before := fake.Exchanges()
			var writers sync.WaitGroup
			writers.Go(func() { m.mustWrite(path, map[string]any{"api_key_id": "new", "api_key": "new-secret"}) })
			writers.Go(func() { time.Sleep(500 * time.Millisecond); m.mustWrite(path, map[string]any{"ttl": 77}) })
			writers.Wait()
			data := m.mustRead(path).Data
			assert.EqualValues(t, 77, data["ttl"])
			assert.Equal(t, "new", data["api_key_id"])
			assert.Equal(t, before+1, fake.Exchanges(), "what was verified is not verified again")
		}
	})
}

// A role that is written while config moves elsewhere is verified and bound for where config points in the end.
func TestARoleWrittenWhileConfigMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := mountWithTeam(t)
		fake.SetDelay(5 * time.Second)
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.mustWrite("roles/team", map[string]any{"api_key_id": "team", "api_key": "team-secret"})
		}()
		time.Sleep(time.Second)
		m.mustWrite("config", map[string]any{"console_url": "https://elsewhere.example", "api_key": consoletest.DefaultAPIKey, "verify_connection": false})
		<-done
		assert.Equal(t, "https://elsewhere.example", m.mustRead("token/team").Data["console_url"])
	})
}

func TestAnotherConsoleForV1NeedsTheSecrets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		v1 := map[string]any{
			"credentials_version": "v1", "username": consoletest.DefaultUsername, "password": consoletest.DefaultPassword,
			"client_id": consoletest.DefaultClientID, "client_secret": consoletest.DefaultClientSecret,
		}
		m.mustWrite("config", v1)
		m.mustWrite("roles/team", v1)
		evil := map[string]any{"console_url": "https://evil.example", "verify_connection": false}
		_, message := m.refused(logical.UpdateOperation, "config", evil)
		assert.Contains(t, message, "console_url is now https://evil.example:443: write password, client_secret again")
		m.mustWrite("config", v1, evil)
		_, message = m.refused(logical.ReadOperation, "token/team")
		assert.Contains(t, message, "the credential of roles/team cannot be used")
		status := m.mustRead("status/team").Data
		assert.Equal(t, "refused", status["state"])
	})
}

func TestCACertsThatAreDamagedAreRefused(t *testing.T) {
	t.Parallel()
	m, _ := newConfiguredMount(t)
	good := someCertificate(t)
	damaged := strings.Replace(good, "\nMII", "\n!canary!\nMII", 1)
	for name, bundle := range map[string]string{
		"a damaged block before a good one": damaged + good,
		"a damaged block after a good one":  good + damaged,
		"a block without its beginning":     good + strings.TrimPrefix(good, "-----BEGIN CERTIFICATE-----\n"),
		"a block without its end":           good + strings.Replace(good, "-----END CERTIFICATE-----\n", "", 1),
		"a key":                             good + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("canary")})),
		"a line of text":                    "canary\n" + good,
		"nothing but white space":           " \n",
	} {
		_, message := m.refused(logical.UpdateOperation, "config", map[string]any{"ca_cert": bundle, "verify_connection": false})
		assert.Contains(t, message, "ca_cert must", name)
		assert.NotContains(t, message, "canary", name)
	}
	m.mustWrite("config", map[string]any{"ca_cert": "# our CA\n" + good + "\n# and again\n" + good, "verify_connection": false})
}

func TestARefusedVerificationOfTheSameKeyDropsItsJWT(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"config", "roles/team"} {
		synctest.Test(t, func(t *testing.T) {
			m, fake := mountWithTeam(t)
			token := map[string]string{"config": "token", "roles/team": "token/team"}[path]
			id := m.mustRead(path).Data["api_key_id"].(string)
			secret := map[string]string{"config": consoletest.DefaultAPIKey, "roles/team": "team-secret"}[path]
			m.mustRead(token)
			fake.RemoveKey(id)
			m.refused(logical.UpdateOperation, path, map[string]any{"api_key": "another"})
			m.mustRead(token) // what Snowplow says of another key is no matter
			m.refused(logical.UpdateOperation, path, map[string]any{"api_key": secret})
			_, message := m.refused(logical.ReadOperation, token)
			assert.Contains(t, message, "401")
			m.restart()
			m.refused(logical.ReadOperation, token)
		})
	}
}

func TestARoleWithoutAKeyLeavesTheJWTAndTheWaitOfConfigAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := warmMount(t, nil)
		m.mustWrite("roles/plain", map[string]any{"ttl": 60})
		first := m.accessToken("token")
		status, message := m.refused(logical.DeleteOperation, "token/plain")
		assert.Equal(t, 400, status)
		assert.Contains(t, message, "vault delete snowplow/token")
		assert.Equal(t, first, m.accessToken("token"))

		// A role with the same key as config has a credential of its own.
		m.mustWrite("roles/same", map[string]any{"api_key_id": consoletest.DefaultAPIKeyID, "api_key": consoletest.DefaultAPIKey})
		m.mustRead("token/same")
		m.must(logical.DeleteOperation, "roles/same")
		down(fake)
		assert.Equal(t, first, m.accessToken("token"))

		m.must(logical.DeleteOperation, "token")
		fake.FailAlways(consoletest.Status(http.StatusTooManyRequests, "", http.Header{"Retry-After": {"300"}}))
		m.refused(logical.ReadOperation, "token")
		before := fake.Exchanges()
		m.mustWrite("roles/plain", map[string]any{"ttl": 61})
		m.mustWrite("roles/same", map[string]any{"api_key_id": "x", "api_key": "y", "verify_connection": false})
		m.refused(logical.ReadOperation, "token")
		assert.Equal(t, before, fake.Exchanges())
		m.mustWrite("config", map[string]any{"ttl": 61})
		m.refused(logical.ReadOperation, "token")
		assert.Equal(t, before+1, fake.Exchanges(), "a write to config ends the wait")
	})
}

func TestAWriteToARoleEndsItsOwnWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := mountWithTeam(t)
		fake.RemoveKey("team")
		m.must(logical.DeleteOperation, "token/team")
		m.refused(logical.ReadOperation, "token/team")
		before := fake.Exchanges()
		m.refused(logical.ReadOperation, "token/team")
		assert.Equal(t, before, fake.Exchanges())
		m.mustWrite("roles/team", map[string]any{"ttl": 60})
		m.refused(logical.ReadOperation, "token/team")
		assert.Equal(t, before+1, fake.Exchanges())
	})
}

// A reader that has taken the placeholder of a role, and reads storage while the role is written, must not leave the
// old key for later readers.
func TestAReaderThatRacesAWriteOfItsRole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := mountWithTeam(t)
		fake.AddKey(consoletest.Key{ID: "new", Secret: "new-secret"})
		m.restart()
		m.storage.slowAfter("get", "roles/team", time.Second)
		done := make(chan string)
		go func() { done <- m.accessToken("token/team") }()
		synctest.Wait() // it has read the old role, and is held there
		m.storage.slowAfter("", "", 0)
		m.mustWrite("roles/team", map[string]any{"api_key_id": "new", "api_key": "new-secret"})
		<-done
		id, _ := fake.Issued(m.accessToken("token/team"))
		assert.Equal(t, "new", id)
	})
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

// A write that changes only ca_cert is verified with the key of its time. If another write replaces the key meanwhile,
// the JWT of the old key is nobody's.
func TestTheJWTOfAVerificationIsNotServedForAnotherKey(t *testing.T) {
	t.Parallel()
	certificate := someCertificate(t)
	synctest.Test(t, func(t *testing.T) {
		m, fake := warmMount(t, nil)
		fake.AddKey(consoletest.Key{ID: "new", Secret: "new-secret"})
		hold := fake.Hold()
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.mustWrite("config", map[string]any{"ca_cert": certificate})
		}()
		<-hold.Started()
		m.mustWrite("config", map[string]any{"api_key_id": "new", "api_key": "new-secret", "ca_cert": certificate, "verify_connection": false})
		hold.Release()
		<-done
		id, _ := fake.Issued(m.accessToken("token"))
		assert.Equal(t, "new", id)
	})
}

func TestAVerifiedWriteEndsTheRefusal(t *testing.T) {
	t.Parallel()
	certificate := someCertificate(t)
	synctest.Test(t, func(t *testing.T) {
		m, fake := warmMount(t, nil)
		m.must(logical.DeleteOperation, "token")
		fake.FailAlways(consoletest.Status(http.StatusForbidden, "", nil))
		m.refused(logical.ReadOperation, "token")
		fake.ClearFaults()
		m.mustWrite("config", map[string]any{"ca_cert": certificate})
		m.mustRead("token")
		assert.Equal(t, "ok", m.mustRead("status").Data["state"])
	})
}

func TestANewKeyIsNotRefusedForTheOldOne(t *testing.T) {
	t.Parallel()
	for _, fields := range []map[string]any{{"verify_connection": false}, {"reuse_period": 0}} {
		synctest.Test(t, func(t *testing.T) {
			m, fake := warmMount(t, nil)
			fake.AddKey(consoletest.Key{ID: "new", Secret: "new-secret"})
			fake.RemoveKey(consoletest.DefaultAPIKeyID)
			m.must(logical.DeleteOperation, "token")
			m.refused(logical.ReadOperation, "token")
			require.Equal(t, "refused", m.mustRead("status").Data["state"])
			m.mustWrite("config", map[string]any{"api_key_id": "new", "api_key": "new-secret"}, fields)
			assert.Equal(t, "ok", m.mustRead("status").Data["state"])
		})
	}
}

// A reader that loads config while it is replaced must not leave a client that nobody closes.
func TestAClientThatIsMadeDuringAResetIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := warmMount(t, nil)
		closed := &closeCounter{withoutSocket: withoutSocket{fake}}
		m.dial(closed)
		m.restart()
		m.storage.slowKeys("get", "config", time.Second)
		done := m.inBackground("token")
		synctest.Wait()
		m.backend.InvalidateKey(t.Context(), configStorageKey)
		<-done
		assert.Positive(t, closed.count.Load())
	})
}

// closeCounter counts how often its idle connections were closed.
type closeCounter struct {
	withoutSocket
	count atomic.Int64
}

func (c *closeCounter) CloseIdleConnections() { c.count.Add(1) }

func TestNullForAFieldThatIsEmptyAnywayWritesNoCredential(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, fake := warmMount(t, nil)
		first := m.accessToken("token")
		down(fake)
		m.must(logical.PatchOperation, "config", map[string]any{
			"ttl": 60, "username": nil, "password": nil, "client_id": nil, "client_secret": nil,
		})
		assert.Equal(t, first, m.accessToken("token"))
	})
}

func TestAWriteWaitsForAnotherOnlyAsLongAsItsRequestLasts(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]struct {
		operation logical.Operation
		path      string
		fields    map[string]any
	}{
		"write config":  {logical.UpdateOperation, "config", map[string]any{"ttl": 60}},
		"write role":    {logical.UpdateOperation, "roles/analytics", map[string]any{"ttl": 60}},
		"delete config": {logical.DeleteOperation, "config", nil},
		"delete role":   {logical.DeleteOperation, "roles/analytics", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, _ := warmMount(t, nil)
				m.mustWrite("roles/analytics", map[string]any{"ttl": 30})
				unlock, err := m.backend.lockWrites(t.Context())
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err = m.request(ctx, write.operation, write.path, write.fields)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Contains(t, err.Error(), "waiting for another write")
				assert.EqualValues(t, 0, m.mustRead("config").Data["ttl"])
				assert.EqualValues(t, 30, m.mustRead("roles/analytics").Data["ttl"])
				unlock()
				m.must(write.operation, write.path, write.fields)
			})
		})
	}
}

func TestARefusalAtAnotherURLSaysNothingOfTheStoredKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		first := m.accessToken("token")
		console.FailNext(1, consoletest.Status(http.StatusUnauthorized, "", nil))
		status, _ := m.refused(logical.UpdateOperation, "config", map[string]any{
			"console_url": "https://other.example", "api_key": consoletest.DefaultAPIKey,
		})
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Equal(t, first, m.accessToken("token"))
	})
}

func TestAWriteThatWasRateLimitedSaysWhenToTryAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		console.FailAlways(consoletest.Status(http.StatusTooManyRequests, "", nil))
		status, message := m.refused(logical.UpdateOperation, "config", map[string]any{"api_key": consoletest.DefaultAPIKey})
		assert.Equal(t, http.StatusTooManyRequests, status)
		_, after, _ := strings.Cut(message, "try again after ")
		retryAt, err := time.Parse(time.RFC3339, strings.SplitN(after, ";", 2)[0])
		require.NoError(t, err, message)
		assert.False(t, retryAt.Before(time.Now().Add(firstBackOff)), message)
	})
}
