package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

const vaultToken = "canary-vault-token-do-not-leak"

// TestMain runs the tests, or is one of the programs that they start: snowplow-exec itself, or the command that it runs.
// Both are links to the test's own file, first in PATH, so that they are what is tested, race detector included.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "snowplow-exec":
		main()
	case "tool": // the command that snowplow-exec runs in tests
		if os.Args[1] != "look" {
			os.Exit(toolUnix(os.Args[1:]))
		}
		look()
		return
	}
	// Neither the user's Vault nor a proxy of the machine's may have a part in this.
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if upper := strings.ToUpper(name); strings.HasPrefix(upper, "VAULT_") || strings.HasPrefix(upper, "SNOWPLOW_EXEC_") || strings.HasSuffix(upper, "_PROXY") {
			os.Unsetenv(name)
		}
	}
	log.SetOutput(io.Discard) // as in main: what net/http says of broken connections
	goleak.VerifyTestMain(m)
}

// vaultServer answers reads of tokens as Vault with the Snowplow secrets engine does.
type vaultServer struct {
	*httptest.Server
	consoleURL string // that it answers with; empty: of a Console that it starts
	jwt        string // that it hands out
	status     int    // of a failure; 0: none
	says       string

	mu    sync.Mutex
	reads []string // their paths
}

func (v *vaultServer) start(t *testing.T) *vaultServer {
	console := consoletest.NewServer(t)
	v.consoleURL = cmp.Or(v.consoleURL, console.URL)
	v.jwt = exchange(console.URL, consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey)
	v.Server = httptest.NewServer(v)
	t.Cleanup(v.Close)
	return v
}

func (v *vaultServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	v.mu.Lock()
	v.reads = append(v.reads, path)
	v.mu.Unlock()
	status, says := v.status, []string{v.says}
	switch {
	case r.Header.Get("X-Vault-Token") == "":
		status, says = http.StatusForbidden, []string{"permission denied"}
	case r.Header.Get("X-Vault-Token") != vaultToken:
		status, says = http.StatusForbidden, []string{"2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"}
	case v.status == 0 && !slices.Contains([]string{"snowplow/token", "snowplow/token/analytics", "team/a/token", "team/a/token/analytics"}, path):
		status, says = http.StatusNotFound, nil
	}
	if status != 0 {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": says})
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"lease_id": "snowplow/token/1", "lease_duration": 3600, "data": map[string]any{
		"access_token": v.jwt, "token_type": "Bearer", "organization_id": consoletest.DefaultOrganizationID,
		"console_url": v.consoleURL, "expires_at": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339),
	}})
}

func (v *vaultServer) readsSoFar() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.reads
}

// exchange returns the JWT for a key pair, empty if Console has none.
func exchange(consoleURL, id, key string) string {
	_, body := get(consoleURL+organizationPath+"/credentials/v3/token", http.Header{"X-Api-Key-Id": {id}, "X-Api-Key": {key}})
	var answer struct{ AccessToken string }
	_ = json.Unmarshal([]byte(body), &answer)
	return answer.AccessToken
}

const organizationPath = "/api/msc/v1/organizations/" + consoletest.DefaultOrganizationID

// get returns status and body; status 0 is a failure, and the body is the error.
func get(url string, header http.Header) (int, string) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	request.Header, request.Close = header, true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}

func bearer(jwt string) http.Header { return http.Header{"Authorization": {"Bearer " + jwt}} }

// process is snowplow-exec as a program.
type process struct {
	*exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
}

// newProcess prepares snowplow-exec, to be run by the user of a Vault. HOME is empty: no token helper has a login.
func newProcess(t *testing.T, vault *vaultServer, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	for _, name := range []string{"snowplow-exec", "tool"} {
		require.NoError(t, os.Symlink(self, filepath.Join(dir, name)))
	}
	p := &process{Cmd: exec.Command(filepath.Join(dir, "snowplow-exec"), args...)}
	// With the race detector, a program otherwise waits for a second at its end.
	p.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "HOME="+t.TempDir(), "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"),
		"VAULT_TOKEN="+vaultToken, "VAULT_MAX_RETRIES=0", "VAULT_ADDR="+vault.URL)
	p.Stderr = &p.stderr
	return p
}

