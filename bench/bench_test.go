// Package bench_test measures the engine's handlers without Vault.
package bench_test

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	snowplow "github.com/snowplow-vault/vault-plugin-secrets-snowplow"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/bench/baseline"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// BenchmarkRead reads a cached token through the handlers and the framework, as many readers at a time as -cpu says.
func BenchmarkRead(b *testing.B) {
	config := map[string]any{
		"organization_id": consoletest.DefaultOrganizationID,
		"api_key_id":      consoletest.DefaultAPIKeyID,
		"api_key":         consoletest.DefaultAPIKey,
		"console_url":     consoletest.NewServer(b).URL,
	}
	for name, factory := range map[string]logical.Factory{"engine": snowplow.Factory, "baseline": baseline.Factory} {
		b.Run(name, func(b *testing.B) {
			storage := &logical.InmemStorage{}
			backend, err := factory(b.Context(), &logical.BackendConfig{StorageView: storage, System: &logical.StaticSystemView{}})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { backend.Cleanup(b.Context()) })
			request := func(operation logical.Operation, path string, data map[string]any) {
				resp, err := backend.HandleRequest(b.Context(), &logical.Request{Operation: operation, Path: path, Storage: storage, Data: data})
				if err != nil || resp.IsError() {
					b.Errorf("%s %s: %v, %v", operation, path, resp, err)
				}
			}
			if name == "engine" {
				request(logical.UpdateOperation, "config", config)
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					request(logical.ReadOperation, "token", nil)
				}
			})
		})
	}
}
