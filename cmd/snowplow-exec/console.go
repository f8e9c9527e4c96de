package main

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	// minStandInBytes is how much of a stand-in is random at least.
	minStandInBytes = 32
	// maxReplay is the largest request body that is kept in memory, to be sent again with another JWT after a 401.
	maxReplay = 1 << 20
)

// exchangePath is Console's exchange of a key pair (v3), or of a key alone (v2), for a JWT.
var exchangePath = regexp.MustCompile(`^/api/msc/v1/organizations/([^/]+)/credentials/(v[23])/token$`)

// console stands in for Snowplow Console on a loopback address. It exchanges one key pair, drawn for this run, for a
// stand-in of the JWT, and passes on what carries a stand-in, with the JWT in its place. Whoever has neither gets nothing.
type console struct {
	source  *tokenSource
	forward http.Handler
	address net.Addr
	path    string // in Vault, for messages

	apiKeyID, apiKey string

	mu       sync.Mutex
	standIns []standIn
}

// standIn is what the command gets for a JWT.
type standIn struct{ jwt, value string }

func newConsole(source *tokenSource, transport http.RoundTripper, address net.Addr, path string) *console {
	return &console{
		source:   source,
		forward:  newForwarder(source, transport),
		address:  address,
		path:     path,
		apiKeyID: rand.Text(),
		apiKey:   rand.Text(),
	}
}

// variables are the environment variables that lead snowplow-cli and Snowtype to this console, and the stand-in for curl
// and scripts, which need no exchange.
func (c *console) variables() []string {
	url := "http://" + c.address.String()
	return []string{
		"SNOWPLOW_CONSOLE_HOST=" + url,
		"SNOWPLOW_CONSOLE_API_URL=" + url + "/api/msc",
		"SNOWPLOW_CONSOLE_ORG_ID=" + c.source.organizationID(),
		"SNOWPLOW_CONSOLE_API_KEY_ID=" + c.apiKeyID,
		"SNOWPLOW_CONSOLE_API_KEY=" + c.apiKey,
		"SNOWPLOW_CONSOLE_TOKEN=" + c.standInFor(c.source.peek().jwt),
	}
}

// ServeHTTP never logs a header, a query or a body: each may contain a credential.
func (c *console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w = &statusLogger{w, func(status int) {
		c.source.logger.Debug("request", "method", r.Method, "path", r.URL.EscapedPath(), "status", status)
	}}
	exchange := exchangePath.FindStringSubmatch(r.URL.Path)
	switch {
	case !isPathTarget(r):
		writeError(w, http.StatusBadRequest, "the request's target must be a path without dot segments, and at most a query")
	case !c.isOwnHost(r.Host):
		// A page in a browser can make its own host name resolve to this address (DNS rebinding).
		writeError(w, http.StatusMisdirectedRequest, "this is not the host that was asked for")
	case r.Method == http.MethodTrace || r.Method == http.MethodConnect:
		// The answer to TRACE repeats the request, JWT included.
		writeError(w, http.StatusMethodNotAllowed, "method not allowed")
	case exchange != nil:
		c.exchange(w, r, exchange[1], exchange[2])
	case !c.authorized(r):
		w.Header().Set("WWW-Authenticate", "Bearer")
		writeError(w, http.StatusUnauthorized, "the request has no token of this run of snowplow-exec: exchange its key pair for one")
	default:
		liftLimits(w)
		if err := makeReplayable(r); err != nil {
			writeError(w, http.StatusBadRequest, "the request's body could not be read")
			return
		}
		c.forward.ServeHTTP(w, r)
	}
}

// liftLimits is for a request that is authorized, which may take any time: a body may be large and slow, an answer a
// stream, and Vault busy.
func liftLimits(w http.ResponseWriter) {
	connection := http.NewResponseController(w)
	_ = connection.SetReadDeadline(time.Time{}) // both fail only if the client has gone
	_ = connection.SetWriteDeadline(time.Time{})
}

