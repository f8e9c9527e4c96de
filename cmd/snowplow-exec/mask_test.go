package main

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
	broken := io.MultiReader(strings.NewReader("a ababac-secre"), iotest.ErrReader(io.ErrUnexpectedEOF))
	got, err := io.ReadAll(&maskingReader{secret: s, mask: s.mask(), source: broken})
	require.Equal(t, []any{"a ", io.ErrUnexpectedEOF}, []any{string(got), err}, "where the connection breaks, no part of the secret gets through")
}
