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

// excerpt is what may be shown of text that a server sent: what presentable leaves, without anything that looks like
// a key or a JWT.
func excerpt(text string, limit int, secrets []string) string {
	return printable(opaqueRun.ReplaceAllLiteralString(presentable(text, len(text)+len(withheld), secrets), redacted), limit)
}

// presentable is text as one printable line of at most limit characters; nothing of it if it repeats a secret.
func presentable(text string, limit int, secrets []string) string {
	if repeatsAny(text, secrets) {
		return printable(withheld, limit)
	}
	return printable(strings.Join(strings.Fields(printable(text, len(text))), " "), limit)
}

// repeatsAny says whether text holds one of the secrets, in whatever of the usual encodings servers echo a request in.
// They are compared by letters and digits alone, as they are and decoded: encodings differ in the rest.
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
			contains := func(text string) bool { return strings.Contains(text, view) }
			if slices.ContainsFunc(decoded, contains) {
				return true
			}
			if view = lettersOf(view); view != "" && slices.ContainsFunc(letters, contains) {
				return true
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
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
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