// exchange answers as Console does, for this run's key pair and the token's organization alone.
func (c *console) exchange(w http.ResponseWriter, r *http.Request, organizationID, version string) {
	// Both are compared, so that the time taken says nothing about either.
	id := same(r.Header.Get("X-API-Key-ID"), c.apiKeyID)
	key := same(r.Header.Get("X-API-Key"), c.apiKey)
	switch {
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		writeError(w, http.StatusMethodNotAllowed, "method not allowed")
	case !key || !id && version == "v3":
		writeError(w, http.StatusUnauthorized, "the API key is not that of this run of snowplow-exec: use the one in its environment")
	case organizationID != c.source.organizationID():
		writeError(w, http.StatusNotFound, fmt.Sprintf("the token at %s in Vault is for organization %s: set that one in the tool's configuration",
			c.path, c.source.organizationID()))
	default:
		liftLimits(w)
		t, err := c.source.get(r.Context())
		if err != nil {
			writeError(w, http.StatusBadGateway, "snowplow-exec: "+err.Error())
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		writeJSON(w, http.StatusOK, map[string]string{"accessToken": c.standInFor(t.jwt)})
	}
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// standInFor returns the stand-in of a JWT: one for each JWT, so that a run of any length has few.
func (c *console) standInFor(jwt string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.standIns {
		if s.jwt == jwt {
			return s.value
		}
	}
	value := newStandIn(jwt)
	c.standIns = append(c.standIns, standIn{jwt, value})
	return value
}

// authorized says whether a request carries a stand-in. One of an earlier JWT serves as well as the latest: tools that
// do not look at its exp claim keep it for as long as they run.
func (c *console) authorized(r *http.Request) bool {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return false
	}
	scheme, credential, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	found := false
	for _, s := range c.standIns {
		found = same(strings.TrimSpace(credential), s.value) || found
	}
	return found
}

// newStandIn has the header and the claims of the JWT, for a tool that reads them, and a signature that is random. What
// is no JWT gets a stand-in that is random altogether.
func newStandIn(jwt string) string {
	headerAndClaims, signature, ok := splitJWT(jwt)
	if !ok {
		return rand.Text() + rand.Text()
	}
	random := make([]byte, max(minStandInBytes, base64.RawURLEncoding.DecodedLen(len(signature))))
	_, _ = rand.Read(random) // never fails
	return headerAndClaims + "." + base64.RawURLEncoding.EncodeToString(random)
}

var compactJWT = regexp.MustCompile(`^([\w-]+\.[\w-]+)\.([\w-]+)$`)

// splitJWT returns header and claims as they are signed, and the signature (RFC 7515, section 7.1).
func splitJWT(s string) (headerAndClaims, signature string, ok bool) {
	parts := compactJWT.FindStringSubmatch(s)
	if parts == nil {
		return "", "", false
	}
	return parts[1], parts[2], true
}

// makeReplayable reads a small body, so that it can be sent a second time. A large one, one of unknown length, and one
// that the client sends only when asked to (Expect) are streamed instead, and sent once.
func makeReplayable(r *http.Request) error {
	if r.ContentLength <= 0 || r.ContentLength > maxReplay || r.Header.Get("Expect") != "" {
		return nil
	}
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return err
	}
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.Body, _ = r.GetBody()
	return nil
}

// writeError has the form of Console's errors.
func writeError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]string{"message": message})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails only if the client has gone
}

// statusLogger logs the status of an answer before it is sent: the command, and with it this program, may end as soon as
// it has it.
type statusLogger struct {
	http.ResponseWriter
	log func(status int)
}

func (l *statusLogger) WriteHeader(status int) {
	if status >= http.StatusOK { // not informational
		l.log(status)
	}
	l.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController flush.
func (l *statusLogger) Unwrap() http.ResponseWriter { return l.ResponseWriter }
