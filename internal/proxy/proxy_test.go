package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The environment belongs to the process, so this test cannot run in parallel.
func TestProxyOfTheEnvironment(t *testing.T) {
	const (
		other  = "http://other.example:3128"
		bad    = "http://user:canary%@proxy.example:3128"
		opaque = "user:canary%@proxy.example"
	)
	for name, tt := range map[string]struct {
		target string
		env    string // NAME=value, separated by spaces
		proxy  string // "": none
		fails  string // what the error names
	}{
		"no variable":                      {"https://console.example", "", "", ""},
		"https":                            {"https://console.example", "HTTPS_PROXY=http://user:p%25@proxy.example HTTP_PROXY=" + other, "http://user:p%25@proxy.example", ""},
		"http":                             {"http://console.example", "HTTPS_PROXY=" + bad + " http_proxy=" + other, other, ""},
		"without a scheme":                 {"https://console.example", "HTTPS_PROXY=proxy.example:3128", "http://proxy.example:3128", ""},
		"lower case":                       {"https://console.example", "https_proxy=" + other, other, ""},
		"upper case wins":                  {"https://console.example", "https_proxy=" + bad + " HTTPS_PROXY=" + other, other, ""},
		"not for all":                      {"https://console.example", "ALL_PROXY=" + other, "", ""},
		"an exception":                     {"https://console.example", "HTTPS_PROXY=" + other + " NO_PROXY=.example", "", ""},
		"in CGI":                           {"http://console.example", "HTTP_PROXY=" + other + " REQUEST_METHOD=GET", "", "CGI"},
		"no URL":                           {"https://console.example", "HTTPS_PROXY=" + bad, "", "HTTPS_PROXY"},
		"no URL, lower case":               {"https://console.example", "https_proxy=" + bad, "", "https_proxy"},
		"no URL, upper case wins":          {"https://console.example", "https_proxy=" + other + " HTTPS_PROXY=" + bad, "", "HTTPS_PROXY"},
		"no URL, for http":                 {"http://console.example", "HTTP_PROXY=" + bad, "", "HTTP_PROXY"},
		"no URL, for http, in CGI":         {"http://console.example", "HTTP_PROXY=" + bad + " REQUEST_METHOD=GET", "", "CGI"},
		"no host":                          {"https://console.example", "HTTPS_PROXY=" + opaque, "", "HTTPS_PROXY"},
		"no URL, a # in the password":      {"https://console.example", "HTTPS_PROXY=http://user:canary#@proxy.example:3128", "", "HTTPS_PROXY"},
		"no URL, a slash in the password":  {"https://console.example", "HTTPS_PROXY=http://user:canary/@proxy.example:3128", "", "HTTPS_PROXY"},
		"no URL, for another scheme":       {"https://console.example", "HTTP_PROXY=" + bad, "", ""},
		"no URL, and an exception":         {"https://console.example", "HTTPS_PROXY=" + bad + " NO_PROXY=console.example:443", "", ""},
		"no URL, exceptions everywhere":    {"https://console.example", "HTTPS_PROXY=" + bad + " no_proxy=*", "", ""},
		"no URL, upper case wins here too": {"https://console.example", "HTTPS_PROXY=" + bad + " no_proxy=* NO_PROXY=other.example", "", "HTTPS_PROXY"},
		"no URL, and another exception":    {"https://console.example", "HTTPS_PROXY=" + bad + " NO_PROXY=other.example", "", "HTTPS_PROXY"},
		"localhost":                        {"http://localhost:1", "HTTP_PROXY=" + other, "", ""},
		"LOCALHOST":                        {"http://LOCALHOST:1", "HTTP_PROXY=" + other, "", ""},
		"127.0.0.1":                        {"http://127.0.0.1:1", "HTTP_PROXY=" + bad, "", ""},
		"127.1.2.3":                        {"https://127.1.2.3", "HTTPS_PROXY=" + bad, "", ""},
		"IPv6":                             {"http://[::1]:1", "HTTP_PROXY=" + other, "", ""},
		"IPv4 in IPv6":                     {"http://[::ffff:127.0.0.1]", "HTTP_PROXY=" + other, "", ""},
		"only like localhost":              {"http://localhost.example", "HTTP_PROXY=" + other, other, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "REQUEST_METHOD"} {
				t.Setenv(variable, "")
			}
			for variable := range strings.FieldsSeq(tt.env) {
				name, value, _ := strings.Cut(variable, "=")
				t.Setenv(name, value)
			}
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.target, nil)
			require.NoError(t, err)
			var transport http.Transport
			Configure(&transport)
			got, err := transport.Proxy(request)
			if tt.fails != "" {
				require.ErrorContains(t, err, tt.fails)
				assert.NotContains(t, err.Error(), "canary")
				assert.Nil(t, got)
				return
			}
			require.NoError(t, err)
			if tt.proxy == "" {
				assert.Nil(t, got)
			} else if assert.NotNil(t, got) {
				assert.Equal(t, tt.proxy, got.String())
			}
		})
	}
}
