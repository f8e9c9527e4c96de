package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// send sends a request's line and header with the stand-in, as they are, and returns the connection to read from.
func (c *testConsole) send(t *testing.T, line, header string) *bufio.Reader {
	t.Helper()
	conn, err := net.Dial("tcp", c.address.String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprintf(conn, "%s\r\nHost: %s\r\nAuthorization: Bearer %s\r\n%s\r\n", line, c.address, c.standIn, header)
	require.NoError(t, err)
	return bufio.NewReader(conn)
}

func TestOnlyAPathAndAQueryReachConsole(t *testing.T) {
	t.Parallel()
	// The front answers for Console and for the host of someone else. OWN is the address of snowplow-exec.
	for name, start := range map[string]func(*httptest.Server){"http": (*httptest.Server).Start, "https": (*httptest.Server).StartTLS} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			arrived := make(chan string, 1)
			front := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived <- r.Host + " " + r.RequestURI }))
			front.Config.DisableGeneralOptionsHandler = true
			start(front)
			t.Cleanup(front.Close)
			c := startConsole(t, front, "/base", newJWT())
			try := func(line string, want int, arrives string) {
				response, err := http.ReadResponse(c.send(t, strings.ReplaceAll(line, "OWN", c.address.String()), "Connection: close\r\n"), nil)
				require.NoError(t, err, "%q", line)
				_ = response.Body.Close()
				at := ""
				select {
				case at = <-arrived:
				default:
				}
				assert.Equal(t, want, response.StatusCode, "%q", line)
				if arrives != "" {
					arrives = front.Listener.Addr().String() + " " + arrives
				}
				assert.Equal(t, arrives, at, "%q", line)
			}
			for target, wire := range map[string]string{
				"/":                                    "/base/",
				"/?":                                   "/base/?",
				"/a?b=c":                               "/base/a?b=c",
				"/a//b%2Fc;d=e/.f/..g/.../h:i@j%20":    "/base/a//b%2Fc;d=e/.f/..g/.../h:i@j%20",
				"/a?b=../..\\http://other.example;%zz": "/base/a?b=../..\\http://other.example;%zz",
				"/%252C/100%25":                        "/base/%252C/100%25",
				"http://OWN":                           "/base/",
				"http://OWN?a=b":                       "/base/?a=b",
				"http://OWN/a?b=c":                     "/base/a?b=c",
				"HTTP://OWN/a":                         "/base/a",
			} {
				try("GET "+target+" HTTP/1.1", 200, wire)
			}
			for _, target := range []string{
				"http://other.example/", "http://other.example", "http://other.example:80/a", "http://127.0.0.1:1/", "http://127.0.0.1/",
			} {
				try("GET "+target+" HTTP/1.1", 421, "")
			}
			for _, target := range []string{
				"x:http://other.example/steal", "http:http://other.example/", "http:a", "http:/a", "http:", "http:///a", "x:/a", "x:", "mailto:a@b",
				"https://OWN/", "https://other.example/", "ftp://OWN/", "x://OWN/",
				"http://user@OWN/", "http://OWN@other.example/", "http://user:password@OWN/", "http://@OWN/",
				"*", "OWN", "other.example:443", "other.example", "?", "?a=b", "a",
				"//other.example/", "//OWN/", "///a", "/%2fother.example", "/%2Fother.example/", "/%252fother.example", "http://OWN//other.example/",
				"/..", "/.", "/a/..", "/a/../b", "/a/./b", "/../base2/a", "/a/%2e%2e/b", "/a/%2E./b", "/a/.%2e/", "/%2e", "/a%2f..%2fb", "/..%2fb",
				"/a/%252e%252e/b", "/a%252f..%252fb", "/%25252525252541", "/a/..;/b", "/a/..;x=y/b", "/a/..%3b/b", "http://OWN/a/../b", "http://OWN/..",
				"/a\\..\\b", "/a%5c..%5cb", "/\\other.example", "/%5cother.example", "/%5c%5cother.example", "/a/%255c..",
				"/a/..%00/b", "/a%0d%0aHost:other.example", "/%c0%ae%c0%ae/", "/a#b", "/a?b#c", "http://OWN#a", "/a%zz", "/a\tb", "/a\rb",
			} {
				try("GET "+target+" HTTP/1.1", 400, "")
			}
			for line, want := range map[string]int{
				"OPTIONS * HTTP/1.1":                    400,
				"CONNECT other.example:443 HTTP/1.1":    400,
				"CONNECT OWN HTTP/1.1":                  400,
				"CONNECT http://other.example HTTP/1.1": 400,
				"CONNECT /a HTTP/1.1":                   405,
				"TRACE / HTTP/1.1":                      405,
				"PRI * HTTP/2.0":                        400,
				"GET  / HTTP/1.1":                       400,
				"GET / / HTTP/1.1":                      400,
			} {
				try(line, want, "")
			}
		})
	}
}
