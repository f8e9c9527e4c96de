package snowplow

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"strings"
	"unicode"
)

const redacted = "[redacted]"

// opaqueRun is what a key or a JWT looks like in any encoding: long, and without a break.
var opaqueRun = regexp.MustCompile(`[A-Za-z0-9+/=_~.%-]{24,}`)

// excerpt is what may be shown of text that a server sent: one printable line of at most limit characters, without
// the secrets and without anything else that looks like one.
func excerpt(text string, limit int, secrets []string) string {
	// Cleaned first: a secret with a control character in it would become whole by the cleaning.
	text = strings.Join(strings.Fields(printable(text, len(text))), " ")
	return printable(opaqueRun.ReplaceAllLiteralString(redact(text, secrets), redacted), limit)
}

// redact takes the secrets out of text, in the encodings that servers echo a request in.
func redact(text string, secrets []string) string {
	for _, secret := range secrets {
		quoted, _ := json.Marshal(secret)
		for _, form := range []string{
			secret,
			strings.Join(strings.Fields(secret), " "),
			string(quoted[1 : len(quoted)-1]),
			html.EscapeString(secret),
			url.QueryEscape(secret),
			url.PathEscape(secret),
			base64.StdEncoding.EncodeToString([]byte(secret)),
			base64.RawURLEncoding.EncodeToString([]byte(secret)),
		} {
			text = strings.ReplaceAll(text, form, redacted)
		}
	}
	return text
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
