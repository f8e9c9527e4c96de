package consoletest

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Secrets for tests. Each holds the word canary, which no encoding of text changes; all are shorter than what is taken
// for a key by its look alone, and have in them what encodings differ in.
const (
	CanaryKey          = `canary"k&y<%>/+~`
	CanaryPassword     = `canary "p&ss/wörd' +%`
	CanaryClientSecret = `canary/s3cr~t?&=`
	// CanarySignature ends the JWTs that tests make up.
	CanarySignature = "canary-signature"
)

// NewCanaryConsole returns a Console with the default organization, key ID and bot user, but the canary secrets.
func NewCanaryConsole() *Console {
	console := New(WithKeys(Key{ID: DefaultAPIKeyID, Secret: CanaryKey}))
	console.AddBotUser(BotUser{
		Username: DefaultUsername, Password: CanaryPassword,
		ClientID: DefaultClientID, ClientSecret: CanaryClientSecret,
	})
	return console
}

// MadeUpJWT returns a JWT with this payload, whatever it is.
func MadeUpJWT(payload string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"HS256"}`)) + "." + encode([]byte(payload)) + "." + CanarySignature
}

// TraceOfCanary finds the word canary in a text, also where base64, hexadecimal or a list of bytes hides it. It returns
// what it found.
func TraceOfCanary(text string) string {
	lower := strings.ToLower(text)
	for _, trace := range []string{"canary", hex.EncodeToString([]byte("canary"))} {
		if strings.Contains(lower, trace) {
			return trace
		}
	}
	if decimal := "999711097114121"; strings.Contains(digits(text), decimal) {
		return decimal
	}
	// What base64 makes of the word depends on where in a group of three bytes it begins.
	for before := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", before) + "canary"))
		whole := encoded[(before*8+5)/6 : (before+len("canary"))*8/6]
		if strings.Contains(strings.Join(strings.Fields(text), ""), whole) { // it may come in lines
			return whole
		}
	}
	return ""
}

// digits returns the decimal digits of a text, in which a list of bytes shows.
func digits(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, text)
}

// Echoes are the ways in which servers give back what they were sent.
var Echoes = map[string]func(string) string{
	"plain":                 func(s string) string { return s },
	"JSON":                  func(s string) string { b, _ := json.Marshal(s); return string(b) },
	"JSON, not for HTML":    jsonPlain,
	"JSON in ASCII":         jsonASCII,
	"HTML":                  html.EscapeString,
	"HTML by name":          strings.NewReplacer(`&`, "&amp;", `<`, "&lt;", `>`, "&gt;", `"`, "&quot;", `'`, "&#039;").Replace,
	"a query":               url.QueryEscape,
	"a path":                url.PathEscape,
	"a query in lower case": func(s string) string { return strings.ReplaceAll(lowerPercent(url.QueryEscape(s)), "+", "%20") },
	"base64":                func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64 without =":      func(s string) string { return base64.RawStdEncoding.EncodeToString([]byte(s)) },
	"base64url":             func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) },
	"base64url without =":   func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"a header in base64":    func(s string) string { return folded(base64.StdEncoding, "X-API-Key: "+s+"\r\n") },
	"a header in base64url": func(s string) string { return folded(base64.RawURLEncoding, "X-Key: "+s+"\r\n") },
	"in upper case":         strings.ToUpper,
	"a Go string":           strconv.Quote,
	"with control characters": func(s string) string {
		return s[:3] + "\x00\x1b\u200b" + s[3:]
	},
	"with a line break": func(s string) string {
		runes := []rune(s)
		return string(runes[:7]) + "\n" + string(runes[7:])
	},
	"Node's Buffer": nodeBuffer,
}

// folded is base64 in lines that are too short to look like a key.
func folded(encoding *base64.Encoding, s string) string {
	return regexp.MustCompile(`.{20}`).ReplaceAllString(encoding.EncodeToString([]byte(s)), "$0\n")
}

// nodeBuffer is how Node writes a Buffer as JSON.
func nodeBuffer(s string) string {
	var numbers []string
	for _, b := range []byte(s) {
		numbers = append(numbers, strconv.Itoa(int(b)))
	}
	return `{"type":"Buffer","data":[` + strings.Join(numbers, ",") + `]}`
}

func jsonPlain(s string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(s)
	return strings.TrimSpace(b.String())
}

// jsonASCII is JSON in which every character beyond ASCII is escaped, as a pair of surrogates where it needs two.
func jsonASCII(s string) string {
	var b strings.Builder
	for _, r := range jsonPlain(s) {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			_, _ = fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// lowerPercent writes the escapes of a URL in lower case.
func lowerPercent(s string) string {
	parts := strings.Split(s, "%")
	for i := 1; i < len(parts); i++ {
		parts[i] = strings.ToLower(parts[i][:2]) + parts[i][2:]
	}
	return strings.Join(parts, "%")
}
