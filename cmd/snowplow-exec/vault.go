package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/cliconfig"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/proxy"
)

const (
	maxTokenLength = 16 << 10
	maxServerText  = 500 // characters of an answer of Vault's in an error
)

var (
	roleName    = regexp.MustCompile(`^\w(?:[\w.-]*\w)?$`)
	mountPath   = regexp.MustCompile(`^[\w.~@+:-]+(?:/[\w.~@+:-]+)*$`)
	bearerToken = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`) // b64token of RFC 6750, section 2.1
)

// vaultReader reads tokens with the caller's own Vault login.
type vaultReader struct {
	client  *api.Client
	helper  bool // the login is the token helper's, and VAULT_TOKEN is not set
	path    string
	address string // without a password
	logger  hclog.Logger
}

// newVaultReader takes its settings from the environment, as the vault program does.
func newVaultReader(mount, role string, logger hclog.Logger) (*vaultReader, error) {
	mount = strings.Trim(mount, "/")
	if !mountPath.MatchString(mount) || strings.Contains("/"+mount+"/", "/../") || strings.Contains("/"+mount+"/", "/./") {
		return nil, fmt.Errorf("-mount (or %s) is %q: it must be the path of a mount, for example snowplow", mountVariable, mount)
	}
	path := mount + "/token"
	if role != "" {
		if !roleName.MatchString(role) {
			return nil, fmt.Errorf("-role (or %s) is %q, which is not a role name: it may contain letters, digits and underscores, and between them dots and hyphens", roleVariable, role)
		}
		path += "/" + role
	}
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, settingsError(config.Error)
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, settingsError(err)
	}
	address, err := url.Parse(client.Address())
	if err != nil || address.Host == "" {
		return nil, settingsError(&url.Error{})
	}
	return &vaultReader{client: client, helper: client.Token() == "", path: path, address: address.Redacted(), logger: logger}, nil
}

// settingsError quotes no URL that cannot be parsed: it may contain a password.
func settingsError(err error) error {
	if errors.As(err, new(*url.Error)) {
		err = errors.New("an address is not a URL such as https://vault.example.com:8200 (write a % in its user name or password as %25)")
	}
	return fmt.Errorf("cannot use the settings for Vault in the environment: %w", err)
}

// read reads one token.
func (r *vaultReader) read(ctx context.Context) (*token, error) {
	if r.helper {
		// Anew for each read: the user may have logged in again.
		login, err := tokenFromHelper()
		if err != nil {
			return nil, refusalError{fmt.Errorf("cannot get the Vault login from the token helper: %w; repair it, or set VAULT_TOKEN", err)}
		}
		r.client.SetToken(login)
	}
	asked := wallClock()
	secret, err := r.client.Logical().ReadWithContext(ctx, r.path)
	if err != nil {
		return nil, r.explain(err)
	}
	if secret == nil {
		return nil, r.nothingThere()
	}
	for _, warning := range secret.Warnings {
		r.logger.Warn("Vault warns", "path", r.path, "warning", oneLine(warning))
	}
	return r.parse(secret, asked)
}

func tokenFromHelper() (string, error) {
	helper, err := cliconfig.DefaultTokenHelper()
	if err != nil {
		return "", err
	}
	login, err := helper.Get()
	return strings.TrimSpace(login), err
}

// parse makes a token of what Vault has answered. It does not trust the path to be one of the Snowplow secrets engine.
func (r *vaultReader) parse(secret *api.Secret, asked time.Time) (*token, error) {
	text := func(name string) string {
		value, _ := secret.Data[name].(string)
		return value
	}
	t := &token{jwt: text("access_token"), organizationID: text("organization_id")}
	if t.jwt == "" || t.organizationID == "" || text("console_url") == "" {
		return nil, refusalError{fmt.Errorf("%s does not hold a token of the Snowplow secrets engine: set -mount to where that is mounted", r.path)}
	}
	if len(t.jwt) > maxTokenLength || !bearerToken.MatchString(t.jwt) {
		return nil, refusalError{fmt.Errorf("the access_token at %s is not a Bearer token", r.path)}
	}
	consoleURL, err := parseConsoleURL(text("console_url"))
	if err != nil {
		return nil, refusalError{fmt.Errorf("cannot use the console_url at %s: %w", r.path, err)}
	}
	t.consoleURL = consoleURL

	lease := time.Duration(secret.LeaseDuration) * time.Second
	t.leaseEnd = asked.Add(lease)
	t.refreshAt = asked.Add(time.Duration(refreshAfter * float64(lease)))
	t.expiresAt = t.leaseEnd
	if expiresAt, err := time.Parse(time.RFC3339, text("expires_at")); err == nil {
		t.expiresAt = expiresAt
	}
	return t, nil
}

// parseConsoleURL applies the engine's rule, so that the JWT cannot leave unencrypted whatever Vault answers.
func parseConsoleURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("it must be a URL of a scheme, a host and, if need be, a path")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !proxy.IsLoopback(u.Hostname())) {
		return nil, fmt.Errorf("%s must begin with https (http only on a loopback address)", raw)
	}
	return u, nil
}

func (r *vaultReader) nothingThere() error {
	return refusalError{fmt.Errorf("there is nothing at %s in Vault at %s: set -mount to where the Snowplow secrets engine is mounted (and VAULT_NAMESPACE to its namespace)", r.path, r.address)}
}

// explain says in one line what went wrong and what to do.
func (r *vaultReader) explain(err error) error {
	const logIn = `run "vault login", or set VAULT_TOKEN`
	var response *api.ResponseError
	if !errors.As(err, &response) {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err // without the URL, which is in the message already
		}
		return fmt.Errorf("cannot reach Vault at %s: %w; check VAULT_ADDR, the network, and VAULT_CACERT if a private CA signed its certificate", r.address, err)
	}
	said := oneLine(strings.Join(response.Errors, "; "))
	loggedIn := r.client.Token() != ""
	switch {
	case !loggedIn && (response.StatusCode == http.StatusForbidden || response.StatusCode == http.StatusBadRequest):
		return refusalError{fmt.Errorf("not logged in to Vault at %s: %s", r.address, logIn)}
	// A token that is not valid: Vault 1.21 says so; Vault 1.16 and OpenBao then say nothing else, while they answer a valid
	// token without the policy with "1 error occurred: * permission denied".
	case response.StatusCode == http.StatusForbidden && (said == "permission denied" || strings.Contains(said, "invalid token")):
		return refusalError{fmt.Errorf("the login to Vault at %s has expired or is not valid there: %s", r.address, logIn)}
	case response.StatusCode == http.StatusForbidden:
		return refusalError{fmt.Errorf("the login to Vault at %s may not read %s (%s): check -role and -mount, or ask for a policy that grants read on that path", r.address, r.path, said)}
	case response.StatusCode == http.StatusNotFound:
		return r.nothingThere()
	case response.StatusCode == http.StatusTooManyRequests, response.StatusCode >= 500:
		return fmt.Errorf("could not read %s from Vault at %s just now (status %d): %s", r.path, r.address, response.StatusCode, said)
	default:
		return refusalError{fmt.Errorf("could not read %s from Vault at %s (status %d): %s", r.path, r.address, response.StatusCode, said)}
	}
}

// oneLine makes a short, printable line of what a server has said.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)), " ")
	if runes := []rune(text); len(runes) > maxServerText {
		return string(runes[:maxServerText]) + "…"
	}
	return text
}
