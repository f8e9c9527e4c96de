package acceptance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

// TestCommandsOfThePages runs the sh blocks of README.md and docs/, one bash for each page, on a Vault in production
// mode: TLS, integrated storage, a user without privileges (if root runs the test), an audit log, and the configuration
// file that docs/operations.md shows. A fake Console answers for Snowplow's host names through a proxy.
//
// A block that fails ends its page. Comments in front of a block say what else matters:
//
//	<!-- first: COMMAND -->   what has happened before, although the page does not say so
//	<!-- shows: TEXT -->      the output contains TEXT
//	<!-- fails: TEXT -->      the block fails, and the output contains TEXT
//	<!-- needs: root -->      skipped unless root runs the test
//	<!-- not run: REASON -->  skipped
//
// A json block is the answer to the sh block before it: below "data", both have the same fields of the same types.
func TestCommandsOfThePages(t *testing.T) {
	if os.Getenv("DOCS_ACC") == "" {
		t.Skip("'make docs-test' runs it")
	}
	require.Equal(t, vaulttest.Vault, program.Product, "the pages are written for Vault")
	for _, tool := range []string{"curl", "jq", "setcap"} {
		if tool != "setcap" || os.Geteuid() == 0 {
			_, err := exec.LookPath(tool)
			require.NoError(t, err, "the pages call it: install curl, jq and libcap2-bin")
		}
	}
	operations := blocksOf(t, "../docs/operations.md")
	config := operations[slices.IndexFunc(operations, func(b block) bool { return b.kind == "hcl" })].text
	pages, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	for _, page := range append(pages, "../README.md") {
		blocks := blocksOf(t, page)
		if !slices.ContainsFunc(blocks, func(b block) bool { return b.kind == "sh" }) {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(page), ".md"), func(t *testing.T) {
			t.Parallel()
			newOperator(t, config).follow(t, page, blocks)
		})
	}
}

// block is a fenced block of a page, with what the comments in front of it say.
type block struct {
	line                int
	kind, text          string
	first, shows, fails []string
	skip                string
}

var comment = regexp.MustCompile(`^<!-- ([a-z ]+): (.*) -->$`)

func blocksOf(t *testing.T, page string) []block {
	t.Helper()
	content, err := os.ReadFile(page)
	require.NoError(t, err)
	var blocks []block
	var b block
	fence, inside := "", false
	for i, line := range strings.Split(string(content), "\n") {
		trimmed := strings.TrimLeft(line, " ")
		kind, isFence := strings.CutPrefix(trimmed, "```")
		switch match := comment.FindStringSubmatch(trimmed); {
		case inside && line == fence:
			blocks = append(blocks, b)
			b, inside = block{}, false
		case inside:
			// A block in a list is indented.
			b.text += strings.TrimPrefix(line, strings.TrimSuffix(fence, "```")) + "\n"
		case isFence:
			fence, inside = strings.TrimSuffix(line, kind), true
			b.line, b.kind = i+1, kind
		case match != nil:
			switch match[1] {
			case "first":
				b.first = append(b.first, match[2])
			case "shows":
				b.shows = append(b.shows, match[2])
			case "fails":
				b.fails = append(b.fails, match[2])
			case "not run":
				b.skip = match[2]
			case "needs":
				require.Equal(t, "root", match[2], "%s:%d", page, i+1)
				if os.Geteuid() != 0 {
					b.skip = "root does not run this test"
				}
			default:
				require.Fail(t, "unknown comment", "%s:%d: %s", page, i+1, line)
			}
		}
	}
	require.False(t, inside, "%s:%d: the block does not end", page, b.line)
	return blocks
}

// operator follows a page in a folder, with a server and a Console. Below dir are /opt/vault and the like.
type operator struct {
	dir, api, proxy string
	words           *strings.Replacer // of the pages, and what is there in their place
	env             []string
	server          *vaulttest.Process
}

