package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// regexpChunk is the line between two chunks of a body.
var regexpChunk = regexp.MustCompile(`\r\n[0-9a-f]+\r\n`)

func TestSecretOfAToken(t *testing.T) {
	t.Parallel()
	for jwt, want := range map[string]string{
		"header.claims.signature-of-some-length": "signature-of-some-length",
		"header.claims.short":                    "header.claims.short",
		"no/jwt+at~all":                          "no/jwt+at~all",
		"a.b.c":                                  "", // it would be found in any text
	} {
		assert.Equal(t, want, string(newSecret(jwt)), jwt)
	}
}

func TestMaskingReader(t *testing.T) {
	t.Parallel()
	// A secret that begins like itself, at places where a reader could lose its way.
	s := secret("ababac-secret")
	long := strings.Repeat("x", maskBuffer-5)
	for _, text := range []string{
		"", "a", "ababac-secre", "ababac-secret", "abababac-secret", "ababac-secretababac-secret", "ababababab",
		"ababac-ababac-secret", long + "ababac-secret" + long, long + "ababac-secre" + long + "t",
	} {
		want := strings.ReplaceAll(text, string(s), strings.Repeat("*", len(s)))
		for name, source := range map[string]io.Reader{
			"at once":               strings.NewReader(text),
			"byte for byte":         iotest.OneByteReader(strings.NewReader(text)),
			"with the end at once":  iotest.DataErrReader(strings.NewReader(text)),
			"half of what is asked": iotest.HalfReader(strings.NewReader(text)),
		} {
			got, err := io.ReadAll(&maskingReader{secret: s, mask: s.mask(), source: source})
			require.NoError(t, err)
			require.Equal(t, want, string(got), name)
		}
	}
	_, err := io.ReadAll(&maskingReader{secret: s, mask: s.mask(), source: iotest.ErrReader(io.ErrUnexpectedEOF)})
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestGzipGuard(t *testing.T) {
	t.Parallel()
	s := secret("ababac-secret")
	compress := func(text string, level int) string {
		var compressed bytes.Buffer
		w, err := gzip.NewWriterLevel(&compressed, level)
		require.NoError(t, err)
		_, _ = io.WriteString(w, text)
		require.NoError(t, w.Close())
		return compressed.String()
	}
	long := strings.Repeat("some text of no interest ", 10_000)
	for _, level := range []int{gzip.NoCompression, gzip.BestSpeed, gzip.BestCompression, gzip.HuffmanOnly} {
		for text, free := range map[string]bool{
			"":                          true,
			long:                        true,
			long + "ababac-secre":       true,
			"ababac-secre" + long + "t": true,
			"ababac-secret":             false,
			long + "ababac-secret":      false,
			"abababac-secret" + long:    false,
		} {
			for name, wrap := range map[string]func(io.Reader) io.Reader{
				"at once":       func(r io.Reader) io.Reader { return r },
				"byte for byte": iotest.OneByteReader,
			} {
				compressed := compress(text, level)
				got, err := io.ReadAll(&gzipGuard{secret: s, source: bufio.NewReader(wrap(strings.NewReader(compressed)))})
				if free {
					require.NoError(t, err, name)
					require.Equal(t, compressed, string(got), name)
					continue
				}
				require.ErrorIs(t, err, errRepeated, name)
				reader, err := gzip.NewReader(bytes.NewReader(got))
				if err == nil { // else not even its header was let through
					text, _ := io.ReadAll(reader)
					require.Zero(t, s.openEnd(text), "%s: not even its beginning", name)
				}
			}
		}
	}
	two := compress("ababac-", gzip.BestSpeed) + compress("secret", gzip.BestSpeed)
	_, err := io.ReadAll(&gzipGuard{secret: s, source: bufio.NewReader(strings.NewReader(two))})
	require.ErrorIs(t, err, errRepeated, "in two members")
	_, err = io.ReadAll(&gzipGuard{secret: s, source: bufio.NewReader(strings.NewReader(""))})
	require.NoError(t, err, "no body at all")
	cut := compress(long, gzip.BestSpeed)
	_, err = io.ReadAll(&gzipGuard{secret: s, source: bufio.NewReader(strings.NewReader(cut[:len(cut)/2]))})
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}
