package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

const vaultToken = "canary-vault-token-do-not-leak"

// TestMain runs the tests, or is one of the programs that they start: snowplow-exec itself, or the command that it runs.
// Both are links to the test's own file, so that they are what is tested, race detector included.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "snowplow-exec":
		main()
	case "tool":
		os.Exit(tool(os.Args[1:]))
	}
	// Neither the user's Vault nor a proxy of the machine's may have a part in this.
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if upper := strings.ToUpper(name); strings.HasPrefix(upper, "VAULT_") || strings.HasSuffix(upper, "_PROXY") {
			os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(m)
}

// vaultServer answers reads of tokens as Vault with the Snowplow secrets engine does. It exchanges consoletest's key for
// each, as an engine with reuse_period=0.
type vaultServer struct {
	*httptest.Server
	console *consoletest.Server

	mu     sync.Mutex
	lease  int
	status int // of a failure; 0: none
	says   string
	reads  []string // their paths
	jwts   []string // handed out
}

func newVaultServer(t *testing.T, console *consoletest.Server) *vaultServer {
	v := &vaultServer{console: console, lease: 3600}
	v.Server = httptest.NewServer(v)
	t.Cleanup(v.Close)
	return v
}

func (v *vaultServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	v.reads = append(v.reads, path)
	fail := func(status int, says ...string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": says})
	}
	switch {
	case r.Header.Get("X-Vault-Token") == "":
		fail(http.StatusForbidden, "permission denied")
		return
	case r.Header.Get("X-Vault-Token") != vaultToken:
		fail(http.StatusForbidden, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
		return
	case v.status != 0:
		fail(v.status, v.says)
		return
	case path != "snowplow/token" && path != "snowplow/token/analytics" && path != "team/a/token":
		fail(http.StatusNotFound)
		return
	}
	jwt := exchange(v.console.URL, consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey)
	v.jwts = append(v.jwts, jwt)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"lease_id":       "snowplow/token/1",
		"lease_duration": v.lease,
		"data": map[string]any{
			"access_token":    jwt,
			"token_type":      "Bearer",
			"organization_id": consoletest.DefaultOrganizationID,
			"console_url":     v.console.URL,
			"expires_at":      time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339),
		},
	})
}

func (v *vaultServer) fail(status int, says string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status, v.says = status, says
}

func (v *vaultServer) leaseFor(seconds int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lease = seconds
}

func (v *vaultServer) given() (reads, jwts []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.reads, v.jwts
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
	request.Header = header
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(body)
}

func bearer(jwt string) http.Header { return http.Header{"Authorization": {"Bearer " + jwt}} }

// process is snowplow-exec as a program.
type process struct {
	*exec.Cmd
	tool   string // the path of the command that tests run
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
}

// program makes links to this test, and returns where they are.
func program(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	link := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.Symlink(self, link))
	return link
}

// newProcess prepares snowplow-exec, to be run by the user of a Vault. HOME is empty: no token helper has a login.
func newProcess(t *testing.T, vault *vaultServer, args ...string) *process {
	t.Helper()
	p := &process{tool: program(t, "tool")}
	for i, arg := range args {
		if arg == "TOOL" {
			args[i] = p.tool
		}
	}
	p.Cmd = exec.Command(program(t, "snowplow-exec"), args...)
	// With the race detector, a program otherwise waits for a second at its end.
	p.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "HOME="+t.TempDir(), "VAULT_TOKEN="+vaultToken, "VAULT_MAX_RETRIES=0", "VAULT_ADDR="+vault.URL)
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

// finish runs the program to its end.
func (p *process) finish(t *testing.T) (code int, stdout string) {
	t.Helper()
	out, err := p.Output()
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(t, err, &exit)
	}
	return p.ProcessState.ExitCode(), string(out)
}

// tool is the command that snowplow-exec runs in tests. What it finds, it prints as JSON.
func tool(args []string) int {
	switch args[0] {
	case "look": // at everything that a command can see
		return look()
	case "exit":
		var code int
		_, _ = fmt.Sscan(args[1], &code)
		return code
	case "ask": // Console, once for each line of standard input
		return ask()
	default:
		return toolUnix(args)
	}
}