// newOperator prepares all but the server, which the page's script starts.
func newOperator(t *testing.T, config string) *operator {
	t.Helper()
	// Not t.TempDir, which Vault's user could not enter.
	dir, err := os.MkdirTemp("", "snowplow-docs-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	o := &operator{dir: dir}

	public, own := consoletest.NewAuthority(t), consoletest.NewAuthority(t)
	o.write(t, "tls/public-ca.pem", public.PEM())
	o.write(t, "tls/own-ca.pem", own.PEM())
	o.write(t, "tls/all-ca.pem", public.PEM()+own.PEM())
	vault := own.Certify(t, nil)
	key, err := x509.MarshalPKCS8PrivateKey(vault.PrivateKey)
	require.NoError(t, err)
	o.write(t, "opt/vault/tls/vault.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vault.Certificate[0]})))
	o.write(t, "opt/vault/tls/vault.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))

	const organizationID = "11111111-2222-4333-8444-555555555555"
	var keys []consoletest.Key
	for name, id := range map[string]string{"api-key": "demo-key", "new-api-key": "demo-key-2", "team-api-key": "analytics-key"} {
		keys = append(keys, consoletest.Key{ID: id, Secret: "secret-of-" + id})
		o.write(t, "here/"+name, "secret-of-"+id+"\n")
		variable := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		o.env = append(o.env, variable+"_ID="+id, variable+"_FILE="+name)
	}
	console := httptest.NewUnstartedServer(consoletest.New(consoletest.WithOrganization(organizationID), consoletest.WithKeys(keys...)))
	console.TLS = &tls.Config{Certificates: []tls.Certificate{
		public.Certify(t, func(c *x509.Certificate) {
			c.DNSNames = []string{"console.snowplowanalytics.com", "id.snowplowanalytics.com"}
		}),
		own.Certify(t, func(c *x509.Certificate) { c.DNSNames = []string{"console.example.com"} }),
	}}
	console.StartTLS()
	t.Cleanup(console.Close)
	proxy := httptest.NewServer(tunnelsTo(console.Listener.Addr().String()))
	t.Cleanup(proxy.Close)

	port, err := vaulttest.FreePort()
	require.NoError(t, err)
	o.api, o.proxy = fmt.Sprint("127.0.0.1:", port), proxy.URL
	o.words = strings.NewReplacer(
		"vault.example.com:8200", o.api, "vault-1.example.com:8200", o.api, "0.0.0.0:8200", o.api,
		"vault-1.example.com:8201", fmt.Sprint("127.0.0.1:", port+1), "http://proxy.example.com:3128", proxy.URL,
		"/opt/vault", dir+"/opt/vault", "/etc/vault.d", dir+"/etc", "/usr/bin/vault", dir+"/usr/bin/vault", "/etc/ssl/private-ca", dir+"/tls",
		"<UUID>", organizationID, "<ID>", "demo-key", "<NEW ID>", "demo-key-2", "<ID of the team's key>", "analytics-key",
		"<file with the key>", "api-key", "<file with the team's key>", "team-api-key", "analytics-api-key", "team-api-key",
	)
	o.write(t, "etc/vault.hcl", o.words.Replace(config))
	for name, lines := range stubs {
		o.write(t, "stubs/"+name, "#!/usr/bin/env bash\nset -euo pipefail\n"+lines+"\n")
	}
	o.env = append(o.env, "SITE="+dir, "ROOT="+root, "VAULT_PROGRAM="+program.Path, "CONTROL="+o.control(t),
		"SYSTEM_PATH="+os.Getenv("PATH"), "PATH="+dir+"/stubs:"+os.Getenv("PATH"),
		"SNOWPLOW_ORGANIZATION_ID="+organizationID, "SNOWPLOW_CONSOLE_URL=https://console.snowplowanalytics.com",
		"VAULT_ADDR=https://"+o.api, "VAULT_CACERT="+dir+"/tls/own-ca.pem",
		"HTTPS_PROXY="+proxy.URL, "NO_PROXY=127.0.0.1", "CURL_CA_BUNDLE="+dir+"/tls/all-ca.pem")
	return o
}

func (o *operator) path(name string) string { return filepath.Join(o.dir, name) }

func (o *operator) write(t *testing.T, name, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(o.path(name)), 0o755))
	require.NoError(t, os.WriteFile(o.path(name), []byte(content), 0o755))
}

// stubs are programs that do something else in a test.
var stubs = map[string]string{
	"sudo": `exec "$@"`,
	"git":  `[[ $1 == checkout ]]`, // a tag, which need not be there yet
	"make": `PATH=$SYSTEM_PATH exec make -s -C "$ROOT" BIN="$SITE/here/bin" "$@"`,
	"vault": `export HOME=$SITE/home
if [[ "$*" == "operator unseal" ]]; then
	set -- operator unseal "$(cat "$SITE/unseal-key")" # an operator types it
fi
exec "$SITE/usr/bin/vault" "$@"`,
	"systemctl": `[[ "$*" == "restart vault" ]]
exec 3<>"/dev/tcp/${CONTROL/://}"
problem=$(cat <&3)
[[ -z $problem ]] || { echo "$problem" >&2; exit 1; }`,
	"install": `if ((EUID != 0)); then # only root may give a file to another user
	kept=()
	while (($#)); do
		case $1 in -o | -g) shift ;; *) kept+=("$1") ;; esac
		shift
	done
	set -- "${kept[@]}"
fi
PATH=$SYSTEM_PATH exec install "$@"`,
}

// A page's script begins with these; setUpMount is for pages that do not enable a mount themselves.
const (
	setUp = `set -euo pipefail
umask 022
mkdir -p "$SITE"/{out,home,usr/bin} "$SITE"/opt/vault/{plugins,data,audit}
chmod -R go+rX "$SITE"
chmod 777 "$SITE"/home "$SITE"/opt/vault/{data,audit} # Vault's user writes to these
exec 3>&1 >"$SITE/out/set-up" 2>&1
output=$SITE/out/set-up
trap 'status=$?; ((status == 0)) || { echo "${output##*/}: status $status:"; cat "$output"; } >&3' EXIT
ln -s "$ROOT/examples" .
install -m 0755 "$VAULT_PROGRAM" "$SITE/usr/bin/vault"
systemctl restart vault
vault operator init -key-shares=1 -key-threshold=1 >"$SITE/init"
sed -n 's/^Unseal Key 1: //p' "$SITE/init" >"$SITE/unseal-key"
export VAULT_TOKEN
VAULT_TOKEN=$(sed -n 's/^Initial Root Token: //p' "$SITE/init")
vault operator unseal
until vault secrets list; do sleep 0.2; done
vault audit enable file file_path="$SITE/opt/vault/audit/audit.log"
`
	setUpMount = `install -m 0755 "$ROOT/bin/vault-plugin-secrets-snowplow" "$SITE/opt/vault/plugins/"
vault plugin register -sha256="$(sha256sum "$ROOT/bin/vault-plugin-secrets-snowplow" | cut -d' ' -f1)" secret vault-plugin-secrets-snowplow
vault secrets enable -path=snowplow vault-plugin-secrets-snowplow
vault write snowplow/config organization_id="$SNOWPLOW_ORGANIZATION_ID" api_key_id="$API_KEY_ID" api_key=@"$API_KEY_FILE"
`
)

// follow runs a page's blocks, each with an output file, and compares the outputs with the page.
func (o *operator) follow(t *testing.T, page string, blocks []block) {
	t.Helper()
	script := setUp
	if !slices.ContainsFunc(blocks, func(b block) bool { return strings.Contains(b.text, "vault secrets enable -path=snowplow ") }) {
		script += setUpMount
	}
	run := func(output, commands string) {
		script += fmt.Sprintf("output=$SITE/out/%s\nexec >\"$output\" 2>&1\n%s\n", output, o.words.Replace(commands))
	}
	for _, b := range blocks {
		switch {
		case b.kind != "sh":
		case b.skip != "":
			t.Logf("%s:%d: not run: %s", page, b.line, b.skip)
		default:
			run(fmt.Sprint(b.line, "-first"), strings.Join(b.first, "\n"))
			if b.fails != nil {
				b.text = "set +e\n(set -e\n" + b.text + ")\nstatus=$?\nset -e\n((status != 0))"
			}
			run(fmt.Sprint(b.line), b.text)
		}
	}
	o.write(t, "script", script)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", o.path("script"))
	cmd.Dir, cmd.Env = o.path("here"), append(os.Environ(), o.env...)
	cmd.WaitDelay = patience // for what a block has left running
	problem, err := cmd.CombinedOutput()

	var answer []byte // nil if the block was not reached
	for _, b := range blocks {
		switch b.kind {
		case "sh":
			answer, _ = os.ReadFile(o.path(fmt.Sprint("out/", b.line)))
			for _, text := range append(b.fails, b.shows...) {
				if answer != nil {
					require.Contains(t, string(answer), o.words.Replace(text), "%s:%d: the output", page, b.line)
				}
			}
		case "json":
			if answer != nil {
				require.Equal(t, shape(t, []byte(b.text)), shape(t, answer), "%s:%d: the fields and types of the answer", page, b.line)
			}
		}
	}
	require.NoError(t, err, "%s:%s", page, problem)
}

// shape is what an answer has below "data", with the types of values in place of the values.
func shape(t *testing.T, text []byte) any {
	t.Helper()
	var answer struct{ Data any }
	require.NoError(t, json.Unmarshal(text, &answer), "%s", text)
	var typed func(value any) any
	typed = func(value any) any {
		switch value := value.(type) {
		case map[string]any:
			for name := range value {
				value[name] = typed(value[name])
			}
			return value
		case []any:
			for i := range value {
				value[i] = typed(value[i])
			}
			return value
		default:
			return fmt.Sprintf("%T", value)
		}
	}
	return typed(answer.Data)
}

// control is the address where the page's systemctl asks for a restart, and reads what went wrong.
func (o *operator) control(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if err := o.restart(); err != nil {
				_, _ = fmt.Fprintln(conn, err)
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-stopped
		if o.server != nil {
			o.server.Stop()
			if t.Failed() {
				t.Logf("the end of Vault's log:\n%s", o.server.Tail())
			}
		}
	})
	return listener.Addr().String()
}

