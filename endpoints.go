package snowplow

import (
	"cmp"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Snowplow's public hosts.
const (
	defaultConsoleURL = "https://console.snowplowanalytics.com"
	defaultAuthURL    = "https://id.snowplowanalytics.com"
)

// endpoints are the URLs that a mount talks to.
type endpoints struct {
	ConsoleURL string `json:"console_url"`
	AuthURL    string `json:"auth_url"`
}

// of is the URL that a credential of this version is sent to, with the name of its field.
func (e endpoints) of(version string) (field, target string) {
	if version == versionV1 {
		return "auth_url", e.AuthURL
	}
	return "console_url", e.ConsoleURL
}

// parseEndpoint checks a URL that an operator wrote, and takes off slashes at its end. Its errors do not repeat the
// URL: one with a user part can hold a password.
func parseEndpoint(field, raw string) (string, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil, u.Opaque != "", u.Hostname() == "", !validPort(u):
		return "", invalidf("%s is not a URL: accepted is one like %s", field, defaultConsoleURL)
	case !validHost(u.Hostname()):
		return "", invalidf("%s has a host with other characters than a host name in DNS has: write an international name as xn--…", field)
	case u.User != nil, strings.ContainsAny(raw, "?#@"):
		return "", invalidf("%s has a query, a fragment or a user part: accepted are scheme, host, port and path alone", field)
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return strings.TrimRight(raw, "/"), nil
	default:
		return "", invalidf("%s is not https: accepted are https, and http to a loopback address", field)
	}
}

var asciiName = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// validHost says whether host is a name or an address that net/http sends as it is. It maps any other by rules of its
// own, by which names that look different can be the same, and the other way round.
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

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && address.Unmap().IsLoopback()
}

// origin is the scheme, host and port of a URL (RFC 6454, section 4), empty if it has none that can be compared. A
// dot at the end of the host makes another origin on purpose: resolvers may look the two names up differently.
func origin(target string) string {
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
