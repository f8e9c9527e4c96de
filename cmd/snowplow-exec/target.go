package main

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxUnescapes is how many layers of percent-encoding a path may have. Servers remove one or two.
const maxUnescapes = 4

// isPathTarget reports whether a request's target is a path, by itself or after an http host (RFC 9112, section 3.2),
// with at most a query. Go also accepts opaque URLs, other schemes, "*" and an authority, and would send some of them on.
func isPathTarget(r *http.Request) bool {
	originForm := strings.HasPrefix(r.RequestURI, "/")
	absoluteForm := r.URL.Scheme == "http" && r.URL.Host != "" && r.URL.User == nil
	return (originForm || absoluteForm) && !strings.Contains(r.RequestURI, "#") && isPlainPath(r.URL.Path)
}

// isPlainPath reports whether a path names the same thing to every server and to whatever stands in front of it: without
// dot segments, however escaped, and without two slashes at its beginning, which would name a host.
func isPlainPath(path string) bool {
	for range maxUnescapes {
		if strings.HasPrefix(path, "//") || strings.ContainsFunc(path, isAmbiguous) {
			return false
		}
		for segment := range strings.SplitSeq(path, "/") {
			name, _, _ := strings.Cut(segment, ";") // some servers drop what follows
			if name == "." || name == ".." {
				return false
			}
		}
		unescaped := unescape(path)
		if unescaped == path {
			return true
		}
		path = unescaped
	}
	return false
}

// isAmbiguous reports whether servers disagree on a character of a path: a backslash can be a slash, a control character
// the end, and what is not UTF-8 anything.
func isAmbiguous(r rune) bool {
	return r == '\\' || r == utf8.RuneError || unicode.IsControl(r)
}

var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// unescape removes one layer of percent-encoding. Unlike url.PathUnescape, it leaves a percent sign that begins none.
func unescape(path string) string {
	return escape.ReplaceAllStringFunc(path, func(escaped string) string {
		character, _ := url.PathUnescape(escaped) // never fails
		return character
	})
}

// isOwnHost reports whether host is the address of this listener.
func (c *console) isOwnHost(host string) bool {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.Trim(host, "[]"), "80"
	}
	own := c.address.(*net.TCPAddr)
	if port != portOf(own) {
		return false
	}
	ip, err := netip.ParseAddr(name)
	return strings.EqualFold(name, "localhost") || err == nil && ip.Unmap() == own.AddrPort().Addr().Unmap()
}