// seen is what a command sees of Vault's JWT and login: it must be nothing.
type seen struct {
	Environment   []string
	Files         map[string]string // of /proc, where there is one
	StandIn       string
	Organizations string
	Status        int
}

func look() int {
	s := seen{Environment: os.Environ(), Files: map[string]string{}}
	for _, file := range []string{"/proc/self/environ", "/proc/self/cmdline", fmt.Sprintf("/proc/%d/cmdline", os.Getppid())} {
		content, _ := os.ReadFile(file)
		s.Files[file] = string(content)
	}
	host := os.Getenv("SNOWPLOW_CONSOLE_HOST")
	s.StandIn = exchange(host, os.Getenv("SNOWPLOW_CONSOLE_API_KEY_ID"), os.Getenv("SNOWPLOW_CONSOLE_API_KEY"))
	s.Status, s.Organizations = get(os.Getenv("SNOWPLOW_CONSOLE_API_URL")+"/v1/organizations", bearer(s.StandIn))
	_ = json.NewEncoder(os.Stdout).Encode(s)
	return 0
}

func ask() int {
	host := os.Getenv("SNOWPLOW_CONSOLE_HOST")
	id, key := os.Getenv("SNOWPLOW_CONSOLE_API_KEY_ID"), os.Getenv("SNOWPLOW_CONSOLE_API_KEY")
	jwt := exchange(host, id, key)
	fmt.Println(host, id, key, jwt)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		status, _ := get(host+"/api/msc/v1/organizations", bearer(jwt))
		fmt.Println(status)
	}
	return 0
}

func TestTheCommandWorksAndSeesNeitherKeyNorJWTNorLogin(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	vault := newVaultServer(t, console)
	p := newProcess(t, vault, "-role=analytics", "-log-level=debug", "--", "TOOL", "look", "--flag", "-x")
	// A key of the caller's, other secrets of Vault's, and a proxy that nothing may be asked of.
	p.Env = append(p.Env, "SNOWPLOW_CONSOLE_API_KEY="+consoletest.DefaultAPIKey, "SNOWPLOW_CONSOLE_HOST=https://example.com",
		"VAULT_CLIENT_TIMEOUT=30s", "VAULT_ID_TOKEN="+vaultToken, "BAO_TOKEN="+vaultToken,
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "KEPT=a=b")
	code, out := p.finish(t)
	require.Equal(t, 0, code, "standard error: %s", &p.stderr)

	var s seen
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	require.Equal(t, 200, s.Status)
	require.Contains(t, s.Organizations, consoletest.DefaultOrganizationID, "the JWT's own organizations")
	reads, jwts := vault.given()
	require.Equal(t, []string{"snowplow/token/analytics"}, reads)
	require.Len(t, jwts, 1)
	signed, signature, ok := splitJWT(jwts[0])
	require.True(t, ok)
	standInSigned, standInSignature, ok := splitJWT(s.StandIn)
	require.True(t, ok, "the stand-in is a JWT")
	require.Equal(t, signed, standInSigned, "header and claims are those of the JWT")
	require.NotEqual(t, signature, standInSignature)

	for name, text := range map[string]string{"standard output": out, "standard error": p.stderr.String()} {
		for _, secret := range []string{signature, vaultToken, consoletest.DefaultAPIKey} {
			assert.NotContains(t, text, secret, "a secret in %s", name)
		}
	}
	assert.NotContains(t, p.stderr.String(), standInSignature, "the stand-in in the log")
	assert.Contains(t, p.stderr.String(), "method=GET path=/api/msc/v1/organizations status=200", "debug logs requests")
	for _, variable := range s.Environment {
		name, value, _ := strings.Cut(variable, "=")
		assert.NotContains(t, strings.ToUpper(name), "VAULT")
		switch name {
		case "KEPT":
			assert.Equal(t, "a=b", value)
		case "NO_PROXY", "no_proxy":
			assert.Contains(t, value, "127.0.0.1")
		}
	}
	for _, name := range []string{"KEPT", "NO_PROXY", "no_proxy"} {
		assert.Contains(t, strings.Join(s.Environment, "\n"), "\n"+name+"=")
	}
	for _, name := range []string{"HOST", "ORG_ID", "API_KEY_ID", "API_KEY", "API_URL"} {
		assert.Equal(t, 1, strings.Count("\n"+strings.Join(s.Environment, "\n"), "\nSNOWPLOW_CONSOLE_"+name+"="), name)
	}
}

