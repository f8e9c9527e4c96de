package acceptance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// clients are the example clients. Each is a command that takes the path of a token as its last argument, asks Console
// for every line of its standard input, and answers with a line.
var clients = map[string]func(t testing.TB, dir string) []string{
	"go": func(t testing.TB, dir string) []string {
		target := filepath.Join(t.TempDir(), "client")
		build := exec.Command("go", "build", "-race=false", "-o", target, ".")
		build.Dir = dir
		out, err := build.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return []string{target}
	},
	"python": func(t testing.TB, _ string) []string {
		// Debian's package is for Debian's own Python, which need not be the first on the PATH.
		for _, python := range []string{"python3", "/usr/bin/python3"} {
			if exec.Command(python, "-c", "import hvac").Run() == nil {
				return []string{python, "client.py"}
			}
		}
		notRun(t, "no python3 with hvac: install python3-hvac")
		return nil
	},
	"node": func(t testing.TB, dir string) []string {
		node := lookPath(t, "node", "install nodejs")
		if _, err := os.Stat(filepath.Join(dir, "node_modules", "node-vault")); err != nil {
			notRun(t, "node-vault is not installed: run npm ci in examples/clients/node")
		}
		return []string{node, "client.mjs"}
	},
	"curl": func(t testing.TB, _ string) []string {
		lookPath(t, "curl", "install curl")
		lookPath(t, "jq", "install jq")
		return []string{"bash", "client.sh"}
	},
}

func TestExampleClients(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir("../examples/clients")
	require.NoError(t, err)
	var folders []string
	for _, entry := range entries {
		if entry.IsDir() {
			folders = append(folders, entry.Name())
		}
	}
	require.ElementsMatch(t, folders, slices.Collect(maps.Keys(clients)), "each client is tried here")
	for name, command := range clients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := "../examples/clients/" + name
			testClient(t, dir, command(t, dir))
		})
	}
}

func testClient(t *testing.T, dir string, command []string) {
	const path = "/api/msc/v1/organizations"
	m, console := configured(t)
	console.AddKey(analyticsKey)
	m.write(t, "roles/analytics", with(keyOf(analyticsKey), fields{"ttl": "2s"}))
	token := m.server.createToken(t, `path "`+m.at("token/analytics")+`" { capabilities = ["read"] }`)
	environment := append(os.Environ(), "HOME="+t.TempDir(), "VAULT_ADDR="+m.server.Address(), "VAULT_TOKEN="+token)
	client := func(arguments ...string) *exec.Cmd {
		cmd := exec.Command(command[0], append(command[1:], arguments...)...)
		cmd.Dir, cmd.Env = dir, environment
		return cmd
	}
	reads := func() int64 {
		n, err := m.read(t, "status/analytics").Data["reads"].(json.Number).Int64()
		require.NoError(t, err)
		return n
	}

	cmd := client(m.at("token/analytics"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	end := func() {
		_ = stdin.Close()
		for range lines { // what a failed test did not read
		}
		_ = cmd.Wait()
	}
	t.Cleanup(end)
	output := ""
	ask := func() string {
		_, err := io.WriteString(stdin, path+"\n")
		require.NoError(t, err)
		select {
		case line, open := <-lines:
			require.True(t, open, "the client has ended")
			output += line + "\n"
			return line
		case <-time.After(patience):
			require.FailNow(t, "the client does not answer")
			return ""
		}
	}

	require.Regexp(t, `^200 .*`+consoletest.DefaultOrganizationID, ask())
	exchanges := console.ExchangesOf(analyticsKey.ID)
	eventually(t, patience, "the client reads again before a lease of 2 s is over, twice", func() error {
		require.Regexp(t, "^200 ", ask())
		if n := reads(); n < 3 {
			return fmt.Errorf("%d reads", n)
		}
		return nil
	})
	require.Equal(t, exchanges, console.ExchangesOf(analyticsKey.ID), "exchanges for all these reads")

	// From here on, the client reads only for a 401.
	m.write(t, "roles/analytics", fields{"ttl": "1h"})
	before := reads()
	eventually(t, patience, "the client has a lease of an hour", func() error {
		require.Regexp(t, "^200 ", ask())
		if reads() == before {
			return fmt.Errorf("%d reads", before)
		}
		return nil
	})
	before = reads()
	old := m.jwt(t, "token/analytics") // a read of the test's own
	console.SetNow(func() time.Time { return time.Now().Add(25 * time.Hour) })
	for n := range int64(2) {
		require.Regexp(t, "^error: the JWT is refused, and Vault has no other", ask())
		require.Equal(t, before+n+2, reads(), "one read for each 401")
	}
	m.remove(t, "token/analytics")
	require.Regexp(t, "^200 ", ask(), "with the JWT that Vault has after a 401")
	require.Regexp(t, "^200 ", ask())
	require.Equal(t, before+4, reads(), "the client goes on with the new JWT")

	end()
	require.True(t, cmd.ProcessState.Success(), "%s; standard error: %s", cmd.ProcessState, &stderr)
	for _, secret := range []string{old, m.jwt(t, "token/analytics"), token} {
		require.NotContains(t, output+stderr.String(), secret)
	}

	denied := client(m.at("token"))
	denied.Stdin = strings.NewReader(path + "\n")
	out, _ := denied.CombinedOutput() // a client that reads Vault at its start exits with 1
	require.Contains(t, string(out), "permission denied", "a path that the policy does not have")
	require.NotContains(t, string(out), token)
	require.LessOrEqual(t, strings.Count(string(out), "\n"), 10, "%s", out)
}
