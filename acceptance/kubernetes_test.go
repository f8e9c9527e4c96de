package acceptance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// manifest is one Kubernetes object of a file.
type manifest map[string]any

// at returns the value at a path of names, or nil. Of a list on the way, it takes the first.
func (m manifest) at(path string) any {
	var value any = map[string]any(m)
	for name := range strings.SplitSeq(path, ".") {
		if list, ok := value.([]any); ok {
			value = list[0]
		}
		inner, _ := value.(map[string]any)
		value = inner[name]
	}
	return value
}

// manifests reads the objects of a file of the recipe, by kind. None may be there twice.
func manifests(t testing.TB, name string) map[string]manifest {
	t.Helper()
	found := map[string]manifest{}
	for decoder := yaml.NewDecoder(strings.NewReader(examples.file(t, "kubernetes/"+name))); ; {
		var object map[string]any
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			return found
		}
		require.NoError(t, err, name)
		m := manifest(object)
		kind := fmt.Sprintf("%s/%s", m["apiVersion"], m["kind"])
		require.NotContains(t, found, kind)
		require.Equal(t, "app", m.at("metadata.namespace"), "the namespace of %s in %s", kind, name)
		found[kind] = m
	}
}

func TestKubernetesManifests(t *testing.T) {
	t.Parallel()
	const (
		vaultRole      = "snowplow-analytics" // of the login
		serviceAccount = "v1/ServiceAccount"
		deployment     = "apps/v1/Deployment"
		longest        = 24 * time.Hour // that a JWT is valid
	)
	recipe := copyRecipe(t, "kubernetes")
	require.Contains(t, recipe.file(t, "README.md"), "auth/kubernetes/role/"+vaultRole+" ")

	root, console := configuredAlone(t)
	s := root.server
	token := s.createToken(t, recipe.file(t, "../policies/team.hcl"))
	holder := root.as(t, token)
	reuse, err := root.read(t, "config").Data["reuse_period"].(json.Number).Int64()
	require.NoError(t, err)
	// readable demands that the policy lets a path be read with GET, and returns the fields of the answer.
	readable := func(t testing.TB, path string) fields {
		secret, err := holder.client.Logical().Read(path)
		require.NoError(t, err)
		requireKeyID(t, console, jwtOf(t, secret), analyticsKey.ID)
		return secret.Data
	}

	t.Run("agent-injector.yaml", func(t *testing.T) {
		objects := manifests(t, "agent-injector.yaml")
		require.Len(t, objects, 2)
		pod := manifest(objects[deployment].at("spec.template").(map[string]any))
		require.Equal(t, objects[serviceAccount].at("metadata.name"), pod.at("spec.serviceAccountName"))
		annotations := map[string]string{}
		for name, value := range pod.at("metadata.annotations").(map[string]any) {
			short, ours := strings.CutPrefix(name, "vault.hashicorp.com/")
			require.True(t, ours, name)
			annotations[short] = value.(string)
		}
		require.Subset(t, annotations, map[string]string{
			"agent-inject": "true", "role": vaultRole,
			"error-on-missing-key-snowplow-token": "true", "agent-inject-perms-snowplow-token": "0400",
			"agent-service-account-token-volume-name": pod.at("spec.volumes.name").(string),
		})
		readable(t, annotations["agent-inject-secret-snowplow-token"])
		template := annotations["agent-inject-template-snowplow-token"]
		require.Contains(t, template, annotations["agent-inject-secret-snowplow-token"])

		const login = "spec.volumes.projected.sources.serviceAccountToken."
		require.Equal(t, "vault", pod.at(login+"audience"))
		require.GreaterOrEqual(t, pod.at(login+"expirationSeconds"), 600, "the least that Kubernetes accepts")
		require.Equal(t, "/vault/secrets/snowplow-token", pod.at("spec.containers.env.value"))

		// The injector makes such a configuration of the annotations.
		loginFile, rendered := filepath.Join(recipe.dir, "login"), filepath.Join(recipe.dir, "snowplow-token")
		require.NoError(t, os.WriteFile(loginFile, []byte(token), 0o600))
		config := fmt.Sprintf(`
vault { address = %q }
exit_after_auth = true
auto_auth {
  method "token_file" { config = { token_file_path = %q } }
}
template {
  contents = %q
  destination = %q
  perms = %q
  error_on_missing_key = true
}
`, s.Address(), loginFile, template, rendered, annotations["agent-inject-perms-snowplow-token"])
		require.NoError(t, os.WriteFile(recipe.path("agent.hcl"), []byte(config), 0o600))
		_, err := s.CLI("", "agent", "-config="+recipe.path("agent.hcl"))
		require.NoError(t, err)
		requireKeyID(t, console, recipe.file(t, "snowplow-token"), analyticsKey.ID)
		info, err := os.Stat(rendered)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o400), info.Mode())
	})

	t.Run("vault-secrets-operator.yaml", func(t *testing.T) {
		const group = "secrets.hashicorp.com/v1beta1/"
		objects := manifests(t, "vault-secrets-operator.yaml")
		require.Len(t, objects, 5)
		connection, auth, secret := objects[group+"VaultConnection"], objects[group+"VaultAuth"], objects[group+"VaultDynamicSecret"]
		require.Equal(t, connection.at("metadata.name"), auth.at("spec.vaultConnectionRef"))
		require.Equal(t, auth.at("metadata.name"), secret.at("spec.vaultAuthRef"))
		require.Equal(t, vaultRole, auth.at("spec.kubernetes.role"))
		require.Equal(t, objects[serviceAccount].at("metadata.name"), auth.at("spec.kubernetes.serviceAccount"))
		require.Equal(t, []any{"vault"}, auth.at("spec.kubernetes.audiences"))

		data := readable(t, fmt.Sprintf("%s/%s", secret.at("spec.mount"), secret.at("spec.path")))
		spec := secret.at("spec").(map[string]any)
		for _, never := range []string{"allowStaticCreds", "rolloutRestartTargets", "params", "requestHTTPMethod", "refreshAfter"} {
			require.NotContains(t, spec, never)
		}
		// The operator adds up to 10 % of the lease.
		latest := time.Duration(spec["renewalPercent"].(int)+10) * longest / 100
		require.LessOrEqual(t, latest, longest-5*time.Hour, "what is left for a Vault that is away")
		require.GreaterOrEqual(t, spec["renewalPercent"], 50)

		pod := manifest(objects[deployment].at("spec.template.spec").(map[string]any))
		require.Equal(t, secret.at("spec.destination.name"), pod.at("volumes.secret.secretName"))
		require.Equal(t, true, secret.at("spec.destination.create"))
		require.Contains(t, data, pod.at("volumes.secret.items.key"))
		require.Equal(t, pod.at("volumes.name"), pod.at("containers.volumeMounts.name"))
		require.Nil(t, pod.at("containers.volumeMounts.subPath"), "a file that is mounted by itself is never replaced")
		require.Equal(t, fmt.Sprint(pod.at("containers.volumeMounts.mountPath"), "/access_token"), pod.at("containers.env.value"))
	})

	t.Run("external-secrets.yaml", func(t *testing.T) {
		const generatorGroup = "generators.external-secrets.io/v1alpha1"
		objects := manifests(t, "external-secrets.yaml")
		require.Len(t, objects, 3)
		generator, secret := objects[generatorGroup+"/VaultDynamicSecret"], objects["external-secrets.io/v1/ExternalSecret"]
		require.Equal(t, map[string]any{
			"apiVersion": generatorGroup,
			"kind":       "VaultDynamicSecret",
			"name":       generator.at("metadata.name"),
		}, secret.at("spec.dataFrom.sourceRef.generatorRef"))
		const login = "spec.provider.auth.kubernetes."
		require.Equal(t, vaultRole, generator.at(login+"role"))
		require.Equal(t, objects[serviceAccount].at("metadata.name"), generator.at(login+"serviceAccountRef.name"))
		require.Equal(t, []any{"vault"}, generator.at(login+"serviceAccountRef.audiences"))

		require.Equal(t, "GET", generator.at("spec.method"), "anything else is a write, which the policy does not allow")
		readable(t, generator.at("spec.path").(string))
		interval, err := time.ParseDuration(secret.at("spec.refreshInterval").(string))
		require.NoError(t, err)
		require.Positive(t, interval, "0 reads once and never again")
		require.LessOrEqual(t, interval+time.Duration(reuse)*time.Second, longest/2, "the JWT's age at the next read")
		require.LessOrEqual(t, longest/interval, time.Duration(24), "leases that are alive at a time")
	})
}
