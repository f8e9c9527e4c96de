package console

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

func TestFieldsCoverTheStruct(t *testing.T) {
	t.Parallel()
	var c Credential
	assert.True(t, c.Empty())
	for _, field := range Fields {
		*field.value(&c) = redact.NewSecret(field.Name)
	}
	assert.Equal(t, Credential{
		APIKeyID: redact.NewSecret("api_key_id"), APIKey: redact.NewSecret("api_key"), Username: redact.NewSecret("username"), Password: redact.NewSecret("password"), ClientID: redact.NewSecret("client_id"), ClientSecret: redact.NewSecret("client_secret"),
	}, c)
	assert.Equal(t, []string{"api_key", "password", "client_secret"}, c.secrets())
	assert.False(t, c.Empty())
	stored, err := json.Marshal(Credential{Version: V2, APIKey: c.APIKey, WrittenFor: "https://a:443"})
	require.NoError(t, err)
	assert.JSONEq(t, `{"credentials_version": "v2", "api_key": "api_key", "written_for": "https://a:443"}`, string(stored))
}

// written is the Getter of a write with these fields; nil is a patch's null.
func written(fields map[string]any) Getter {
	return func(name string) (*string, bool) {
		value, given := fields[name]
		if text, ok := value.(string); ok {
			return &text, true
		}
		return nil, given
	}
}

func TestEachWriteOfACredentialGivesItANewID(t *testing.T) {
	t.Parallel()
	stored := Credential{ID: "old", Version: V3, OrganizationID: "org", APIKeyID: redact.NewSecret("id"), APIKey: redact.NewSecret("key")}
	for name, test := range map[string]struct {
		fields map[string]any
		want   string
	}{
		"nothing of it":        {map[string]any{"ttl": "60"}, "old"},
		"the same again":       {map[string]any{"api_key": "key"}, "new"},
		"another key":          {map[string]any{"api_key": "other"}, "new"},
		"another organization": {map[string]any{"organization_id": "other"}, "new"},
		"the same one":         {map[string]any{"organization_id": "org"}, "old"},
		"another version":      {map[string]any{"credentials_version": "v2"}, "new"},
		"the same version":     {map[string]any{"credentials_version": "v3"}, "old"},
	} {
		c := stored
		_, err := c.Merge(written(test.fields), V3, Write{ID: "new"})
		require.NoError(t, err, name)
		assert.Equal(t, test.want, c.ID, name)
	}
	c := Credential{Version: V3, OrganizationID: "org"}
	_, err := c.Merge(written(map[string]any{"api_key_id": "id", "api_key": "key"}), V3, Write{ID: "new"})
	require.NoError(t, err)
	assert.Equal(t, "new", c.ID, "the first key")
}

func TestMergeRefusesHalfACredential(t *testing.T) {
	t.Parallel()
	whole := Credential{Version: V3, OrganizationID: "org", APIKeyID: redact.NewSecret("id"), APIKey: redact.NewSecret("key")}
	secret := redact.NewSecret("secret")
	botUser := Credential{Version: V1, OrganizationID: "org", Username: redact.NewSecret("user"), Password: secret, ClientID: redact.NewSecret("client"), ClientSecret: secret}
	long := strings.Repeat("x", maxCredentialField)
	for name, test := range map[string]struct {
		stored Credential
		fields map[string]any
		says   string // empty: accepted
	}{
		"an ID without its key":     {Credential{}, map[string]any{"api_key_id": "id"}, "api_key is missing: credentials_version v3 needs api_key_id, api_key"},
		"a key without its ID":      {Credential{}, map[string]any{"api_key": "key"}, "api_key_id is missing"},
		"an empty key":              {Credential{}, map[string]any{"api_key_id": "id", "api_key": ""}, "api_key is empty"},
		"an empty ID":               {whole, map[string]any{"api_key_id": ""}, "api_key_id is empty"},
		"one that is null":          {whole, map[string]any{"api_key_id": nil}, "api_key_id is missing"},
		"a secret that is null":     {whole, map[string]any{"api_key": nil, "api_key_id": "id"}, "api_key is missing"},
		"all that are secret null":  {whole, map[string]any{"api_key": nil}, ""},
		"all of them null":          {whole, map[string]any{"api_key": nil, "api_key_id": nil}, ""},
		"another version":           {whole, map[string]any{"credentials_version": "v1"}, "username, password, client_id, client_secret is missing: credentials_version v1 needs"},
		"an unknown version":        {whole, map[string]any{"credentials_version": "v4"}, "credentials_version must be v3, v2 or v1"},
		"a foreign field":           {whole, map[string]any{"username": "x", "password": "y"}, "username, password does not belong to credentials_version v3, which needs api_key_id, api_key"},
		"a long key":                {whole, map[string]any{"api_key": long}, ""},
		"a longer one":              {whole, map[string]any{"api_key": long + "x"}, "api_key must be at most 4096 bytes long"},
		"the key as its ID":         {Credential{}, map[string]any{"api_key_id": "key", "api_key": "key"}, "api_key_id has the same value as a secret"},
		"the key as organization":   {whole, map[string]any{"organization_id": "key"}, "organization_id has the same value as a secret"},
		"an organization of dots":   {whole, map[string]any{"organization_id": ".."}, "organization_id must be one path segment"},
		"an organization of a path": {whole, map[string]any{"organization_id": "../x"}, "organization_id must be one path segment"},
		"a long organization":       {whole, map[string]any{"organization_id": strings.Repeat("x", maxOrganizationID)}, ""},
		"a longer organization":     {whole, map[string]any{"organization_id": strings.Repeat("x", maxOrganizationID+1)}, "at most 256 characters"},
		"a key with a blank":        {whole, map[string]any{"api_key": "k ey"}, "api_key contains white space"},
		// Vault's CLI sends a file as JSON, in which each byte that is not UTF-8 becomes U+FFFD.
		"UTF-8 with a mark":    {whole, map[string]any{"api_key": "\ufeffkey\r\n"}, "api_key begins with a byte order mark"},
		"UTF-16":               {whole, map[string]any{"api_key": "\ufffd\ufffdk\x00e\x00y\x00\r\x00\n\x00"}, "encoding is probably UTF-16"},
		"UTF-16, big-endian":   {whole, map[string]any{"api_key_id": "\x00i\x00d\x00\r\x00\n"}, "encoding is probably UTF-16"},
		"UTF-16 without ASCII": {botUser, map[string]any{"password": "\ufffd\ufffd\ufffd\u0128"}, "password contains an invisible character, or its file's encoding is not UTF-8"},
		"Latin-1":              {botUser, map[string]any{"username": "J\xfcrgen"}, "username contains an invisible character, or its file's encoding is not UTF-8"},
		"a zero-width space":   {whole, map[string]any{"api_key": "k\u200bey"}, "api_key contains an invisible character"},
		"a password of words":  {botUser, map[string]any{"password": "pässwörd \u00a0 🔑"}, ""},
	} {
		c := test.stored
		_, err := c.Merge(written(test.fields), V3, Write{ID: "new"})
		if test.says == "" {
			assert.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, test.says, name)
		assert.NotRegexp(t, `[^ -~]`, err.Error(), name)
	}
}

