package redact

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// The secrets are short, so that it is not their length that they are taken for keys by.
func TestExcerptWithholdsSecretsInEveryEncoding(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{
		"canary", `canary"k&y`, "canary/+key=", "canary <k'y>", "canary%2Fkey", "canary\tkey", "canary  key",
		"canary\u00adkey", "canary\x01key", "canarykäy", `canary\key`, "canary🔑key",
	} {
		for name, encode := range consoletest.Echoes {
			if len(secret) < 8 && strings.HasPrefix(name, "with ") {
				continue // nothing of it is left to split
			}
			for _, text := range []string{
				encode(secret), "before " + encode(secret) + " after", "<" + encode(secret) + "><" + encode(secret) + ">",
			} {
				got := Excerpt(text, 200, []string{"other", secret})
				assert.Empty(t, consoletest.TraceOfCanary(got), "%s: %q became %q", name, text, got)
			}
		}
	}
}

// A secret without a letter or digit of ASCII, as a password may be.
func TestExcerptWithholdsSecretsBeyondASCII(t *testing.T) {
	t.Parallel()
	const secret = "🔑🗝🔐🔓🔒🛡⚙🧿🪪"
	for name, encode := range consoletest.Echoes {
		if strings.HasPrefix(name, "with ") {
			continue // it splits bytes
		}
		assert.Equal(t, Withheld, Excerpt("we got "+encode(secret)+".", 200, []string{secret}), name)
	}
}

// The cost of the filter must not grow with the product of both lengths. With it, a secret forty times as long would
// take about forty times as long.
func TestTheCostOfTheFilterIsLinear(t *testing.T) {
	text := strings.Repeat("The organization is suspended. ", 1000)
	cost := func(length int) time.Duration {
		secret := strings.Repeat("k3y.", length/4)
		least := time.Hour
		for range 5 {
			begun := time.Now()
			Repeats(text, []string{secret})
			least = min(least, time.Since(begun))
		}
		return least
	}
	assert.Less(t, cost(4000), 15*cost(100))
}

func TestExcerptWithholdsPartsOfSecrets(t *testing.T) {
	t.Parallel()
	const key = "8d1f3c5a-77b2-4e90-a1b2-c3d4e5f60718"
	for _, text := range []string{"no such key: " + key[:23], "invalid key " + key[:18] + "…", "it ends with " + key[25:]} {
		assert.Equal(t, Withheld, Excerpt(text, 200, []string{key}), text)
	}
	for _, text := range []string{"p\xe4ssw\xf6rd-geheim", "pÃ¤sswÃ¶rd-geheim", "p%E4ssw%F6rd-geheim"} {
		assert.Equal(t, Withheld, Excerpt(text, 200, []string{"pässwörd-geheim"}), "%q", text)
	}
}

func TestExcerptReplacesWhatLooksLikeAKey(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"a JWT":                    "your token " + consoletest.MadeUpJWT(`{"exp":1}`) + " is bad",
		"a key of someone else's":  "not 01234567-canary-4333-8444-555555555555 but",
		"base64 of several things": "Basic dXNlcjpjYW5hcnktcGFzc3dvcmQ= is bad",
		"a secret within a run":    "?key=x&y=" + strings.Repeat("x", 12) + "canary" + strings.Repeat("y", 12),
	} {
		got := Excerpt(text, 200, nil)
		assert.Empty(t, consoletest.TraceOfCanary(got), "%s: %s", name, got)
		assert.Contains(t, got, redacted, name)
	}
}

func TestExcerptKeepsWhatHelps(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                   "",
		"The organization is suspended.":     "The organization is suspended.",
		"  several\r\n\tlines \x00\x1b[31m ": "several lines [31m",
		"invalid \xff\xfe UTF-8":             "invalid UTF-8",
		"a key canary-k3y and more":          Withheld,
		"Umläute und 日本語":                    "Umläute und 日本語",
		"\u202eright to left":                "right to left",
		"all of it: %&/!":                    Withheld,
		`\q is no escape, and \u20 is half`:  `\q is no escape, and \u20 is half`,
	} {
		assert.Equal(t, want, Excerpt(text, 200, []string{"", "%&/!", "canary-k3y"}), "%q", text)
	}
}

func TestExcerptIsBoundedAndPrintable(t *testing.T) {
	t.Parallel()
	const secret = "canary-key"
	for name, text := range map[string]string{
		"words":                      strings.Repeat("word ", 1000),
		"letters of several bytes":   strings.Repeat("ä ", 1000),
		"one run":                    strings.Repeat("x", 10_000),
		"control characters":         strings.Repeat("\x00\x1b\u200b\u2028", 1000) + "end",
		"no UTF-8":                   strings.Repeat("\xff\xc3 ", 1000),
		"a secret across the limit":  strings.Repeat("x ", 98) + secret + " and more",
		"a secret after it":          strings.Repeat("x ", 100) + secret,
		"a placeholder at the limit": strings.Repeat("x ", 96) + strings.Repeat("y", 24) + strings.Repeat(" z", 100),
	} {
		for _, limit := range []int{0, 1, 7, 100, 192, 193, 199, 200} {
			got := Excerpt(text, limit, []string{secret})
			if got != Withheld {
				assert.LessOrEqual(t, utf8.RuneCountInString(got), limit+1, "%s: with the mark of where it was cut", name)
			}
			assert.True(t, utf8.ValidString(got), name)
			assert.Equal(t, -1, strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }), "%s: %q", name, got)
			assert.NotContains(t, got, "can", "not even a part of a secret")
		}
	}
}

func TestThreeLayersOfEscapesAreSeenThrough(t *testing.T) {
	t.Parallel()
	secret := "canary-api-key"
	text := secret
	for layer, escape := range []string{`\u%04x`, "%%%02X", "%%%02X"} {
		var escaped strings.Builder
		for _, b := range []byte(text) {
			fmt.Fprintf(&escaped, escape, b)
		}
		text = escaped.String()
		assert.True(t, Repeats(text, []string{secret}), "layer %d", layer+1)
	}
}
