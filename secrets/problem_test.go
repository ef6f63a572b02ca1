package secrets

import (
	"errors"
	"testing"

	"github.com/shoenig/test/must"
)

// Each problem of Compile knows its place in the config.
func TestProblems(t *testing.T) {
	_, err := Compile(TaskConfig{
		Splay: "x",
		Secrets: map[string]*SecretConfig{
			"a:b\" c": {Path: "secret/a", Env: []map[string]string{{"1X": "f"}}},
			"db": {
				Path: "sys/x", ChangeMode: "script", ChangeScript: &ScriptConfig{Command: "x", Timeout: "soon"}, EnvPrefix: ptr("9"),
				Files: map[string]*FileConfig{"x: \"y\"": {Field: "f", Perms: "rw"}, "both": {Field: "f", Template: "t"}, "none": {}},
			},
			"tls": {Path: "pki/sign/web", CSR: &CSRConfig{CommonName: "x", KeyType: "dsa"}},
		},
		Files: map[string]*FileConfig{"f": {Template: "{{"}},
	})
	places := map[string]bool{}
	for _, p := range Problems(err) {
		must.StrContains(t, err.Error(), p.Text)
		places[joined(p.Place)] = true
	}
	for _, want := range []string{
		"splay", "secret|a:b\" c", "secret|a:b\" c|env|1X", "secret|db|path", "secret|db|change_script|timeout", "secret|db|env_prefix",
		"secret|db|file|x: \"y\"|perms", "secret|db|file|both|field", "secret|db|file|none", "secret|tls|csr|key_type", "file|f|template",
	} {
		must.MapContainsKey(t, places, want, must.Sprintf("%v", places))
	}
	must.MapLen(t, 11, places)

	must.SliceEmpty(t, Problems(nil))
	must.Eq(t, []Problem{{Text: "x"}}, Problems(errors.New("x")))
	spec, err := Compile(TaskConfig{Secrets: map[string]*SecretConfig{"a": {Path: "secret/a", LiveDir: "live"}}})
	must.NoError(t, err)
	all := Problems(errors.Join(errors.New("x"), spec.CheckLiveDirs(true)))
	must.Len(t, 2, all)
	must.Eq(t, []string{"secret", "a", "live_dir"}, all[1].Place)
}

// What is found wrong elsewhere has its place and its text in the same form.
func TestProblemf(t *testing.T) {
	err := Problemf("registry_auth", "server_address %q is another", "x")
	must.EqOp(t, Invalid, KindOf(err))
	must.ErrorContains(t, err, `registry_auth: server_address "x" is another`)
	must.Eq(t, []Problem{{Place: []string{"registry_auth", "server_address"}, Text: `registry_auth: server_address "x" is another`}}, Problems(err))
	must.Eq(t, []string{"registry_auth"}, Problems(Problemf("registry_auth", "the job has an auth block, too"))[0].Place)
}

func joined(steps []string) (text string) {
	for i, s := range steps {
		if i > 0 {
			text += "|"
		}
		text += s
	}
	return text
}
