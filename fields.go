package snowplow

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/redact"
)

// requestError is an error that the caller can correct: Vault answers it with 400.
type requestError struct{ error }

func (e *requestError) Unwrap() error { return e.error }

func invalidf(format string, args ...any) error {
	return &requestError{fmt.Errorf(format, args...)}
}

// errConfigNotWritten is answered with the command that writes config.
var errConfigNotWritten = errors.New("the engine is not configured")

// input is the fields of a write. Null and an empty value reset a field to its default. err is the first mistake found.
type input struct {
	data  *framework.FieldData
	write console.Write // marks the credential, if that is changed
	err   error
}

// readInput reads the fields of a request, and refuses those that the path does not have: Vault would drop a misspelt
// field, and the setting with it.
func readInput(req *logical.Request, data *framework.FieldData) (*input, error) {
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(data.Raw)) {
		if data.Schema[name] == nil {
			unknown = append(unknown, redact.Printable(name, 64))
		}
	}
	if len(unknown) > 0 {
		known := slices.Sorted(maps.Keys(data.Schema))
		return nil, invalidf("unknown field %s: the fields are %s", strings.Join(unknown, ", "), strings.Join(known, ", "))
	}
	if req.Operation != logical.PatchOperation { // only a patch distinguishes null from an omitted field (RFC 7396)
		maps.DeleteFunc(data.Raw, func(_ string, value any) bool { return value == nil })
	}
	return &input{data: data, write: console.Write{ID: rand.Text(), At: time.Now()}}, nil
}

func (in *input) note(err error) {
	if in.err == nil {
		in.err = err
	}
}

// checkTypes refuses fields whose value is not of their type, before the framework does: its error would repeat the
// value, which may be a secret that went into the wrong field.
func checkTypes(fields map[string]any, path *framework.Path) error {
	if path == nil {
		return nil
	}
	data := &framework.FieldData{Raw: fields, Schema: path.Fields}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		schema := path.Fields[name]
		if schema == nil || fields[name] == "" {
			continue
		}
		if _, _, err := data.GetOkErr(name); err == nil {
			continue
		}
		switch schema.Type {
		case framework.TypeBool:
			return invalidf("%s must be true or false", name)
		case framework.TypeDurationSecond:
			return notADuration(name)
		default:
			return invalidf("%s must be a single value, not an object or a list", name)
		}
	}
	return nil
}

func notADuration(field string) error {
	return invalidf("%s must be a duration of 0 or more whole seconds, like 90, 30s or 1h", field)
}

// credential returns a string field as console.Getter does, without the line breaks at its end: editors end files with
// one, and no value but PEM does.
func (in *input) credential(name string) (value *string, given bool) {
	raw, given := in.data.Raw[name]
	if raw == nil {
		return nil, given
	}
	line := in.data.Get(name).(string)
	if name != "ca_cert" { // which is read back as written: Terraform compares the two
		line = strings.TrimRight(line, "\r\n")
	}
	return &line, true
}

// text returns a string field; a reset one is empty.
func (in *input) text(name string) (value string, given bool) {
	line, given := in.credential(name)
	if line != nil {
		value = *line
	}
	return value, given
}

// flag returns a bool field, or its default if it is omitted or reset.
func (in *input) flag(name string) bool {
	if raw := in.data.Raw[name]; raw == nil || raw == "" {
		return in.data.Schema[name].Default.(bool)
	}
	return in.data.Get(name).(bool)
}

// url returns a URL field: the stored value if it is omitted, and fallback if it is reset.
func (in *input) url(name, stored, fallback string) string {
	raw, given := in.text(name)
	switch {
	case !given:
		return stored
	case raw == "":
		return fallback
	}
	parsed, err := console.ParseURL(name, raw)
	in.note(err)
	return parsed
}

// duration returns a field in whole seconds: the stored value if it is omitted, and nil if it is reset. The framework
// would round a fraction down, and 0 does not mean "very short" to any field here.
func (in *input) duration(name string, stored *time.Duration) *time.Duration {
	raw, given := in.data.Raw[name]
	switch {
	case !given:
		return stored
	case raw == nil, raw == "":
		return nil
	}
	number, _ := raw.(float64) // parseutil would cut its fraction
	parsed, err := parseutil.ParseDurationSecond(raw)
	if err != nil || parsed < 0 || parsed%time.Second != 0 || number != math.Trunc(number) {
		in.note(notADuration(name))
	}
	return &parsed
}

// durationOr is duration for a field that has a default.
func (in *input) durationOr(name string, stored, fallback time.Duration) time.Duration {
	return *cmp.Or(in.duration(name, &stored), &fallback)
}

