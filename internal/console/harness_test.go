package console

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

func TestMain(m *testing.M) {
	if target := os.Getenv(proxyChildTarget); target != "" {
		runProxyChild(target)
		return
	}
	// A proxy of the machine's must not stand between a test and its server.
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasSuffix(strings.ToUpper(name), "_PROXY") {
			os.Unsetenv(name)
		}
	}
	// These tests wait for pauses and sockets more than for a processor. A flag on the command line wins.
	if err := flag.Set("test.parallel", "32"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// canaryCredential is the credential of these tests for each exchange.
func canaryCredential(version string) Credential {
	cred := Credential{Version: version, OrganizationID: consoletest.DefaultOrganizationID}
	switch version {
	case V1:
		cred.Username, cred.Password = redact.NewSecret(consoletest.DefaultUsername), redact.NewSecret(consoletest.CanaryPassword)
		cred.ClientID, cred.ClientSecret = redact.NewSecret(consoletest.DefaultClientID), redact.NewSecret(consoletest.CanaryClientSecret)
	case V2:
		cred.APIKey = redact.NewSecret(consoletest.CanaryKey)
	case V3:
		cred.APIKeyID, cred.APIKey = redact.NewSecret(consoletest.DefaultAPIKeyID), redact.NewSecret(consoletest.CanaryKey)
	}
	return cred
}

// newClient makes a client that dials as dial says, or on the network if it is nil.
func newClient(t testing.TB, caCert string, dial func(context.Context, string, string) (net.Conn, error)) *Client {
	t.Helper()
	transport, err := NewTransport(caCert)
	require.NoError(t, err)
	if dial != nil {
		transport.(*http.Transport).DialContext = dial
	}
	client := NewClient(transport, "agent/1")
	t.Cleanup(client.Close)
	return client
}

func always() bool { return true }

// exchangeAt describes an exchange of the canary credential at one URL, with all the retries that there are.
func exchangeAt(url, version string) Request {
	return Request{
		Credential: canaryCredential(version),
		Endpoints:  Endpoints{ConsoleURL: url, AuthURL: url},
		Timeout:    time.Minute,
		Retry:      always,
	}
}

// exchangeWith makes one exchange with u.
func exchangeWith(t *testing.T, u *consoletest.Upstream, version string) (Token, error) {
	t.Helper()
	return newClient(t, "", u.Dial).Exchange(t.Context(), exchangeAt(u.URL, version))
}

// requireFailed returns the error of an exchange that failed, after a look for secrets and for what a terminal would
// not show as it is.
func requireFailed(t *testing.T, err error) *Error {
	t.Helper()
	var failed *Error
	require.ErrorAs(t, err, &failed)
	shown := fmt.Sprintf("%v %+v %#v", err, err, *failed)
	require.Empty(t, consoletest.TraceOfCanary(shown), shown)
	assert.Equal(t, -1, strings.IndexFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }), "%q", err)
	assert.Less(t, len(err.Error()), 1000)
	return failed
}

// fault is one thing that can go wrong with Console, and what an exchange makes of it.
type fault struct {
	name      string
	answer    http.Handler
	timeout   time.Duration // 0: longer than all retries take
	reason    Reason
	says      []string
	exchanges int // 0: one and three retries
}

const allTries = 1 + maxRetries

// check makes an exchange that meets the fault, and one after it.
func (f fault) check(t *testing.T, u *consoletest.Upstream, slack time.Duration) {
	t.Helper()
	request := exchangeAt(u.URL, V3)
	if f.timeout != 0 {
		request.Timeout = f.timeout
	}
	if f.exchanges == 0 {
		f.exchanges = allTries
	}
	client := newClient(t, "", u.Dial)
	u.FailAlways(f.answer)

	started := time.Now()
	_, err := client.Exchange(t.Context(), request)
	elapsed := time.Since(started)
	failed := requireFailed(t, err)
	assert.Equal(t, f.reason, failed.Reason)
	assert.Contains(t, err.Error(), "Snowplow Console at "+u.URL)
	for _, words := range f.says {
		assert.Contains(t, err.Error(), words)
	}
	if f.reason == ReasonTimeout {
		assert.Contains(t, err.Error(), fmt.Sprintf("has not answered within request_timeout (%s)", request.Timeout))
	}
	assert.LessOrEqual(t, elapsed, request.Timeout+slack)
	assert.Equal(t, f.exchanges, u.Exchanges())
	if u.Dial != nil {
		assert.LessOrEqual(t, u.Sent(), int64(u.Exchanges()*(maxAnswer+maxAnswerHeader+32<<10)), "bytes read")
	}

	u.ClearFaults()
	token, err := client.Exchange(t.Context(), exchangeAt(u.URL, V3))
	require.NoError(t, err)
	_, ours := u.Issued(token.Bearer.Reveal())
	assert.True(t, ours, "the next good answer has a JWT")
	client.Close()
}

// inBubble checks the fault in fake time and on pipes. What is not closed or not ended makes the bubble fail.
func (f fault) inBubble(t *testing.T) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		u := consoletest.OnPipes(t)
		f.check(t, u, 0)
		time.Sleep(time.Second) // in which a server that drips notices that nobody listens
		synctest.Wait()
		assert.Zero(t, u.Open(), "connections open after Close")
	})
}

// onSockets checks the fault on real connections and in real time.
func (f fault) onSockets(t *testing.T) {
	t.Helper()
	u := consoletest.OnTCP(t)
	f.timeout *= 3 // a busy machine may take a second to begin
	f.check(t, u, 10*time.Second)
	u.RequireAllClosed(t)
}

// together runs cases that wait more than they compute all at once; t.Parallel would run one for each core.
func together[T any](t *testing.T, cases []T, name func(T) string, run func(*testing.T, T)) {
	t.Helper()
	var wg sync.WaitGroup
	for _, c := range cases {
		wg.Go(func() { t.Run(name(c), func(t *testing.T) { run(t, c) }) })
	}
	wg.Wait()
}
