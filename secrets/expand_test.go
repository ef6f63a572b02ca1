package secrets

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// found is what policies grant by these paths; one that begins with "=" is named exactly.
func found(all ...string) *Discovery {
	d := &Discovery{Mounts: map[string]bool{"secret/": true, "kv/": false, "database/": false}}
	for _, p := range all {
		path, exact := strings.CutPrefix(p, "=")
		d.Found = append(d.Found, Found{Path: path, Exact: exact})
	}
	return d
}

func leftPaths(left []Skipped) (all []string) {
	for _, l := range left {
		all = append(all, l.Path)
	}
	slices.Sort(all)
	return all
}

func TestExpand(t *testing.T) {
	c := TaskConfig{FromPolicies: "all", Secrets: map[string]*SecretConfig{
		"mine": {Path: "secret/app"}, "cert": {Path: "kv/elsewhere"},
	}}
	d := found("secret/data/app", "secret/data/tls/cert", "=database/creds/my-role.1", "kv/9lives")
	out, left := Expand(c, d, nil)
	must.MapLen(t, 4, out.Secrets)
	must.EqOp(t, "secret/app", out.Secrets["mine"].Path) // the same path is not taken twice
	must.EqOp(t, "kv/elsewhere", out.Secrets["cert"].Path)
	must.Eq(t, []Skipped{{"secret/data/tls/cert", `the job declares a secret "cert"`}}, left)
	got := out.Secrets["my-role_1"]
	must.EqOp(t, "database/creds/my-role.1", got.Path)
	must.EqOp(t, "MY_ROLE_1_", *got.EnvPrefix)
	must.True(t, got.AllFiles)
	must.True(t, got.Exact)
	must.EqOp(t, "kv/9lives", out.Secrets["_9lives"].Path)
	must.MapLen(t, 2, c.Secrets, must.Sprint("the job's own config is left as it is"))

	again, _ := Expand(out, found("secret/data/app", "kv/new"), nil)
	must.MapLen(t, 3, again.Secrets, must.Sprint("what was discovered before is not taken for declared"))

	spec, err := Compile(out)
	must.NoError(t, err)
	set, err := renderSet(spec, map[string]Answer{
		"mine": {}, "cert": {},
		"my-role_1": {Fields: NewFields(map[string]any{"username": "u", "password": "p"})},
	})
	must.NoError(t, err)
	must.EqOp(t, "u", set.Env["MY_ROLE_1_USERNAME"].Text())
	must.EqOp(t, "my-role_1/password", set.Files[0].Path)

	for mode, want := range map[string][2]bool{"env": {true, false}, "files": {false, true}} {
		out, _ := Expand(TaskConfig{FromPolicies: mode}, found("kv/a"), nil)
		must.Eq(t, want, [2]bool{out.Secrets["a"].EnvPrefix != nil, out.Secrets["a"].AllFiles})
	}
}

// What is declared wins by its path, under whatever name and however that is spelled: it is taken once, and not told
// as left out.
func TestExpandDeclaredPathWins(t *testing.T) {
	for _, path := range []string{"secret/app", "secret/data/app", "/secret/app/", "secret//app", "secret/./app"} {
		c := TaskConfig{FromPolicies: "all", Secrets: map[string]*SecretConfig{"mine": {Path: path}}}
		out, left := Expand(c, found("=secret/data/app"), nil)
		must.MapLen(t, 1, out.Secrets, must.Sprint(path))
		must.SliceEmpty(t, left)
	}
	c := TaskConfig{FromPolicies: "all", Secrets: map[string]*SecretConfig{
		"tls": {Path: "pki/issue/web", Params: []map[string]string{{"common_name": "web"}}}, "db": {Path: "database/creds/app"},
	}}
	d := found("=database/creds/app")
	d.Skipped = []Skipped{{"pki/issue/web", "it needs parameters"}, {"pki/issue/other", "it needs parameters"}}
	out, left := Expand(c, d, nil)
	must.MapLen(t, 2, out.Secrets)
	must.Eq(t, []string{"pki/issue/other"}, leftPaths(left))
}

