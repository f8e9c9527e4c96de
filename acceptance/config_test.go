package acceptance

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestConfigIsWrittenReadUpdatedAndDeleted(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	m := newMount(t)
	m.absent(t, "config")
	_, err := m.tryRead("token")
	requireStatus(t, err, http.StatusBadRequest)

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

	for name, change := range map[string]fields{
		"unknown field":               {"api_keey": "x"},
		"key as a list":               {"api_key": []string{"x"}},
		"key that Console refuses":    {"api_key": "wrong", "ttl": 60},
		"URL that could leak the key": {"console_url": "http://console.example.com"},
	} {
		_, err := m.tryWrite("config", change)
		requireStatus(t, err, http.StatusBadRequest)
		_, err = m.tryPatch(t, "config", change)
		requireStatus(t, err, http.StatusBadRequest)
		require.Equal(t, want, m.read(t, "config").Data, "config after: %s", name)
	}

	m.remove(t, "config")
	m.absent(t, "config")
	_, err = m.tryRead("token")
	requireStatus(t, err, http.StatusBadRequest)
}
