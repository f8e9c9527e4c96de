package console

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

// The exchanges that Snowplow has offered, newest first; see
// https://docs.snowplow.io/docs/account-management/managing-console-api-authentication/
const (
	V3 = "v3" // an API key and its ID
	V2 = "v2" // an API key without its ID; deprecated by Snowplow
	V1 = "v1" // the password flow of a bot user; legacy
)

// Versions lists the exchanges, newest first.
var Versions = []string{V3, V2, V1}

// KeysPage is where Console makes API keys.
const KeysPage = "Settings > Manage organization > View and manage API keys"

const (
	maxOrganizationID  = 256     // characters
	maxCredentialField = 4 << 10 // bytes
)

// Credential identifies a key to Snowplow and says where it may be sent. Config and roles store the same type.
type Credential struct {
	// ID is random and new with each write of the credential, so that no JWT of an older one can be reached.
	ID             string `json:"id,omitempty"`
	Version        string `json:"credentials_version"`
	OrganizationID string `json:"organization_id,omitempty"` // empty on a role: that of config

	// The ID, user name and client ID are no secrets, but a secret may be pasted into the wrong field.
	APIKeyID     redact.Secret `json:"api_key_id,omitzero"`
	APIKey       redact.Secret `json:"api_key,omitzero"`
	Username     redact.Secret `json:"username,omitzero"`
	Password     redact.Secret `json:"password,omitzero"`
	ClientID     redact.Secret `json:"client_id,omitzero"`
	ClientSecret redact.Secret `json:"client_secret,omitzero"`

	// WrittenFor is the origin of the URL that the secrets may be sent to.
	WrittenFor string `json:"written_for"`
	// ConsoleWrittenFor is set for v1, whose secrets go elsewhere: the origin of the Console that readers send tokens to.
	ConsoleWrittenFor string `json:"console_written_for,omitempty"`
	// WrittenAt is when a secret last got another value, to the second.
	WrittenAt time.Time `json:"written_at,omitzero"`
}

// Write identifies one write of a credential.
type Write struct {
	ID string // random
	At time.Time
}

// Field is one part of a credential, under the name that users write it with.
type Field struct {
	Name     string
	Label    string // for user interfaces
	Help     string
	Secret   bool
	versions []string // the exchanges that need it
	value    func(*Credential) *redact.Secret
}

// Fields lists the parts of a credential, in the order in which users are told of them.
var Fields = []Field{
	{"api_key_id", "API key ID", "ID of the API key, from Console under " + KeysPage + ". Required for v3.", false, []string{V3}, func(c *Credential) *redact.Secret { return &c.APIKeyID }},
	{"api_key", "API key", "The API key, of the type Snowplow API key; never returned. Required for v3 and v2.", true, []string{V3, V2}, func(c *Credential) *redact.Secret { return &c.APIKey }},
	{"username", "Username", "Name of the bot user. Required for v1.", false, []string{V1}, func(c *Credential) *redact.Secret { return &c.Username }},
	{"password", "Password", "Password of the bot user; never returned. Required for v1.", true, []string{V1}, func(c *Credential) *redact.Secret { return &c.Password }},
	{"client_id", "Client ID", "Client ID of the password flow. Required for v1.", false, []string{V1}, func(c *Credential) *redact.Secret { return &c.ClientID }},
	{"client_secret", "Client secret", "Client secret of the password flow; never returned. Required for v1.", true, []string{V1}, func(c *Credential) *redact.Secret { return &c.ClientSecret }},
}

// Legacy reports whether only the legacy password flow needs the field.
func (f Field) Legacy() bool { return slices.Equal(f.versions, []string{V1}) }

func (f Field) text(c Credential) string { return f.value(&c).Reveal() }

func (f Field) belongsTo(version string) bool { return slices.Contains(f.versions, version) }

// NamesOf lists the fields that a version needs.
func NamesOf(version string) string { return names(func(f Field) bool { return f.belongsTo(version) }) }

// SecretNamesOf lists the secret fields that a version needs.
func SecretNamesOf(version string) string {
	return names(func(f Field) bool { return f.Secret && f.belongsTo(version) })
}

func names(wanted func(Field) bool) string {
	var found []string
	for _, field := range Fields {
		if wanted(field) {
			found = append(found, field.Name)
		}
	}
	return strings.Join(found, ", ")
}

// Empty reports whether no part of a key is set.
func (c Credential) Empty() bool {
	return !slices.ContainsFunc(Fields, func(f Field) bool { return f.text(c) != "" })
}

// secrets lists the values that may appear only in a request to Snowplow.
func (c Credential) secrets() []string {
	var values []string
	for _, field := range Fields {
		if value := field.text(c); field.Secret && value != "" {
			values = append(values, value)
		}
	}
	return values
}

