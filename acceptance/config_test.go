package acceptance

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestConfigIsWrittenReadUpdatedAndDeleted(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	m := newMount(t)
	m.absent(t, "config")
	_, err := m.tryRead("token")
	requireStatus(t, err, http.StatusBadRequest, "config is not written", "vault write "+m.path+"/config organization_id=")

	require.Nil(t, m.write(t, "config", defaultConfig(console)), "a write without a warning has no content")
	want := fields{
		"organization_id":     consoletest.DefaultOrganizationID,
		"credentials_version": "v3",
		"api_key_id":          consoletest.DefaultAPIKeyID,
		"console_url":         console.URL,
		"auth_url":            "https://id.snowplowanalytics.com",
		"ca_cert":             "",
		"request_timeout":     json.Number("30"),
		"ttl":                 json.Number("0"),
		"reuse_period":        json.Number("3600"),
	}
	require.Equal(t, want, m.read(t, "config").Data, "config must have each setting and no secret")

	m.write(t, "config", fields{"ttl": "10m"})
	want["ttl"] = json.Number("600")
	require.Equal(t, want, m.read(t, "config").Data, "an update keeps what it leaves out")
	requireKeyID(t, console, m.jwt(t, "token"), consoletest.DefaultAPIKeyID)

	m.patch(t, "config", fields{"reuse_period": "90s", "ttl": nil})
	want["reuse_period"], want["ttl"] = json.Number("90"), json.Number("0")
	require.Equal(t, want, m.read(t, "config").Data, "a patch changes a field, and null takes one back")

	m.remove(t, "config")
	m.absent(t, "config")
	_, err = m.tryRead("token")
	requireStatus(t, err, http.StatusBadRequest, "config is not written")
}

func TestConfigThatFailsItsVerificationIsNotStored(t *testing.T) {
	t.Parallel()
	unreachable := consoletest.NewServer(t)
	unreachable.Close()
	console := consoletest.NewServer(t)
	for name, test := range map[string]struct {
		config fields
		status int
		says   string
	}{
		"wrong key":            {with(defaultConfig(console), fields{"api_key": "wrong"}), http.StatusBadRequest, "refused the API key with status 401"},
		"unknown organization": {with(defaultConfig(console), fields{"organization_id": "66666666-2222-4333-8444-555555555555"}), http.StatusBadRequest, "66666666-2222-4333-8444-555555555555"},
		"unreachable Console":  {with(defaultConfig(unreachable), fields{"request_timeout": "5s"}), http.StatusBadGateway, "is unreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMount(t)
			_, err := m.tryWrite("config", test.config)
			requireStatus(t, err, test.status, test.says, "nothing was stored")
			m.absent(t, "config")

			m.write(t, "config", with(test.config, fields{"verify_connection": false}))
			require.Equal(t, test.config["organization_id"], m.read(t, "config").Data["organization_id"])
			_, err = m.tryRead("token")
			requireStatus(t, err, test.status, test.says)
		})
	}
}

func TestFailedVerificationLeavesConfigAsItWas(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	before, jwt := m.read(t, "config").Data, m.jwt(t, "token")
	for name, write := range map[string]func() error{
		"write": func() error {
			_, err := m.tryWrite("config", fields{"api_key_id": "another", "api_key": "wrong", "ttl": 60})
			return err
		},
		"patch": func() error {
			_, err := m.tryPatch(t, "config", fields{"api_key": "wrong", "ttl": 60})
			return err
		},
	} {
		requireStatus(t, write(), http.StatusBadRequest, "nothing was stored")
		require.Equal(t, before, m.read(t, "config").Data, "config after a failed %s", name)
		require.Equal(t, jwt, m.jwt(t, "token"), "the kept JWT after a failed %s", name)
	}
	require.Equal(t, 4, console.Exchanges(), "one for the first write, one for the reader, one for each write that failed")
}

func TestBadFieldsAreRefusedByName(t *testing.T) {
	t.Parallel()
	m, console := configured(t)
	before := m.read(t, "config").Data
	for name, test := range map[string]struct {
		change fields
		says   string
	}{
		"unknown field":        {fields{"api_keey": "x"}, "unknown field api_keey"},
		"key as a list":        {fields{"api_key": []string{"x"}}, "api_key is an object or a list"},
		"key as an object":     {fields{"api_key": fields{"x": "y"}}, "api_key is an object or a list"},
		"bad duration":         {fields{"ttl": "soon"}, "ttl"},
		"negative ttl":         {fields{"ttl": -1}, "ttl"},
		"timeout out of range": {fields{"request_timeout": "90s"}, "request_timeout is out of range"},
		"plain http":           {fields{"console_url": "http://console.example.com", "api_key": "x"}, "console_url is not https"},
		"URL with a query":     {fields{"console_url": console.URL + "?a=b", "api_key": "x"}, "console_url has a query"},
		"bad certificate":      {fields{"ca_cert": "none"}, "ca_cert"},
		"path in organization": {fields{"organization_id": "../admin"}, "organization_id is not one path segment"},
		"unknown version":      {fields{"credentials_version": "v4"}, "credentials_version"},
		"missing for v1":       {fields{"credentials_version": "v1"}, "username, password, client_id, client_secret is missing"},
		"foreign to v3":        {fields{"password": "x"}, "password does not belong to credentials_version v3"},
		"no organization":      {fields{"organization_id": ""}, "organization_id is missing"},
	} {
		_, err := m.tryWrite("config", test.change)
		requireStatus(t, err, http.StatusBadRequest, test.says)
		require.Equal(t, before, m.read(t, "config").Data, "config after: %s", name)
		_, err = m.tryPatch(t, "config", test.change)
		requireStatus(t, err, http.StatusBadRequest, test.says)
		require.Equal(t, before, m.read(t, "config").Data, "config after a patch: %s", name)
	}
	require.Equal(t, 1, console.Exchanges(), "no key may be sent before the fields are checked")
}

func TestConsoleWithACAOfItsOwn(t *testing.T) {
	t.Parallel()
	console := consoletest.NewTLSServer(t)
	m := newMount(t)
	_, err := m.tryWrite("config", defaultConfig(console))
	requireStatus(t, err, http.StatusBadGateway, "TLS", "ca_cert")
	m.write(t, "config", with(defaultConfig(console), fields{"ca_cert": console.CACert()}))
	assert.Equal(t, http.StatusOK, opens(t, console, m.jwt(t, "token")))
}
