package consoletest

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"
)

// faults is what stands between an exchange and its answer.
type faults struct {
	holds     []*Hold
	delay     time.Duration
	intercept func(http.ResponseWriter, *http.Request) bool
	next      []http.Handler
	always    http.Handler
}

// FailNext answers the next n exchanges with fault, after those that earlier
// calls have claimed. Any handler is a fault: see Status, Echo, Silence,
// Disconnect, and http.RedirectHandler.
func (c *Console) FailNext(n int, fault http.Handler) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range n {
		c.faults.next = append(c.faults.next, fault)
	}
}

// FailAlways answers every exchange that FailNext leaves with fault.
func (c *Console) FailAlways(fault http.Handler) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.always = fault
}

// Intercept shows every exchange to f first, which reports whether it has
// answered. If it has, no fault of FailNext is used up. Nil ends that.
func (c *Console) Intercept(f func(w http.ResponseWriter, r *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.intercept = f
}

// SetDelay makes every exchange take at least d, for load tests. The delay
// ends early if the client goes.
func (c *Console) SetDelay(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.delay = d
}

// ClearFaults ends what FailNext, FailAlways, Intercept and SetDelay began.
// An exchange that is held stays held.
func (c *Console) ClearFaults() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = faults{holds: c.faults.holds}
}

// Hold is one exchange that does not go on before the test says so.
type Hold struct {
	started, released chan struct{}
	release           func()
}

// Hold holds the next exchange that no earlier Hold claims; others pass. What
// the exchange is answered is decided after its release.
func (c *Console) Hold() *Hold {
	h := &Hold{started: make(chan struct{}), released: make(chan struct{})}
	h.release = sync.OnceFunc(func() { close(h.released) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.holds = append(c.faults.holds, h)
	return h
}

// Started is closed when the exchange has arrived.
func (h *Hold) Started() <-chan struct{} { return h.started }

// Release lets the exchange go on. It may be called more than once.
func (h *Hold) Release() { h.release() }

// wait sits out holds and delays; false if the request ended meanwhile.
func (c *Console) wait(r *http.Request) bool {
	c.mu.Lock()
	var hold *Hold
	if len(c.faults.holds) > 0 {
		hold, c.faults.holds = c.faults.holds[0], c.faults.holds[1:]
	}
	delay := c.faults.delay
	c.mu.Unlock()

	if hold != nil {
		close(hold.started)
		select {
		case <-hold.released:
		case <-r.Context().Done():
			return false
		}
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return false
		}
	}
	return true
}

// intercepted reports whether a fault has answered the exchange. Faults run
// outside the lock: they may take their time.
func (c *Console) intercepted(w http.ResponseWriter, r *http.Request) bool {
	c.mu.Lock()
	intercept := c.faults.intercept
	c.mu.Unlock()
	if intercept != nil && intercept(w, r) {
		return true
	}

	c.mu.Lock()
	fault := c.faults.always
	if len(c.faults.next) > 0 {
		fault, c.faults.next = c.faults.next[0], c.faults.next[1:]
	}
	c.mu.Unlock()
	if fault == nil {
		return false
	}
	fault.ServeHTTP(w, r)
	return true
}

// Status is a fault: this status, body and, unless nil, header.
func Status(code int, body string, header http.Header) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), header)
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body) // fails only if the client has gone
	})
}

// Echo is a fault: this status and the whole request, secrets included, as
// the body. It is for tests that look for secrets in errors.
func Echo(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, "%s %s %v %v", r.Method, r.URL, r.Header, r.PostForm)
	})
}

// Silence is a fault: no answer until the client goes.
func Silence() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		writeError(w, http.StatusServiceUnavailable, "the request ended before its answer")
	})
}

// Disconnect is a fault: the connection closes after the first line of the
// answer. Before that, Go's client would quietly send the request again.
func Disconnect() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil { // not a connection of HTTP/1
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
		_ = conn.Close()
	})
}