// KeyName returns what Snowplow calls the key.
func (c Credential) KeyName() string {
	if c.Version == V1 {
		return "bot user's credentials"
	}
	return "API key"
}

// Readable returns the fields that may be read back.
func (c Credential) Readable() map[string]any {
	data := map[string]any{"credentials_version": c.Version}
	for _, field := range Fields {
		if !field.Secret && field.belongsTo(c.Version) {
			data[field.Name] = field.text(c)
		}
	}
	if !c.WrittenAt.IsZero() {
		data["credential_written_at"] = c.WrittenAt.Format(time.RFC3339)
	}
	return data
}

// Getter returns a field of a write. It is given if the write has it; a nil value is a patch's null.
type Getter func(field string) (value *string, given bool)

// Merge writes the fields of a write over c and checks the result. A version that is not given, empty or null is
// defaultVersion. What the version has no use for is deleted, and its names are returned: a secret that stayed behind
// unseen could later be sent to a URL that it was not written for. Nulling all secrets removes the credential; any
// other write that would leave half of one, or lose it, is refused. A credential that is written anew, or to be used for
// another organization or version, gets the ID of the write, and one with another secret its time. Errors are the
// caller's to correct.
func (c *Credential) Merge(get Getter, defaultVersion string, write Write) (dropped []string, err error) {
	before := *c
	if version, given := get("credentials_version"); given || c.Version == "" {
		c.Version = cmp.Or(text(version), defaultVersion)
	}
	if !slices.Contains(Versions, c.Version) {
		return nil, errors.New("credentials_version must be v3, v2 or v1")
	}
	if organizationID, given := get("organization_id"); given {
		c.OrganizationID = text(organizationID)
	}
	if c.removedBy(get) {
		*c = Credential{Version: c.Version, OrganizationID: c.OrganizationID}
		return nil, c.check()
	}
	written, dropped, err := c.mergeKey(get)
	if err != nil {
		return nil, err
	}
	if c.Empty() && !before.Empty() {
		return nil, c.incomplete(NamesOf(c.Version))
	}
	if !c.Empty() && (written || c.Version != before.Version || c.OrganizationID != before.OrganizationID) {
		c.ID = write.ID
	}
	if !c.Empty() && !slices.Equal(c.secrets(), before.secrets()) {
		c.WrittenAt = write.At.UTC().Truncate(time.Second)
	}
	return dropped, c.check()
}

// mergeKey merges the parts of the key. It reports whether one was written, and which ones the version has no use for.
func (c *Credential) mergeKey(get Getter) (written bool, dropped []string, err error) {
	var foreign []string
	for _, field := range Fields {
		value, given := get(field.Name)
		stored := field.value(c)
		if value != nil {
			if err := field.check(*value); err != nil {
				return false, nil, err
			}
		}
		written = written || value != nil || given && *stored != redact.Secret{}
		switch {
		case value != nil && !field.belongsTo(c.Version):
			foreign = append(foreign, field.Name)
		case given:
			*stored = redact.NewSecret(text(value))
		case *stored != redact.Secret{} && !field.belongsTo(c.Version):
			*stored = redact.Secret{}
			dropped = append(dropped, field.Name)
		}
	}
	if len(foreign) > 0 {
		return false, nil, fmt.Errorf("%s does not belong to credentials_version %s, which needs %s", strings.Join(foreign, ", "), c.Version, NamesOf(c.Version))
	}
	return written, dropped, nil
}

// text returns a value, empty for null.
func text(value *string) string {
	if value == nil {
		return ""
	}
	return *value
}

// check validates a value that is written to the field.
func (f Field) check(value string) error {
	invisible := func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsGraphic(r) }
	switch {
	case value == "":
		return fmt.Errorf("%s is empty: an unset variable or an empty file is the usual reason; leave the field out to keep its value", f.Name)
	case len(value) > maxCredentialField:
		return fmt.Errorf("%s must be at most %d bytes long", f.Name, maxCredentialField)
	case strings.Contains(value, "\x00"):
		return fmt.Errorf("%s contains a NUL: its file's encoding is probably UTF-16, as PowerShell writes it; save it as UTF-8 without a byte order mark", f.Name)
	case strings.HasPrefix(value, "\ufeff"):
		return fmt.Errorf("%s begins with a byte order mark: its file's encoding is UTF-8 with one, as PowerShell writes it; save it as UTF-8 without a byte order mark", f.Name)
	case strings.ContainsFunc(value, invisible):
		return fmt.Errorf("%s contains an invisible character, or its file's encoding is not UTF-8: save it as UTF-8 without a byte order mark", f.Name)
	case !f.Legacy() && !headerValue.MatchString(value):
		return fmt.Errorf("%s contains white space or a character that no API key has: copy it exactly as Console shows it", f.Name)
	}
	return nil
}

