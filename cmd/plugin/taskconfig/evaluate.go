package taskconfig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	hcljson "github.com/hashicorp/hcl/v2/json"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/zclconf/go-cty/cty"
)

// evaluate decodes a config by its schema as Nomad's client does: as JSON, whose texts are HCL's templates.
func (c *Config) evaluate(schema *hclspec.Spec, config any, t Task) (cty.Value, error) {
	spec, diags := hclspecutils.Convert(schema)
	if diags.HasErrors() {
		return cty.NilVal, diags
	}
	w := &placed{}
	w.write(config, nil)
	file, diags := hcljson.Parse(w.buf.Bytes(), "")
	if diags.HasErrors() {
		return cty.NilVal, fmt.Errorf("read the config of task %q: %w", t.Name, diags)
	}
	c.context = &hcl.EvalContext{
		Variables: c.variables(hcldec.Variables(file.Body, spec), w, t),
		Functions: hclutils.GetStdlibFuncs(),
	}
	v, diags := hcldec.Decode(file.Body, spec, c.context)
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			c.Problems = append(c.Problems, w.problem(d))
		}
	}
	return c.standIns(v)
}

// variables are what Nomad fills in: the few that the file tells, and all others as values that are not known here.
func (c *Config) variables(used []hcl.Traversal, w *placed, t Task) map[string]cty.Value {
	vars := map[string]cty.Value{}
	for _, u := range used {
		vars[u.RootName()] = cty.DynamicVal
		c.secretVariable(u, w, t)
	}
	known := map[string]string{
		"NOMAD_JOB_ID": t.Job, "NOMAD_JOB_NAME": t.JobName, "NOMAD_JOB_PARENT_ID": t.Parent,
		"NOMAD_TASK_NAME": t.Name, "NOMAD_NAMESPACE": t.Namespace,
	}
	if t.Group != nil {
		known["NOMAD_GROUP_NAME"] = deref(t.Group.Name)
	}
	for name, value := range known {
		if own, _, given := t.GivenEnv(name); given { // it takes the place of Nomad's
			value = own
			if interpolated(own) {
				continue
			}
		}
		if _, ok := vars[name]; ok && value != "" {
			vars[name] = cty.StringVal(value)
		}
	}
	return vars
}

// secretVariable refuses a variable of a secret: Nomad fills in a config before its driver has one.
func (c *Config) secretVariable(u hcl.Traversal, w *placed, t Task) {
	name := u.RootName()
	if _, ok := t.Env[name]; ok {
		return
	}
	for _, secret := range mapsOf(written(c.raw, []string{"secret"})) {
		for label := range secret {
			if written(c.raw, []string{"secret", label, "env", name}) == nil {
				continue
			}
			steps := w.at(u.SourceRange().Start.Byte)
			c.Problems = append(c.Problems, Problem{Steps: steps, Text: fmt.Sprintf(
				"%s${%s} is a variable of secret %q, and Nomad fills in the config before its driver has the secrets: let the task's program read the variable, such as with sh -c", prefix(placeOf(steps)), name, label)})
			return
		}
	}
}

// placed is a value's JSON that knows which part of it is what.
type placed struct {
	buf   bytes.Buffer
	parts []part
}

type part struct {
	from, to int
	steps    []string
}

func (w *placed) write(v any, steps []string) {
	from := w.buf.Len()
	switch v := v.(type) {
	case map[string]any:
		w.buf.WriteByte('{')
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				w.buf.WriteByte(',')
			}
			at := append(slices.Clone(steps), key)
			start := w.buf.Len()
			w.scalar(key)
			w.buf.WriteByte(':')
			w.write(v[key], at)
			w.parts = append(w.parts, part{start, w.buf.Len(), at})
		}
		w.buf.WriteByte('}')
	case []map[string]any:
		all := make([]any, len(v))
		for i, m := range v {
			all[i] = m
		}
		w.write(all, steps)
	case []any:
		w.buf.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				w.buf.WriteByte(',')
			}
			w.write(e, steps)
		}
		w.buf.WriteByte(']')
	default:
		w.scalar(v)
	}
	w.parts = append(w.parts, part{from, w.buf.Len(), steps})
}

func (w *placed) scalar(v any) {
	b, err := json.Marshal(v)
	if err != nil { // an infinite number, say: the schema refuses null, too
		b = []byte("null")
	}
	w.buf.Write(b)
}

// at is the smallest part that a byte is in.
func (w *placed) at(offset int) (steps []string) {
	size := w.buf.Len() + 1
	for _, p := range w.parts {
		if p.from <= offset && offset < p.to && (p.to-p.from < size || p.to-p.from == size && len(p.steps) > len(steps)) {
			size, steps = p.to-p.from, p.steps
		}
	}
	return steps
}

var (
	missingArgument = regexp.MustCompile(`^The argument "([^"]*)" is required`)
	wrongType       = regexp.MustCompile(`^Inappropriate value for attribute "([^"]*)": (.*)$`)
)

// problem puts a diagnostic of the decoder's into the words of Compile.
func (w *placed) problem(d *hcl.Diagnostic) Problem {
	p := Problem{}
	if d.Subject != nil {
		p.Steps = w.at(d.Subject.Start.Byte)
	}
	detail := strings.TrimSuffix(strings.Join(strings.Fields(d.Detail), " "), ".")
	place := prefix(placeOf(p.Steps))
	switch missing, wrong := missingArgument.FindStringSubmatch(detail), wrongType.FindStringSubmatch(detail); {
	case missing != nil:
		p.Text = fmt.Sprintf("%s%s is missing", place, missing[1])
		p.Steps = append(slices.Clone(p.Steps), missing[1])
	case wrong != nil:
		if len(p.Steps) > 0 && p.Steps[len(p.Steps)-1] == wrong[1] {
			place = prefix(placeOf(p.Steps[:len(p.Steps)-1]))
		}
		what := wrong[2]
		if strings.HasPrefix(what, "list of map of string required") {
			what = "a map is required, such as { NAME = \"value\" }; in JSON, a list of maps"
		}
		p.Text = fmt.Sprintf("%s%s: %s", place, wrong[1], what)
	default:
		p.Text = place + strings.ToLower(d.Summary) + ": " + detail
	}
	return p
}
