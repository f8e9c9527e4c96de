package snowplow

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/hashicorp/vault/sdk/helper/useragent"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

// newClient makes the client that exchanges are made with.
func (b *backend) newClient(ctx context.Context, caCert string) (*console.Client, error) {
	transport, err := b.newTransport(caCert)
	if err != nil {
		return nil, fmt.Errorf("connecting to Snowplow Console: %w", err)
	}
	agent := pluginName + "/" + Version
	// Best effort: OpenBao and older servers may not report it.
	if env, err := b.System().PluginEnv(ctx); err == nil && env != nil {
		agent = useragent.PluginString(env, agent)
	}
	return console.NewClient(transport, agent), nil
}

// exchangeFor returns one exchange with a role's credential, on behalf of a reader of path, logged and counted.
func (b *backend) exchangeFor(role *resolvedRole, path string) tokencache.Exchange {
	return func(ctx context.Context, retry func() bool) (console.Token, error) {
		started := time.Now()
		token, err := role.connection.client.Exchange(ctx, console.Request{
			Credential: role.target.credential,
			Endpoints:  role.target.endpoints,
			Timeout:    role.connection.RequestTimeout,
			Retry:      retry,
		})
		duration := time.Since(started)
		b.statsOf(role.name).exchanged(started, duration, err)
		var failed *console.Error
		switch {
		case errors.As(err, &failed):
			b.sendEvent("token-exchange-failed", path, role.name, "reason", string(failed.Reason))
			b.Logger().Warn("exchanging a credential for a token failed", "path", path, "duration", duration.String(), "error", err)
		case err == nil:
			b.Logger().Debug("exchanged a credential for a token", "path", path, "duration", duration.String(), "valid_until", token.ExpiresAt)
		}
		return token, err
	}
}

// verify makes one exchange within timeout, for a write at path.
func (b *backend) verify(ctx context.Context, to target, timeout time.Duration, path string) (console.Token, error) {
	client, err := b.newClient(ctx, to.caCert)
	if err != nil {
		return console.Token{}, err
	}
	defer client.Close()
	started := time.Now()
	token, err := client.Exchange(ctx, console.Request{
		Credential: to.credential,
		Endpoints:  to.endpoints,
		Timeout:    timeout,
		Retry:      func() bool { return true },
	})
	if err == nil {
		return token, nil
	}
	b.Logger().Warn("verifying a credential failed", "path", path, "duration", time.Since(started).String(), "error", err)
	var failed *console.Error
	if !errors.As(err, &failed) {
		return console.Token{}, err
	}
	err = withRemedy(failed, path, to, time.Now().Add(max(failed.RetryAfter, tokencache.FirstBackOff)))
	if failed.Transient() {
		err = fmt.Errorf("%w; to store the new values without this check, add verify_connection=false", err)
	}
	return console.Token{}, err
}

// withReadersRemedy is withRemedy for those who may not be able to write the credential.
func withReadersRemedy(err error, path string, to target, retryAt time.Time) error {
	var failed *console.Error
	if !errors.As(err, &failed) {
		return err
	}
	remedy := withRemedy(failed, path, to, retryAt)
	if failed.Reason == console.ReasonRefused || failed.Reason == console.ReasonUnknownOrganization {
		return fmt.Errorf("%w, %s", remedy, orAsk)
	}
	return remedy
}

// orAsk ends a message that gives the command to write a credential.
const orAsk = "or ask whoever manages the engine"

// withRemedy appends what to do about a failed exchange: how to write the credential at path, or to wait until retryAt.
func withRemedy(failed *console.Error, path string, to target, retryAt time.Time) error {
	switch failed.Reason {
	case console.ReasonRefused:
		const where = "Console under " + console.KeysPage
		switch to.credential.Version {
		case console.V1:
			return fmt.Errorf("%w: check that username, password, client_id and client_secret belong together and are complete, and write them with 'vault write %s username=<NAME> password=@<file> client_id=<ID> client_secret=@<file>'", failed, path)
		case console.V2:
			return fmt.Errorf("%w: check that api_key is complete and was not deleted; create a new Snowplow API key in %s, and write it with 'vault write %s credentials_version=v3 api_key_id=<ID> api_key=@<file>'", failed, where, path)
		default:
			return fmt.Errorf("%w: check that api_key_id and api_key belong together and are complete; create a new Snowplow API key in %s, and write it with 'vault write %s api_key_id=<ID> api_key=@<file>'", failed, where, path)
		}
	case console.ReasonRateLimited:
		// Rounded up: Vault answers with an error before that.
		return fmt.Errorf("%w: try again after %s", failed, retryAt.Add(time.Second-1).UTC().Format(time.RFC3339))
	case console.ReasonUnknownOrganization:
		alsoCheck := ""
		if u, parseErr := url.Parse(to.endpoints.ConsoleURL); parseErr == nil && u.Path != "" {
			alsoCheck = ", and check console_url, which has a path"
		}
		return fmt.Errorf("%w: find the right ID on Console's Manage organization page and write it with 'vault write %s organization_id=<UUID>'%s", failed, path, alsoCheck)
	default:
		return failed
	}
}
