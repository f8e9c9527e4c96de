package acceptance

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// issuer signs the tokens that jobs log in with, as GitHub and GitLab do.
type issuer struct {
	url    string
	signer jose.Signer
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	private := jose.JSONWebKey{Key: key, KeyID: "1", Algorithm: string(jose.RS256), Use: "sig"}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: private}, nil)
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		url := "http://" + r.Host
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(fields{ // fails only if the client has gone
			"issuer": url, "jwks_uri": url, "id_token_signing_alg_values_supported": []jose.SignatureAlgorithm{jose.RS256},
			"keys": []jose.JSONWebKey{private.Public()},
		})
	}))
	t.Cleanup(server.Close)
	return issuer{server.URL, signer}
}

// token signs a job's claims.
func (i issuer) token(t *testing.T, audience string, claims fields) string {
	t.Helper()
	now := time.Now().Unix()
	token, err := jwt.Signed(i.signer).Claims(with(claims, fields{
		"iss": i.url, "aud": audience, "sub": "a job", "iat": now, "nbf": now - 5, "exp": now + 300,
	})).Serialize()
	require.NoError(t, err)
	return token
}

// addJWTAuth makes sure that the server has the JWT auth method, which a small Vault lacks.
func addJWTAuth(t *testing.T, s server) {
	t.Helper()
	listed, err := s.Client.Logical().Read("sys/plugins/catalog")
	require.NoError(t, err)
	if slices.Contains(listed.Data["auth"].([]any), any("jwt")) {
		return
	}
	// Vault's own module has it among what it requires.
	target := filepath.Join(s.PluginDir(), "vault-plugin-auth-jwt")
	build := exec.Command("go", "build", "-C", "../tools/vault", "-mod=readonly", "-race=false", "-trimpath", "-ldflags=-s -w",
		"-o", target, "github.com/hashicorp/vault-plugin-auth-jwt/cmd/vault-plugin-auth-jwt")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "building the JWT auth method: %s", out)
	require.NoError(t, s.Client.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name:    "jwt",
		Type:    api.PluginTypeCredential,
		Command: "vault-plugin-auth-jwt",
		SHA256:  sha256Of(t, target),
	}))
}

// ciRunner is a machine that runs jobs, with a Vault that has been set up by the recipe's commands.
type ciRunner struct {
	recipe
	mount
	console        *consoletest.Server
	github, gitlab issuer
	path           string // of programs
}

func newCIRunner(t *testing.T) ciRunner {
	t.Helper()
	lookPath(t, "curl", "install curl")
	c := ciRunner{github: newIssuer(t), gitlab: newIssuer(t), path: vaultOnPath(t)}
	c.mount, c.console = configuredAlone(t) // the key of its team is that of CI
	c.recipe = copyRecipe(t, "ci",
		"https://token.actions.githubusercontent.com", c.github.url,
		"https://gitlab.com", c.gitlab.url)
	require.NoError(t, os.WriteFile(c.recipe.path("ci-api-key"), []byte(analyticsKey.Secret), 0o600))

	execProgram, err := buildExec()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(execProgram, filepath.Join(c.path, "snowplow-exec")))
	status, err := filepath.Abs("../scripts/console-status.sh")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(status, filepath.Join(c.path, "snowplow-cli")))

	addJWTAuth(t, c.server)
	for _, heading := range []string{"A role for CI", "GitHub Actions", "GitLab CI"} {
		for _, block := range c.commands(t, heading) {
			c.run(t, c.server, "API_KEY_ID="+analyticsKey.ID+"\n"+block)
		}
	}
	return c
}

