package acceptance

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// terraform is the recipe in a folder of its own, with a Vault that has the plugin's file and nothing else.
type terraform struct {
	program string
	dir     string
	env     []string
	server  server
	console *consoletest.Server
	vars    fields // of the recipe
}

// rotatedKey comes in place of the default key.
var rotatedKey = consoletest.Key{ID: "rotated-key-id", Secret: "canary-rotated-key-do-not-leak"}

func newTerraform(t *testing.T, keyFile string) *terraform {
	t.Helper()
	tf := &terraform{
		program: lookPath(t, "terraform", "install Terraform 1.11 or later"),
		dir:     copyRecipe(t, "terraform").dir,
		console: consoletest.NewServer(t),
		vars:    fields{},
	}
	tf.console.AddKey(analyticsKey)
	tf.console.AddKey(rotatedKey)
	require.NoError(t, os.Rename(filepath.Join(tf.dir, keyFile), filepath.Join(tf.dir, "key.tf")))
	tf.env = append(os.Environ(),
		"PATH="+vaultOnPath(t)+":"+os.Getenv("PATH"), "HOME="+tf.dir, "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1")
	if out, err := tf.try("validate"); err != nil {
		require.Contains(t, out, "Missing required provider")
		if os.Getenv("ACCEPTANCE_DOWNLOADS") == "" {
			notRun(t, "Terraform's provider for Vault is not there")
		}
		if out, err := tf.try("init", "-input=false"); err != nil {
			t.Log(out)
			notRun(t, "Terraform's provider for Vault is not there, and terraform init does not get it")
		}
	}

	tf.server = startServerWithoutPlugin(t)
	tf.env = append(tf.env, "VAULT_ADDR="+tf.server.Address(), "VAULT_TOKEN="+tf.server.Client.Token())
	tf.addPlugin(t, pluginVersion)
	tf.set(t, fields{
		"organization_id": consoletest.DefaultOrganizationID,
		"console_url":     tf.console.URL,
		"api_key_id":      consoletest.DefaultAPIKeyID,
		"roles":           fields{"analytics": fields{"api_key_id": analyticsKey.ID, "ttl": 7200, "reuse_period": 1800}},
	})
	tf.keys(t, consoletest.DefaultAPIKey)
	return tf
}

// addPlugin puts the plugin's file onto the server, and names its version to Terraform.
func (tf *terraform) addPlugin(t *testing.T, version string) {
	t.Helper()
	plugin := pluginOf(t, version)
	require.NoError(t, tf.server.AddPlugin(plugin))
	tf.set(t, fields{"plugin_version": version, "plugin_sha256": sha256Of(t, plugin.Program)})
}

// set sets variables of the recipe.
func (tf *terraform) set(t *testing.T, variables fields) {
	t.Helper()
	maps.Copy(tf.vars, variables)
	content, err := json.Marshal(tf.vars)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(tf.dir, "terraform.tfvars.json"), content, 0o600))
}

// keys sets the API keys, as the recipe says: in the environment.
func (tf *terraform) keys(t *testing.T, defaultKey string) {
	t.Helper()
	roles, err := json.Marshal(map[string]string{"analytics": analyticsKey.Secret})
	require.NoError(t, err)
	tf.env = append(tf.env, "TF_VAR_api_key="+defaultKey, "TF_VAR_role_api_keys="+string(roles))
}

