package taskconfig

import (
	"fmt"
	"maps"
	"slices"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

// pruner takes out of a config what its schema does not have, and says so better than the schema's decoder would, which stops
// there. Then the rest can be looked at.
type pruner struct {
	problems []Problem
	ours     map[string]*hclspec.Spec // the keys of a secret block
}

func (p *pruner) badf(steps []string, nth int, format string, args ...any) {
	p.problems = append(p.problems, Problem{Steps: slices.Clone(steps), Nth: nth, Text: fmt.Sprintf(format, args...)})
}

// object is the value of a block, or of several of one kind.
func (p *pruner) object(steps []string, attrs map[string]*hclspec.Spec, v any) any {
	list := mapsOf(v)
	if list == nil {
		return v // the decoder says what is wrong
	}
	if len(steps) == 0 {
		p.ours = attrs["secret"].GetBlockMap().GetNested().GetObject().GetAttributes()
	}
	clean := make([]any, 0, len(list))
	labels := map[string]map[string]int{}
	for _, m := range list {
		out := map[string]any{}
		for _, key := range slices.Sorted(maps.Keys(m)) {
			spec, known := attrs[key]
			at := append(slices.Clone(steps), key)
			if !known {
				// The rest is looked at as if the key were what it is likely meant to be.
				if meant := p.unknown(at, attrs, m[key]); meant != "" && m[meant] == nil && out[meant] == nil {
					out[meant] = m[key]
				}
				continue
			}
			if labels[key] == nil {
				labels[key] = map[string]int{}
			}
			out[key] = p.value(at, spec, m[key], labels[key])
		}
		clean = append(clean, out)
	}
	if len(clean) == 1 {
		if _, list := v.(map[string]any); list {
			return clean[0]
		}
	}
	return clean
}

// value is that of a known key.
func (p *pruner) value(at []string, spec *hclspec.Spec, v any, seen map[string]int) any {
	switch {
	case spec.GetDefault() != nil:
		return p.value(at, spec.GetDefault().GetPrimary(), v, seen)
	case spec.GetBlockValue() != nil:
		return p.nested(at, spec.GetBlockValue().GetNested(), v)
	case spec.GetBlockList() != nil:
		return p.nested(at, spec.GetBlockList().GetNested(), v)
	case spec.GetBlockSet() != nil:
		return p.nested(at, spec.GetBlockSet().GetNested(), v)
	case spec.GetBlockMap() != nil:
		return p.labelled(at, spec.GetBlockMap().GetNested(), v, seen)
	}
	return v
}

func (p *pruner) nested(at []string, spec *hclspec.Spec, v any) any {
	if o := spec.GetObject(); o != nil {
		return p.object(at, o.GetAttributes(), v)
	}
	return v
}

// labelled is the value of blocks with a label each: the second of one label goes.
func (p *pruner) labelled(at []string, spec *hclspec.Spec, v any, seen map[string]int) any {
	list := mapsOf(v)
	if list == nil {
		return v
	}
	clean := make([]any, 0, len(list))
	for _, m := range list {
		out := map[string]any{}
		for _, label := range slices.Sorted(maps.Keys(m)) {
			here := append(slices.Clone(at), label)
			blocks := []any{m[label]}
			if several, ok := m[label].([]any); ok {
				blocks = several
			} else if several := mapsOf(m[label]); several != nil {
				blocks = blocks[:0]
				for _, b := range several {
					blocks = append(blocks, b)
				}
			}
			for _, b := range blocks {
				if seen[label]++; seen[label] > 1 {
					p.badf(here, seen[label]-1, "%s is given twice; give one of them another name", placeOf(here))
					continue
				}
				out[label] = p.nested(here, spec, b)
			}
		}
		if len(out) > 0 {
			clean = append(clean, out)
		}
	}
	return clean
}

// unknown is about a key that the schema does not have. It gives the attribute that is likely meant; "" for none.
func (p *pruner) unknown(at []string, attrs map[string]*hclspec.Spec, v any) (meant string) {
	key, parent := at[len(at)-1], at[:len(at)-1]
	where := placeOf(parent)
	if key == "dynamic" {
		steps := at
		for _, m := range mapsOf(v) {
			for kind := range m {
				steps = append(slices.Clone(at), kind)
			}
		}
		p.badf(steps, 0, "%sdynamic is not for a task's config: Nomad gives it to the driver as it is, and the start fails; write the blocks out, or make the job's file with a tool", prefix(where))
		return ""
	}
	hint, near := "", nearest(key, attrs)
	_, ofSecret := p.ours[key]
	switch {
	case near != "":
		hint = fmt.Sprintf("; did you mean %q?", near)
		if attrs[near].GetAttr() != nil {
			meant = near
		}
	case len(parent) == 0 && ofSecret:
		hint = `; it goes into a secret block: secret "NAME" { … }`
	case len(parent) == 2 && parent[0] == "secret" && slices.Contains(configLevel, key):
		hint = "; it goes into the config block itself, for all secrets of the task"
	}
	p.badf(at, 0, "%sunknown key %q%s", prefix(where), key, hint)
	return meant
}

// configLevel are the keys that only a task's config has.
var configLevel = []string{"role", "namespace", "identity_file", "expose_token", "from_policies", "stop_signal", "stop_timeout", "pre_stop_signal", "pre_stop_wait", "registry_auth"}

// nearest is the key of a schema that a mistyped one is likely meant to be.
func nearest(key string, attrs map[string]*hclspec.Spec) (best string) {
	least := 1 + max(1, len(key)/3)
	for _, known := range slices.Sorted(maps.Keys(attrs)) {
		if d := levenshtein.Distance(key, known, nil); d < least {
			best, least = known, d
		}
	}
	return best
}

// placeOf is how Compile names a place: `secret "db": file "x"`.
func placeOf(steps []string) (text string) {
	for i := 0; i < len(steps); i++ {
		if text != "" {
			text += ": "
		}
		text += steps[i]
		if (steps[i] == "secret" || steps[i] == "file") && i+1 < len(steps) {
			i++
			text += fmt.Sprintf(" %q", steps[i])
		}
	}
	return text
}

func prefix(place string) string {
	if place == "" {
		return ""
	}
	return place + ": "
}