// job runs a job's commands, without a login.
func (c ciRunner) job(t *testing.T, commands string, env ...string) (string, error) {
	t.Helper()
	cmd := c.shell(t, c.server, "", commands)
	cmd.Env = append(append(cmd.Env, "PATH="+c.path+":"+os.Getenv("PATH")), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c ciRunner) requireJobDone(t *testing.T, output string, err error) {
	t.Helper()
	require.NoError(t, err, "%s", output)
	require.Contains(t, output, consoletest.DefaultOrganizationID, "what snowplow-cli prints")
	got := c.jwt(t, "token/ci")
	requireKeyID(t, c.console, got, analyticsKey.ID)
	require.NotContains(t, output, got)
}

func TestGitHubActionsJob(t *testing.T) {
	t.Parallel()
	c := newCIRunner(t)
	var workflow struct {
		Permissions map[string]string
		Jobs        map[string]struct {
			Permissions map[string]string
			Env         map[string]string
			Steps       []struct {
				Name, Uses, Run string
				With, Env       map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(c.file(t, "github-actions.yml")), &workflow))
	require.Empty(t, workflow.Permissions)
	job := workflow.Jobs["validate"]
	require.Equal(t, map[string]string{"contents": "read", "id-token": "write"}, job.Permissions)

	login, command := map[string]string{}, ""
	for _, step := range job.Steps {
		if step.Uses != "" {
			require.Regexp(t, `^[\w-]+/[\w-]+@[0-9a-f]{40}$`, step.Uses, "actions are pinned by their commit")
		}
		if strings.HasPrefix(step.Uses, "hashicorp/vault-action@") {
			login = step.With
		}
		if strings.HasPrefix(step.Run, "snowplow-exec ") {
			command = step.Run
			require.Equal(t, map[string]string{"VAULT_TOKEN": "${{ steps.vault.outputs.vault_token }}"}, step.Env)
		}
	}
	require.Equal(t, "jwt", login["method"])
	require.Equal(t, "true", login["outputToken"])
	require.NotContains(t, login, "exportToken")
	require.NotEmpty(t, command)

	// What vault-action does with these settings.
	logIn := func(audience, repository string) (string, error) {
		claims := fields{"repository": repository, "ref": "refs/pull/1/merge", "event_name": "pull_request"}
		client, err := c.server.NewClient("")
		require.NoError(t, err)
		secret, err := client.Logical().Write("auth/"+login["path"]+"/login", fields{
			"role": login["role"], "jwt": c.github.token(t, audience, claims),
		})
		if err != nil {
			return "", err
		}
		require.Equal(t, []string{"default", "snowplow-ci"}, secret.Auth.Policies)
		return secret.Auth.ClientToken, nil
	}
	token, err := logIn(login["jwtGithubAudience"], "example/tracking")
	require.NoError(t, err)
	output, err := c.job(t, command, "VAULT_TOKEN="+token)
	c.requireJobDone(t, output, err)

	_, err = logIn(login["jwtGithubAudience"], "example/another")
	requireStatus(t, err, http.StatusBadRequest, "repository")
	_, err = logIn("https://github.com/example", "example/tracking")
	requireStatus(t, err, http.StatusBadRequest, "audience")
}

func TestGitLabJob(t *testing.T) {
	t.Parallel()
	c := newCIRunner(t)
	var pipeline struct {
		Validate struct {
			IDTokens map[string]struct{ Aud string } `yaml:"id_tokens"`
			Script   []string
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(c.file(t, "gitlab-ci.yml")), &pipeline))
	job := pipeline.Validate
	audience := job.IDTokens["VAULT_ID_TOKEN"].Aud
	run := func(audience, project string) (string, error) {
		claims := fields{"project_path": project, "ref": "main", "ref_protected": "true"}
		return c.job(t, strings.Join(job.Script, "\n"), "VAULT_ID_TOKEN="+c.gitlab.token(t, audience, claims))
	}
	output, err := run(audience, "example/tracking")
	c.requireJobDone(t, output, err)

	output, err = run(audience, "example/another")
	require.Error(t, err)
	require.Contains(t, output, "project_path")
	output, err = run("https://gitlab.com", "example/tracking")
	require.Error(t, err)
	require.Contains(t, output, "audience")
}
