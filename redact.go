package snowplow

import (
	"encoding/base64"
	"encoding/hex"
	"html"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	redacted = "[redacted]"
	withheld = "(not shown: it repeats the credential)"
)

// opaqueRun is what a key or a JWT looks like in any encoding: long, and without a break.
var opaqueRun = regexp.MustCompile(`[A-Za-z0-9+/=_~.%-]{24,}`)

// excerpt is what may be shown of text that a server sent: one printable line of at most limit characters, without
// anything that looks like a key or a JWT, and nothing of it if it repeats a secret. Of text that is not whole, it shows
// the first half at most: a part of a secret may stand at its end.
func excerpt(text string, whole bool, limit int, secrets []string) string {
	if repeatsAny(text, secrets) {
		return printable(withheld, limit)
	}
	if !whole {
		text = text[:len(text)/2]
	}
	line := strings.Join(strings.Fields(printable(text, len(text))), " ")
	return printable(opaqueRun.ReplaceAllLiteralString(line, redacted), limit)
}

// tellingPart is how many letters and digits in a row are taken for a part of a secret.
const tellingPart = 8

// repeatsAny says whether text holds one of the secrets or a telling part of it, in whatever of the usual encodings
// servers echo a request in. They are compared by letters and digits of ASCII, as they are and decoded: encodings
// differ in the rest.
func repeatsAny(text string, secrets []string) bool {
	decoded := decodings(text)
	var letters []string
	for _, view := range decoded {
		letters = append(letters, lettersOf(view))
	}
	for _, secret := range secrets {
		views := decodings(secret)
		for _, encode := range []func([]byte) string{base64.StdEncoding.EncodeToString, base64.URLEncoding.EncodeToString, hex.EncodeToString} {
			views = append(views, encode([]byte(secret)))
		}
		for _, view := range views {
			if slices.ContainsFunc(decoded, func(text string) bool { return strings.Contains(text, view) }) {
				return true
			}
			view = lettersOf(view)
			if view == "" {
				continue
			}
			for part := range max(1, len(view)-tellingPart+1) {
				window := view[part:min(part+tellingPart, len(view))]
				if slices.ContainsFunc(letters, func(text string) bool { return strings.Contains(text, window) }) {
					return true
				}
			}
		}
	}
	return false
}

// decodings is text, and what it reads as after taking off up to three layers of JSON's, HTML's and URLs' escapes.
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

// unescape takes off one escape of JSON (RFC 8259, section 7), of Go or of URLs (RFC 3986, section 2.1).
func unescape(escaped string) string {
	if strings.HasPrefix(escaped, "%") {
		decoded, _ := hex.DecodeString(strings.ReplaceAll(escaped, "%", ""))
		return string(decoded)
	}
	if decoded, err := strconv.Unquote(`"` + escaped + `"`); err == nil {
		return decoded
	}
	return escaped[1:]
}

func lettersOf(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return -1
	}, text)
}

// printable takes out control characters and what is not UTF-8, and cuts the rest at limit characters.
func printable(text string, limit int) string {
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
