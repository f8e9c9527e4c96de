package snowplow

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
)

// The secrets are short, so that it is not their length that they are taken for keys by.
func TestExcerptTakesOutSecretsInEveryEncoding(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{
		"canary", `canary"k&y`, "canary/+key=", "canary <k'y>", "canary%2Fkey", "canary\tkey", "canary  key",
		"canary\u00adkey", "canary\x01key", "canarykäy", `canary\key`,
	} {
		for name, encode := range echoes {
			if len(secret) < 8 && strings.HasPrefix(name, "with ") {
				continue // nothing of it is left to split
			}
			t.Run(name+"/"+secret, func(t *testing.T) {
				t.Parallel()
				for _, text := range []string{
					encode(secret), "before " + encode(secret) + " after", "<" + encode(secret) + "><" + encode(secret) + ">",
				} {
					got := excerpt(text, true, 200, []string{"other", secret})
					assert.Empty(t, traceOfCanary(got), "%q became %q", text, got)
				}
			})
		}
	}
}

func TestExcerptTakesOutWhatLooksLikeAKey(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"a JWT":                    "your token " + madeUpJWT(`{"exp":1}`) + " is bad",
		"a key of someone else's":  "not 01234567-canary-4333-8444-555555555555 but",
		"base64 of several things": "Basic dXNlcjpjYW5hcnktcGFzc3dvcmQ= is bad",
		"a secret within a run":    "?key=x&y=" + strings.Repeat("x", 12) + "canary" + strings.Repeat("y", 12),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := excerpt(text, true, 200, nil)
			assert.Empty(t, traceOfCanary(got), got)
			assert.Contains(t, got, redacted)
		})
	}
}

func TestExcerptKeepsWhatHelps(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                   "",
		"The organization is suspended.":     "The organization is suspended.",
		"  several\r\n\tlines \x00\x1b[31m ": "several lines [31m",
		"invalid \xff\xfe UTF-8":             "invalid UTF-8",
		"a key canary-k3y and more":          withheld,
		"Umläute und 日本語":                    "Umläute und 日本語",
		"\u202eright to left":                "right to left",
	} {
		assert.Equal(t, want, excerpt(text, true, 200, []string{"canary-k3y"}), "%q", text)
	}
}

func TestExcerptIsBoundedAndPrintable(t *testing.T) {
	t.Parallel()
	secret := "canary-key"
	for name, text := range map[string]string{
		"words":                      strings.Repeat("word ", 1000),
		"letters of several bytes":   strings.Repeat("ä ", 1000),
		"one run":                    strings.Repeat("x", 10_000),
		"control characters":         strings.Repeat("\x00\x1b\u200b\u2028", 1000) + "end",
		"no UTF-8":                   strings.Repeat("\xff\xc3 ", 1000),
		"nothing but secrets":        strings.Repeat(secret, 1000),
		"a secret across the limit":  strings.Repeat("x ", 98) + secret + " and more",
		"one before it":              strings.Repeat("x ", 97) + secret,
		"one after it":               strings.Repeat("x ", 100) + secret,
		"a placeholder at the limit": strings.Repeat("x ", 96) + secret + strings.Repeat(" y", 100),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, limit := range []int{0, 1, 2, 7, 100, 192, 193, 194, 195, 196, 197, 198, 199, 200} {
				got := excerpt(text, true, limit, []string{secret})
				assert.LessOrEqual(t, utf8.RuneCountInString(got), limit+1, "with the mark of where it was cut")
				assert.True(t, utf8.ValidString(got))
				assert.Empty(t, strings.Trim(strings.Map(func(r rune) rune {
					if unicode.IsPrint(r) {
						return -1
					}
					return r
				}, got), " "))
				assert.NotContains(t, got, "can", "not even a part of a secret")
			}
		})
	}
}

func TestExcerptTakesOutPartsOfSecrets(t *testing.T) {
	t.Parallel()
	const key = "8d1f3c5a-77b2-4e90-a1b2-c3d4e5f60718"
	for _, text := range []string{"no such key: " + key[:23], "invalid key " + key[:18] + "…", "it ends with " + key[25:]} {
		assert.Equal(t, withheld, excerpt(text, true, 200, []string{key}), text)
	}
	for _, text := range []string{"p\xe4ssw\xf6rd-geheim", "pÃ¤sswÃ¶rd-geheim", "p%E4ssw%F6rd-geheim"} {
		assert.Equal(t, withheld, excerpt(text, true, 200, []string{"pässwörd-geheim"}), "%q", text)
	}
}

func TestExcerptOfTextThatIsNotWholeIsItsFirstHalf(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "no such ke", excerpt("no such key: 8d1f3c5", false, 200, []string{"8d1f3c5a-77b2-4e90"}))
}

// attempt.excerpt reads no more than a megabyte: what stands across that end is not shown in part.
func TestExcerptOfABodyThatIsCut(t *testing.T) {
	t.Parallel()
	for version, secret := range map[string]string{versionV3: canaryKey, versionV1: canaryPassword} {
		for name, body := range map[string]string{
			"after spaces":             strings.Repeat(" ", maxAnswer-9) + secret,
			"after control characters": strings.Repeat("\x00", maxAnswer-9) + secret,
		} {
			t.Run(version+" "+name, func(t *testing.T) {
				t.Parallel()
				a := &attempt{cred: canaryCredential(version)}
				got := a.excerpt(strings.NewReader(body))
				assert.Empty(t, traceOfCanary(got), got)
			})
		}
	}
}
