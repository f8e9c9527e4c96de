package acceptance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

// ingestKey is the scoped key of another team than analyticsKey's.
var ingestKey = consoletest.Key{ID: "ingest-key-id", Secret: "canary-ingest-key-do-not-leak"}

// TestSnowplowExec is a CI job of a team: it logs in by AppRole, its policy grants it its own role alone, and it runs a
// tool that wants an API key.
func TestSnowplowExec(t *testing.T) {
	t.Parallel()
	snowplowExec, err := buildExec()
	require.NoError(t, err)
	console := consoletest.NewServer(t)
	console.AddKey(analyticsKey)
	console.AddKey(ingestKey)
	// The example policy names the mount snowplow/.
	s := startServer(t)
	m := s.mount(t, "snowplow", "")
	m.write(t, "config", defaultConfig(console))
	m.write(t, "roles/analytics", with(keyOf(analyticsKey), fields{"ttl": "2s"}))
	m.write(t, "roles/ingest", keyOf(ingestKey))
	policy, err := os.ReadFile("../examples/policies/team.hcl")
	require.NoError(t, err)
	require.NoError(t, s.Client.Sys().PutPolicy("team", string(policy)))
	login := s.appRoleLogin(t, "team")

	// The login that "vault login" keeps in the user's home folder.
	home := t.TempDir()
	keep := exec.Command(program.Path, "login", "-no-print", login)
	keep.Env = append(os.Environ(), "HOME="+home, "VAULT_ADDR="+s.Address(), "BAO_ADDR="+s.Address())
	out, err := keep.CombinedOutput()
	require.NoError(t, err, "%s", out)
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(snowplowExec, args...)
		cmd.Env = append(os.Environ(), "HOME="+home, "VAULT_ADDR="+s.Address(), "VAULT_MAX_RETRIES=0")
		return cmd
	}

	// The tool shows what it sees, and stays until its standard input ends. The test does the tool's requests.
	tool := command("-role=analytics", "--", "sh", "-c", "env; cat /proc/self/environ 2>/dev/null | tr '\\0' '\\n'; echo; echo ready; read -r line; exit 7")
	var stderr bytes.Buffer
	tool.Stderr = &stderr
	stdin, err := tool.StdinPipe()
	require.NoError(t, err)
	stdout, err := tool.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, tool.Start())
	t.Cleanup(func() {
		if tool.ProcessState == nil { // the test has failed
			_ = stdin.Close()
			_ = tool.Process.Kill()
			_ = tool.Wait()
		}
	})
	seen, environment := "", map[string]string{}
	for lines := bufio.NewScanner(stdout); lines.Scan() && lines.Text() != "ready"; {
		seen += lines.Text() + "\n"
		name, value, _ := strings.Cut(lines.Text(), "=")
		environment[name] = value
	}
	host := environment["SNOWPLOW_CONSOLE_HOST"]
	require.True(t, strings.HasPrefix(host, "http://127.0.0.1:"), "SNOWPLOW_CONSOLE_HOST is %q; standard error: %s", host, &stderr)
	require.Equal(t, consoletest.DefaultOrganizationID, environment["SNOWPLOW_CONSOLE_ORG_ID"])
	require.NotContains(t, seen, "VAULT_")

	ask := func(path string, header http.Header) (int, []byte) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, host+path, nil)
		require.NoError(t, err)
		request.Header, request.Close = header, true
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, body
	}
	const organizations = "/api/msc/v1/organizations"
	pair := http.Header{}
	pair.Set("X-API-Key-ID", environment["SNOWPLOW_CONSOLE_API_KEY_ID"])
	pair.Set("X-API-Key", environment["SNOWPLOW_CONSOLE_API_KEY"])
	status, body := ask(organizations+"/"+consoletest.DefaultOrganizationID+"/credentials/v3/token", pair)
	require.Equal(t, http.StatusOK, status, "the exchange: %s", body)
	var answer struct{ AccessToken string }
	require.NoError(t, json.Unmarshal(body, &answer))
	bearer := http.Header{"Authorization": {"Bearer " + answer.AccessToken}}
	status, body = ask(organizations, bearer)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, string(body), consoletest.DefaultOrganizationID)
	reads := func() json.Number { return m.read(t, "status/analytics").Data["reads"].(json.Number) }
	require.Equal(t, json.Number("1"), reads(), "one read of the team's own role")
	requireKeyID(t, console, m.jwt(t, "token/analytics"), analyticsKey.ID)

	// What the tool has opens nothing else, and is nothing of Vault's.
	require.Equal(t, http.StatusUnauthorized, opens(t, console, answer.AccessToken), "the stand-in at Console itself")
	jwt := m.jwt(t, "token/analytics")
	require.NotEqual(t, jwt, answer.AccessToken)
	for _, secret := range []string{jwt, login, analyticsKey.Secret, consoletest.DefaultAPIKey} {
		require.NotContains(t, seen, secret)
	}

	before := reads()
	eventually(t, patience, "Vault is read again before the lease of 2 s is over", func() error {
		status, body := ask(organizations, bearer)
		require.Equal(t, http.StatusOK, status, "%s", body)
		if reads() == before {
			return fmt.Errorf("Vault has been read %s times", before)
		}
		return nil
	})

	// Whoever ends the login ends the tool's access with the lease. OpenBao does not tell a token that it does not know
	// from one that may not read the path.
	ended := "has expired or is not valid there: run \"vault login\""
	if program.Product == vaulttest.OpenBao {
		ended = "may not read snowplow/token/analytics"
	}
	require.NoError(t, s.Client.Auth().Token().RevokeTree(login))
	eventually(t, patience, "access ends", func() error {
		status, body := ask(organizations, bearer)
		if status == http.StatusOK {
			return fmt.Errorf("the tool still gets %d", status)
		}
		require.Equal(t, http.StatusBadGateway, status)
		var answer struct{ Message string }
		require.NoError(t, json.Unmarshal(body, &answer))
		require.Contains(t, answer.Message, ended)
		return nil
	})
	require.NoError(t, stdin.Close())
	var exit *exec.ExitError
	require.ErrorAs(t, tool.Wait(), &exit)
	require.Equal(t, 7, exit.ExitCode(), "the tool's own exit code; standard error: %s", &stderr)
	require.NotContains(t, stderr.String(), jwt)
	require.NotContains(t, stderr.String(), login)

	// A command is not started without a token, and one line says why.
	for _, refused := range []struct {
		token, role string
		says        string
	}{
		{login, "analytics", ended},
		{s.appRoleLogin(t, "team"), "ingest", "may not read snowplow/token/ingest"},
		{s.Client.Token(), "nobody", `role "nobody"`},
	} {
		cmd := command("-role="+refused.role, "sh", "-c", "echo started")
		cmd.Env = append(cmd.Env, "VAULT_TOKEN="+refused.token)
		out, err := cmd.CombinedOutput()
		require.ErrorAs(t, err, &exit)
		require.Equal(t, 1, exit.ExitCode())
		require.Contains(t, string(out), refused.says)
		require.NotContains(t, string(out), "started")
		require.Equal(t, 1, strings.Count(string(out), "\n"), "one line: %s", out)
	}
}

// appRoleLogin logs in by a new AppRole with a policy, and returns the token.
func (s server) appRoleLogin(t testing.TB, policy string) string {
	t.Helper()
	mounts, err := s.Client.Sys().ListAuth()
	require.NoError(t, err)
	if mounts["approle/"] == nil {
		require.NoError(t, s.Client.Sys().EnableAuthWithOptions("approle", &api.EnableAuthOptions{Type: "approle"}))
	}
	write := func(path string, data fields) *api.Secret {
		secret, err := s.Client.Logical().Write("auth/approle/"+path, data)
		require.NoError(t, err)
		return secret
	}
	role := "role/" + unique("role")
	write(role, fields{"token_policies": policy, "token_ttl": "10m"})
	roleID, err := s.Client.Logical().Read("auth/approle/" + role + "/role-id")
	require.NoError(t, err)
	secretID := write(role+"/secret-id", nil)
	return write("login", fields{"role_id": roleID.Data["role_id"], "secret_id": secretID.Data["secret_id"]}).Auth.ClientToken
}
