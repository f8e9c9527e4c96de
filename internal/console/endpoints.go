package console

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/proxy"
)

// Snowplow's public hosts.
const (
	DefaultConsoleURL = "https://console.snowplowanalytics.com"
	DefaultAuthURL    = "https://id.snowplowanalytics.com"
)

// Endpoints are the URLs that a mount talks to.
type Endpoints struct {
	ConsoleURL string `json:"console_url"`
	AuthURL    string `json:"auth_url"`
}

// forVersion returns the URL that a credential of this version is sent to, and the name of its field.
func (e Endpoints) forVersion(version string) (field, target string) {
	if version == V1 {
		return "auth_url", e.AuthURL
	}
	return "console_url", e.ConsoleURL
}

// ParseURL checks a URL that an operator wrote, and removes slashes at its end. Its errors do not repeat the URL: one
// with a user part can hold a password.
func ParseURL(field, raw string) (string, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil, u.Hostname() == "", !validPort(u):
		return "", fmt.Errorf("%s must be a URL like %s", field, DefaultConsoleURL)
	case !validHost(u.Hostname()):
		return "", fmt.Errorf("%s has a host that is not a valid DNS name: write international names as xn--…", field)
	case u.User != nil, strings.ContainsAny(raw, "?#@"):
		return "", fmt.Errorf("%s must not have a query, a fragment or a user part", field)
	case u.Scheme == "https", u.Scheme == "http" && proxy.IsLoopback(u.Hostname()):
		return strings.TrimRight(raw, "/"), nil
	default:
		return "", fmt.Errorf("%s must use https; http is accepted for a loopback address only", field)
	}
}

var asciiName = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// validHost reports whether host is a name or an address that net/http sends unchanged. It maps all others by its own
// rules, so that names that look different can be the same, and the other way round.
func validHost(host string) bool {
	address, err := netip.ParseAddr(host)
	return asciiName.MatchString(host) || err == nil && address.Zone() == ""
}

func validPort(u *url.URL) bool {
	if strings.HasSuffix(u.Host, ":") {
		return false
	}
	_, err := strconv.ParseUint(cmp.Or(u.Port(), "443"), 10, 16)
	return err == nil && u.Port() != "0"
}

// Origin returns the scheme, host and port of a URL (RFC 6454, section 4), or "" if it has none that can be compared.
// A dot at the end of the host makes another origin on purpose: resolvers may look the two names up differently.
func Origin(target string) string {
	u, err := url.Parse(target)
	if err != nil || !validHost(u.Hostname()) {
		return ""
	}
	scheme := strings.ToLower(u.Scheme)
	port := cmp.Or(u.Port(), map[string]string{"https": "443", "http": "80"}[scheme])
	host := strings.ToLower(u.Hostname())
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return scheme + "://" + host + ":" + port
}
