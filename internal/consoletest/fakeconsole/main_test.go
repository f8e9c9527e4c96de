package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/faulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRunServesTheDefaultKey(t *testing.T) {
	t.Parallel()
	address, stop := start(t)
	assert.Equal(t, 200, exchange(t, address, consoletest.DefaultOrganizationID, consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey))
	assert.Equal(t, 401, exchange(t, address, consoletest.DefaultOrganizationID, consoletest.DefaultAPIKeyID, "wrong"))
	code, body := get(t, address+"/fakeconsole/exchanges", nil)
	assert.Equal(t, 200, code)
	assert.JSONEq(t, `{"exchanges": 2}`, body)

	rest, stderr := stop()
	assert.Empty(t, rest, "one line on standard output")
	assert.Contains(t, stderr, "not Snowplow")
}

func TestRunServesTheKeysGiven(t *testing.T) {
	t.Parallel()
	address, _ := start(t, "-organization", "mine",
		"-api-key-id", "a", "-api-key", "secret-a", "-api-key-id", "b", "-api-key", "secret-b")
	assert.Equal(t, 200, exchange(t, address, "mine", "a", "secret-a"))
	assert.Equal(t, 200, exchange(t, address, "mine", "b", "secret-b"))
	assert.Equal(t, 401, exchange(t, address, "mine", "a", "secret-b"))
	assert.Equal(t, 401, exchange(t, address, "mine", consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey))
	assert.Equal(t, 404, exchange(t, address, consoletest.DefaultOrganizationID, "a", "secret-a"))
}

func TestRunSetsTheValidity(t *testing.T) {
	t.Parallel()
	address, _ := start(t, "-validity", "1h")
	form := url.Values{
		"grant_type":    {"password"},
		"username":      {consoletest.DefaultUsername},
		"password":      {consoletest.DefaultPassword},
		"audience":      {"https://snowplowanalytics.com/api/"},
		"client_id":     {consoletest.DefaultClientID},
		"client_secret": {consoletest.DefaultClientSecret},
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address+"/oauth/token", strings.NewReader(form.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	code, body := send(t, req)
	assert.Equal(t, 200, code)
	assert.Contains(t, body, `"expires_in":3600`)
}

func TestRunEndsDelayedExchanges(t *testing.T) {
	t.Parallel()
	address, stop := start(t, "-delay", "1h")
	code := make(chan int, 1)
	go func() {
		resp, err := http.Get(address + "/oauth/token")
		if err != nil {
			code <- 0
			return
		}
		_ = resp.Body.Close()
		code <- resp.StatusCode
	}()
	for body := ""; !strings.Contains(body, "1"); {
		_, body = get(t, address+"/fakeconsole/exchanges", nil)
	}
	stop()
	assert.Equal(t, http.StatusServiceUnavailable, <-code)
}

// With -proxy-addr, the host names that the certificates are for lead to the fake.
func TestRunServesHTTPSUnderOtherNames(t *testing.T) {
	t.Parallel()
	authority := faulttest.NewAuthority(t)
	dir := t.TempDir()
	var args []string
	for _, name := range []string{"console.example.com", "id.example.com"} {
		certificate := authority.Certify(t, func(template *x509.Certificate) { template.DNSNames = []string{name} })
		key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
		require.NoError(t, err)
		for _, file := range []struct {
			flag, kind string
			der        []byte
		}{{"-tls-cert", "CERTIFICATE", certificate.Certificate[0]}, {"-tls-key", "PRIVATE KEY", key}} {
			path := filepath.Join(dir, name+file.flag)
			require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.der}), 0o600))
			args = append(args, file.flag, path)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	reader, stdout := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, append(args, "-proxy-addr", "127.0.0.1:0"), stdout, io.Discard)
		_ = stdout.Close()
	}()
	lines := bufio.NewReader(reader)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Regexp(t, `^proxy on http://127\.0\.0\.1:\d+\n$`, line)
	proxy, err := url.Parse(strings.TrimPrefix(strings.TrimSpace(line), "proxy on "))
	require.NoError(t, err)
	line, err = lines.ReadString('\n')
	require.NoError(t, err)
	require.Regexp(t, `^listening on https://127\.0\.0\.1:\d+\n$`, line)

	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM([]byte(authority.PEM())))
	client := http.Client{Transport: &http.Transport{
		Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
	}}
	for _, name := range []string{"console.example.com", "id.example.com"} {
		resp, err := client.Get("https://" + name + "/fakeconsole/exchanges")
		require.NoError(t, err, "%s, by the certificate that is for it", name)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, http.StatusOK, resp.StatusCode)
	}
	resp, err := client.Get("https://other.example.com/")
	if err == nil {
		require.NoError(t, resp.Body.Close())
	}
	require.ErrorContains(t, err, "other.example.com", "a name that no certificate is for")

	cancel()
	require.NoError(t, <-ended)
}

func TestRunRefusesWrongFlags(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"each -api-key-id needs its -api-key": {"-api-key-id", "a"},
		"each -tls-cert needs its -tls-key":   {"-tls-cert", "a"},
		"load the certificate":                {"-tls-cert", "a", "-tls-key", "b"},
		"unexpected argument":                 {"argument"},
		"not defined":                         {"-unknown"},
		"listen":                              {"-addr", "127.0.0.1:-1"},
	} {
		var stdout bytes.Buffer
		assert.ErrorContains(t, run(t.Context(), args, &stdout, io.Discard), want)
		assert.Empty(t, stdout.String())
	}
}

func TestRunHelps(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-h"}, io.Discard, &stderr))
	for _, name := range []string{"addr", "organization", "api-key-id", "api-key", "validity", "delay", "tls-cert", "tls-key", "proxy-addr"} {
		assert.Contains(t, stderr.String(), "-"+name)
	}
}

// start runs the program and returns the URL that it prints. stop ends it and returns what
// it wrote after that line, and on standard error.
func start(t *testing.T, args ...string) (address string, stop func() (rest, stderr string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reader, stdout := io.Pipe()
	var written bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, args, stdout, &written)
		_ = stdout.Close()
	}()

	lines := bufio.NewReader(reader)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Regexp(t, `^listening on http://127\.0\.0\.1:\d+\n$`, line)

	stop = func() (string, string) {
		cancel()
		rest, err := io.ReadAll(lines)
		require.NoError(t, err)
		require.NoError(t, <-ended)
		ended <- nil // stop may be called again
		return string(rest), written.String()
	}
	t.Cleanup(func() { stop() })
	return strings.TrimPrefix(strings.TrimSpace(line), "listening on "), stop
}

func exchange(t *testing.T, address, organization, id, secret string) int {
	t.Helper()
	code, _ := get(t, address+"/api/msc/v1/organizations/"+organization+"/credentials/v3/token",
		http.Header{"X-Api-Key-Id": {id}, "X-Api-Key": {secret}})
	return code
}

func get(t *testing.T, address string, header http.Header) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	require.NoError(t, err)
	req.Header = header
	return send(t, req)
}

func send(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	req.Close = true // a kept connection would outlive the test
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}
