package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
)

const (
	// minSecret is the length below which text is not looked for: it would be found where it is not meant.
	minSecret = 8
	// maskBuffer is how much of a body is looked at at once.
	maskBuffer = 32 << 10
)

// secret is the part of a JWT that must not come back to the command if Console repeats the request: the signature,
// which is all that the command does not know, or the whole of what is no JWT. Each occurrence is replaced by as many
// asterisks, so that lengths stay what they are.
type secret []byte

func newSecret(jwt string) secret {
	if _, signature, ok := splitJWT(jwt); ok && len(signature) >= 2*minSecret {
		return secret(signature)
	}
	if len(jwt) < minSecret {
		return nil
	}
	return secret(jwt)
}

func (s secret) mask() []byte { return bytes.Repeat([]byte("*"), len(s)) }

func (s secret) maskText(text string) string {
	return strings.ReplaceAll(text, string(s), string(s.mask()))
}

// maskHeader also removes fields that have the secret in their name, where it may have lost its case.
func (s secret) maskHeader(header map[string][]string) {
	for name, values := range header {
		if len(s) > 0 && strings.Contains(strings.ToLower(name), strings.ToLower(string(s))) {
			delete(header, name)
		}
		for i, value := range values {
			values[i] = s.maskText(value)
		}
	}
}

// maskEarlyHeaders masks the headers of informational responses (1xx) before the reverse proxy passes them on: of two
// hooks, the one that was added last runs first.
func (s secret) maskEarlyHeaders(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
			s.maskHeader(header)
			return nil
		},
	})
}

// maskResponse masks headers at once, and body and trailers as they are read. A body that is still encoded cannot be
// looked into: the transport asks for gzip alone, and unpacks it.
func (s secret) maskResponse(resp *http.Response) error {
	s.maskHeader(resp.Header)
	s.maskHeader(resp.Trailer) // names only: the reverse proxy announces them
	if !hasBody(resp) {
		_ = resp.Body.Close()
		resp.Body = http.NoBody
		return nil
	}
	encoding := strings.Join(resp.Header.Values("Content-Encoding"), ",")
	if encoding != "" && !strings.EqualFold(encoding, "identity") {
		return fmt.Errorf("cannot pass on Console's answer in the encoding %q, which was not asked for and cannot be checked for credentials", encoding)
	}
	resp.Body = &maskedBody{
		reader: &maskingReader{secret: s, mask: s.mask(), source: resp.Body},
		body:   resp.Body,
		done:   func() { s.maskHeader(resp.Trailer) },
	}
	return nil
}

// hasBody reports whether an answer has a body. Go's HTTP/2 does not say so by http.NoBody.
func hasBody(resp *http.Response) bool {
	return resp.Request.Method != http.MethodHead && resp.StatusCode != http.StatusNotModified && resp.ContentLength != 0
}

// maskedBody is a body with another reader in front of it.
type maskedBody struct {
	reader io.Reader
	body   io.Closer
	done   func()
}

func (b *maskedBody) Read(p []byte) (int, error) {
	n, err := b.reader.Read(p)
	if err == io.EOF {
		b.done()
	}
	return n, err
}

func (b *maskedBody) Close() error { return b.body.Close() }

// openEnd is the length of the longest end of text that may be the beginning of the secret.
func (s secret) openEnd(text []byte) int {
	for n := min(len(text), len(s)-1); n > 0; n-- {
		if bytes.HasSuffix(text, s[:n]) {
			return n
		}
	}
	return 0
}

// maskingReader masks the secret in plain text. It holds back only what may be its beginning, for good if the text breaks
// off there.
type maskingReader struct {
	secret secret
	mask   []byte
	source io.Reader

	chunk [maskBuffer]byte
	text  []byte // read, and not yet handed on
	ready int    // how much of text can be
	err   error
}

func (m *maskingReader) Read(p []byte) (int, error) {
	for m.ready == 0 && m.err == nil && len(p) > 0 {
		var n int
		n, m.err = m.source.Read(m.chunk[:])
		m.text = bytes.ReplaceAll(append(m.text, m.chunk[:n]...), m.secret, m.mask)
		m.ready = len(m.text)
		if !errors.Is(m.err, io.EOF) {
			m.ready -= m.secret.openEnd(m.text)
		}
	}
	n := copy(p, m.text[:m.ready])
	m.text, m.ready = m.text[n:], m.ready-n
	if m.ready > 0 || n > 0 {
		return n, nil
	}
	return 0, m.err
}
