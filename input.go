package snowplow

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// invalidRequest is an error that the caller can mend: Vault answers it with 400.
type invalidRequest struct{ message string }

func (e *invalidRequest) Error() string { return e.message }

func invalidf(format string, args ...any) error {
	return &invalidRequest{fmt.Sprintf(format, args...)}
}

// input is the fields of a write. In a patch, null takes a field back to what it is when never written
// (RFC 7396); in any other write, it is the same as leaving the field out.
type input struct {
	data  *framework.FieldData
	patch bool
}

// readInput takes the fields of a request, and refuses those that the path does not have: a misspelt field that is
// silently dropped is a setting that silently does not hold.
func readInput(req *logical.Request, data *framework.FieldData) (input, error) {
	var unknown []string
	for name := range data.Raw {
		if _, known := data.Schema[name]; !known {
			unknown = append(unknown, printable(name, 64))
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		var known []string
		for name := range data.Schema {
			known = append(known, name)
		}
		slices.Sort(known)
		return input{}, invalidf("unknown field %s: accepted are %s", strings.Join(unknown, ", "), strings.Join(known, ", "))
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
	for name, value := range fields {
		schema := path.Fields[name]
		if schema == nil || value == "" {
			continue
		}
		if _, _, err := data.GetOkErr(name); err == nil {
			continue
		}
		switch schema.Type {
		case framework.TypeBool:
			return invalidf("%s is not a flag: accepted are true and false", name)
		case framework.TypeDurationSecond:
			return notADuration(name)
		default:
			return invalidf("%s is an object or a list: accepted is a single value", name)
		}
	}
	return nil
}

func notADuration(field string) error {
	return invalidf("%s is not a duration in whole seconds of 0 or more: accepted is one like 90, 30s or 1h", field)
}

// given says whether the request has the field, and whether it asks to clear it. An empty value clears, in whatever
// write: that is what an unset variable of a script comes to.
func (in input) given(name string) (given, cleared bool) {
	raw, present := in.data.Raw[name]
	if present && raw == nil {
		return in.patch, in.patch
	}
	return present, raw == ""
}

// text is a string field; a cleared one is empty.
func (in input) text(name string) (value string, given bool) {
	given, cleared := in.given(name)
	if !given || cleared {
		return "", given
	}
	return in.data.Get(name).(string), true
}

// flag is a bool field, or its default where it is left out or cleared.
func (in input) flag(name string) bool {
	if given, cleared := in.given(name); !given || cleared {
		return in.data.Schema[name].Default.(bool)
	}
	return in.data.Get(name).(bool)
}

// endpoint is a URL field, the stored one where it is left out and fallback where it is cleared.
func (in input) endpoint(name, stored, fallback string) (string, error) {
	raw, given := in.text(name)
	switch {
	case !given:
		return stored, nil
	case raw == "":
		return fallback, nil
	default:
		return parseEndpoint(name, raw)
	}
}

// duration is a field in whole seconds; nil where it is cleared. The framework would round a fraction down, and 0
// means something else than "very short" to every field here.
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
