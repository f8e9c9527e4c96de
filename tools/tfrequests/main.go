// Tfrequests prints the requests that Terraform's provider for Vault makes for
// the vault_generic_endpoint blocks of a folder, resources and ephemeral ones,
// as JSON. It evaluates the folder's own text, for a test that is to replay the
// requests where Terraform or the provider cannot be had.
//
//	tfrequests FOLDER <variables.json
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// request is what one block sends: data to path.
type request struct {
	Block              string          `json:"block"`
	Ephemeral          bool            `json:"ephemeral"`
	Path               string          `json:"path"`
	Data               json.RawMessage `json:"data"`
	IgnoreAbsentFields bool            `json:"ignore_absent_fields"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: tfrequests FOLDER <variables.json")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "tfrequests:", err)
		os.Exit(1)
	}
}

func run(folder string, variables io.Reader, out io.Writer) error {
	given, err := io.ReadAll(variables)
	if err != nil {
		return fmt.Errorf("reading the variables: %w", err)
	}
	var values ctyjson.SimpleJSONValue
	if err := json.Unmarshal(given, &values); err != nil {
		return fmt.Errorf("reading the variables: %w", err)
	}
	mount := cty.ObjectVal(map[string]cty.Value{"path": cty.StringVal("snowplow"), "id": cty.StringVal("snowplow")})
	scope := &hcl.EvalContext{
		Variables: map[string]cty.Value{
			"var":         values.Value,
			"vault_mount": cty.ObjectVal(map[string]cty.Value{"snowplow": mount}),
		},
		Functions: map[string]function.Function{"jsonencode": stdlib.JSONEncodeFunc},
	}
	blocks, err := endpoints(folder)
	if err != nil {
		return err
	}
	requests := []request{}
	for _, block := range blocks {
		made, err := block.requests(scope)
		if err != nil {
			return err
		}
		requests = append(requests, made...)
	}
	return json.NewEncoder(out).Encode(requests)
}

// endpoint is one block, with the attributes that matter here.
type endpoint struct {
	name       string
	ephemeral  bool
	attributes map[string]hcl.Expression
}

func endpoints(folder string) ([]endpoint, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	parser := hclparse.NewParser()
	var found []endpoint
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".tf" {
			continue
		}
		file, diagnostics := parser.ParseHCLFile(filepath.Join(folder, entry.Name()))
		if diagnostics.HasErrors() {
			return nil, diagnostics
		}
		content, _, diagnostics := file.Body.PartialContent(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
			{Type: "resource", LabelNames: []string{"type", "name"}},
			{Type: "ephemeral", LabelNames: []string{"type", "name"}},
		}})
		if diagnostics.HasErrors() {
			return nil, diagnostics
		}
		for _, block := range content.Blocks {
			if block.Labels[0] != "vault_generic_endpoint" {
				continue
			}
			attributes, diagnostics := block.Body.JustAttributes()
			if diagnostics.HasErrors() {
				return nil, diagnostics
			}
			e := endpoint{name: block.Labels[1], ephemeral: block.Type == "ephemeral", attributes: map[string]hcl.Expression{}}
			for name, attribute := range attributes {
				e.attributes[name] = attribute.Expr
			}
			found = append(found, e)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s has no vault_generic_endpoint", folder)
	}
	return found, nil
}

// requests evaluates a block, once for each element of its for_each, or as often as its count says.
func (e endpoint) requests(scope *hcl.EvalContext) ([]request, error) {
	elements := map[string]cty.Value{"": cty.EmptyObjectVal}
	if each, given := e.attributes["for_each"]; given {
		value, diagnostics := each.Value(scope)
		if diagnostics.HasErrors() {
			return nil, diagnostics
		}
		elements = value.AsValueMap()
	}
	count, err := e.attribute(scope, "count", cty.NumberIntVal(1))
	if err != nil {
		return nil, err
	}
	if count.Equals(cty.Zero).True() {
		return nil, nil
	}
	var made []request
	for key, value := range elements {
		inner := scope.NewChild()
		inner.Variables = map[string]cty.Value{
			"each": cty.ObjectVal(map[string]cty.Value{"key": cty.StringVal(key), "value": value}),
		}
		one, err := e.request(inner)
		if err != nil {
			return nil, err
		}
		made = append(made, one)
	}
	return made, nil
}

func (e endpoint) request(scope *hcl.EvalContext) (request, error) {
	path, err := e.attribute(scope, "path", cty.StringVal(""))
	if err != nil {
		return request{}, err
	}
	data, err := e.attribute(scope, "data_json", cty.StringVal(""))
	if err != nil {
		return request{}, err
	}
	ignoresAbsent, err := e.attribute(scope, "ignore_absent_fields", cty.False)
	if err != nil {
		return request{}, err
	}
	return request{
		Block:              e.name,
		Ephemeral:          e.ephemeral,
		Path:               path.AsString(),
		Data:               json.RawMessage(data.AsString()),
		IgnoreAbsentFields: ignoresAbsent.True(),
	}, nil
}

// attribute evaluates an attribute, which must be of the type of its default.
func (e endpoint) attribute(scope *hcl.EvalContext, name string, byDefault cty.Value) (cty.Value, error) {
	expression, given := e.attributes[name]
	if !given {
		return byDefault, nil
	}
	value, diagnostics := expression.Value(scope)
	if diagnostics.HasErrors() {
		return byDefault, diagnostics
	}
	if !value.Type().Equals(byDefault.Type()) || value.IsNull() || !value.IsKnown() {
		return byDefault, fmt.Errorf("%s of %s must be a %s", name, e.name, byDefault.Type().FriendlyName())
	}
	return value, nil
}
