package snowplow

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/faulttest"
)

// roundTripper is a transport that is a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// FuzzConfigFields writes config. What is accepted can lead a key nowhere but below the URL that was written.
func FuzzConfigFields(f *testing.F) {
	const id, home = consoletest.DefaultOrganizationID, "https://console.example.com"
	for _, organizationID := range []string{id, "", ".", "..", "...", "a/b", "a%2fb", "a\\b", "a?b", "a#b", "a;b", "a b", "a\n", "~", "ä", "\xff", "a@b", "a:b"} {
		f.Add(organizationID, home, home, "v3", "id", "0", int64(0), "30s", "")
	}
	for _, target := range []string{
		"", "https://x/", "https://x/y/../z", "https://x/%2e%2e/", "https://x/%zz", "https://x:0", "https://x:65536", "https://x:", "https://", "https:///x",
		"http://x", "http://127.0.0.1:1", "http://[::1]", "http://[::1%25lo]", "http://localhost", "http://localhost.", "http://127.1", "https://a@b",
		"https://a:canary@b", "https://x?y", "https://x#y", "https://x\\y", "https://x y", "https://x/y z", "https://ex%41mple", "https://ä", "HTTPS://X",
		"https:x", "//x", "x", "ftp://x", "https://x\r\n", "https://[::1", "https://\u212a.com", "https://x/;y", "https://x//..//", "https://x/\\..\\",
	} {
		f.Add(id, target, target, "v3", "id", "1h", int64(3600), "1s", "")
		f.Add(id, target, target, "v1", "", "1h", int64(3600), "1s", "")
	}
	for _, duration := range []string{"0", "-1", "1.5", "500ms", "1d", "1e9", "9223372036854775807", "36028797018963973", "NaN", "ä", " 1", "80s", "81s", "2562047h47m16s"} {
		f.Add(id, home, home, "v2", "", duration, int64(-1), duration, "")
	}
	for _, seconds := range []int64{1, -1, 1 << 33, 1 << 55, 1<<55 + 5, 1<<63 - 1, -1 << 63} {
		f.Add(id, home, home, "v3", "id", "", seconds, "", "")
	}
	f.Add(id, home, home, "v4", "id\r\nX: canary", "0", int64(0), "30s", "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n")

	// One for all inputs: each has a storage of its own, and a write begins anew in memory.
	made, err := Factory(f.Context(), &logical.BackendConfig{System: &logical.StaticSystemView{}, StorageView: &logical.InmemStorage{}})
	require.NoError(f, err)
	f.Cleanup(func() { made.Cleanup(context.Background()) })
	var sent []*url.URL
	made.(*backend).newTransport = func(string) (http.RoundTripper, error) {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.URL)
			return &http.Response{StatusCode: http.StatusTeapot, Body: http.NoBody}, nil
		}), nil
	}

	f.Fuzz(func(t *testing.T, organizationID, consoleURL, authURL, version, keyID, ttl string, reuse int64, timeout, caCert string) {
		fields := map[string]any{
			"organization_id": organizationID, "console_url": consoleURL, "auth_url": authURL, "credentials_version": version,
			"ttl": ttl, "reuse_period": reuse, "request_timeout": timeout, "ca_cert": caCert, "verify_connection": false,
		}
		switch version {
		case "v1":
			fields["username"], fields["client_id"] = keyID+"bot", "client"
			fields["password"], fields["client_secret"] = faulttest.CanaryPassword, faulttest.CanaryClientSecret
		case "v2":
			fields["api_key"] = faulttest.CanaryKey
		default:
			fields["api_key_id"], fields["api_key"] = keyID, faulttest.CanaryKey
		}
		storage := &logical.InmemStorage{}
		request := func(operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
			resp, err := made.HandleRequest(t.Context(), &logical.Request{
				Operation: operation, Path: path, Data: data, Storage: storage, MountPoint: "snowplow/",
			})
			for _, secret := range []string{faulttest.CanaryKey, faulttest.CanaryPassword, faulttest.CanaryClientSecret} {
				assert.NotContains(t, fmt.Sprintf("%+v %v", resp, err), secret)
			}
			return resp, err
		}
		resp, err := request(logical.CreateOperation, "config", fields)
		if err != nil || resp.IsError() {
			return
		}

		stored, err := loadConfig(t.Context(), storage)
		require.NoError(t, err)
		require.NotNil(t, stored)
		cred := stored.Credential
		assert.Regexp(t, `^[A-Za-z0-9._~-]+$`, cred.OrganizationID)
		assert.NotContains(t, []string{".", ".."}, cred.OrganizationID)
		assert.Equal(t, time.Duration(reuse)*time.Second, stored.ReusePeriod)
		assert.GreaterOrEqual(t, stored.TTL, time.Duration(0))
		assert.Zero(t, stored.TTL%time.Second)
		assert.GreaterOrEqual(t, stored.RequestTimeout, minRequestTimeout)
		assert.LessOrEqual(t, stored.RequestTimeout, maxRequestTimeout)
		for _, target := range []string{stored.ConsoleURL, stored.AuthURL} {
			u, err := url.Parse(target)
			require.NoError(t, err)
			require.NotEmpty(t, console.Origin(target))
			assert.True(t, strings.EqualFold(u.Scheme, "https") || isLoopbackURL(u), target)
			assert.Nil(t, u.User)
			assert.Empty(t, u.RawQuery+u.Fragment)
		}

		// Where the key goes.
		sent = nil
		_, _ = request(logical.ReadOperation, "token", nil)
		require.Len(t, sent, 1)
		target, below, end := stored.ConsoleURL, "/api/msc/v1/organizations/", "/credentials/"+cred.Version+"/token"
		if cred.Version == "v1" {
			target, below, end = stored.AuthURL, "/oauth/", "/oauth/token"
		}
		assert.Equal(t, console.Origin(target), cred.WrittenFor)
		assert.Equal(t, console.Origin(target), console.Origin(sent[0].String()))
		base, err := url.Parse(target)
		require.NoError(t, err)
		assert.Equal(t, base.Host, sent[0].Host)
		assert.Empty(t, sent[0].RawQuery)
		// As the least careful server on the way reads it.
		cleaned := path.Clean(sent[0].Path)
		assert.True(t, strings.HasPrefix(cleaned, path.Clean(base.Path+below)+"/"), "%s is not below %s", cleaned, base.Path+below)
		assert.True(t, strings.HasSuffix(cleaned, end), cleaned)
		if cred.Version != "v1" {
			assert.Equal(t, cred.OrganizationID, path.Base(strings.TrimSuffix(cleaned, end)))
		}

		for _, path := range []string{"config", "status"} {
			resp, err := request(logical.ReadOperation, path, nil)
			require.NoError(t, err)
			require.False(t, resp.IsError(), "%v", resp)
		}
	})
}

// isLoopbackURL reports whether a URL names this machine in a way that needs no look-up.
func isLoopbackURL(u *url.URL) bool {
	host := strings.ToLower(u.Hostname())
	return host == "localhost" || host == "::1" || strings.HasPrefix(host, "127.") || strings.HasPrefix(host, "::ffff:")
}
