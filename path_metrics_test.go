package snowplow

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func (m *mount) metrics() string {
	m.t.Helper()
	resp := m.mustRead("metrics")
	assert.Equal(m.t, 200, resp.Data[logical.HTTPStatusCode])
	assert.True(m.t, strings.HasPrefix(resp.Data[logical.HTTPContentType].(string), "text/plain; version=0.0.4"))
	return resp.Data[logical.HTTPRawBody].(string)
}

func TestMetricsCountWhatStatusCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, map[string]any{"reuse_period": "1m"})
		m.mustWrite("roles/team", map[string]any{"ttl": 60})
		m.mustWrite("roles/unread", map[string]any{"ttl": 60})
		m.mustRead("status/unread")
		console.SetDelay(500 * time.Millisecond)
		m.mustRead("token/team")
		time.Sleep(2 * time.Minute)
		m.mustRead("token")
		console.FailAlways(consoletest.Status(503, "", nil))
		time.Sleep(2 * time.Minute)
		for range 3 {
			m.mustRead("token")
		}
		text := m.metrics()
		for _, line := range []string{
			`snowplow_plugin_info{version="` + Version + `"} 1`,
			`snowplow_token_reads_total{path="token"} 5`,
			`snowplow_token_reads_total{path="token/team"} 1`,
			`snowplow_token_reused_total{path="token/team"} 1`,
			`snowplow_token_stale_total{path="token"} 3`,
			`snowplow_exchanges_total{path="token"} 2`,
			`snowplow_exchange_failures_total{path="token",reason="upstream"} 1`,
			`snowplow_exchange_failures_total{path="token",reason="refused"} 0`,
			`snowplow_exchange_duration_seconds_sum{path="token"} 1`,
			`snowplow_exchange_duration_seconds_count{path="token"} 2`,
			`snowplow_state{path="token",state="stale"} 1`,
			`snowplow_state{path="token",state="ok"} 0`,
			"snowplow_token_expiry_timestamp_seconds{path=\"token\"} 9.4677132e+08",
			"snowplow_last_success_timestamp_seconds{path=\"token\"} 9.4668492e+08",
		} {
			assert.Contains(t, text, line+"\n")
		}
		assert.NotContains(t, text, "unread")
		assert.NotContains(t, text, consoletest.DefaultAPIKeyID)
		assert.NotContains(t, text, "canary")
		problems, err := promlint.New(strings.NewReader(text)).Lint()
		require.NoError(t, err)
		assert.Empty(t, problems)
	})
}

func TestMetricsOfAMountThatCannotServe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := warmMount(t, nil)
		m.must(logical.DeleteOperation, "config")
		text := m.metrics()
		assert.Contains(t, text, `snowplow_token_reads_total{path="token"} 1`)
		assert.NotContains(t, text, "snowplow_state")
		m = newMountInBubble(t, consoletest.New())
		assert.Contains(t, m.metrics(), "snowplow_plugin_info")
	})
}

// events collects what is sent to Vault's event bus.
type events struct {
	mu   sync.Mutex
	sent []string
}

func (e *events) SendEvent(_ context.Context, kind logical.EventType, event *logical.EventData) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	fields := event.Metadata.AsMap()
	line := string(kind)
	for _, name := range []string{"path", "role", "operation", "modified", "reason"} {
		if value, ok := fields[name]; ok {
			line += " " + name + "=" + value.(string)
			delete(fields, name)
		}
	}
	for name := range fields {
		line += " and " + name
	}
	e.sent = append(e.sent, line)
	return nil
}

func TestEventsTellOfWritesAndFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, console := warmMount(t, nil)
		heard := &events{}
		m.events = heard
		m.restart()
		m.mustWrite("config", map[string]any{"ttl": 60})
		synctest.Wait()
		m.mustWrite("roles/team", map[string]any{"ttl": 60})
		synctest.Wait()
		console.FailAlways(consoletest.Echo(401))
		m.refused(logical.UpdateOperation, "config", map[string]any{"api_key": "canary-wrong"})
		m.must(logical.DeleteOperation, "token")
		m.refused(logical.ReadOperation, "token/team")
		synctest.Wait()
		m.must(logical.DeleteOperation, "roles/team")
		synctest.Wait()
		m.must(logical.DeleteOperation, "config")
		synctest.Wait()
		assert.Equal(t, []string{
			"snowplow/config-write path=config operation=write modified=true",
			"snowplow/role-write path=roles/team role=team operation=write modified=true",
			"snowplow/token-exchange-failed path=token/team role=team reason=refused",
			"snowplow/role-delete path=roles/team role=team operation=delete modified=true",
			"snowplow/config-delete path=config operation=delete modified=true",
		}, heard.sent)
	})
}
