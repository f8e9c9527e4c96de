package console

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// raw is a fault that writes to the connection itself, which is closed when write returns.
func raw(write func(conn net.Conn, r *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer conn.Close()
		write(conn, r)
	})
}

// said is the fault of an answer to the letter.
func said(answer string) http.Handler {
	return raw(func(conn net.Conn, _ *http.Request) { _, _ = io.WriteString(conn, answer) })
}

// endless says begin once and then more for as long as someone listens, up to 100 MB: a client without bounds is to
// fail its test, not the machine.
func endless(begin, more string) http.Handler {
	return raw(func(conn net.Conn, _ *http.Request) {
		_, err := io.WriteString(conn, begin)
		for left := 100 << 20; err == nil && left > 0; left -= len(more) {
			_, err = io.WriteString(conn, more)
		}
	})
}

// drip says begin at once and then a byte of rest, over and over, every 100 ms.
func drip(begin, rest string) http.Handler {
	return raw(func(conn net.Conn, _ *http.Request) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		_, err := io.WriteString(conn, begin)
		for i := 0; err == nil; i++ {
			<-tick.C
			_, err = io.WriteString(conn, rest[i%len(rest):][:1])
		}
	})
}

// cut says something and resets the connection.
func cut(answer string) http.Handler {
	return raw(func(conn net.Conn, _ *http.Request) {
		_, _ = io.WriteString(conn, answer)
		consoletest.Reset(conn)
	})
}

// silentAfter says something and waits for the client to go.
func silentAfter(answer string) http.Handler {
	return raw(func(conn net.Conn, _ *http.Request) {
		_, _ = io.WriteString(conn, answer)
		_, _ = io.Copy(io.Discard, conn)
	})
}

const okHeader = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

func TestConnectionsThatFail(t *testing.T) {
	t.Parallel()
	whole := `{"accessToken":"` + consoletest.MadeUpJWT(`{}`) + `"}`
	const refusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 9999\r\n\r\n"
	brokeOff := []string{"malformed answer: it ended early"}
	noAnswer := []string{"malformed answer, or broke the connection"}
	oversized := []string{"oversized answer"}
	rejected := []string{"400 Bad Request"}
	for _, test := range []fault{
		{name: "reset before the headers", answer: cut(""), reason: ReasonUpstream, says: noAnswer},
		{name: "reset after the headers", answer: cut(okHeader + "Content-Length: 99\r\n\r\n"), reason: ReasonUpstream, says: brokeOff},
		{name: "closed after the status line", answer: consoletest.Disconnect(), reason: ReasonUpstream, says: noAnswer},
		{name: "refusal closed early against Content-Length", answer: said(refusal + `{"message":"Oops"}`), reason: ReasonRejected, says: rejected, exchanges: 1},
		{name: "two lengths", answer: said(okHeader + "Content-Length: 3\r\nContent-Length: 4\r\n\r\n" + whole), reason: ReasonUpstream, says: noAnswer},
		{name: "headers without end", answer: endless(okHeader, strings.Repeat("X-More: and more\r\n", 50)), reason: ReasonUpstream, says: oversized},
		{name: "a header without end", answer: endless(okHeader+"X-More: ", strings.Repeat("and more", 100)), reason: ReasonUpstream, says: oversized},
		{name: "a body that drips", answer: drip(okHeader+"Content-Length: 9999\r\n\r\n", `{"accessToken`), timeout: time.Second, reason: ReasonTimeout, exchanges: 1},
		{name: "a 401 that drips", answer: drip("HTTP/1.1 401 Unauthorized\r\nContent-Length: 9999\r\n\r\n", "Oops "), timeout: time.Second, reason: ReasonRefused, says: []string{"401 Unauthorized"}, exchanges: 1},
		{name: "silence", answer: consoletest.Silence(), timeout: time.Second, reason: ReasonTimeout, exchanges: 1},
		{name: "silence after the headers", answer: silentAfter(okHeader + "Content-Length: 9999\r\n\r\n"), timeout: time.Second, reason: ReasonTimeout, exchanges: 1},
		{name: "a chunk of no size", answer: said(okHeader + "Transfer-Encoding: chunked\r\n\r\nZZ\r\n" + whole), reason: ReasonUpstream, says: brokeOff},
		{name: "a chunk that is cut", answer: said(okHeader + "Transfer-Encoding: chunked\r\n\r\nff\r\n" + whole), reason: ReasonUpstream, says: brokeOff},
		{name: "chunks without end", answer: endless(okHeader+"Transfer-Encoding: chunked\r\n\r\n", "4000\r\n"+strings.Repeat(" ", 1<<14)+"\r\n"), reason: ReasonUpstream, says: oversized},
		{name: "an encoding that is unknown", answer: said(okHeader + "Transfer-Encoding: canary\r\n\r\n" + whole), reason: ReasonUpstream, says: noAnswer},
		{name: "no HTTP, but an echo", answer: raw(func(conn net.Conn, r *http.Request) { _ = r.Header.Write(conn) }), reason: ReasonUpstream, says: noAnswer},
		{name: "an echo as the status", answer: raw(func(conn net.Conn, r *http.Request) {
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 400 %s\r\nX-Key: %[1]s\r\nConnection: close\r\n\r\n", r.Header.Get("X-API-Key"))
		}), reason: ReasonRejected, says: rejected, exchanges: 1},
		{name: "an echo as a header that is none", answer: raw(func(conn net.Conn, r *http.Request) {
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s\r\n\r\n", r.Header.Get("X-API-Key"))
		}), reason: ReasonUpstream, says: noAnswer},
		{name: "100 without end", answer: endless("", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 50)), reason: ReasonUpstream, says: oversized},
		{name: "101", answer: silentAfter("HTTP/1.1 101 Switching Protocols\r\nUpgrade: canary\r\nConnection: Upgrade\r\n\r\n"), reason: ReasonUpstream, says: []string{"malformed answer: status 101 Switching Protocols"}},
		{name: "100 MB", answer: endless(okHeader+"Content-Length: 104857600\r\n\r\n"+`{"pad":"`, strings.Repeat("x", 1<<16)), reason: ReasonUpstream, says: oversized},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(test.name, "reset") {
				test.onSockets(t) // for an RST, there must be a kernel to send it
				return
			}
			test.inBubble(t)
		})
	}
}

func TestAConsoleThatIsUnreachableIsNamedWithWhatToCheck(t *testing.T) {
	t.Parallel()
	for url, says := range map[string]string{
		"http://" + consoletest.RefusingAddress(t): "is unreachable: connect: connection refused: check console_url, egress from Vault, and the proxy variables",
		"https://console.invalid":                  "is unreachable: its host name cannot be resolved",
	} {
		request := exchangeAt(url, V3)
		request.Retry = nil
		_, err := newClient(t, "", nil).Exchange(t.Context(), request)
		assert.Equal(t, ReasonUnreachable, requireFailed(t, err).Reason)
		assert.ErrorContains(t, err, says)
	}
}
