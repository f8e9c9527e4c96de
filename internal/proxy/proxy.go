// Package proxy chooses the proxy of a request from the environment, as net/http does but for two things: no spelling of
// a loopback address is ever proxied, and a variable that is not a URL fails the request instead of being ignored.
package proxy

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// VariableError reports that the variable which decides on the proxy is not a URL. It does not contain the value, which
// can hold a password.
type VariableError struct{ Name string }

func (e VariableError) Error() string {
	return "the proxy variable " + e.Name + " is not a valid URL (write a % in its user name or password as %25)"
}

// ConnectError reports that a proxy refused a tunnel. Go would quote the proxy's own words, which can repeat the password
// for it.
type ConnectError struct{ Status int }

func (e ConnectError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the proxy answered with status %d %s", e.Status, http.StatusText(e.Status)))
}

// Configure makes a transport use the environment's proxies.
func Configure(transport *http.Transport) {
	transport.Proxy = fromEnvironment
	transport.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
		if answer.StatusCode == http.StatusOK {
			return nil
		}
		return ConnectError{answer.StatusCode}
	}
}

// fromEnvironment reads the environment at each call.
func fromEnvironment(request *http.Request) (*url.URL, error) {
	target := request.URL
	if IsLoopback(target.Hostname()) {
		return nil, nil
	}
	name, value := variable(target.Scheme)
	chosen, err := choose(target, value)
	if err != nil || value == "" || chosen != nil && chosen.Hostname() != "" && !isMalformed(value) {
		return chosen, err
	}
	// The value is no URL, or NO_PROXY excludes the target: then a valid URL changes nothing.
	if chosen, err := choose(target, "http://proxy.invalid"); chosen == nil {
		return nil, err
	}
	return nil, VariableError{name}
}

// isMalformed reports whether a value has a scheme and is no URL, as with an unescaped # in a password. With another
// scheme in front of it, golang.org/x/net can parse it, and takes "http" for the proxy's host.
func isMalformed(value string) bool {
	_, err := url.Parse(value)
	return err != nil && strings.Contains(value, "://")
}

// variable returns the variable for a scheme or for exceptions (NO_PROXY), with its value. The name in upper case wins, as
// in net/http; golang.org/x/net prefers the other by itself.
func variable(kind string) (name, value string) {
	name = strings.ToUpper(kind) + "_PROXY"
	if value = os.Getenv(name); value == "" {
		name = strings.ToLower(name)
		value = os.Getenv(name)
	}
	return name, value
}

// choose decides as net/http does whether a target is proxied. The result is nil if it is not, or if proxy is no URL.
func choose(target *url.URL, proxy string) (*url.URL, error) {
	_, exceptions := variable("no")
	config := httpproxy.Config{HTTPProxy: proxy, HTTPSProxy: proxy, NoProxy: exceptions, CGI: os.Getenv("REQUEST_METHOD") != ""}
	return config.ProxyFunc()(target)
}

// IsLoopback reports whether a host is this machine: localhost in any case, or a loopback address.
func IsLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && address.IsLoopback()
}
