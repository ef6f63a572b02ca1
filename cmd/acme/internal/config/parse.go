package config

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// Errors are what is wrong with a configuration, each with its place.
type Errors hcl.Diagnostics

// Error is a line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, d := range e {
		lines[i] = describe(d)
	}
	return strings.Join(lines, "\n")
}

func describe(d *hcl.Diagnostic) string {
	text := strings.TrimSuffix(d.Summary, ".")
	if d.Detail != "" {
		text += ": " + strings.TrimSuffix(d.Detail, ".")
	}
	if d.Subject == nil {
		return text
	}
	return fmt.Sprintf("%s:%d,%d: %s", d.Subject.Filename, d.Subject.Start.Line, d.Subject.Start.Column, text)
}

// At is an error about what stands at a place: what is wrong, and what would be right.
func At(place hcl.Range, summary, remedy string) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: remedy, Subject: &place}
}

// Load reads and checks the configuration in a file. Its error is of type Errors.
func Load(file string) (*Config, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(file, content)
}

// Parse is Load of a file's content.
func Parse(file string, content []byte) (*Config, error) {
	parsed, diags := hclparse.NewParser().ParseHCL(content, file)
	if diags.HasErrors() {
		return nil, Errors(diags)
	}
	c := new(Config)
	if diags := gohcl.DecodeBody(parsed.Body, functions(), c); diags.HasErrors() {
		return nil, Errors(slices.DeleteFunc(diags, followsFromAnother))
	}
	if diags := c.validate(parsed.Body.MissingItemRange()); diags.HasErrors() {
		return nil, Errors(diags)
	}
	return c, nil
}

// followsFromAnother: a function that failed has no value, and the decoder reports that as a second error.
func followsFromAnother(d *hcl.Diagnostic) bool {
	return strings.Contains(d.Detail, "value must be known")
}

// functions are env and file.
func functions() *hcl.EvalContext {
	text := func(f func(string) (string, error)) function.Function {
		return function.New(&function.Spec{
			Params: []function.Parameter{{Name: "name", Type: cty.String}},
			Type:   function.StaticReturnType(cty.String),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				value, err := f(args[0].AsString())
				if err != nil {
					return cty.UnknownVal(cty.String), function.NewArgError(0, err)
				}
				return cty.StringVal(value), nil
			},
		})
	}
	return &hcl.EvalContext{Functions: map[string]function.Function{
		"env": text(func(name string) (string, error) {
			value, set := os.LookupEnv(name)
			if !set {
				return "", fmt.Errorf("the environment variable %s is not set", name)
			}
			return value, nil
		}),
		"file": text(func(path string) (string, error) {
			content, err := os.ReadFile(path)
			return strings.TrimSuffix(string(content), "\n"), err
		}),
	}}
}
