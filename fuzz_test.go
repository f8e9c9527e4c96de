package snowplow

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// fuzzNow is Vault's clock where a fuzz target needs one that stands still.
var fuzzNow = time.Unix(1700000000, 0).UTC()

// FuzzAnswer reads an answer as the bytes of a connection. Whatever comes, it is a JWT that can be leased, or an
// error of the design's table that holds neither a secret nor anything unprintable.
func FuzzAnswer(f *testing.F) {
	jwts := []string{
		madeUpJWT(`{}`), madeUpJWT(`{"exp":"soon"}`), madeUpJWT(`{"exp":-1}`), madeUpJWT(`{"exp":1e300}`), madeUpJWT(`{"exp":NaN}`),
		madeUpJWT(`{"iat":1700000000,"exp":1700086400}`), madeUpJWT(`{"exp":2015360000}`), madeUpJWT(`{"exp":1700000001,"iat":1700000001}`),
		"", "a.b", "a.b.c", `a.b.c\n`, `\u0000`, "\xff",
	}
	for _, jwt := range jwts {
		f.Add(versionV3, fmt.Sprintf("%s\r\n{\"accessToken\":\"%s\"}", okHeader, jwt))
		f.Add(versionV1, fmt.Sprintf("%s\r\n{\"access_token\":\"%s\",\"expires_in\":86400}", okHeader, jwt))
	}
	for _, expiresIn := range []string{"1", "0", "0.5", "-1", "1e300", `"3600"`, "null", "86399.9"} {
		f.Add(versionV1, fmt.Sprintf("%s\r\n{\"access_token\":\"a.b.c\",\"expires_in\":%s}", okHeader, expiresIn))
	}
	for _, body := range []string{
		``, `null`, `[]`, `{}`, `{"accessToken":null}`, `{"accessToken":1}`, `{"accessToken":"a.b.c","accessToken":"x"}`, `{"accessToken":"a.b.c"}x`,
		strings.Repeat("[", 20000), canaryKey, `{"message":"` + canaryKey + `"}`, url.QueryEscape(canaryPassword),
	} {
		for _, status := range []string{"200 OK", "400 Bad Request", "401 Unauthorized", "404 Not Found", "418 " + canaryKey, "500 Oops", "302 Found", "204 No Content", "999 x"} {
			f.Add(versionV3, "HTTP/1.1 "+status+"\r\nLocation: http://x/"+canaryKey+"\r\n\r\n"+body)
		}
	}
	for _, retryAfter := range []string{"1", "-1", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", canaryKey} {
		f.Add(versionV2, "HTTP/1.1 429 x\r\nRetry-After: "+retryAfter+"\r\n\r\n")
	}
	for _, date := range []string{"Tue, 14 Nov 2023 22:13:20 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "now"} {
		f.Add(versionV3, okHeader+"Date: "+date+"\r\n\r\n{\"accessToken\":\""+madeUpJWT(`{"iat":1700000000,"exp":1700086400}`)+"\"}")
	}
	f.Add(versionV3, okHeader+"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"acc\r\nZZ\r\n")
	f.Add(versionV3, okHeader+"Content-Length: 9\r\n\r\n{}")

	f.Fuzz(func(t *testing.T, version, raw string) {
		if !slices.Contains([]string{versionV3, versionV2, versionV1}, version) {
			version = versionV3
		}
		request := &http.Request{Method: http.MethodGet}
		answer, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), request)
		if err != nil {
			return
		}
		cred := canaryCredential(version)
		a := &attempt{
			client: &client{now: func() time.Time { return fuzzNow }}, cred: cred, timeout: time.Second, started: fuzzNow,
			to: endpoints{ConsoleURL: "https://console.example.com", AuthURL: "https://id.example.com"},
		}
		err = a.read(answer)
		if err == nil {
			assert.True(t, isJWT(a.token.JWT), "%q", a.token.JWT)
			assert.Contains(t, raw, a.token.JWT)
			assert.GreaterOrEqual(t, a.token.Validity, minValidity)
			assert.False(t, a.token.ExpiresAt.Before(fuzzNow.Add(a.token.Validity)) && a.token.Validity < 290*365*24*time.Hour, "leased beyond its end")
			assert.NotContains(t, fmt.Sprintf("%v %+v %#v", a.token, a.token, a.token), a.token.JWT)
			return
		}
		var failed *failure
		require.ErrorAs(t, err, &failed)
		assert.Contains(t, []int{400, 429, 502, 504}, failed.status())
		assert.Positive(t, failed.wait())
		assert.LessOrEqual(t, failed.wait(), maxWait)
		assert.Less(t, len(failed.message), 5000)
		for _, r := range failed.message {
			assert.True(t, strconv.IsPrint(r), "%q in %q", r, failed.message)
		}
		for _, secret := range cred.secrets() {
			quoted := strconv.Quote(secret)
			assert.NotContains(t, failed.message, secret)
			assert.NotContains(t, failed.message, quoted[1:len(quoted)-1])
		}
	})
}

