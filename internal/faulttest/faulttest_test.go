package faulttest

import (
	"encoding/base64"
	"encoding/hex"
	"html"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestTraceOfCanaryFindsEveryEncoding(t *testing.T) {
	t.Parallel()
	for before := range 4 {
		plain := strings.Repeat("x", before) + CanaryKey
		for _, text := range []string{
			plain,
			base64.StdEncoding.EncodeToString([]byte(plain)),
			base64.RawURLEncoding.EncodeToString([]byte(plain)),
			url.QueryEscape(plain),
			html.EscapeString(plain),
			hex.EncodeToString([]byte(plain)),
		} {
			assert.NotEmpty(t, TraceOfCanary("seen: "+text), "%q", text)
		}
	}
	assert.Empty(t, TraceOfCanary("a canter in the library, Y2FuYXI="))
}
