// Package redact decides what may be shown of text that a server sent. It guards against servers that echo a request,
// in whatever encoding; a server that sets out to leak what it was sent cannot be stopped by a filter.
package redact

import (
	"encoding/base64"
	"encoding/hex"
	"html"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	redacted   = "[redacted]"
	windowSize = 8 // letters and digits in a row that count as a part of a secret

	// Withheld replaces text that repeats a secret.
	Withheld = "(not shown: it repeats the credential)"
)

// opaqueRun is what a key or a JWT looks like in any encoding: long, and without a break.
var opaqueRun = regexp.MustCompile(`[A-Za-z0-9+/=_~.%-]{24,}`)

// Excerpt returns one printable line of at most limit characters. What looks like a key or a JWT is replaced, and
// nothing is shown of a text that repeats one of the secrets.
func Excerpt(text string, limit int, secrets []string) string {
	if Repeats(text, secrets) {
		return Withheld
	}
	line := strings.Join(strings.Fields(Printable(text, len(text))), " ")
	return Printable(opaqueRun.ReplaceAllLiteralString(line, redacted), limit)
}

// Repeats reports whether text holds one of the secrets, or eight letters and digits in a row of one, in any of the
// encodings in which servers echo a request. Encodings differ in punctuation and case, so only letters and digits are
// compared. Its cost grows with the sum of the lengths.
func Repeats(text string, secrets []string) bool {
	views := decodings(text)
	var letters []string
	for _, view := range views {
		letters = append(letters, lettersOf(view))
	}
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		for _, view := range views {
			if strings.Contains(view, secret) {
				return true
			}
		}
		for _, form := range encodings(secret) {
			if sharesWindow(letters, lettersOf(form)) {
				return true
			}
		}
	}
	return false
}

// sharesWindow reports whether a text holds windowSize bytes in a row of form, or all of a shorter form.
func sharesWindow(texts []string, form string) bool {
	if form == "" {
		return false
	}
	size := min(windowSize, len(form))
	windows := make(map[string]bool, len(form))
	for i := range len(form) - size + 1 {
		windows[form[i:i+size]] = true
	}
	for _, text := range texts {
		for i := range len(text) - size + 1 {
			if windows[text[i:i+size]] {
				return true
			}
		}
	}
	return false
}

// encodings lists the forms in which a server may write a secret that no unescaping takes back: base64, hexadecimal,
// and the bytes as decimal numbers, as Node prints a Buffer.
func encodings(secret string) []string {
	forms := append(decodings(secret), hex.EncodeToString([]byte(secret)))
	// In base64, a secret reads in three ways, by where in a group of three bytes it begins.
	for before := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte("..."[:before] + secret))
		forms = append(forms, encoded[(before*8+5)/6:(before+len(secret))*8/6])
	}
	var decimal strings.Builder
	for _, b := range []byte(secret) {
		decimal.WriteString(strconv.Itoa(int(b)))
	}
	return append(forms, decimal.String())
}

// decodings returns text, and what it reads as without up to three layers of JSON's, HTML's and URLs' escapes.
func decodings(text string) []string {
	all := []string{text}
	for range 3 {
		decoded := escape.ReplaceAllStringFunc(html.UnescapeString(text), unescape)
		if decoded == text {
			break
		}
		text = decoded
		all = append(all, text)
	}
	return all
}

var escape = regexp.MustCompile(`(\\u[0-9A-Fa-f]{4})+|\\x[0-9A-Fa-f]{2}|\\[^ux]|(%[0-9A-Fa-f]{2})+`)

// unescape decodes one escape of JSON (RFC 8259, section 7), of Go or of URLs (RFC 3986, section 2.1).
func unescape(escaped string) string {
	switch {
	case strings.HasPrefix(escaped, "%"):
		decoded, _ := hex.DecodeString(strings.ReplaceAll(escaped, "%", ""))
		return string(decoded)
	case strings.HasPrefix(escaped, `\u`):
		return unescapeUTF16(escaped)
	}
	if decoded, err := strconv.Unquote(`"` + escaped + `"`); err == nil {
		return decoded
	}
	return escaped[1:]
}

// unescapeUTF16 decodes a run of \uXXXX, in which a character beyond the basic plane is a pair of surrogates.
func unescapeUTF16(escaped string) string {
	var units []uint16
	for _, digits := range strings.Split(escaped, `\u`)[1:] {
		unit, _ := strconv.ParseUint(digits, 16, 16) // the pattern has checked the digits
		units = append(units, uint16(unit))
	}
	return string(utf16.Decode(units))
}

// lettersOf keeps letters and digits, in lower case, and beyond ASCII all that Printable keeps: an invisible character
// must not split a secret.
func lettersOf(text string) string {
	return strings.Map(func(r rune) rune {
		r = unicode.ToLower(r)
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r >= utf8.RuneSelf && r != utf8.RuneError && unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
}

// Printable removes control characters and what is not UTF-8, and cuts the rest at limit characters.
func Printable(text string, limit int) string {
	var kept strings.Builder
	count := 0
	for _, r := range text {
		switch {
		case count == limit:
			return kept.String() + "…"
		case unicode.IsSpace(r):
			r = ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			continue
		}
		kept.WriteRune(r)
		count++
	}
	return kept.String()
}
