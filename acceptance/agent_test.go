package acceptance

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// agentHost is a host that follows the agent's recipe, with a folder in place of /etc/snowplow-agent.
type agentHost struct {
	recipe
	etc, run string
	mount    mount
	console  *consoletest.Server
}

// newAgentHost follows the recipe up to the start of the agent, with a Vault behind TLS whose CA the host does not
// trust.
func newAgentHost(t *testing.T) agentHost {
	t.Helper()
	m, console := configuredAlone(t)
	url, ca := behindTLS(t, m.server)
	h := agentHost{etc: filepath.Join(t.TempDir(), "etc"), run: t.TempDir(), mount: m, console: console}
	h.recipe = copyRecipe(t, "agent",
		"https://vault.example.com:8200", url,
		"/etc/snowplow-agent", h.etc,
		"/run/snowplow", h.run,
		"/usr/bin/vault", program.Path,
		"/usr/local/bin/app", filepath.Join(h.etc, "app"),
		"192.0.2.10/32", "127.0.0.1/32",
		// The test need not be root, and has no users to give files to.
		"sudo ", "", "-o snowplow-agent", "",
	)
	require.NoError(t, os.WriteFile(h.path("vault-ca.pem"), ca, 0o600))

	h.recipe.run(t, m.server, strings.Join(h.commands(t, "The login"), "\n"))
	host := h.commands(t, "The host")
	require.Len(t, host, 3, "a user, files, and a service")
	h.recipe.run(t, m.server, host[1])
	return h
}

func TestAgentKeepsTheJWTInFilesFresh(t *testing.T) {
	t.Parallel()
	const validity = 15 * time.Second
	h := newAgentHost(t)
	h.console.SetValidity(validity)
	h.mount.remove(t, "token/analytics") // the JWT of 24 hours that the role's verification may have cached
	for _, id := range []string{"role-id", "secret-id"} {
		info, err := os.Stat(filepath.Join(h.etc, id))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o400), info.Mode(), "the mode of %s", id)
		require.NotZero(t, info.Size(), "the size of %s", id)
	}
	startAgent(t, h.mount.server, filepath.Join(h.etc, "agent.hcl"))

	read := func(name string) (string, error) {
		content, err := os.ReadFile(filepath.Join(h.run, name))
		return string(content), err
	}
	var first string
	eventually(t, patience, "the agent writes both files", func() error {
		if _, err := read("snowplow.env"); err != nil {
			return err
		}
		var err error
		first, err = read("token")
		return err
	})
	seen := time.Now()
	requireKeyID(t, h.console, first, analyticsKey.ID)
	for _, name := range []string{"token", "snowplow.env"} {
		info, err := os.Stat(filepath.Join(h.run, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o640), info.Mode(), "the mode of %s", name)
	}
	// Sourced by a shell, as systemd would read it.
	out, err := exec.Command("sh", "-euc",
		`. "$1"; printf '%s %s %s %s' "$SNOWPLOW_TOKEN" "$SNOWPLOW_CONSOLE_URL" "$SNOWPLOW_ORGANIZATION_ID" "$SNOWPLOW_TOKEN_EXPIRES_AT"`,
		"sh", filepath.Join(h.run, "snowplow.env")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	set := strings.Split(string(out), " ")
	require.Equal(t, []string{first, h.console.URL, consoletest.DefaultOrganizationID}, set[:3], "what the environment file sets")
	_, err = time.Parse(time.RFC3339, set[3])
	require.NoError(t, err)

	// At every moment, the file must have a JWT that Console takes.
	eventually(t, 2*validity, "the agent writes a new JWT", func() error {
		content, err := read("token")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, opens(t, h.console, content), "the JWT in the file, %s after the first", time.Since(seen))
		if content == first {
			return errors.New("the file still has the first one")
		}
		return nil
	})
	require.Less(t, time.Since(seen), validity, "the new JWT must be there before the first one's lease ends")
	require.EqualValues(t, 2, h.mount.readsOfAnalytics(t), "the agent reads once for each JWT, and once for both files")
	t.Run("its use", func(t *testing.T) {
		lookPath(t, "curl", "install curl")
		use := h.commands(t, "The application")
		require.Len(t, use, 1)
		require.Contains(t, h.recipe.run(t, h.mount.server, strings.ReplaceAll(use[0], "https://console.snowplowanalytics.com", h.console.URL)),
			consoletest.DefaultOrganizationID)
	})
}

func TestAgentRestartsTheApplicationOnlyForANewJWT(t *testing.T) {
	t.Parallel()
	h := newAgentHost(t)
	h.mount.write(t, "roles/analytics", fields{"ttl": "2s"})
	starts := filepath.Join(h.run, "starts")
	require.NoError(t, os.WriteFile(filepath.Join(h.etc, "app"), fmt.Appendf(nil,
		"#!/bin/sh\nprintf '%%s %%s\\n' \"$SNOWPLOW_TOKEN\" \"$SNOWPLOW_CONSOLE_URL\" >>%q\nexec sleep 600\n", starts), 0o700))
	startAgent(t, h.mount.server, filepath.Join(h.etc, "exec.hcl"))

	started := func(n int) []string {
		var lines []string
		eventually(t, patience, fmt.Sprintf("the application is started %d times", n), func() error {
			content, err := os.ReadFile(starts)
			lines = strings.Split(string(content), "\n")
			lines = lines[:len(lines)-1] // the last is empty, or not written to its end
			if err == nil && len(lines) < n {
				err = fmt.Errorf("%d times so far", len(lines))
			}
			return err
		})
		require.Len(t, lines, n)
		return lines
	}
	first := started(1)[0]
	jwt, consoleURL, _ := strings.Cut(first, " ")
	requireKeyID(t, h.console, jwt, analyticsKey.ID)
	require.Equal(t, h.console.URL, consoleURL)

	eventually(t, patience, "the agent reads the same JWT again, twice", func() error {
		if reads := h.mount.readsOfAnalytics(t); reads < 3 {
			return fmt.Errorf("%d reads", reads)
		}
		return nil
	})
	require.Equal(t, []string{first}, started(1), "starts of the application after reads that brought the same JWT")

	h.mount.remove(t, "token/analytics")
	second, _, _ := strings.Cut(started(2)[1], " ")
	require.NotEqual(t, jwt, second)
	requireKeyID(t, h.console, second, analyticsKey.ID)
}

func TestUnitsAreValid(t *testing.T) {
	t.Parallel()
	analyze := lookPath(t, "systemd-analyze", "install systemd")
	for folder, unit := range map[string]string{"agent": "snowplow-agent.service", "monitoring": "prometheus-vault-agent.service"} {
		r := copyRecipe(t, folder, "/usr/bin/vault", program.Path)
		// The user and the group need not exist where the test runs.
		out, err := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", r.path(unit)).CombinedOutput()
		require.NoError(t, err, "%s", out)
		// What it does not know, it ignores with a message.
		assert.NotContains(t, string(out), unit)
	}
}
