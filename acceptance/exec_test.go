package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// TestSnowplowExec is someone of a team: "vault login" keeps the login, its policy grants the team's role alone, and
// access ends with login and lease.
func TestSnowplowExec(t *testing.T) {
	t.Parallel()
	snowplowExec, err := buildExec()
	require.NoError(t, err)
	m, console := configuredAlone(t)
	s := m.server
	m.write(t, "roles/analytics", fields{"ttl": "2s"})
	policy := examples.file(t, "policies/team.hcl")
	login := s.createToken(t, policy)
	environment := []string{"HOME=" + t.TempDir(), "VAULT_ADDR=" + s.Address(), "BAO_ADDR=" + s.Address(), "VAULT_MAX_RETRIES=0"}
	out, err := clientCommand(".", environment, program.Path, "login", "-no-print", login).CombinedOutput()
	require.NoError(t, err, "%s", out)

	// The tool shows what it has when asked, until its standard input ends. The test makes the tool's requests.
	const script = `while read -r line; do echo "$SNOWPLOW_CONSOLE_API_URL $SNOWPLOW_CONSOLE_TOKEN"; done`
	tool := startClient(t, clientCommand(".", environment, snowplowExec, "-role=analytics", "sh", "-c", script))
	consoleAPI, standIn, _ := strings.Cut(tool.ask(t, "what do you have?"), " ")
	status, body := organizations(t, consoleAPI, standIn)
	require.Equal(t, http.StatusOK, status, "%s", body)
	require.Contains(t, body, consoletest.DefaultOrganizationID)
	require.Equal(t, http.StatusUnauthorized, opens(t, console, standIn), "the stand-in at Console itself")

	// Whoever ends the login ends the tool's access with the lease.
	const ended = `has expired or is not valid there: run "vault login"`
	require.NoError(t, s.Client.Auth().Token().RevokeTree(login))
	eventually(t, patience, "access ends", func() error {
		status, body := organizations(t, consoleAPI, standIn)
		if status == http.StatusOK {
			return fmt.Errorf("the tool still gets %d", status)
		}
		var answer struct{ Message string }
		require.NoError(t, json.Unmarshal([]byte(body), &answer))
		require.Contains(t, answer.Message, ended)
		return nil
	})

	for _, refused := range []struct{ login, role, says string }{
		{login, "analytics", ended},
		{s.createToken(t, policy), "ingest", "may not read snowplow/token/ingest"},
	} {
		environment := append(environment, "VAULT_TOKEN="+refused.login)
		out, err := clientCommand(".", environment, snowplowExec, "-role="+refused.role, "echo", "started").CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), refused.says)
		require.NotContains(t, string(out), "started")
	}
}