// FuzzJWT reads the claims of whatever passes for a JWT. A time that comes back can be written as RFC 3339.
func FuzzJWT(f *testing.F) {
	for _, payload := range []string{
		`{}`, `null`, `[]`, `1`, ``, `{"exp":null}`, `{"exp":"1"}`, `{"exp":-1}`, `{"exp":1}`, `{"exp":1e300}`, `{"exp":-1e300}`, `{"exp":1e999}`,
		`{"exp":NaN}`, `{"exp":2015360000}`, `{"exp":253402300799,"iat":0}`, `{"exp":253402300800}`, `{"exp":1.5,"iat":0.1}`, `{"exp":{}}`,
		`{"exp":1,"exp":2}`, `{"exp":1}x`, `{"iat":-99999999999}`, `{"iat":1700000000,"exp":1700086400}`, "{\"x\":\"\xff\"}", strings.Repeat("[", 20000),
	} {
		f.Add([]byte(payload), "")
	}
	for _, jwt := range []string{"", ".", "..", "a.b", "a.b.c", "a.b.c.d", "a.=.c", "a.\n.c", "e30.e30.", "e30.e30.\xff"} {
		f.Add([]byte(nil), jwt)
	}
	f.Fuzz(func(t *testing.T, payload []byte, jwt string) {
		if jwt == "" {
			jwt = madeUpJWT(string(payload))
			require.Equal(t, len(payload) > 0, isJWT(jwt))
		}
		if isJWT(jwt) {
			assert.Equal(t, 2, strings.Count(jwt, "."))
			assert.Empty(t, strings.Trim(jwt, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."))
		}
		issued, expires := jwtTimes(jwt)
		for _, at := range []time.Time{issued, expires} {
			if at.IsZero() {
				continue
			}
			assert.LessOrEqual(t, at.Unix(), int64(maxNumericDate))
			assert.GreaterOrEqual(t, at.Unix(), -int64(maxNumericDate))
			written := at.Format(time.RFC3339)
			again, err := time.Parse(time.RFC3339, written)
			assert.NoError(t, err, written)
			assert.True(t, at.Equal(again), written)
		}
	})
}

// FuzzConfigFields writes config. What is accepted can lead a key nowhere but below the URL that was written.
func FuzzConfigFields(f *testing.F) {
	const id, home = consoletest.DefaultOrganizationID, "https://console.example.com"
	for _, organizationID := range []string{id, "", ".", "..", "...", "a/b", "a%2fb", "a\\b", "a?b", "a#b", "a;b", "a b", "a\n", "~", "ä", "\xff", "a@b", "a:b"} {
		f.Add(organizationID, home, home, versionV3, "id", "0", int64(0), "30s", "")
	}
	for _, target := range []string{
		"", "https://x/", "https://x/y/../z", "https://x/%2e%2e/", "https://x/%zz", "https://x:0", "https://x:65536", "https://x:", "https://", "https:///x",
		"http://x", "http://127.0.0.1:1", "http://[::1]", "http://[::1%25lo]", "http://localhost", "http://localhost.", "http://127.1", "https://a@b",
		"https://a:canary@b", "https://x?y", "https://x#y", "https://x\\y", "https://x y", "https://x/y z", "https://ex%41mple", "https://ä", "HTTPS://X",
		"https:x", "//x", "x", "ftp://x", "https://x\r\n", "https://[::1", "https://\u212a.com", "https://x/;y", "https://x//..//", "https://x/\\..\\",
	} {
		f.Add(id, target, target, versionV3, "id", "1h", int64(3600), "1s", "")
		f.Add(id, target, target, versionV1, "", "1h", int64(3600), "1s", "")
	}
	for _, duration := range []string{"0", "-1", "1.5", "500ms", "1d", "1e9", "9223372036854775807", "36028797018963973", "NaN", "ä", " 1", "80s", "81s", "2562047h47m16s"} {
		f.Add(id, home, home, versionV2, "", duration, int64(-1), duration, "")
	}
	for _, seconds := range []int64{1, -1, 1 << 33, 1 << 55, 1<<55 + 5, 1<<63 - 1, -1 << 63} {
		f.Add(id, home, home, versionV3, "id", "", seconds, "", "")
	}
	f.Add(id, home, home, "v4", "id\r\nX: canary", "0", int64(0), "30s", "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n")

	// One for all inputs: each has a storage of its own, and a write begins anew in memory.
	made, err := Factory(f.Context(), &logical.BackendConfig{System: &logical.StaticSystemView{}})
	require.NoError(f, err)
	f.Cleanup(func() { made.Cleanup(context.Background()) })

	f.Fuzz(func(t *testing.T, organizationID, consoleURL, authURL, version, keyID, ttl string, reuse int64, timeout, caCert string) {
		fields := map[string]any{
			"organization_id": organizationID, "console_url": consoleURL, "auth_url": authURL, "credentials_version": version,
			"ttl": ttl, "reuse_period": reuse, "request_timeout": timeout, "ca_cert": caCert, "verify_connection": false,
		}
		switch version {
		case versionV1:
			fields["username"], fields["client_id"] = keyID+"bot", "client"
			fields["password"], fields["client_secret"] = canaryPassword, canaryClientSecret
		case versionV2:
			fields["api_key"] = canaryKey
		default:
			fields["api_key_id"], fields["api_key"] = keyID, canaryKey
		}
		storage := &logical.InmemStorage{}
		request := func(operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
			return made.HandleRequest(t.Context(), &logical.Request{
				Operation: operation, Path: path, Data: data, Storage: storage, MountPoint: "snowplow/",
			})
		}
		resp, err := request(logical.CreateOperation, "config", fields)
		for _, secret := range []string{canaryKey, canaryPassword, canaryClientSecret} {
			assert.NotContains(t, fmt.Sprintf("%+v %v", resp, err), secret)
		}
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
			require.NotEmpty(t, origin(target))
			assert.True(t, u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()), target)
			assert.Nil(t, u.User)
			assert.Empty(t, u.RawQuery+u.Fragment)
		}

		// Where the key would go.
		_, target := stored.of(cred.Version)
		assert.Equal(t, origin(target), cred.WrittenFor)
		a := &attempt{client: &client{}, cred: cred, to: stored.endpoints}
		exchange, err := a.request(t.Context())
		require.NoError(t, err)
		assert.Equal(t, origin(target), origin(exchange.URL.String()))
		base, err := url.Parse(target)
		require.NoError(t, err)
		assert.Equal(t, base.Host, exchange.URL.Host)
		assert.Empty(t, exchange.URL.RawQuery)
		below, end := "/api/msc/v1/organizations/", "/credentials/"+cred.Version+"/token"
		if cred.Version == versionV1 {
			below, end = "/oauth/", "/oauth/token"
		}
		// As the least careful server on the way reads it.
		cleaned := path.Clean(exchange.URL.Path)
		assert.True(t, strings.HasPrefix(cleaned, path.Clean(base.Path+below)+"/"), "%s is not below %s", cleaned, base.Path+below)
		assert.True(t, strings.HasSuffix(cleaned, end), cleaned)
		if cred.Version != versionV1 {
			assert.Equal(t, cred.OrganizationID, path.Base(strings.TrimSuffix(cleaned, end)))
		}

		for _, path := range []string{"config", "status"} {
			resp, err := request(logical.ReadOperation, path, nil)
			require.NoError(t, err)
			require.False(t, resp.IsError(), "%v", resp)
			for _, secret := range []string{canaryKey, canaryPassword, canaryClientSecret} {
				assert.NotContains(t, fmt.Sprintf("%+v", resp), secret)
			}
		}
	})
}