// mergeCredential writes the fields of a request over cred, binds it to the URLs that it may be sent to, and checks the
// result; to is nil if config, which has them, is not written. It returns warnings for the operator.
func mergeCredential(cred *console.Credential, in *input, defaultVersion string, to *console.Endpoints) (warnings []string, err error) {
	dropped, err := cred.Merge(in.credential, defaultVersion, in.write)
	if err != nil || cred.Empty() {
		return cred.Warnings(), err
	}
	if to == nil {
		return nil, errConfigNotWritten
	}
	if err := cred.Bind(in.credential, *to); err != nil {
		return nil, err
	}
	warnings = cred.Warnings()
	if len(dropped) > 0 {
		warnings = append(warnings, fmt.Sprintf("credentials_version %s does not use %s: the stored value was deleted", cred.Version, strings.Join(dropped, ", ")))
	}
	return warnings, nil
}

// field returns the schema of a field. User interfaces show its label.
func field(kind framework.FieldType, label, description string) *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         kind,
		Description:  description,
		DisplayAttrs: &framework.DisplayAttributes{Name: label},
	}
}

// roleFields returns the fields that roles have, and config as well.
func roleFields() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"organization_id": field(framework.TypeString, "Organization ID",
			"Snowplow organization ID, the UUID on Console's Manage organization page."),
		"credentials_version": field(framework.TypeString, "Credentials version",
			"The exchange to use: v3; v2 (deprecated) takes api_key only, v1 (legacy) a bot user."),
		"verify_connection": field(framework.TypeBool, "Verify connection",
			"Make one exchange with new values before storing them; if it fails, nothing is stored."),
		"ttl": field(framework.TypeDurationSecond, "Lease TTL",
			"Upper bound of a lease; 0: the JWT's remaining validity."),
		"reuse_period": field(framework.TypeDurationSecond, "Reuse period",
			"How long after its exchange a JWT is served to further readers; 0: every read makes its own exchange."),
	}
	fields["credentials_version"].AllowedValues = []any{console.V3, console.V2, console.V1}
	fields["verify_connection"].Default = true
	for _, part := range console.Fields {
		fields[part.Name] = field(framework.TypeString, part.Label, part.Help)
		fields[part.Name].DisplayAttrs.Sensitive = part.Secret
		if part.Legacy() {
			fields[part.Name].DisplayAttrs.Group = "Legacy"
		}
	}
	return fields
}

// Fields of the answers of more than one path.
var (
	credentialSourceField = &framework.FieldSchema{
		Type:          framework.TypeString,
		Required:      true,
		AllowedValues: []any{sourceRole, sourceConfig},
		Description:   "Whose credential is used: role or config.",
	}
	writtenAtField = &framework.FieldSchema{
		Type:        framework.TypeString,
		Description: "When a secret of the credential last got another value, as RFC 3339 in UTC.",
	}
)

// roleNameField returns the schema of a role's name in a path.
func roleNameField(name string) map[string]*framework.FieldSchema {
	schema := field(framework.TypeString, "Role", "Name of the role.")
	schema.Required = true
	return map[string]*framework.FieldSchema{name: schema}
}

// roleNamePattern is the SDK's for names, but for two dots in a row, which Vault's storage refuses.
const roleNamePattern = `\w(?:(?:\.?[\w-])*\.?\w)?`

var roleName = regexp.MustCompile(`^` + roleNamePattern + `$`)

// withRoleName returns the pattern of a path below prefix whose last part is a role's name, captured as field.
func withRoleName(prefix, field string) string {
	return prefix + "(?P<" + field + ">" + roleNamePattern + ")"
}

// readRoleName returns the role that a path below token or status names, empty on token and status themselves. There, a
// role in the parameters is refused: the answer would be config's without a word.
func readRoleName(req *logical.Request, data *framework.FieldData) (string, error) {
	if _, named := data.Schema["role"]; named {
		return data.Get("role").(string), nil
	}
	for _, parameter := range []string{"role", "name"} {
		value, given := req.Data[parameter]
		if !given {
			continue
		}
		role, _ := value.(string)
		if !roleName.MatchString(role) {
			role = "<role>"
		}
		return "", invalidf("%s is not a parameter of %s: read %s/%s instead", parameter, req.Path, req.Path, role)
	}
	return "", nil
}

// readableFields returns the schema of the answer to a read: the fields of the path without those that are write-only.
func readableFields(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	readable := maps.Clone(fields)
	maps.DeleteFunc(readable, func(name string, field *framework.FieldSchema) bool {
		return name == "verify_connection" || field.DisplayAttrs.Sensitive
	})
	readable["credential_written_at"] = writtenAtField
	return readable
}

func okResponse(description string, fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: description, Fields: fields}}}
}

func noContent(description string) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusNoContent: {{Description: description}}}
}
