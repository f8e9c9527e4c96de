package redact_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

func TestNothingPrintsASecret(t *testing.T) {
	t.Parallel()
	secret := redact.NewSecret("canary")
	type exported struct{ Secret redact.Secret }
	type unexported struct{ exported exported }
	for _, value := range []any{
		secret, &secret, exported{secret}, &exported{secret}, unexported{exported{secret}}, &unexported{exported{secret}},
		[]unexported{{exported{secret}}}, map[redact.Secret]unexported{secret: {exported{secret}}},
		struct{ any }{unexported{exported{secret}}}, fmt.Errorf("%w: %v", errors.New("failed"), secret),
	} {
		var logs bytes.Buffer
		hclog.New(&hclog.LoggerOptions{Output: &logs}).Error("failed", "value", value)
		shown := logs.String()
		for verb := 'A'; verb <= 'z'; verb++ {
			for _, flags := range []string{"", "+", "#", "# ", "20.10"} {
				shown += fmt.Sprintf("%"+flags+string(verb)+"\n", value)
			}
		}
		for _, form := range []string{"canary", hex.EncodeToString([]byte("canary")), "63 61 6e", "99 97 110"} {
			assert.NotContains(t, shown, form, "%T", value)
		}
	}
}

func TestJSONHoldsASecretAsAString(t *testing.T) {
	t.Parallel()
	type entry struct {
		Key  redact.Secret `json:"key"`
		None redact.Secret `json:"none,omitzero"`
	}
	const text = "<k&y> \"\u2028\x00\xff"
	got, err := json.Marshal(entry{Key: redact.NewSecret(text)})
	require.NoError(t, err)
	want, err := json.Marshal(map[string]string{"key": text})
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got))

	var read entry
	require.NoError(t, json.Unmarshal([]byte(`{"key":"k\u0026y","none":""}`), &read))
	assert.Equal(t, "k&y", read.Key.Reveal())
	assert.True(t, read == entry{Key: redact.NewSecret("k&" + "y")}, "equal texts are equal, and no text is the zero value")
	assert.False(t, read == entry{Key: redact.NewSecret("other")})
	assert.Error(t, json.Unmarshal([]byte(`{"key":1}`), &read))
}
