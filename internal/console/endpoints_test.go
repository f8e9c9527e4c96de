package console

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestParseURL(t *testing.T) {
	t.Parallel()
	const (
		noURL    = "console_url must be a URL like https://console.snowplowanalytics.com"
		noHTTPS  = "console_url must use https"
		noName   = "console_url has a host that is not a valid DNS name"
		tooMuch  = "console_url must not have a query, a fragment or a user part"
		password = "canary-in-a-url"
	)
	for raw, want := range map[string]struct{ url, says string }{
		"https://console.snowplowanalytics.com":    {url: "https://console.snowplowanalytics.com"},
		"https://console.snowplowanalytics.com/":   {url: "https://console.snowplowanalytics.com"},
		"https://console.example.com///":           {url: "https://console.example.com"},
		"https://console.example.com:8443/path/":   {url: "https://console.example.com:8443/path"},
		"HTTPS://Console.Example.COM":              {url: "HTTPS://Console.Example.COM"},
		"https://[2001:db8::1]:8443":               {url: "https://[2001:db8::1]:8443"},
		"http://127.255.255.254":                   {url: "http://127.255.255.254"},
		"http://[::1]:8080":                        {url: "http://[::1]:8080"},
		"http://LOCALHOST":                         {url: "http://LOCALHOST"},
		"http://[::ffff:127.0.0.1]":                {url: "http://[::ffff:127.0.0.1]"},
		"http://console.example.com":               {says: noHTTPS},
		"http://localhost.example.com":             {says: noHTTPS},
		"http://127.0.0.1.example.com":             {says: noHTTPS},
		"http://localhost.":                        {says: noHTTPS},
		"http://0.0.0.0":                           {says: noHTTPS},
		"http://0177.0.0.1":                        {says: noHTTPS},
		"http://[::]":                              {says: noHTTPS},
		"ftp://console.example.com":                {says: noHTTPS},
		"//console.example.com":                    {says: noHTTPS},
		"https://console.example.com?":             {says: tooMuch},
		"https://console.example.com/#" + password: {says: tooMuch},
		"https://user:" + password + "@localhost":  {says: tooMuch},
		"https://console.example.com/a@b":          {says: tooMuch},
		"":                                         {says: noURL},
		"console.snowplowanalytics.com":            {says: noURL},
		"https:console.snowplowanalytics.com":      {says: noURL},
		"https:///path":                            {says: noURL},
		"https://console.example.com:":             {says: noURL},
		"https://console.example.com:0":            {says: noURL},
		"https://console.example.com:65536":        {says: noURL},
		"https://[::1":                             {says: noURL},
		"https://console.example.com/\r\nX: 1":     {says: noURL},
		"https://console.example.com/%zz":          {says: noURL},
		"mailto:" + password:                       {says: noURL},
		"https://exämple.com":                      {says: noName},
		"https://ex%41mple%2ecom%C4%B0":            {says: noURL},
		"https://[fe80::1%25lo]":                   {says: noName},
	} {
		got, err := ParseURL("console_url", raw)
		if want.says == "" {
			require.NoError(t, err, raw)
			assert.Equal(t, want.url, got, raw)
			continue
		}
		require.ErrorContains(t, err, want.says, raw)
		assert.Empty(t, consoletest.TraceOfCanary(err.Error()), raw)
	}
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"https://console.example.com":           "https://console.example.com:443",
		"https://console.example.com:443":       "https://console.example.com:443",
		"HTTPS://Console.Example.COM/path":      "https://console.example.com:443",
		"https://console.example.com:8443":      "https://console.example.com:8443",
		"https://console.example.com.":          "https://console.example.com.:443",
		"http://localhost":                      "http://localhost:80",
		"http://127.0.0.1:8080/a/b":             "http://127.0.0.1:8080",
		"https://[2001:DB8::1]:8443":            "https://[2001:db8::1]:8443",
		"https://user:pass@console.example.com": "https://console.example.com:443",
		"https://console.ex%61mple.com":         "",
		"https://[::1":                          "",
	} {
		assert.Equal(t, want, Origin(target), target)
	}
}