func TestNothingIsLoggedUnlessAskedFor(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newVaultServer(t, consoletest.NewServer(t)), "TOOL", "look")
	code, _ := p.finish(t)
	require.Equal(t, 0, code)
	require.Empty(t, p.stderr.String())
}

func TestWithoutATokenTheCommandIsNotStarted(t *testing.T) {
	t.Parallel()
	const denied = "1 error occurred:\n\t* permission denied\n\n"
	for name, tt := range map[string]struct {
		args   []string
		env    []string
		status int
		says   string
		want   []string
	}{
		"no login":      {env: []string{"VAULT_TOKEN="}, want: []string{"not logged in to Vault at http://", `run "vault login"`}},
		"login expired": {env: []string{"VAULT_TOKEN=expired"}, want: []string{"has expired", `run "vault login"`}},
		"no permission": {status: 403, says: denied, want: []string{"may not read snowplow/token", "grant read"}},
		"unknown role":  {args: []string{"-role=nobody"}, status: 400, says: `unknown role "nobody"`, want: []string{`unknown role "nobody"`}},
		"other mount":   {args: []string{"-mount=elsewhere"}, want: []string{"nothing at elsewhere/token", "set -mount"}},
		"no mount":      {args: []string{"-mount=../sys"}, want: []string{"-mount is"}},
		"no role name":  {args: []string{"-role=../config"}, want: []string{"-role is"}},
		"sealed":        {status: 503, says: "Vault is sealed", want: []string{"Vault is sealed"}},
		"unreachable":   {env: []string{"VAULT_ADDR=http://user:canary-password@127.0.0.1:1"}, want: []string{"cannot reach Vault at http://user:xxxxx@127.0.0.1:1", "check VAULT_ADDR"}},
		"no address":    {env: []string{"VAULT_ADDR=:"}, want: []string{"settings for Vault"}},
		"no CA file":    {args: []string{"-ca-cert=/does/not/exist"}, want: []string{"-ca-cert"}},
		"no CA in it":   {args: []string{"-ca-cert=main_test.go"}, want: []string{"holds no certificate"}},
		"other address": {args: []string{"-listen=0.0.0.0:0"}, want: []string{"must be a loopback address"}},
		"a name":        {args: []string{"-listen=example.com:0"}, want: []string{"must be a loopback address"}},
		"all addresses": {args: []string{"-listen=:0"}, want: []string{"must be a loopback address"}},
		"no port":       {args: []string{"-listen=127.0.0.1"}, want: []string{"an address and a port"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vault := newVaultServer(t, consoletest.NewServer(t))
			vault.fail(tt.status, tt.says)
			p := newProcess(t, vault, append(tt.args, "TOOL", "look")...)
			p.Env = append(p.Env, tt.env...)
			code, out := p.finish(t)
			require.Equal(t, 1, code)
			require.Empty(t, out, "the command has run")
			says := p.stderr.String()
			require.Equal(t, 1, strings.Count(says, "\n"), "one line: %s", says)
			require.True(t, strings.HasPrefix(says, "snowplow-exec: "), says)
			for _, want := range tt.want {
				require.Contains(t, says, want)
			}
			require.NotContains(t, says, vaultToken)
			require.NotContains(t, says, "canary-password")
			require.NotContains(t, says, "/v1/", "the URL of the request, which says nothing to a user")
		})
	}
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

func TestTheLoginOfTheTokenHelperIsUsed(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newVaultServer(t, consoletest.NewServer(t)), "-mount=/team/a/", "TOOL", "look")
	home := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(home, ".vault-token"), []byte(vaultToken+"\n"), 0o600))
	p.Env = append(p.Env, "VAULT_TOKEN=", "HOME="+home)
	code, out := p.finish(t)
	require.Equal(t, 0, code, "standard error: %s", &p.stderr)
	require.Contains(t, out, `"Status":200`)
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"help":       {[]string{"-help"}, 0, "-role=analytics -- snowplow-cli", ""},
		"version":    {[]string{"-version"}, 0, "snowplow-exec v0.0.0-dev (commit unknown)\n", ""},
		"nothing":    {nil, 2, "", "name a command to run"},
		"wrong flag": {[]string{"-wrong"}, 2, "", "flag provided but not defined: -wrong"},
		"log level":  {[]string{"-log-level=loud", "true"}, 2, "", "it must be debug"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			require.Equal(t, tt.code, run(tt.args, &stdout, &stderr))
			require.Contains(t, stdout.String(), tt.stdout)
			require.Contains(t, stderr.String(), tt.stderr)
			require.Equal(t, tt.code == 0, stdout.Len() > 0)
			require.Equal(t, tt.code != 0, stderr.Len() > 0)
		})
	}
}

