package acceptance

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestAgentKeepsTheJWTInAFileFresh(t *testing.T) {
	t.Parallel()
	const validity = 15 * time.Second
	console := consoletest.NewServer(t)
	console.SetValidity(validity)
	// The template of the examples names the mount snowplow/.
	s := startServer(t)
	m := s.mount(t, "snowplow", "")
	m.write(t, "config", defaultConfig(console))
	template, err := filepath.Abs("../examples/agent/token.ctmpl")
	require.NoError(t, err)
	rendered := filepath.Join(t.TempDir(), "snowplow-token")
	token := s.createToken(t, `path "snowplow/token" { capabilities = ["read"] }`)
	startAgent(t, s, token, fmt.Sprintf(`
template {
  source               = %q
  destination          = %q
  perms                = "0600"
  error_on_missing_key = true
}
`, template, rendered))

	var first string
	eventually(t, patience, "Agent renders the file", func() error {
		content, err := os.ReadFile(rendered)
		first = string(content)
		return err
	})
	seen := time.Now()
	require.Equal(t, http.StatusOK, opens(t, console, first), "the first JWT in the file")

	// At every moment, the file must hold a JWT that Console takes.
	eventually(t, 2*validity, "Agent renders a new JWT", func() error {
		content, err := os.ReadFile(rendered)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, opens(t, console, string(content)), "the JWT in the file, %s after the first", time.Since(seen))
		if string(content) == first {
			return errors.New("the file still holds the first one")
		}
		return nil
	})
	require.Less(t, time.Since(seen), validity, "the new JWT must be there before the first one's lease ends")
	require.Equal(t, json.Number("2"), m.read(t, "status").Data["reads"], "Agent reads once for each JWT")
}