// SameKey reports whether both are the same key for the same organization, whenever they were written.
func (c Credential) SameKey(other Credential) bool {
	c.ID, c.WrittenFor, c.ConsoleWrittenFor, c.WrittenAt = other.ID, other.WrittenFor, other.ConsoleWrittenFor, other.WrittenAt
	return c == other
}

// removedBy reports whether a patch removes the credential: it sets all secrets to null, and nothing to a value.
func (c *Credential) removedBy(get Getter) bool {
	if c.Empty() {
		return false
	}
	for _, field := range Fields {
		value, given := get(field.Name)
		secret := field.Secret && field.belongsTo(c.Version)
		if secret && !given || value != nil {
			return false
		}
	}
	return true
}

func (c Credential) incomplete(missing string) error {
	return fmt.Errorf("%s is missing: credentials_version %s needs %s", missing, c.Version, NamesOf(c.Version))
}

var (
	// RFC 3986's unreserved characters: a segment made of them reads the same to every server on the way.
	pathSegment = regexp.MustCompile(`^[A-Za-z0-9._~-]+$`)
	uuid        = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	// What a header's value may hold without being changed on the way (RFC 9110, section 5.5).
	headerValue = regexp.MustCompile(`^[\x21-\x7e]*$`)
)

// check validates the fields of c, each and together.
func (c Credential) check() error {
	missing := names(func(f Field) bool { return f.belongsTo(c.Version) && f.text(c) == "" })
	if missing != "" && !c.Empty() {
		return c.incomplete(missing)
	}
	organizationID := redact.NewSecret(c.OrganizationID)
	public := []Field{{Name: "organization_id", value: func(*Credential) *redact.Secret { return &organizationID }}}
	for _, field := range append(public, Fields...) {
		if !field.Secret && slices.Contains(c.secrets(), field.text(c)) {
			return fmt.Errorf("%s has the same value as a secret of this credential: check that the secret was not written to the wrong field", field.Name)
		}
	}
	if id := c.OrganizationID; id != "" && (!pathSegment.MatchString(id) || id == "." || id == ".." || len(id) > maxOrganizationID) {
		return fmt.Errorf("organization_id must be one path segment of at most %d characters: the UUID on Console's Manage organization page", maxOrganizationID)
	}
	return nil
}

// Warnings returns what an operator should know about an accepted credential.
func (c Credential) Warnings() []string {
	var warnings []string
	if c.OrganizationID != "" && !uuid.MatchString(c.OrganizationID) {
		warnings = append(warnings, "organization_id is not a UUID, as Snowplow's organization IDs are: check it on Console's Manage organization page")
	}
	switch c.Version {
	case V2:
		warnings = append(warnings, "credentials_version v2 is deprecated: Snowplow will remove it; write api_key_id and credentials_version=v3 to move to v3")
	case V1:
		warnings = append(warnings, "credentials_version v1 is deprecated: Snowplow keeps this legacy password flow only for those who have it; create a Snowplow API key in Console under "+KeysPage+" and move to v3")
	}
	return warnings
}

// Bind ties the secrets of c to the URLs that they and their token are sent to. Secrets that were all given in this
// write are bound anew; stored ones, even if only one of two, stay with the URLs that they were written for.
func (c *Credential) Bind(get Getter, to Endpoints) error {
	rewritten := !c.Empty()
	for _, field := range Fields {
		if field.Secret && field.belongsTo(c.Version) {
			value, _ := get(field.Name)
			rewritten = rewritten && value != nil
		}
	}
	if rewritten {
		_, target := to.forVersion(c.Version)
		c.WrittenFor, c.ConsoleWrittenFor = Origin(target), ""
		if c.Version == V1 {
			c.ConsoleWrittenFor = Origin(to.ConsoleURL)
		}
	}
	return c.MayGoTo(to)
}

// MayGoTo refuses to send c to another origin than the one it was written for, and its token to another Console.
func (c Credential) MayGoTo(to Endpoints) error {
	if c.Empty() {
		return nil
	}
	field, target := to.forVersion(c.Version)
	refuse := func(written, field, target string) error {
		return fmt.Errorf("the credential is bound to %s, but %s is now %s: write %s again to bind it to the new URL",
			cmp.Or(written, "no URL"), field, Origin(target), SecretNamesOf(c.Version))
	}
	if c.WrittenFor == "" || c.WrittenFor != Origin(target) {
		return refuse(c.WrittenFor, field, target)
	}
	if c.ConsoleWrittenFor != "" && c.ConsoleWrittenFor != Origin(to.ConsoleURL) {
		return refuse(c.ConsoleWrittenFor, "console_url", to.ConsoleURL)
	}
	return nil
}