func (p *process) start(t *testing.T) {
	t.Helper()
	stdin, err := p.StdinPipe()
	require.NoError(t, err)
	stdout, err := p.StdoutPipe()
	require.NoError(t, err)
	p.stdin, p.stdout = stdin, bufio.NewReader(stdout)
	require.NoError(t, p.Start())
	t.Cleanup(func() {
		if p.ProcessState == nil { // the test has failed
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	})
}

// line reads the next line that the command prints.
func (p *process) line(t *testing.T) string {
	t.Helper()
	line, err := p.stdout.ReadString('\n')
	require.NoError(t, err, "reading a line of the command; standard error: %s", &p.stderr)
	return strings.TrimSuffix(line, "\n")
}

// expect runs the program to its end, which must have an exit code and say some things in one line, or nothing.
func (p *process) expect(t *testing.T, code int, says ...string) (stdout string) {
	t.Helper()
	out, err := p.Output()
	require.True(t, err == nil || errors.As(err, new(*exec.ExitError)), "%v", err)
	stderr := p.stderr.String()
	require.Equal(t, code, p.ProcessState.ExitCode(), "standard error: %s", stderr)
	for _, once := range []string{"\n", "snowplow-exec: "} {
		require.Equal(t, min(1, len(says)), strings.Count(stderr, once), "one line: %s", stderr)
	}
	for _, want := range says {
		require.Contains(t, stderr, want)
	}
	for _, secret := range []string{vaultToken, "canary-password", "/v1/"} { // and no URL of Vault's, which says nothing to a user
		require.NotContains(t, stderr, secret)
	}
	return string(out)
}

// seen is what a command sees of Vault's JWT and login: it must be nothing.
type seen struct {
	Environment []string
	Files       map[string]string // of /proc, where there is one
	StandIn     string
	Status      int
}

// look prints everything that a command can see, as JSON.
func look() {
	s := seen{Environment: os.Environ(), Files: map[string]string{}}
	for _, file := range []string{"/proc/self/environ", "/proc/self/cmdline", fmt.Sprintf("/proc/%d/cmdline", os.Getppid())} {
		content, _ := os.ReadFile(file)
		s.Files[file] = string(content)
	}
	host := os.Getenv("SNOWPLOW_CONSOLE_HOST")
	s.StandIn = exchange(host, os.Getenv("SNOWPLOW_CONSOLE_API_KEY_ID"), os.Getenv("SNOWPLOW_CONSOLE_API_KEY"))
	s.Status, _ = get(os.Getenv("SNOWPLOW_CONSOLE_API_URL")+"/v1/organizations", bearer(s.StandIn))
	_ = json.NewEncoder(os.Stdout).Encode(s)
}

func TestTheCommandWorksAndSeesNeitherKeyNorJWTNorLogin(t *testing.T) {
	t.Parallel()
	vault := new(vaultServer).start(t)
	p := newProcess(t, vault, "-role=analytics", "-log-level=debug", "--", "tool", "look", "--flag", "-x")
	// A key of the caller's, other secrets of Vault's, and a proxy that nothing may be asked of.
	p.Env = append(p.Env, "SNOWPLOW_CONSOLE_API_KEY="+consoletest.DefaultAPIKey, "SNOWPLOW_CONSOLE_HOST=https://example.com",
		"VAULT_CLIENT_TIMEOUT=30s", "VAULT_ID_TOKEN="+vaultToken, "BAO_TOKEN="+vaultToken,
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "KEPT=a=b")
	raw, err := p.Output()
	require.NoError(t, err, "standard error: %s", &p.stderr)
	out := string(raw)

	var s seen
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	require.Equal(t, 200, s.Status)
	require.Equal(t, []string{"snowplow/token/analytics"}, vault.readsSoFar())
	claims, signature, ok := splitJWT(vault.jwt)
	require.True(t, ok)
	standInClaims, standInSignature, _ := splitJWT(s.StandIn)
	require.Equal(t, claims, standInClaims, "header and claims are those of the JWT")
	for name, text := range map[string]string{"standard output": out, "standard error": p.stderr.String()} {
		for _, secret := range []string{signature, vaultToken, consoletest.DefaultAPIKey} {
			assert.NotContains(t, text, secret, "a secret in %s", name)
		}
	}
	assert.NotContains(t, p.stderr.String(), standInSignature, "the stand-in in the log")
	assert.Contains(t, p.stderr.String(), "method=GET path=/api/msc/v1/organizations status=200", "debug logs requests")
	assert.NotContains(t, strings.ToUpper(strings.Join(s.Environment, "\n")), "VAULT_")
	assert.Subset(t, s.Environment, []string{"KEPT=a=b", "NO_PROXY=" + loopbackHosts, "SNOWPLOW_CONSOLE_TOKEN=" + s.StandIn})
}

func TestExitCodeAndTheLineThatSaysWhy(t *testing.T) {
	t.Parallel()
	const denied = "1 error occurred:\n\t* permission denied\n\n"
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), mode))
		return path
	}
	write(".vault-token", vaultToken+"\n", 0o600)
	for name, tt := range map[string]struct {
		flags, command, env string // separated by spaces; the command is "tool look" by default
		status              int    // of Vault's
		vault               string // what it says
		code                int
		says                []string
		read                string // from Vault, for a command that looked around
	}{
		"no login":              {env: "VAULT_TOKEN=", code: 1, says: []string{"not logged in to Vault at http://", `run "vault login"`}},
		"login expired":         {env: "VAULT_TOKEN=expired", code: 1, says: []string{"has expired", `run "vault login"`}},
		"login expired, 1.16":   {status: 403, vault: "permission denied", code: 1, says: []string{"has expired", `run "vault login"`}},
		"no permission":         {status: 403, vault: denied, code: 1, says: []string{"may not read snowplow/token (", "check -role and -mount", "grants read"}},
		"unknown role":          {flags: "-role=nobody", status: 400, vault: `unknown role "nobody"`, code: 1, says: []string{`unknown role "nobody"`}},
		"other mount":           {flags: "-mount=elsewhere", code: 1, says: []string{"nothing at elsewhere/token", "set -mount"}},
		"no mount":              {flags: "-mount=../sys", code: 1, says: []string{`-mount (or SNOWPLOW_EXEC_MOUNT) is "../sys"`}},
		"no role name":          {flags: "-role=../config", code: 1, says: []string{`-role (or SNOWPLOW_EXEC_ROLE) is "../config"`}},
		"sealed":                {status: 503, vault: "Vault is sealed", code: 1, says: []string{"Vault is sealed"}},
		"unreachable":           {env: "VAULT_ADDR=http://user:canary-password@127.0.0.1:1", code: 1, says: []string{"cannot reach Vault at http://user:xxxxx@127.0.0.1:1", "check VAULT_ADDR"}},
		"no address":            {env: "VAULT_ADDR=:", code: 1, says: []string{"settings for Vault"}},
		"no URL":                {env: "VAULT_ADDR=http://user:canary-password%@127.0.0.1:1", code: 1, says: []string{"settings for Vault", "%25"}},
		"no scheme":             {env: "VAULT_ADDR=user:canary-password@127.0.0.1:1", code: 1, says: []string{"settings for Vault", "https://"}},
		"no CA file":            {flags: "-ca-cert=/does/not/exist", code: 1, says: []string{"-ca-cert"}},
		"no CA in it":           {flags: "-ca-cert=main_test.go", code: 1, says: []string{"contains no certificate"}},
		"other address":         {flags: "-listen=0.0.0.0:0", code: 1, says: []string{"must be a loopback address"}},
		"a name":                {flags: "-listen=example.com:0", code: 1, says: []string{"must be a loopback address"}},
		"all addresses":         {flags: "-listen=:0", code: 1, says: []string{"must be a loopback address"}},
		"no port":               {flags: "-listen=127.0.0.1", code: 1, says: []string{"an address and a port"}},
		"wrong flag":            {flags: "-wrong", code: 2, says: []string{"flag provided but not defined: -wrong; see snowplow-exec -help"}},
		"wrong level":           {flags: "-log-level=loud", code: 2, says: []string{"it must be debug"}},
		"an empty role":         {flags: "-role=", env: "SNOWPLOW_EXEC_ROLE=analytics", code: 2, says: []string{"-role is empty: name a role, or omit it"}},
		"an empty mount":        {flags: "-mount=", code: 2, says: []string{"-mount is empty: name the mount, or omit it"}},
		"a variable, empty":     {env: "SNOWPLOW_EXEC_ROLE=", code: 2, says: []string{"SNOWPLOW_EXEC_ROLE is empty"}},
		"the other one, empty":  {env: "SNOWPLOW_EXEC_MOUNT=", code: 2, says: []string{"SNOWPLOW_EXEC_MOUNT is empty"}},
		"a variable, no mount":  {env: "SNOWPLOW_EXEC_MOUNT=elsewhere", code: 1, says: []string{"nothing at elsewhere/token"}},
		"a variable, no role":   {env: "SNOWPLOW_EXEC_ROLE=nobody", code: 1, says: []string{"nothing at snowplow/token/nobody"}},
		"a flag and a variable": {flags: "-role=nobody", env: "SNOWPLOW_EXEC_ROLE=analytics", code: 1, says: []string{"nothing at snowplow/token/nobody"}},

		"the defaults":             {read: "snowplow/token"},
		"a flag":                   {flags: "-role=analytics", env: "SNOWPLOW_EXEC_ROLE=", read: "snowplow/token/analytics"},
		"variables":                {env: "SNOWPLOW_EXEC_ROLE=analytics SNOWPLOW_EXEC_MOUNT=team/a", read: "team/a/token/analytics"},
		"the token helper's login": {flags: "-mount=/team/a/", env: "VAULT_TOKEN= HOME=" + dir, read: "team/a/token"},

		"success":            {command: write("zero", "#!/bin/sh\nexit 0\n", 0o700)},
		"failure":            {command: write("three", "#!/bin/sh\nexit 3\n", 0o700), code: 3},
		"signal":             {command: write("dies", "#!/bin/sh\nkill -TERM $$\n", 0o700), code: 128 + int(syscall.SIGTERM)},
		"not found":          {command: "no-such-command", code: 127, says: []string{"cannot run no-such-command: executable file not found"}},
		"not found, path":    {command: "./no-such-command", code: 127, says: []string{"cannot run ./no-such-command: no such file"}},
		"not allowed":        {command: write("data", "", 0o600), code: 126, says: []string{"permission denied"}},
		"a folder":           {command: dir, code: 126, says: []string{"is a directory"}},
		"no program":         {command: write("text", "no program", 0o700), code: 126, says: []string{"exec format error"}},
		"no program to read": {command: write("script", "#!/no/such/shell\n", 0o700), code: 127, says: []string{"no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vault := (&vaultServer{status: tt.status, says: tt.vault}).start(t)
			p := newProcess(t, vault, strings.Fields(tt.flags+" "+cmp.Or(tt.command, "tool look"))...)
			p.Env = append(p.Env, strings.Fields(tt.env)...)
			out := p.expect(t, tt.code, tt.says...)
			if tt.read == "" {
				require.Empty(t, out, "the command has run")
				return
			}
			require.Contains(t, out, `"Status":200`)
			require.Equal(t, []string{tt.read}, vault.readsSoFar())
		})
	}
}

