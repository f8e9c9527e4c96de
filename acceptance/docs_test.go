package acceptance

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
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
	line       int
	kind, text string
	notes      map[string][]string
}

var (
	fenced  = regexp.MustCompile("(?ms)^( *)```(\\w*)\n(.*?)^ *```$")
	comment = regexp.MustCompile(`(?m)^ *<!-- ([a-z ]+): (.*) -->$`)
)

func blocksOf(t *testing.T, page string) (blocks []block) {
	t.Helper()
	content, err := os.ReadFile(page)
	require.NoError(t, err)
	text, end := string(content), 0 // of the block before
	for _, at := range fenced.FindAllStringSubmatchIndex(text, -1) {
		b := block{line: 1 + strings.Count(text[:at[0]], "\n"), kind: text[at[4]:at[5]], notes: map[string][]string{}}
		// A block in a list is indented.
		b.text = regexp.MustCompile("(?m)^"+text[at[2]:at[3]]).ReplaceAllString(text[at[6]:at[7]], "")
		for _, note := range comment.FindAllStringSubmatch(text[end:at[0]], -1) {
			require.Contains(t, []string{"first", "shows", "fails", "needs", "not run"}, note[1], "%s:%d", page, b.line)
			b.notes[note[1]] = append(b.notes[note[1]], note[2])
		}
		blocks, end = append(blocks, b), at[1]
	}
	require.Equal(t, 2*len(blocks), strings.Count(text, "```"), "%s: each block has a beginning and an end", page)
	return blocks
}

// operator follows a page in a folder, with a Console. Below dir are /opt/vault and the like.
type operator struct {
	dir   string
	words *strings.Replacer // of the pages, and what is there in their place
	env   []string
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
	api := fmt.Sprint("127.0.0.1:", port)
	o.words = strings.NewReplacer(
		"vault.example.com:8200", api, "vault-1.example.com:8200", api, "0.0.0.0:8200", api,
		"vault-1.example.com:8201", fmt.Sprint("127.0.0.1:", port+1), "http://proxy.example.com:3128", proxy.URL,
		"/opt/vault", dir+"/opt/vault", "/etc/vault.d", dir+"/etc", "/usr/bin/vault", dir+"/usr/bin/vault", "/etc/ssl/private-ca", dir+"/tls",
		"<UUID>", organizationID, "<ID>", "demo-key", "<NEW ID>", "demo-key-2", "<ID of the team's key>", "analytics-key",
		"<file with the key>", "api-key", "<file with the team's key>", "team-api-key", "analytics-api-key", "team-api-key",
	)
	o.write(t, "etc/vault.hcl", o.words.Replace(config))
	o.env = append(o.env, "SITE="+dir, "ROOT="+root, "VAULT_PROGRAM="+program.Path, "API="+api,
		"SNOWPLOW_ORGANIZATION_ID="+organizationID, "SNOWPLOW_CONSOLE_URL=https://console.snowplowanalytics.com",
		"VAULT_ADDR=https://"+api, "VAULT_CACERT="+dir+"/tls/own-ca.pem",
		"HTTPS_PROXY="+proxy.URL, "NO_PROXY=127.0.0.1", "CURL_CA_BUNDLE="+dir+"/tls/all-ca.pem")
	return o
}

func (o *operator) path(name string) string { return filepath.Join(o.dir, name) }

func (o *operator) write(t *testing.T, name, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(o.path(name)), 0o755))
	require.NoError(t, os.WriteFile(o.path(name), []byte(content), 0o755))
}

// A page's script begins with these; setUpMount is for pages that do not enable a mount themselves. Functions stand in
// for programs that do something else in a test.
const (
	setUp = `set -euo pipefail
umask 022
sudo() { "$@"; }
git() { [[ $1 == checkout ]]; } # a tag, which need not be there yet
make() { command make -s -C "$ROOT" BIN="$SITE/here/bin" "$@"; }
vault() {
	if [[ "$*" == "operator unseal" ]]; then
		set -- operator unseal "$(cat "$SITE/unseal-key")" # an operator types it
	fi
	HOME=$SITE/home "$SITE/usr/bin/vault" "$@"
}
export -f vault
install() {
	local arguments=("$@")
	if ((EUID != 0)); then # only root may give a file to another user
		arguments=()
		while (($#)); do
			case $1 in -o | -g) shift ;; *) arguments+=("$1") ;; esac
			shift
		done
	fi
	command install "${arguments[@]}"
}
server='' # its process
stop() {
	if [[ -n $server ]]; then
		kill "$server" || true
		wait "$server" || true
	fi
}
systemctl() {
	[[ "$*" == "restart vault" ]]
	stop
	local user=(--pdeathsig=TERM) # so that it does not outlive a script that is killed
	((EUID != 0)) || user+=(--reuid=65534 --regid=65534 --clear-groups)
	setpriv "${user[@]}" env -i PATH="$PATH" HOME="$SITE/home" HTTPS_PROXY="$HTTPS_PROXY" \
		SSL_CERT_FILE="$SITE/tls/public-ca.pem" "$SITE/usr/bin/vault" server -config="$SITE/etc/vault.hcl" >>"$SITE/server.log" 2>&1 3>&- &
	server=$!
	until (exec 4<>"/dev/tcp/${API/://}"); do kill -0 "$server"; sleep 0.2; done
}
mkdir -p "$SITE"/{out,home,usr/bin} "$SITE"/opt/vault/{plugins,data,audit}
chmod -R go+rX "$SITE"
chmod 777 "$SITE"/home "$SITE"/opt/vault/{data,audit} # Vault's user writes to these
exec 3>&1 >"$SITE/out/set-up" 2>&1
output=$SITE/out/set-up
trap 'status=$?; stop
((status == 0)) || { echo "${output##*/}: status $status:"; cat "$output"; tail -n 30 "$SITE/server.log"; } >&3' EXIT
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
		reason := strings.Join(b.notes["not run"], "")
		if b.notes["needs"] != nil && os.Geteuid() != 0 {
			reason = "root does not run this test"
		}
		switch {
		case b.kind != "sh":
		case reason != "":
			t.Logf("%s:%d: not run: %s", page, b.line, reason)
		default:
			run(fmt.Sprint(b.line, "-first"), strings.Join(b.notes["first"], "\n"))
			if b.notes["fails"] != nil {
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
			for _, text := range append(b.notes["fails"], b.notes["shows"]...) {
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
func shape(t *testing.T, answer []byte) string {
	t.Helper()
	cmd := exec.Command("jq", "--sort-keys", `.data | walk(if type == "object" or type == "array" then . else type end)`)
	cmd.Stdin = bytes.NewReader(answer)
	out, err := cmd.Output()
	require.NoError(t, err, "%s", answer)
	return string(out)
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
