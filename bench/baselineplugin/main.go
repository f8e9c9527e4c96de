// Command baselineplugin is the program that Vault starts to serve the baseline.
package main

import (
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/plugin"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/bench/baseline"
)

func main() {
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: baseline.Factory}); err != nil {
		hclog.Default().Error("serving the baseline failed", "error", err)
		os.Exit(1)
	}
}
