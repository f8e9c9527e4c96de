package snowplow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// verify makes one exchange with the new values of a write at path, unless the write says not to.
func (b *backend) verify(ctx context.Context, in input, path string, config configEntry, cred credential) error {
	if !in.flag("verify_connection") {
		return nil
	}
	client, err := b.newClient(ctx, config.CACert)
	if err != nil {
		return err
	}
	defer client.close()
	started := time.Now()
	if _, err := client.exchange(ctx, cred, config.endpoints, config.RequestTimeout); err != nil {
		b.Logger().Warn("verifying a credential failed", "path", path, "duration", time.Since(started).String(), "error", err)
		return fmt.Errorf("verifying the connection failed, so nothing was stored: %w", withRemedy(err, path, cred))
	}
	return nil
}

// withRemedy adds to a failed exchange what those can do who may write the credential, which is stored at path.
func withRemedy(err error, path string, cred credential) error {
	var failed *failure
	if !errors.As(err, &failed) {
		return err
	}
	switch failed.kind {
	case failureRefused:
		version := ""
		if cred.Version != versionV3 {
			version = " credentials_version=v3" // new keys are for v3
		}
		return fmt.Errorf("%w: make a new key in Console under Settings > Manage organization > API keys, and write it with 'vault write %s%s api_key_id=<ID> api_key=<key>'", err, path, version)
	case failureUnknownOrganization:
		return fmt.Errorf("%w: find the right ID on Console's Manage organization page, and write it with 'vault write %s organization_id=<UUID>'", err, path)
	default:
		return err
	}
}

// store writes an entry to storage, whole or not at all.
func store(ctx context.Context, storage logical.Storage, key string, entry any) error {
	encoded, err := logical.StorageEntryJSON(key, entry)
	if err != nil {
		return fmt.Errorf("encoding %s for storage: %w", key, err)
	}
	if err := storage.Put(ctx, encoded); err != nil {
		return fmt.Errorf("writing %s to storage: %w", key, err)
	}
	return nil
}

// warn is the answer to a write: without content unless there is something that the operator should know.
func warn(warnings []string) *logical.Response {
	if len(warnings) == 0 {
		return nil
	}
	resp := &logical.Response{}
	for _, warning := range warnings {
		resp.AddWarning(warning)
	}
	return resp
}

func droppedWarning(fields []string, version string) string {
	return fmt.Sprintf("credentials_version %s has no use for %s: what was stored of it is deleted", version, strings.Join(fields, ", "))
}
