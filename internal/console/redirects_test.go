package console

import (
	"cmp"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestRedirectsAreRefusedWhateverTheirTarget(t *testing.T) {
	t.Parallel()
	for _, code := range []int{301, 302, 303, 307, 308} {
		for _, to := range []struct {
			name, location, says string
		}{
			{"the same host", "http://127.0.0.1/oauth/token", ""},
			{"another path", "/oauth/token", ""},
			{"itself", "", ""},
			{"another host", "https://console.example.com/canary", ""},
			{"another port", "http://127.0.0.1:8080/", ""},
			{"plain http", "http://console.example.com/", ""},
			{"no HTTP", "file:///etc/passwd", ""},
			{"nowhere", "http://[::1", "to no URL"},
			{"an echo", "http://%zz/" + consoletest.CanaryKey, "to no URL"},
		} {
			for version, field := range map[string]string{V3: "console_url", V1: "auth_url"} {
				t.Run(fmt.Sprintf("%d to %s with %s", code, to.name, version), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						u := consoletest.OnPipes(t)
						u.FailAlways(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							w.Header().Set("Location", cmp.Or(to.location, r.URL.String()))
							w.WriteHeader(code)
						}))
						_, err := exchangeWith(t, u, version)
						assert.Equal(t, ReasonUpstream, requireFailed(t, err).Reason)
						assert.ErrorContains(t, err, "redirect, "+cmp.Or(to.says, fmt.Sprintf("status %d", code)))
						assert.ErrorContains(t, err, "check "+field)
						assert.Equal(t, 1, u.Exchanges(), "what is not followed is not tried again")
						for _, address := range u.Dialed() {
							assert.Equal(t, "127.0.0.1:80", address)
						}
					})
				})
			}
		}
	}
}