func (o *operator) restart() error {
	if o.server != nil {
		o.server.Stop()
	}
	cmd := exec.Command(o.path("usr/bin/vault"), "server", "-config="+o.path("etc/vault.hcl"))
	if os.Geteuid() == 0 {
		// A change of the user ends what StartProcess arranges: that the program ends with the test.
		cmd = exec.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=TERM"}, cmd.Args...)...)
	}
	cmd.Env = append(os.Environ(), "HOME="+o.path("home"), "HTTPS_PROXY="+o.proxy, "SSL_CERT_FILE="+o.path("tls/public-ca.pem"))
	var err error
	if o.server, err = vaulttest.StartProcess(cmd, o.path("server.log")); err != nil {
		return err
	}
	return poll(patience, func() error {
		conn, err := net.Dial("tcp", o.api)
		if err != nil {
			return fmt.Errorf("starting Vault: %w", err)
		}
		return conn.Close()
	})
}

// tunnelsTo is an HTTP proxy whose tunnels all lead to one address, whatever host they are for.
func tunnelsTo(address string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		upstream, err := net.Dial("tcp", address)
		if r.Method != http.MethodConnect || err != nil {
			http.Error(w, fmt.Sprint("this proxy serves CONNECT only, or: ", err), http.StatusBadGateway)
			return
		}
		defer func() { _ = upstream.Close() }()
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = client.Close() }()
		_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(upstream, client)
			_ = upstream.Close()
		}()
		_, _ = io.Copy(client, upstream)
	}
}
