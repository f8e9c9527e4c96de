package acceptance

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestCommandLine(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	m := newMount(t)
	s := m.server
	s.run(t, "write", m.at("config"), "organization_id="+consoletest.DefaultOrganizationID,
		"api_key_id="+consoletest.DefaultAPIKeyID, "api_key="+consoletest.DefaultAPIKey, "console_url="+console.URL)

	// No line break after it, so that it can go into a header as it is.
	jwt := s.run(t, "read", "-field=access_token", m.at("token"))
	require.Equal(t, http.StatusOK, opens(t, console, jwt), "the JWT from vault read -field")

	s.run(t, "patch", m.at("config"), "ttl=90s")
	require.Equal(t, "90", s.run(t, "read", "-field=ttl", m.at("config")))
	table := s.run(t, "read", m.at("token"))
	require.Regexp(t, `lease_duration +1m30s`, table)
	require.Regexp(t, `lease_renewable +false`, table)

	s.run(t, "write", m.at("roles/analytics"), "ttl=30s")
	require.Equal(t, "30", s.run(t, "read", "-field=ttl", m.at("roles/analytics")))
	require.Contains(t, s.run(t, "list", m.at("roles")), "analytics")
	wrapping := s.run(t, "read", "-wrap-ttl=60s", "-field=wrapping_token", m.at("token/analytics"))
	unwrapped := s.run(t, "unwrap", "-field=access_token", wrapping)
	require.Equal(t, http.StatusOK, opens(t, console, unwrapped), "the JWT from vault unwrap")

	s.run(t, "delete", m.at("roles/analytics"))
	_, err := s.CLI(s.Client.Token(), "read", m.at("token/analytics"))
	require.ErrorContains(t, err, "Code: 400")
}

func TestPathHelp(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	for _, path := range []string{"config", "roles", "roles/analytics", "token", "token/analytics", "status", "status/analytics"} {
		assert.Contains(t, m.server.run(t, "path-help", m.at(path)), "$ vault ", "the example of %s", path)
	}
	overview := m.server.run(t, "path-help", m.path)
	for _, pattern := range []string{"^config$", "^roles/?$", "^roles/(?P<name>", "^token$", "^token/(?P<role>", "^status$", "^status/(?P<role>"} {
		assert.Contains(t, overview, pattern, "the overview lists every path")
	}
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	document, err := m.client.Logical().Read("sys/internal/specs/openapi")
	require.NoError(t, err)
	paths, _ := document.Data["paths"].(map[string]any)
	require.NotEmpty(t, paths, "the document has paths")
	for path, methods := range map[string][]string{
		"config":        {"get", "post", "delete"},
		"roles/":        {"get"},
		"roles/{name}":  {"get", "post", "delete"},
		"token":         {"get", "post", "delete"},
		"token/{role}":  {"get", "post", "delete"},
		"status":        {"get"},
		"status/{role}": {"get"},
	} {
		described, found := paths["/"+m.at(path)].(map[string]any)
		if !assert.True(t, found, "the document has %s", path) {
			continue
		}
		for _, method := range methods {
			operation, found := described[method].(map[string]any)
			if assert.True(t, found, "%s %s is described", method, path) {
				assert.NotEmpty(t, operation["summary"], "the summary of %s %s", method, path)
				assert.True(t, strings.HasPrefix(operation["operationId"].(string), "snowplow-"), "the operation ID of %s %s", method, path)
				assert.NotEmpty(t, operation["responses"], "the responses of %s %s", method, path)
			}
		}
	}

	schemas := document.Data["components"].(map[string]any)["schemas"].(map[string]any)
	for _, request := range []string{"SnowplowConfigureRequest", "SnowplowWriteRoleRequest"} {
		schema, found := schemas[request].(map[string]any)
		require.True(t, found, "the document has the schema %s", request)
		properties := schema["properties"].(map[string]any)
		for _, name := range []string{"api_key", "password", "client_secret"} {
			attributes, _ := properties[name].(map[string]any)["x-vault-displayAttrs"].(map[string]any)
			assert.Equal(t, true, attributes["sensitive"], "%s in %s is marked sensitive", name, request)
		}
	}
}
