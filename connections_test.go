package snowplow

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// newCountingServer serves a Console on a socket, and counts the connections that are open.
func newCountingServer(t *testing.T, console *consoletest.Console) (url string, open *atomic.Int64) {
	t.Helper()
	open = &atomic.Int64{}
	server := httptest.NewUnstartedServer(console)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		case http.StateActive, http.StateIdle:
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return server.URL, open
}

// An idle connection would be closed after 90 s anyway; these must not last that long.
func TestConnectionsEndWithTheirClient(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]http.Handler{
		"at the first try": nil,
		"at a retry":       consoletest.Status(http.StatusServiceUnavailable, "", nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			console := consoletest.New()
			url, open := newCountingServer(t, console)
			m := newMount(t)
			m.mustWrite("config", map[string]any{
				"organization_id": consoletest.DefaultOrganizationID, "api_key_id": consoletest.DefaultAPIKeyID,
				"api_key": consoletest.DefaultAPIKey, "console_url": url, "reuse_period": 0, "verify_connection": false,
			})
			closed := func(except int64, why string) {
				t.Helper()
				require.Eventually(t, func() bool { return open.Load() == except }, 10*time.Second, 5*time.Millisecond, why)
			}
			readDuring := func(during func()) {
				t.Helper()
				hold := console.Hold()
				if fault != nil {
					console.FailNext(1, fault)
				}
				answered := make(chan error, 1)
				go func() {
					resp, err := m.request(t.Context(), logical.ReadOperation, "token")
					if err == nil {
						err = resp.Error()
					}
					answered <- err
				}()
				<-hold.Started()
				during()
				hold.Release()
				require.NoError(t, <-answered)
			}

			for range 3 {
				readDuring(func() { m.mustWrite("config", map[string]any{"ttl": "1h"}) })
			}
			closed(0, "connections of clients that a write has replaced are open")

			m.mustRead("token")
			require.EqualValues(t, 1, open.Load(), "the present client does not keep its connection")
			m.mustRead("token")
			require.EqualValues(t, 1, open.Load(), "the present client does not use its connection again")
			m.stop()
			closed(0, "a connection is open although the mount has ended")
		})
	}
}
