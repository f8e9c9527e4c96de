package acceptance

import (
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// recipe is a folder of the examples, copied so that a test can put the machine's addresses and paths in.
type recipe struct{ dir string }

// examples are all of them, as they are.
var examples = recipe{"../examples"}

// copyRecipe copies a folder of the examples, and the policies beside it. Each pair of replacements must occur in one of
// the folder's files, so that a test does not go on replacing what is no longer there.
func copyRecipe(t testing.TB, name string, replacements ...string) recipe {
	t.Helper()
	source, target := filepath.Join("..", "examples"), t.TempDir()
	for _, folder := range []string{name, "policies"} {
		require.NoError(t, os.CopyFS(filepath.Join(target, folder), os.DirFS(filepath.Join(source, folder))))
	}
	r := recipe{filepath.Join(target, name)}
	var all strings.Builder
	require.NoError(t, filepath.WalkDir(r.dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all.Write(content)
		return os.WriteFile(path, []byte(strings.NewReplacer(replacements...).Replace(string(content))), 0o600)
	}))
	for pair := range slices.Chunk(replacements, 2) {
		require.Contains(t, all.String(), pair[0], "the files of %s", name)
	}
	return r
}

func (r recipe) path(name string) string { return filepath.Join(r.dir, name) }

func (r recipe) file(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(r.path(name))
	require.NoError(t, err)
	return string(content)
}

// commands returns the blocks of commands that the recipe's README has below a heading.
func (r recipe) commands(t testing.TB, heading string) (blocks []string) {
	const name = "README.md"
	t.Helper()
	_, section, found := strings.Cut(r.file(t, name), "\n## "+heading+"\n")
	require.True(t, found, "%s has the heading %q", name, heading)
	section, _, _ = strings.Cut(section, "\n## ")
	for _, block := range fenced.FindAllStringSubmatch(section, -1) {
		if block[2] == "sh" {
			blocks = append(blocks, block[3])
		}
	}
	require.NotEmpty(t, blocks, "%s has commands below %q", name, heading)
	return blocks
}

// shell prepares commands that are run in the recipe's folder as they would be typed, by the holder of a token. They
// call the server's program vault, whatever it is.
func (r recipe) shell(t testing.TB, s server, token, commands string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", commands)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "PATH="+vaultOnPath(t)+":"+os.Getenv("PATH"), "HOME="+r.dir,
		"VAULT_ADDR="+s.Address(), "VAULT_TOKEN="+token, "VAULT_MAX_RETRIES=0")
	return cmd
}

// run runs commands with the root token, and demands that they succeed.
func (r recipe) run(t testing.TB, s server, commands string) string {
	t.Helper()
	out, err := r.shell(t, s, s.Client.Token(), commands).CombinedOutput()
	require.NoError(t, err, "running\n%s\n%s", commands, out)
	return string(out)
}

// vaultOnPath is a folder in which the program that the tests run on has the name vault.
func vaultOnPath(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Symlink(program.Path, filepath.Join(dir, "vault")))
	return dir
}

// behindTLS puts a server behind TLS, and returns the URL and the CA of the certificate, which no machine trusts.
func behindTLS(t testing.TB, s server) (string, []byte) {
	t.Helper()
	target, err := url.Parse(s.Address())
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // of clients that have gone
	front := httptest.NewTLSServer(proxy)
	t.Cleanup(front.Close)
	return front.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
}

// startAgent starts an agent that runs until the test ends.
func startAgent(t testing.TB, s server, config string) {
	t.Helper()
	agent, err := s.StartCommand("agent", "-log-level=trace", "-config="+config)
	require.NoError(t, err, "starting an agent")
	t.Cleanup(agent.Stop)
	showLogIfFailed(t, agent)
}

// lookPath returns a program's path, or leaves the test out if the program is not there.
func lookPath(t testing.TB, name, install string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		notRun(t, fmt.Sprintf("%s is not on the PATH: %s", name, install))
	}
	return path
}

// notRun skips a test whose program cannot be expected everywhere. Go says nothing of skipped tests
// unless asked; scripts/test.sh shows what is in the file.
func notRun(t testing.TB, reason string) {
	t.Helper()
	line := t.Name() + ": " + reason
	if path := os.Getenv("ACCEPTANCE_NOT_RUN"); path != "" {
		file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		require.NoError(t, err)
		_, err = fmt.Fprintln(file, line)
		require.NoError(t, err)
		require.NoError(t, file.Close())
	}
	if os.Getenv("ACCEPTANCE_CLIENTS")+os.Getenv("MONITORING_ACC") != "" {
		require.FailNow(t, line, "every client, or the monitoring, was to be tested")
	}
	t.Skip(reason)
}

// sha256Of is the checksum of a file, as sha256sum prints it.
func sha256Of(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(content))
}
