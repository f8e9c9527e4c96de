package snowplow

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

// writeOperation describes a write of config or of a role. Only the active node of the primary cluster can write storage.
func (b *backend) writeOperation(verb, suffix, summary string) *framework.PathOperation {
	return &framework.PathOperation{
		Callback: b.write,
		Summary:  summary,
		Responses: map[int][]framework.Response{
			http.StatusNoContent: {{Description: "The fields are stored."}},
			http.StatusOK:        {{Description: "The fields are stored; the answer has warnings."}},
		},
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: verb, OperationSuffix: suffix},
	}
}

// deleteOperation describes the deletion of config or of a role.
func (b *backend) deleteOperation(suffix, summary, answer string) *framework.PathOperation {
	operation := b.writeOperation("delete", suffix, summary)
	operation.Callback, operation.Responses = b.delete, noContent(answer)
	return operation
}

// exists decides whether Vault treats a write as a create or an update. A damaged entry counts as existing.
func (b *backend) exists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	path := entries{name: roleWritten(data)}.path()
	entry, err := req.Storage.Get(ctx, path)
	if err != nil {
		return false, fmt.Errorf("reading %s from storage: %w", path, err)
	}
	return entry != nil, nil
}

// roleWritten returns the role that a request writes or deletes, empty for config.
func roleWritten(data *framework.FieldData) string {
	if data.Schema["name"] == nil {
		return ""
	}
	return data.Get("name").(string)
}

// merge returns the entries as the write leaves them, and warnings for the operator. Its errors are the caller's to correct.
func (e entries) merge(in *input) (after entries, warnings []string, err error) {
	after = e
	if e.name == "" {
		after.config = newConfigEntry()
		if e.config != nil {
			*after.config = *e.config
		}
		warnings, err = after.config.apply(in)
	} else {
		after.role = &roleEntry{}
		if e.role != nil {
			*after.role = *e.role
		}
		warnings, err = after.role.apply(in, e.config)
	}
	if err != nil && !errors.Is(err, errConfigNotWritten) {
		err = invalidf("%w", err)
	}
	return after, warnings, err
}

// verification is the exchange that verifies a write.
type verification struct {
	target target
	number uint64         // of the exchange, drawn from the cache
	token  *console.Token // nil: none was made yet
}

// write merges the fields of a request into config or a role, verifies the result and stores it. The verification
// happens outside of any lock, so another write may come in between; then it begins again from what that one has stored.
func (b *backend) write(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	in, err := readInput(req, data)
	if err != nil {
		return nil, err
	}
	role, patch := roleWritten(data), req.Operation == logical.PatchOperation
	var verified verification
	existed := false
	for {
		before, err := loadEntries(ctx, req.Storage, role)
		if err != nil {
			return nil, err
		}
		path, _, exists := before.written()
		switch {
		case !exists && existed:
			return nil, invalidf("%s was deleted while the new values were being verified, so nothing was stored: write it again if it should exist", path)
		case !exists && patch && role == "":
			return nil, errConfigNotWritten
		case !exists && patch:
			return nil, unknownRole(req.MountPoint, role)
		}
		existed = exists
		after, warnings, err := before.merge(in)
		if err != nil {
			return nil, err
		}
		if verified.target != after.target() {
			verified = verification{target: after.target()} // another write changed what was verified
		}
		needed := verified.target != target{} && verified.target != before.target() && in.flag("verify_connection")
		if needed && verified.token == nil {
			if verified, err = b.verifyWrite(ctx, req.MountPoint, before, after); err != nil {
				return nil, err
			}
		}
		stored, err := b.store(ctx, req.Storage, before, after)
		if err != nil {
			return nil, err
		}
		if stored {
			b.sendWriteEvent(req.Path, role, "write")
			b.warmUp(ctx, after, verified)
			return answerTo(warnings), nil
		}
	}
}

// verifyWrite makes one exchange with the credential as a write leaves it. If Snowplow refuses a key that is already
// stored, its cached JWT is dropped.
func (b *backend) verifyWrite(ctx context.Context, mount string, before, after entries) (verification, error) {
	to, stored := after.target(), before.target()
	key := to.key(after.path())
	number := b.cache.Verifying(key)
	token, err := b.verify(ctx, to, after.config.RequestTimeout, mount+after.path())
	if err == nil {
		return verification{to, number, &token}, nil
	}
	var failed *console.Error
	if errors.As(err, &failed) && failed.Reason == console.ReasonRefused && to.endpoints == stored.endpoints && to.credential.SameKey(stored.credential) {
		b.cache.Refuse(ctx, stored.key(before.path()), failed)
	}
	return verification{}, fmt.Errorf("verifying the connection failed, so nothing was stored: %w", err)
}

// store stores what a write leaves and puts it into effect. If storage no longer matches before, it does neither.
func (b *backend) store(ctx context.Context, storage logical.Storage, before, after entries) (stored bool, err error) {
	unlock, err := b.lockWrites(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	now, err := loadEntries(ctx, storage, before.name)
	if err != nil || !reflect.DeepEqual(now, before) {
		return false, err
	}
	path, entry, _ := after.written()
	// Storage may have stored the entry even if it reports a failure.
	defer b.changed(path)
	return true, store(ctx, storage, path, entry)
}

// warmUp caches the JWT of a verification, and drops those of the credential that was replaced.
func (b *backend) warmUp(ctx context.Context, after entries, verified verification) {
	if verified.token == nil {
		_ = b.cache.Settle(ctx, after.path()) // the sweep tries again
		return
	}
	token := verified.token
	if after.reusePeriod() == 0 {
		token = nil
	}
	b.cache.Verified(ctx, verified.target.key(after.path()), verified.number, token)
}

// delete deletes config or a role.
func (b *backend) delete(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	role := roleWritten(data)
	path := entries{name: role}.path()
	unlock, err := b.lockWrites(ctx)
	if err != nil {
		return nil, err
	}
	err = req.Storage.Delete(ctx, path)
	b.changed(path) // the entry may be gone even if storage reports a failure
	if role != "" {
		b.stats.Delete(role)
	}
	unlock()
	if err != nil {
		return nil, fmt.Errorf("deleting %s from storage: %w", path, err)
	}
	b.sendWriteEvent(req.Path, role, "delete")
	_ = b.cache.Settle(ctx, path) // the JWT is already unreachable; the sweep tries again
	return nil, nil
}

// answerTo answers a write: without content unless there are warnings.
func answerTo(warnings []string) *logical.Response {
	if len(warnings) == 0 {
		return nil
	}
	return &logical.Response{Warnings: warnings}
}
