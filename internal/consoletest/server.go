package consoletest

import (
	"context"
	"encoding/pem"
	"log"
	"net"
	"net/http/httptest"
	"testing"
)

// Server is a Console that listens on a port of 127.0.0.1. It is closed when
// its test ends.
type Server struct {
	*Console
	URL string // without a trailing slash; both console_url and auth_url

	server *httptest.Server
	cancel context.CancelFunc
}

// NewServer starts a Server over plain HTTP.
func NewServer(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s := newServer(t, opts)
	s.server.Start()
	s.URL = s.server.URL
	return s
}

// NewTLSServer starts a Server over HTTPS. Its certificate is trusted by
// those who trust CACert.
func NewTLSServer(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s := newServer(t, opts)
	s.server.StartTLS()
	s.URL = s.server.URL
	return s
}

func newServer(t testing.TB, opts []Option) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{Console: New(opts...), cancel: cancel}
	s.server = httptest.NewUnstartedServer(s.Console)
	s.server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.server.Config.ErrorLog = log.New(t.Output(), "consoletest: ", 0)
	t.Cleanup(s.Close)
	return s
}

// Close stops the server before the test ends: from then on it cannot be
// reached. Requests that are still held or delayed end first.
func (s *Server) Close() {
	s.cancel()
	s.server.Close()
}

// CACert returns the PEM of the certificate to trust; empty over plain HTTP.
func (s *Server) CACert() string {
	cert := s.server.Certificate()
	if cert == nil {
		return ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}