func TestTwoRunsHaveNothingInCommonAndLeaveNothing(t *testing.T) {
	t.Parallel()
	vault := newVaultServer(t, consoletest.NewServer(t))
	type pair struct{ host, id, key, standIn string }
	var runs []*process
	var pairs []pair
	for range 2 {
		p := newProcess(t, vault, "TOOL", "ask")
		p.start(t)
		var is pair
		_, err := fmt.Sscan(p.line(t), &is.host, &is.id, &is.key, &is.standIn)
		require.NoError(t, err)
		runs, pairs = append(runs, p), append(pairs, is)
	}
	for i, mine := range pairs {
		other := pairs[1-i]
		require.NotEmpty(t, exchange(mine.host, mine.id, mine.key))
		require.Empty(t, exchange(mine.host, other.id, other.key), "the pair of another run")
		require.Empty(t, exchange(mine.host, mine.id, other.key))
		status, _ := get(mine.host+"/api/msc/v1/organizations", bearer(mine.standIn))
		require.Equal(t, 200, status)
		status, _ = get(mine.host+"/api/msc/v1/organizations", bearer(other.standIn))
		require.Equal(t, 401, status, "the stand-in of another run")
	}
	for i, p := range runs {
		require.NoError(t, p.stdin.Close(), "the command ends")
		require.NoError(t, p.Wait())
		status, _ := get(pairs[i].host, nil)
		require.Equal(t, 0, status, "the port is closed")
	}
}

func TestAJWTThatExpiresInTheMiddle(t *testing.T) {
	t.Parallel()
	console := consoletest.NewServer(t)
	vault := newVaultServer(t, console)
	vault.leaseFor(0) // over at once: the next request reads again
	p := newProcess(t, vault, "TOOL", "ask")
	p.start(t)
	p.line(t)
	ask := func() string {
		_, err := fmt.Fprintln(p.stdin)
		require.NoError(t, err)
		return p.line(t)
	}
	require.Equal(t, "200", ask())
	_, jwts := vault.given()
	require.Greater(t, len(jwts), 1, "Vault was read again")

	// Console's clock goes on: every JWT so far has expired. Vault has new ones.
	console.SetNow(func() time.Time { return time.Now().Add(25 * time.Hour) })
	require.Equal(t, "200", ask(), "with a stand-in that says that it has expired")

	vault.fail(503, "Vault is sealed")
	require.Equal(t, "200", ask(), "Vault is out of reach, and the JWT at hand is valid")
	require.NoError(t, p.stdin.Close())
	require.NoError(t, p.Wait())
	require.Equal(t, 1, strings.Count(p.stderr.String(), "\n"), "one warning for the outage: %s", &p.stderr)
	require.Contains(t, p.stderr.String(), "Vault is sealed")
}

func TestConsoleBehindACAOfItsOwn(t *testing.T) {
	t.Parallel()
	console := consoletest.NewTLSServer(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, []byte(console.CACert()), 0o600))
	claims := map[string]any{"org": consoletest.DefaultOrganizationID, "exp": time.Now().Add(time.Hour).Unix()}
	for name, tt := range map[string]struct {
		caCert string
		want   int
	}{"trusted": {ca, 200}, "not trusted": {"", 502}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			transport, err := newTransport(tt.caCert)
			require.NoError(t, err)
			t.Cleanup(transport.CloseIdleConnections)
			c := startConsole(t, console.URL, transport, console.Mint(claims))
			response := c.do(t, c.request(t, http.MethodGet, "/api/msc/v1/organizations", nil))
			require.Equal(t, tt.want, response.status)
			if tt.want == 502 {
				require.Contains(t, response.body, "certificate")
			}
		})
	}
}

func discardLogs() hclog.Logger { return hclog.NewNullLogger() }
