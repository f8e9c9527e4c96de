package snowplow

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The exchanges that Snowplow has offered, newest first; see
// https://docs.snowplow.io/docs/account-management/managing-console-api-authentication/
const (
	versionV3 = "v3" // an API key and its ID
	versionV2 = "v2" // an API key alone; deprecated by Snowplow
	versionV1 = "v1" // the password flow of a bot user; legacy
)

// credential is what identifies a key to Snowplow, and where it may be sent. Config and roles store the same type.
// It is comparable: paths that have the same credential share one kept JWT.
type credential struct {
	Version        string `json:"credentials_version"`
	OrganizationID string `json:"organization_id,omitempty"` // empty on a role: config's holds
	APIKeyID       string `json:"api_key_id,omitempty"`
	APIKey         string `json:"api_key,omitempty"`
	Username       string `json:"username,omitempty"`
	Password       string `json:"password,omitempty"`
	ClientID       string `json:"client_id,omitempty"`
	ClientSecret   string `json:"client_secret,omitempty"`

	// WrittenFor is the origin (scheme, host and port) of the URL that the secrets were written with.
	WrittenFor string `json:"written_for"`
}

// String keeps the secrets out of whatever a credential is printed into.
func (c credential) String() string {
	return fmt.Sprintf("%s credential of organization %s", c.Version, c.OrganizationID)
}

// GoString does for %#v what String does for the other verbs.
func (c credential) GoString() string { return c.String() }

// credentialField is one part of a credential, under the name that users write it with.
type credentialField struct {
	name     string
	secret   bool
	versions []string // the exchanges that need it
	in       func(*credential) *string
}

var credentialFields = []credentialField{
	{"api_key_id", false, []string{versionV3}, func(c *credential) *string { return &c.APIKeyID }},
	{"api_key", true, []string{versionV3, versionV2}, func(c *credential) *string { return &c.APIKey }},
	{"username", false, []string{versionV1}, func(c *credential) *string { return &c.Username }},
	{"password", true, []string{versionV1}, func(c *credential) *string { return &c.Password }},
	{"client_id", false, []string{versionV1}, func(c *credential) *string { return &c.ClientID }},
	{"client_secret", true, []string{versionV1}, func(c *credential) *string { return &c.ClientSecret }},
}

func (f credentialField) belongsTo(version string) bool { return slices.Contains(f.versions, version) }

// namesOf lists the fields that a version needs.
func namesOf(version string) string {
	var names []string
	for _, field := range credentialFields {
		if field.belongsTo(version) {
			names = append(names, field.name)
		}
	}
	return strings.Join(names, ", ")
}

// empty says whether no part of a key is set.
func (c credential) empty() bool {
	return !slices.ContainsFunc(credentialFields, func(f credentialField) bool { return *f.in(&c) != "" })
}

// secrets lists what must be seen nowhere but in a request to Snowplow.
func (c credential) secrets() []string {
	var values []string
	for _, field := range credentialFields {
		if value := *field.in(&c); field.secret && value != "" {
			values = append(values, value)
		}
	}
	return values
}

// noun is what Snowplow calls the key.
func (c credential) noun() string {
	if c.Version == versionV1 {
		return "bot user's credentials"
	}
	return "API key"
}

// readable is what may be read back of a credential.
func (c credential) readable() map[string]any {
	data := map[string]any{"credentials_version": c.Version}
	for _, field := range credentialFields {
		if !field.secret && field.belongsTo(c.Version) {
			data[field.name] = *field.in(&c)
		}
	}
	return data
}

