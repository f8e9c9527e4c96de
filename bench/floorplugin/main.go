// Command floorplugin is the program that Vault starts to serve the floor.
package main

import (
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/plugin"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/bench/floor"
)

func main() {
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: floor.Factory}); err != nil {
		hclog.Default().Error("serving the floor failed", "error", err)
		os.Exit(1)
	}
}