func TestMergeSaysWhatItDrops(t *testing.T) {
	t.Parallel()
	c := Credential{Version: V3, OrganizationID: "org", APIKeyID: redact.NewSecret("id"), APIKey: redact.NewSecret("key")}
	dropped, err := c.Merge(written(map[string]any{"credentials_version": "v2"}), V3, Write{ID: "new"})
	require.NoError(t, err)
	assert.Equal(t, []string{"api_key_id"}, dropped)
	assert.Equal(t, Credential{ID: "new", Version: V2, OrganizationID: "org", APIKey: redact.NewSecret("key")}, c)
}

func TestACredentialIsBoundToTheURLsItWasWrittenFor(t *testing.T) {
	t.Parallel()
	home := Endpoints{ConsoleURL: "https://console.example.com", AuthURL: "https://id.example.com"}
	away := "https://evil.example.com"
	v1Secrets := map[string]any{"password": "p", "client_secret": "s"}
	for name, test := range map[string]struct {
		version string
		to      Endpoints
		fields  map[string]any
		says    string // empty: accepted
	}{
		"nothing has changed":             {V3, home, nil, ""},
		"another Console":                 {V3, Endpoints{away, home.AuthURL}, nil, "bound to https://console.example.com:443, but console_url is now https://evil.example.com:443: write api_key again"},
		"another Console, another ID":     {V3, Endpoints{away, home.AuthURL}, map[string]any{"api_key_id": "x"}, "write api_key again"},
		"another Console, and the key":    {V3, Endpoints{away, home.AuthURL}, map[string]any{"api_key": "x"}, ""},
		"another auth_url with v3":        {V3, Endpoints{home.ConsoleURL, away}, nil, ""},
		"another auth_url":                {V1, Endpoints{home.ConsoleURL, away}, nil, "but auth_url is now https://evil.example.com:443: write password, client_secret again"},
		"another auth_url, one secret":    {V1, Endpoints{home.ConsoleURL, away}, map[string]any{"password": "p"}, "write password, client_secret again"},
		"another auth_url, both secrets":  {V1, Endpoints{home.ConsoleURL, away}, v1Secrets, ""},
		"another Console of v1":           {V1, Endpoints{away, home.AuthURL}, nil, "bound to https://console.example.com:443, but console_url is now"},
		"another Console of v1, secrets":  {V1, Endpoints{away, home.AuthURL}, v1Secrets, ""},
		"a Console that cannot be parsed": {V3, Endpoints{"https://[::1", home.AuthURL}, nil, "write api_key again"},
	} {
		c := Credential{Version: test.version}
		for _, field := range Fields {
			if field.belongsTo(test.version) {
				*field.value(&c) = redact.NewSecret("set")
			}
		}
		require.NoError(t, c.Bind(written(map[string]any{"api_key": "set", "password": "set", "client_secret": "set"}), home), name)
		err := c.Bind(written(test.fields), test.to)
		if test.says != "" {
			assert.ErrorContains(t, err, test.says, name)
			continue
		}
		require.NoError(t, err, name)
		assert.NoError(t, c.MayGoTo(test.to), name)
	}
	assert.NoError(t, Credential{Version: V3}.MayGoTo(home), "nothing can go astray")
	assert.ErrorContains(t, Credential{Version: V3, APIKey: redact.NewSecret("key")}.MayGoTo(Endpoints{ConsoleURL: "https://[::1"}), "bound to no URL")
}

func TestTheSameKeyWheneverItWasWritten(t *testing.T) {
	t.Parallel()
	c := Credential{ID: "1", Version: V3, OrganizationID: "org", APIKeyID: redact.NewSecret("id"), APIKey: redact.NewSecret("key"), WrittenFor: "https://a:443"}
	again, other := c, c
	again.ID, again.WrittenFor, again.ConsoleWrittenFor, again.WrittenAt = "2", "https://b:443", "https://c:443", time.Unix(1, 0)
	other.APIKey = redact.NewSecret("another")
	assert.True(t, c.SameKey(again))
	assert.False(t, c.SameKey(other))
}
