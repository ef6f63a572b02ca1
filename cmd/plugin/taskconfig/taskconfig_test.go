package taskconfig

import (
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// decode decodes a config of jobspec2's form.
func decode(t *testing.T, config map[string]any) *Config {
	t.Helper()
	group := "app"
	c, err := Decode(Task{Job: "web", Namespace: "shop", Group: &api.TaskGroup{Name: &group}, Task: &api.Task{Name: "t", Driver: "docker", Config: config}})
	must.NoError(t, err)
	return c
}

func secretOf(name string, keys map[string]any) map[string]any {
	return map[string]any{"image": "x", "secret": []map[string]any{{name: []map[string]any{keys}}}}
}

// What the file tells is filled in, the rest is not known and stands as it is written.
func TestValues(t *testing.T) {
	c := decode(t, secretOf("a", map[string]any{
		"path": "secret/${NOMAD_NAMESPACE}/${NOMAD_JOB_ID}/${NOMAD_GROUP_NAME}/${NOMAD_TASK_NAME}", "env": []map[string]any{{"A": "${meta.x}", "B": "b"}},
	}))
	must.SliceEmpty(t, c.Problems)
	must.Eq(t, "secret/shop/web/app/t", c.Spec.Secrets[0].Request.Path)
	must.False(t, c.Unknown("secret", "a", "path"))
	must.True(t, c.Unknown("secret", "a", "env"))
	must.True(t, c.Unknown("secret", "a", "env", "A"))
	must.False(t, c.Unknown("secret", "a", "env", "B"))
	must.Eq(t, "${meta.x}", c.Written("secret", "a", "env", "A"))
	must.Eq(t, map[string]string{"A": NotKnown, "B": "b"}, c.Spec.Secrets[0].Env)

	must.Eq(t, "", c.Written("secret", "none", "path"))
	must.Eq(t, "", c.Written())
}

// A mode that is not known is the one that what is beside it is for.
func TestUnknownMode(t *testing.T) {
	for mode, beside := range map[string]map[string]any{
		"restart": {}, "signal": {"change_signal": "SIGHUP"}, "script": {"change_script": []map[string]any{{"command": "x"}}},
	} {
		keys := map[string]any{"path": "secret/a", "files": true, "change_mode": "${meta.mode}"}
		for k, v := range beside {
			keys[k] = v
		}
		c := decode(t, secretOf("a", keys))
		must.SliceEmpty(t, c.Problems)
		must.Eq(t, mode, c.Spec.Secrets[0].Change.Mode.String())
	}
}

// A value of a wrong type is said once, and is not taken for one that is not known.
func TestWrongType(t *testing.T) {
	c := decode(t, secretOf("a", map[string]any{"path": "secret/a", "files": true, "version": "x"}))
	must.Eq(t, []Problem{{Steps: []string{"secret", "a", "version"}, Text: `secret "a": version: a number is required`}}, c.Problems)
	must.False(t, c.Unknown("secret", "a", "version"))
	must.Nil(t, c.Spec)
}

// Other shapes than jobspec2's, as JSON has them, and damaged ones, bring nothing down.
func TestShapes(t *testing.T) {
	good := decode(t, map[string]any{"image": "x", "secret": map[string]any{"a": map[string]any{"path": "secret/a", "files": true}}})
	must.SliceEmpty(t, good.Problems)
	must.Eq(t, "a", good.Spec.Secrets[0].Name)
	for _, config := range []map[string]any{
		nil, {}, {"secret": 1}, {"secret": []any{1}}, {"secret": map[string]any{"a": 1}}, {"secret": map[string]any{"a": []any{1}}},
		{"image": map[string]any{}}, {"secret": []any{map[string]any{"a": nil}}}, {"image": []any{}}, {"dynamic": 1}, {"mount": "x"},
	} {
		must.SliceNotEmpty(t, decode(t, config).Problems, must.Sprintf("%v", config))
	}
}
