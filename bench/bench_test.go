// Package bench_test measures the engine's handlers without Vault.
package bench_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	snowplow "github.com/snowplow-vault/vault-plugin-secrets-snowplow"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/bench/baseline"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// mount is a mount without Vault and without a plugin process: what is left is the handlers and the framework.
type mount struct {
	backend logical.Backend
	storage logical.Storage
}

func newMount(b *testing.B, factory logical.Factory) mount {
	b.Helper()
	storage := &logical.InmemStorage{}
	backend, err := factory(b.Context(), &logical.BackendConfig{StorageView: storage, System: &logical.StaticSystemView{}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { backend.Cleanup(context.Background()) })
	return mount{backend: backend, storage: storage}
}

func (m mount) request(b *testing.B, operation logical.Operation, path string, data map[string]any) {
	resp, err := m.backend.HandleRequest(b.Context(), &logical.Request{
		Operation: operation, Path: path, MountPoint: "snowplow/", Storage: m.storage, Data: data,
	})
	if err != nil || resp.IsError() {
		b.Errorf("%s %s: %v, %v", operation, path, resp, err)
	}
}

func (m mount) writeConfig(b *testing.B, consoleURL string) {
	m.request(b, logical.UpdateOperation, "config", map[string]any{
		"organization_id":   consoletest.DefaultOrganizationID,
		"api_key_id":        consoletest.DefaultAPIKeyID,
		"api_key":           consoletest.DefaultAPIKey,
		"console_url":       consoleURL,
		"verify_connection": false,
	})
}

func newEngine(b *testing.B) (m mount, consoleURL string) {
	b.Helper()
	console := consoletest.NewServer(b)
	m = newMount(b, snowplow.Factory)
	m.writeConfig(b, console.URL)
	m.request(b, logical.ReadOperation, "token", nil)
	return m, console.URL
}

func (m mount) reads(b *testing.B, path string) {
	b.ReportAllocs()
	for b.Loop() {
		m.request(b, logical.ReadOperation, path, nil)
	}
}

func (m mount) parallelReads(b *testing.B, path string) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.request(b, logical.ReadOperation, path, nil)
		}
	})
}

func BenchmarkTokenRead(b *testing.B) {
	m, _ := newEngine(b)
	m.reads(b, "token")
}

func BenchmarkBaselineRead(b *testing.B) { newMount(b, baseline.Factory).reads(b, "token") }

func BenchmarkTokenReadParallel(b *testing.B) {
	m, _ := newEngine(b)
	m.parallelReads(b, "token")
}

func BenchmarkBaselineReadParallel(b *testing.B) {
	newMount(b, baseline.Factory).parallelReads(b, "token")
}

func BenchmarkRoles(b *testing.B) {
	for _, roles := range []int{10, 10_000} {
		m, consoleURL := newEngine(b)
		for i := range roles {
			m.request(b, logical.CreateOperation, fmt.Sprintf("roles/role-%d", i), map[string]any{"ttl": "1h"})
		}
		b.Run(fmt.Sprintf("List/roles=%d", roles), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.request(b, logical.ListOperation, "roles/", nil)
			}
		})
		b.Run(fmt.Sprintf("TokenRead/roles=%d", roles), func(b *testing.B) { m.reads(b, "token/role-5") })
		b.Run(fmt.Sprintf("ConfigWrite/roles=%d", roles), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.writeConfig(b, consoleURL)
			}
		})
	}
}
