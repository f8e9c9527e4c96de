// Command vault-plugin-secrets-snowplow is the program that Vault starts to serve the Snowplow secrets engine.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/plugin"

	snowplow "github.com/snowplow-vault/vault-plugin-secrets-snowplow"
)

func main() {
	version := flag.Bool("version", false, "print version and commit, and exit")
	flag.Parse()
	if *version {
		fmt.Printf("vault-plugin-secrets-snowplow %s (commit %s)\n", snowplow.Version, snowplow.Commit)
		return
	}
	endWithVault()

	// net/http writes to the standard log what a server says unasked, and Vault takes that into its own log.
	log.SetOutput(io.Discard)

	// Vault hands over the TLS material itself (AutoMTLS), so no TLS provider is needed.
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: snowplow.Factory}); err != nil {
		hclog.Default().Error("serving the plugin failed", "error", err)
		os.Exit(1)
	}
}
