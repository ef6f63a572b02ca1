package secrets

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
)

const canary = "hunter2-canary"

// hidden holds secrets in unexported fields, where fmt cannot call their methods.
type hidden struct {
	v Value
	f Fields
	s *Set
	l Login
}

// TestRedaction upholds L4 for every exported type that holds a secret.
func TestRedaction(t *testing.T) {
	v := TextValue(canary)
	fields := NewFields(map[string]any{"password": canary})
	set := &Set{Env: map[string]Value{"A": v}, Files: []RenderedFile{{Path: "a", Data: v}}}
	all := map[string]any{
		"Value":        v,
		"*Value":       &v,
		"[]Value":      []Value{v},
		"map":          map[string]Value{"a": v},
		"Fields":       fields,
		"*Fields":      &fields,
		"Answer":       Answer{Fields: fields},
		"*Answer":      &Answer{Fields: fields},
		"Token":        Token{Value: v},
		"Login":        Login{JWT: v},
		"Set":          *set,
		"*Set":         set,
		"RenderedFile": set.Files[0],
		"nested":       map[string]any{"x": []any{Answer{Fields: fields}, set}},
		"hidden":       hidden{v, fields, set, Login{JWT: v}},
		"*hidden":      &hidden{v, fields, set, Login{JWT: v}},
		"error":        fmt.Errorf("wrapped %v %s %w", v, fields, Errorf(Invalid, "%+v", set)),
	}
	for name, x := range all {
		t.Run(name, func(t *testing.T) {
			outputs := map[string]string{}
			for _, verb := range strings.Fields("%v %+v %#v %s %q %d %x %X %o %b %c %e %t %p %U %T %10v %-5s %08d %#x %z") {
				outputs[verb] = fmt.Sprintf(verb, x)
			}
			if b, err := json.Marshal(x); err == nil {
				outputs["json"] = string(b)
			}
			for _, asJSON := range []bool{true, false} {
				var buf bytes.Buffer
				log := hclog.New(&hclog.LoggerOptions{Output: &buf, JSONFormat: asJSON, Level: hclog.Trace})
				log.With("with", x).Info("message", "key", x, "list", []any{x}, "fmt", hclog.Fmt("%+v", x))
				outputs[fmt.Sprintf("hclog json=%v", asJSON)] = buf.String()
			}
			var buf bytes.Buffer
			slog.New(slog.NewJSONHandler(&buf, nil)).Info("message", "key", x)
			slog.New(slog.NewTextHandler(&buf, nil)).Info("message", "key", x)
			outputs["slog"] = buf.String()
			outputs["print"] = fmt.Sprint(x) + fmt.Sprintln(x)

			for how, out := range outputs {
				lower := strings.ToLower(out)
				for _, form := range []string{canary, fmt.Sprintf("%x", canary), strings.Trim(fmt.Sprint([]byte(canary)), "[]"), "aHVudGVyMi1jYW5hcnk"} {
					must.False(t, strings.Contains(lower, strings.ToLower(form)), must.Sprintf("%s shows the secret", how))
				}
			}
			if name == "Value" || name == "Fields" {
				for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
					must.Eq(t, Redacted, outputs[verb])
				}
				must.Eq(t, `"[redacted]"`, outputs["json"])
				must.StrContains(t, outputs["hclog json=true"], `"key":"[redacted]"`)
				must.StrContains(t, outputs["hclog json=false"], `key=[redacted]`)
			}
		})
	}
}

func TestValue(t *testing.T) {
	must.True(t, Value{}.IsEmpty())
	must.Eq(t, "", Value{}.Text())
	must.True(t, Value{}.Equal(TextValue("")))
	must.False(t, TextValue("a").Equal(TextValue("b")))
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	must.Eq(t, all, NewValue(all).Bytes()) // S7
	must.Eq(t, 256, NewValue(all).Len())
}
