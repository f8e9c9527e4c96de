package consoletest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Upstream is a fake Console that knows the canary credentials, behind a listener that counts.
type Upstream struct {
	*Console
	URL string // both console_url and auth_url

	// Dial is the way to an upstream without sockets, whatever the address; nil: the system's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	sent        atomic.Int64
	connections atomic.Int64
	open        atomic.Int64

	mu     sync.Mutex
	dialed []string
}

// OnPipes returns an upstream without sockets, for bubbles of synctest: fake time passes while both ends wait, and the
// server can send no byte that the client does not read.
func OnPipes(t testing.TB) *Upstream {
	t.Helper()
	u := newUpstream("http://127.0.0.1")
	listener := &pipeListener{accepted: make(chan net.Conn), closed: make(chan struct{})}
	u.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
		u.mu.Lock()
		u.dialed = append(u.dialed, address)
		u.mu.Unlock()
		refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
		if address != "127.0.0.1:80" {
			return nil, refused
		}
		ours, theirs := net.Pipe()
		select {
		case listener.accepted <- theirs:
			return ours, nil
		case <-listener.closed:
			return nil, refused
		}
	}
	u.serve(t, listener, nil)
	return u
}

// OnTCP returns an upstream on a port of the loopback interface.
func OnTCP(t testing.TB) *Upstream {
	t.Helper()
	listener := listenTCP(t)
	u := newUpstream("http://" + listener.Addr().String())
	u.serve(t, listener, nil)
	return u
}

// OnTLS returns an upstream on such a port over TLS.
func OnTLS(t testing.TB, config *tls.Config) *Upstream {
	t.Helper()
	listener := listenTCP(t)
	u := newUpstream("https://" + listener.Addr().String())
	u.serve(t, listener, config)
	return u
}

// OnRaw returns an upstream whose connections serve handles from their first byte. Its URL begins with https.
func OnRaw(t testing.TB, serve func(net.Conn)) *Upstream {
	t.Helper()
	listener := listenTCP(t)
	u := newUpstream("https://" + listener.Addr().String())
	counting := countingListener{listener, u}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := counting.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	return u
}

func newUpstream(url string) *Upstream { return &Upstream{Console: NewCanaryConsole(), URL: url} }

func listenTCP(t testing.TB) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return listener
}

func (u *Upstream) serve(t testing.TB, listener net.Listener, config *tls.Config) {
	t.Helper()
	server := &http.Server{Handler: u.Console, TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if config != nil {
			_ = server.ServeTLS(countingListener{listener, u}, "", "")
		} else {
			_ = server.Serve(countingListener{listener, u})
		}
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

// Sent returns how many bytes the server could write.
func (u *Upstream) Sent() int64 { return u.sent.Load() }

// Connections returns how many connections were accepted.
func (u *Upstream) Connections() int64 { return u.connections.Load() }

// Open returns how many of them the server has not closed yet.
func (u *Upstream) Open() int64 { return u.open.Load() }

// Dialed returns the addresses that were asked for, of an upstream on pipes.
func (u *Upstream) Dialed() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.dialed)
}

// RequireAllClosed waits until no connection is open any more.
func (u *Upstream) RequireAllClosed(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool { return u.Open() == 0 }, 10*time.Second, 5*time.Millisecond, "connections stay open")
}

// RefusingAddress returns an address where no one listens: the client's end of a connection, which keeps its port from
// other tests.
func RefusingAddress(t testing.TB) string {
	t.Helper()
	listener := listenTCP(t)
	conn, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		_ = listener.Close()
	})
	return conn.LocalAddr().String()
}

// Reset closes a server's connection with an RST where there is a kernel to send one.
func Reset(conn net.Conn) {
	if counted, ok := conn.(*countedConn); ok {
		if tcp, ok := counted.Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	}
	_ = conn.Close()
}

type pipeListener struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

type countingListener struct {
	net.Listener
	u *Upstream
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.u.connections.Add(1)
	l.u.open.Add(1)
	return &countedConn{Conn: conn, u: l.u}, nil
}

type countedConn struct {
	net.Conn
	u    *Upstream
	once sync.Once
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.u.sent.Add(int64(n))
	return n, err
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.u.open.Add(-1) })
	return c.Conn.Close()
}