func (tf *terraform) try(args ...string) (string, error) {
	cmd := exec.Command(tf.program, append(args, "-no-color")...)
	cmd.Dir, cmd.Env = tf.dir, tf.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (tf *terraform) apply(t *testing.T, args ...string) {
	t.Helper()
	out, err := tf.try(append([]string{"apply", "-auto-approve", "-input=false"}, args...)...)
	require.NoError(t, err, "%s", out)
	tf.requireNoKey(t, out)
}

// plan says whether there is anything to change.
func (tf *terraform) plan(t *testing.T) (changes bool) {
	t.Helper()
	out, err := tf.try("plan", "-input=false", "-detailed-exitcode", "-out=plan")
	tf.requireNoKey(t, out)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 {
		return true
	}
	require.NoError(t, err, "%s", out)
	return false
}

// requireNoKey demands that no key is in a command's output, in the state or in a plan.
func (tf *terraform) requireNoKey(t *testing.T, output string) {
	t.Helper()
	state, err := os.ReadFile(filepath.Join(tf.dir, "terraform.tfstate"))
	require.NoError(t, err)
	require.Contains(t, string(state), consoletest.DefaultOrganizationID)
	text := output + string(state)
	if _, err := os.Stat(filepath.Join(tf.dir, "plan")); err == nil {
		shown, err := tf.try("show", "-json", "plan")
		require.NoError(t, err, "%s", shown)
		text += shown
	}
	for _, key := range []string{consoletest.DefaultAPIKey, analyticsKey.Secret, rotatedKey.Secret} {
		require.NotContains(t, text, key, "a key in the output, the state or the plan")
	}
}

func TestTerraform(t *testing.T) {
	t.Parallel()
	for keyFile, writeKeys := range map[string][]string{
		"key.tf":            {"-var=write_keys=true"},
		"local-exec/key.tf": nil,
	} {
		t.Run(keyFile, func(t *testing.T) {
			t.Parallel()
			tf := newTerraform(t, keyFile)
			tf.apply(t, writeKeys...)
			m := mount{server: tf.server, path: "snowplow", client: tf.server.Client}
			requireKeyID(t, tf.console, m.jwt(t, "token"), consoletest.DefaultAPIKeyID)
			requireKeyID(t, tf.console, m.jwt(t, "token/analytics"), analyticsKey.ID)
			require.Equal(t, json.Number("7200"), m.read(t, "roles/analytics").Data["ttl"])
			require.Equal(t, pluginVersion, m.read(t, "status").Data["version"])
			require.False(t, tf.plan(t), "changes after the first apply")

			// Drift is seen, and taken back without the keys.
			exchanges := tf.console.Exchanges()
			m.write(t, "roles/analytics", fields{"ttl": "1h"})
			require.True(t, tf.plan(t), "changes after another hand's")
			tf.apply(t)
			require.Equal(t, json.Number("7200"), m.read(t, "roles/analytics").Data["ttl"])
			require.False(t, tf.plan(t), "changes after the drift was taken back")
			require.LessOrEqual(t, tf.console.Exchanges(), exchanges+2, "exchanges of runs that write no keys")

			// Another key.
			tf.set(t, fields{"api_key_id": rotatedKey.ID})
			tf.keys(t, rotatedKey.Secret)
			tf.apply(t, writeKeys...)
			requireKeyID(t, tf.console, m.jwt(t, "token"), rotatedKey.ID)
			require.False(t, tf.plan(t), "changes after the key was replaced")

			// Another version of the plugin.
			const newer = "v0.2.0"
			tf.addPlugin(t, newer)
			tf.apply(t)
			require.Equal(t, pluginVersion, m.read(t, "status").Data["version"], "the version that runs before the reload")
			tf.server.run(t, "plugin", "reload", "-plugin="+pluginName)
			require.Equal(t, newer, m.read(t, "status").Data["version"])
			require.False(t, tf.plan(t), "changes after the upgrade")

			out, err := tf.try("destroy", "-auto-approve", "-input=false")
			require.NoError(t, err, "%s", out)
			mounts, err := tf.server.Client.Sys().ListMounts()
			require.NoError(t, err)
			require.NotContains(t, mounts, "snowplow/")
		})
	}
}

func TestTerraformIsFormatted(t *testing.T) {
	t.Parallel()
	terraform := lookPath(t, "terraform", "install Terraform 1.11 or later")
	cmd := exec.Command(terraform, "fmt", "-check", "-diff", "-recursive", "../examples/terraform")
	cmd.Env = append(os.Environ(), "CHECKPOINT_DISABLE=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
