package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"testing"

	"github.com/hashicorp/vault/api"
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
	policy, err := os.ReadFile("../examples/policies/team.hcl")
	require.NoError(t, err)
	require.NoError(t, s.Client.Sys().PutPolicy("team", string(policy)))
	created, err := s.Client.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"team"}})
	require.NoError(t, err)
	login, home := created.Auth.ClientToken, t.TempDir()
	environment := append(os.Environ(), "HOME="+home, "VAULT_ADDR="+s.Address(), "BAO_ADDR="+s.Address(), "VAULT_MAX_RETRIES=0")
	keep := exec.Command(program.Path, "login", "-no-print", login)
	keep.Env = environment
	out, err := keep.CombinedOutput()
	require.NoError(t, err, "%s", out)

	// The tool shows what it has, and stays until its standard input ends. The test makes the tool's requests.
	tool := exec.Command(snowplowExec, "-role=analytics", "sh", "-c", `echo "$SNOWPLOW_CONSOLE_API_URL $SNOWPLOW_CONSOLE_TOKEN"; read -r line`)
	tool.Env = environment
	var stderr bytes.Buffer
	tool.Stderr = &stderr
	stdin, err := tool.StdinPipe()
	require.NoError(t, err)
	stdout, err := tool.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, tool.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = tool.Wait()
	})
	var consoleURL, standIn string
	_, err = fmt.Fscan(stdout, &consoleURL, &standIn)
	require.NoError(t, err, "standard error: %s", &stderr)
	ask := func() (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, consoleURL+"/v1/organizations", nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+standIn)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(body)
	}
	status, body := ask()
	require.Equal(t, http.StatusOK, status, "%s", body)
	require.Contains(t, body, consoletest.DefaultOrganizationID)
	require.Equal(t, http.StatusUnauthorized, opens(t, console, standIn), "the stand-in at Console itself")

	reads := func() json.Number { return m.read(t, "status/analytics").Data["reads"].(json.Number) }
	before := reads()
	eventually(t, patience, "Vault is read again before the lease of 2 s is over", func() error {
		status, body := ask()
		require.Equal(t, http.StatusOK, status, "%s", body)
		if reads() == before {
			return fmt.Errorf("Vault has been read %s times", before)
		}
		return nil
	})

	// Whoever ends the login ends the tool's access with the lease.
	const ended = `has expired or is not valid there: run "vault login"`
	require.NoError(t, s.Client.Auth().Token().RevokeTree(login))
	eventually(t, patience, "access ends", func() error {
		status, body := ask()
		if status == http.StatusOK {
			return fmt.Errorf("the tool still gets %d", status)
		}
		var answer struct{ Message string }
		require.NoError(t, json.Unmarshal([]byte(body), &answer))
		require.Contains(t, answer.Message, ended)
		return nil
	})

	created, err = s.Client.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"team"}})
	require.NoError(t, err)
	for _, refused := range []struct{ login, role, says string }{
		{login, "analytics", ended},
		{created.Auth.ClientToken, "ingest", "may not read snowplow/token/ingest"},
		{s.Client.Token(), "nobody", `role "nobody"`},
	} {
		cmd := exec.Command(snowplowExec, "-role="+refused.role, "echo", "started")
		cmd.Env = append(environment, "VAULT_TOKEN="+refused.login)
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), refused.says)
		require.NotContains(t, string(out), "started")
	}
}