// merge writes the credential fields of a request over c, and takes out what the version has no use for: a secret
// that stayed behind unseen could later be sent to a URL that it was not written for. The names of those come back.
// A version that is not said, or cleared, is defaultVersion.
func (c *credential) merge(in input, defaultVersion string) (dropped []string, err error) {
	// Editors end files with a line break, and no field of a credential ends with one.
	text := func(name string) (string, bool) {
		value, given := in.text(name)
		return strings.TrimRight(value, "\r\n"), given
	}
	version, given := text("credentials_version")
	switch {
	case slices.Contains([]string{versionV3, versionV2, versionV1}, version):
		c.Version = version
	case version != "":
		return nil, invalidf("credentials_version is none that Snowplow offers: accepted are v3, v2 and v1")
	case given, c.Version == "":
		c.Version = defaultVersion
	}
	if organizationID, given := text("organization_id"); given {
		c.OrganizationID = organizationID
	}
	var foreign []string
	for _, field := range credentialFields {
		value, given := text(field.name)
		stored := field.in(c)
		switch {
		case field.belongsTo(c.Version):
			if given {
				*stored = value
			}
		case given && value != "":
			foreign = append(foreign, field.name)
		case *stored != "":
			*stored = ""
			dropped = append(dropped, field.name)
		}
	}
	if len(foreign) > 0 {
		return nil, invalidf("%s does not belong to credentials_version %s, which takes %s",
			strings.Join(foreign, ", "), c.Version, namesOf(c.Version))
	}
	return dropped, nil
}

var (
	// RFC 3986's unreserved characters: a segment made of them reads the same to every server on the way.
	pathSegment = regexp.MustCompile(`^[A-Za-z0-9._~-]+$`)
	uuid        = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	// What a header's value may hold without being changed on the way (RFC 9110, section 5.5).
	headerValue = regexp.MustCompile(`^[\x21-\x7e]*$`)
)

// check holds the fields of c against each other and against what may be sent.
func (c credential) check() error {
	var missing []string
	for _, field := range credentialFields {
		if field.belongsTo(c.Version) && *field.in(&c) == "" {
			missing = append(missing, field.name)
		}
	}
	if len(missing) > 0 {
		return invalidf("%s is missing: credentials_version %s needs %s", strings.Join(missing, ", "), c.Version, namesOf(c.Version))
	}
	if id := c.OrganizationID; id != "" && (!pathSegment.MatchString(id) || id == "." || id == "..") {
		return invalidf("organization_id is not one path segment: accepted is the UUID that Console shows on its Manage organization page")
	}
	for name, value := range map[string]string{"api_key_id": c.APIKeyID, "api_key": c.APIKey} {
		if !headerValue.MatchString(value) {
			return invalidf("%s holds white space or a character that no API key has: write it as Console shows it", name)
		}
	}
	return nil
}

// warnings are what an operator should know of a credential that was accepted.
func (c credential) warnings() []string {
	var warnings []string
	if c.OrganizationID != "" && !uuid.MatchString(c.OrganizationID) {
		warnings = append(warnings, "organization_id is not a UUID, as Snowplow's organization IDs are: check it on Console's Manage organization page")
	}
	switch c.Version {
	case versionV2:
		warnings = append(warnings, "credentials_version v2 is deprecated: Snowplow will remove it; write api_key_id and credentials_version=v3 to move to v3")
	case versionV1:
		warnings = append(warnings, "credentials_version v1 is deprecated: Snowplow keeps this legacy password flow for those who have it; make an API key in Console and move to v3")
	}
	return warnings
}

// bind ties the secrets of c to the origin that they are sent to. Secrets that all came with this request are bound
// anew; stored ones, even if only one of two, stay with the origin that they were written for.
func (c *credential) bind(in input, to endpoints) error {
	rewritten := true
	for _, field := range credentialFields {
		if field.secret && field.belongsTo(c.Version) {
			value, _ := in.text(field.name)
			rewritten = rewritten && value != ""
		}
	}
	if rewritten {
		_, target := to.of(c.Version)
		c.WrittenFor = origin(target)
	}
	return c.mayGoTo(to)
}

// mayGoTo refuses to send c to another origin than the one it was written for.
func (c credential) mayGoTo(to endpoints) error {
	field, target := to.of(c.Version)
	if c.WrittenFor != "" && c.WrittenFor == origin(target) {
		return nil
	}
	var secrets []string
	for _, f := range credentialFields {
		if f.secret && f.belongsTo(c.Version) {
			secrets = append(secrets, f.name)
		}
	}
	names := strings.Join(secrets, " and ")
	return invalidf("a credential goes to the host alone that it was written for, here %s, and not to %s, which %s now names: write %s again for the new URL",
		c.WrittenFor, origin(target), field, names)
}
