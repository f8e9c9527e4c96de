package snowplow

import (
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

// input is the fields of a write. In a patch, null resets a field to its default (RFC 7396); in any other write, it is
// the same as leaving the field out.
type input struct {
	data  *framework.FieldData
	patch bool
}

// readInput reads the fields of a request, and refuses those that the path does not have: Vault would drop a misspelt
// field, and the setting with it.
func readInput(req *logical.Request, data *framework.FieldData) (input, error) {
	var unknown []string
	for name := range data.Raw {
		if _, known := data.Schema[name]; !known {
			unknown = append(unknown, redact.Printable(name, 64))
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		var known []string
		for name := range data.Schema {
			known = append(known, name)
		}
		slices.Sort(known)
		return input{}, invalidf("unknown field %s: the fields are %s", strings.Join(unknown, ", "), strings.Join(known, ", "))
	}
	return input{data: data, patch: req.Operation == logical.PatchOperation}, nil
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

// given reports whether the request has the field, and whether it resets it to its default: an empty value does in any
// write.
func (in input) given(name string) (given, cleared bool) {
	raw, present := in.data.Raw[name]
	if present && raw == nil {
		return in.patch, in.patch
	}
	return present, raw == ""
}

// text returns a string field; a reset one is empty.
func (in input) text(name string) (value string, given bool) {
	given, cleared := in.given(name)
	if !given || cleared {
		return "", given
	}
	return in.line(name), true
}

// line returns a string field without the line breaks at its end: editors end files with one, and no value but PEM does.
func (in input) line(name string) string {
	value := in.data.Get(name).(string)
	if name == "ca_cert" { // read back as written: Terraform compares the two
		return value
	}
	return strings.TrimRight(value, "\r\n")
}

// credential returns a field of a credential as console.Getter does.
func (in input) credential(name string) (value *string, given bool) {
	raw, present := in.data.Raw[name]
	if !present || raw == nil {
		return nil, present && in.patch
	}
	line := in.line(name)
	return &line, true
}

// flag returns a bool field, or its default if it is left out or reset.
func (in input) flag(name string) bool {
	if given, cleared := in.given(name); !given || cleared {
		return in.data.Schema[name].Default.(bool)
	}
	return in.data.Get(name).(bool)
}

// url returns a URL field: the stored value if it is left out, and fallback if it is reset.
func (in input) url(name, stored, fallback string) (string, error) {
	raw, given := in.text(name)
	switch {
	case !given:
		return stored, nil
	case raw == "":
		return fallback, nil
	default:
		return console.ParseURL(name, raw)
	}
}

// duration returns a field in whole seconds, nil if it is reset. The framework would round a fraction down, and 0 does
// not mean "very short" to any field here.
func (in input) duration(name string) (value *time.Duration, given bool, err error) {
	given, cleared := in.given(name)
	if !given || cleared {
		return nil, given, nil
	}
	raw := in.data.Raw[name]
	if number, isFloat := raw.(float64); isFloat && number != math.Trunc(number) { // parseutil would cut the fraction
		return nil, true, notADuration(name)
	}
	parsed, err := parseutil.ParseDurationSecond(raw)
	if err != nil || parsed < 0 || parsed%time.Second != 0 {
		return nil, true, notADuration(name)
	}
	return &parsed, true, nil
}

// mergeCredential writes the fields of a request over cred, binds it to the URLs that it may be sent to, and checks the
// result; to is nil if config, which has them, is not written. It returns warnings for the operator; its errors are the
// caller's to correct.
func mergeCredential(cred *console.Credential, in input, defaultVersion string, to *console.Endpoints, write console.Write) (warnings []string, err error) {
	dropped, err := cred.Merge(in.credential, defaultVersion, write)
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

// credentialSchema returns the fields that config and roles have in common.
func credentialSchema() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"organization_id": {
			Type:         framework.TypeString,
			Description:  "Snowplow organization ID, the UUID on Console's Manage organization page.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Organization ID"},
		},
		"credentials_version": {
			Type:          framework.TypeString,
			AllowedValues: []any{console.V3, console.V2, console.V1},
			Description:   "The exchange to use: v3; v2 (deprecated) takes api_key only, v1 (legacy) a bot user.",
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Credentials version"},
		},
		"verify_connection": {
			Type:         framework.TypeBool,
			Default:      true,
			Description:  "Make one exchange with new values before storing them; if it fails, nothing is stored.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Verify connection"},
		},
	}
	for _, field := range console.Fields {
		group := ""
		if field.Legacy() {
			group = "Legacy"
		}
		fields[field.Name] = &framework.FieldSchema{
			Type:         framework.TypeString,
			Description:  field.Help,
			DisplayAttrs: &framework.DisplayAttributes{Name: field.Label, Sensitive: field.Secret, Group: group},
		}
	}
	return fields
}

// leaseFields returns the fields in which config and roles say how JWTs are served.
func leaseFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "Upper bound of a lease; 0: the JWT's remaining validity.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Lease TTL"},
		},
		"reuse_period": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long after its exchange a JWT is served to further readers; 0: every read makes its own exchange.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Reuse period"},
		},
	}
}

// credentialSourceField is the schema of whose credential a role uses.
func credentialSourceField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:          framework.TypeString,
		Required:      true,
		AllowedValues: []any{sourceRole, sourceConfig},
		Description:   "Whose credential is used: role or config.",
	}
}

// writtenAtField is the schema of the age of a credential.
func writtenAtField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:        framework.TypeString,
		Description: "When a secret of the credential last got another value, as RFC 3339 in UTC.",
	}
}

// roleNameField returns the schema of a role's name in a path.
func roleNameField(field string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{field: {
		Type:         framework.TypeString,
		Required:     true,
		Description:  "Name of the role.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Role"},
	}}
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

// forwardToPrimary marks an operation that writes to storage, which only the active node of the primary cluster can.
func forwardToPrimary(operation framework.PathOperation) *framework.PathOperation {
	operation.ForwardPerformanceStandby = true
	operation.ForwardPerformanceSecondary = true
	return &operation
}

// readableFields returns the schema of an answer: the fields of the path without those that are write-only.
func readableFields(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	readable := maps.Clone(fields)
	for name, field := range fields {
		if field.DisplayAttrs.Sensitive {
			delete(readable, name)
		}
	}
	delete(readable, "verify_connection")
	return readable
}

func okResponse(description string, fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: description, Fields: fields}}}
}

func noContent(description string) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusNoContent: {{Description: description}}}
}

// writeResponses are the answers to a write.
var writeResponses = map[int][]framework.Response{
	http.StatusNoContent: {{Description: "The fields are stored."}},
	http.StatusOK:        {{Description: "The fields are stored; the answer has warnings."}},
}