func TestAProxyVariableThatIsNoURL(t *testing.T) {
	t.Parallel()
	p := newProcess(t, (&vaultServer{consoleURL: "https://console.invalid"}).start(t), "tool", "look")
	p.Env = append(p.Env, "HTTPS_PROXY=http://user:canary-password%@127.0.0.1:1")
	out := p.expect(t, 0, "[WARN]  snowplow-exec: cannot reach Snowplow Console at console.invalid: the proxy variable HTTPS_PROXY is not a valid URL")
	require.Contains(t, out, `"Status":502`)
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]string{"-help": "-role=analytics -- snowplow-cli", "-version": "snowplow-exec v0.0.0-dev (commit unknown)\n"} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, 0, run([]string{arg}, &stdout, &stderr))
		require.Contains(t, stdout.String(), want)
		require.Empty(t, stderr.String())
	}
	_, err := parse(nil, io.Discard)
	require.ErrorContains(t, err, "name a command to run")
}

func TestWhatVaultAnswersIsChecked(t *testing.T) {
	t.Parallel()
	reader := &vaultReader{path: "kv/token"}
	asked := time.Now()
	answer := func(name, value string) *api.Secret {
		data := map[string]any{
			"access_token": "token", "organization_id": "mine", "console_url": "https://console.example",
			"expires_at": asked.Add(time.Hour).Format(time.RFC3339),
		}
		data[name] = value
		return &api.Secret{LeaseDuration: 100, Data: data}
	}
	got, err := reader.parse(answer("", ""), asked)
	require.NoError(t, err)
	require.Equal(t, asked.Add(80*time.Second), got.refreshAt)
	require.Equal(t, asked.Add(100*time.Second), got.leaseEnd)
	require.Equal(t, asked.Add(time.Hour).Unix(), got.expiresAt.Unix())
	got, err = reader.parse(answer("expires_at", "never"), asked)
	require.NoError(t, err)
	require.Equal(t, got.leaseEnd, got.expiresAt)

	for name, tt := range map[string]struct{ field, value, says string }{
		"no token":        {"access_token", "", "does not hold a token of the Snowplow secrets engine: set -mount"},
		"no organization": {"organization_id", "", "does not hold a token"},
		"no Console":      {"console_url", "", "does not hold a token"},
		"a header":        {"access_token", "canary\r\nX-Other: header", "not a Bearer token"},
		"a large token":   {"access_token", strings.Repeat("x", maxTokenLength+1), "not a Bearer token"},
		"in clear":        {"console_url", "http://console.example", "must begin with https"},
	} {
		_, err := reader.parse(answer(tt.field, tt.value), asked)
		require.ErrorContains(t, err, tt.says, name)
		require.ErrorAs(t, err, new(refusalError), name)
		require.NotContains(t, err.Error(), "canary", name)
	}
}