// A name goes to who has the better right to it, and to nobody where two have the same: whoever may write
// a key below a pattern can put no value of theirs in another's place.
func TestExpandClashes(t *testing.T) {
	for _, test := range []struct {
		mode string
		all  []string
		has  string // a path that the task has
		left []string
	}{
		{"env", []string{"kv/x/app", "kv/y/app"}, "", []string{"kv/x/app", "kv/y/app"}},
		{"env", []string{"kv/x/app", "=database/creds/app"}, "", []string{"kv/x/app"}},
		{"env", []string{"=kv/x/app", "=database/creds/app", "kv/y/app"}, "", []string{"database/creds/app", "kv/x/app", "kv/y/app"}},
		{"env", []string{"kv/x/app", "kv/y/app"}, "kv/y/app", []string{"kv/x/app"}},
		{"env", []string{"kv/x/app", "=database/creds/app"}, "kv/x/app", []string{"database/creds/app"}},
		{"env", []string{"kv/a-b", "kv/a_b"}, "", []string{"kv/a-b", "kv/a_b"}},
		{"env", []string{"kv/App", "kv/app"}, "", []string{"kv/App", "kv/app"}},
		{"files", []string{"kv/a-b", "kv/a_b"}, "", nil},
		{"files", []string{"kv/x.y", "kv/x_y"}, "", []string{"kv/x.y", "kv/x_y"}},
	} {
		t.Run(fmt.Sprint(test.mode, test.all, test.has), func(t *testing.T) {
			c := TaskConfig{FromPolicies: test.mode}
			if test.has != "" {
				c, _ = Expand(c, found(test.has), nil)
			}
			out, left := Expand(c, found(test.all...), func(string) bool { return test.has != "" })
			must.Eq(t, test.left, leftPaths(left))
			must.MapLen(t, len(test.all)-len(test.left), out.Secrets)
			for _, s := range out.Secrets {
				must.SliceNotContains(t, test.left, s.Path)
			}
		})
	}
}

// What the paths that policies grant are, is no problem of the job's: those of which nothing can be made are
// left out, and all that the job declares compiles as without them.
func TestCompileLeavesOutWhatIsGranted(t *testing.T) {
	declared := TaskConfig{
		FromPolicies: "all", ChangeMode: "signal",
		Secrets: map[string]*SecretConfig{"db": {Path: "secret/db", AllFiles: true, ChangeSignal: "SIGHUP"}},
		Files:   map[string]*FileConfig{"conf": {Template: "x"}},
	}
	out, _ := Expand(declared, found("kv/good", "kv/ends in a space ", "kv/new\nline", "kv/../up", "kv/%2e%2e/up", "kv/vault_token", "kv/nomad", "kv/conf", "kv/nomad_x.jwt"), nil)
	spec, err := Compile(out)
	must.NoError(t, err)
	must.Eq(t, []string{"kv/%2e%2e/up", "kv/../up", "kv/conf", "kv/ends in a space ", "kv/new\nline", "kv/nomad", "kv/nomad_x.jwt", "kv/vault_token"}[2:],
		slices.DeleteFunc(leftPaths(spec.Skipped), func(p string) bool { return strings.Contains(p, "up") }))
	must.Len(t, 2, spec.Secrets)
	must.EqOp(t, "db", spec.Secrets[0].Name)
	must.EqOp(t, SendSignal, spec.Secrets[0].Change.Mode)
	must.EqOp(t, "good", spec.Secrets[1].Name)
	must.EqOp(t, Restart, spec.Secrets[1].Change.Mode)
	for _, l := range spec.Skipped {
		must.NotEqOp(t, "", l.Why)
	}

	// What the job declares is still an error of the job.
	declared.Secrets["db"].ChangeSignal = ""
	out, _ = Expand(declared, found("kv/good"), nil)
	_, err = Compile(out)
	must.EqOp(t, Invalid, KindOf(err))
}

// Whatever the last element of a path is, the name is one that Compile takes.
func FuzzSecretName(f *testing.F) {
	for _, p := range []string{"a", "a/b", "a/ü", "a/..", "a/9", "a/-x", "a/", strings.Repeat("é", 300), "a/nomad_x.jwt"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		name := secretNameOf(path)
		if !secretName.MatchString(name) {
			t.Fatalf("%q makes the name %q", path, name)
		}
		if err := checkEnvName(fieldEnvName(name) + "_"); err != nil && !strings.HasPrefix(fieldEnvName(name), "NOMAD") {
			t.Fatalf("%q makes the variables %q…: %v", path, fieldEnvName(name), err)
		}
	})
}

// A task has room for so many secrets: the declared come first, then what policies name exactly.
func TestExpandLimit(t *testing.T) {
	c := TaskConfig{FromPolicies: "env", Secrets: map[string]*SecretConfig{}}
	for i := range MaxSecrets - 2 {
		name := fmt.Sprintf("own%d", i)
		c.Secrets[name] = &SecretConfig{Path: "kv/own/" + name}
	}
	out, left := Expand(c, found("kv/a", "kv/b", "=kv/y", "=kv/z"), nil)
	must.Eq(t, []string{"kv/a", "kv/b"}, leftPaths(left))
	must.MapLen(t, MaxSecrets, out.Secrets)
	_, err := Compile(out)
	must.NoError(t, err)
}
