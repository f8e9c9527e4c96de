package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/faulttest"
)

// The text members of a refusal are the one part of an answer that is shown.
func TestARefusalThatEchoesTheKeyInAnyEncoding(t *testing.T) {
	t.Parallel()
	for _, version := range Versions {
		u := faulttest.OnTCP(t)
		client := newClient(t, "", nil)
		for name, encode := range faulttest.Echoes {
			u.FailNext(1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				message := ""
				for _, sent := range []string{r.Header.Get("X-API-Key"), r.PostForm.Get("password"), r.PostForm.Get("client_secret")} {
					if sent != "" {
						message += fmt.Sprintf("we do not like [%s] ", encode(sent))
					}
				}
				assert.NotEmpty(t, message)
				w.WriteHeader(http.StatusBadRequest)
				_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
			}))
			_, err := client.Exchange(t.Context(), exchangeAt(u.URL, version))
			require.Error(t, err, "%s/%s", version, name)
			requireFailed(t, err)
			assert.ErrorContains(t, err, `status 400 Bad Request: "`, "%s/%s", version, name)
		}
	}
}
