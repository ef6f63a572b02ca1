package secrets

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

type data = map[string]any

// fitted fits what policies grant (by path, "=" for exactly) into a job.
func fitted(t *testing.T, c TaskConfig, granted map[string]data, declared map[string]data, around Around) (Fitted, error) {
	t.Helper()
	if c.FromPolicies == "" {
		c.FromPolicies = "all"
	}
	out, left := Expand(c, found(slices.Sorted(maps.Keys(granted))...), nil)
	must.SliceEmpty(t, left)
	spec, err := Compile(out)
	must.NoError(t, err)
	must.SliceEmpty(t, spec.Skipped)
	answers := map[string]Answer{}
	for path, m := range granted {
		answers[secretNameOf(path)] = Answer{Fields: NewFields(m)}
	}
	for name, m := range declared {
		answers[name] = Answer{Fields: NewFields(m)}
	}
	return Fit(spec, answers, around)
}

// What is wrong with a secret that the policies grant leaves out that secret and nothing else, whole, and is
// no error.
func TestFitLeavesOut(t *testing.T) {
	job := TaskConfig{
		Secrets: map[string]*SecretConfig{"own": {Path: "kv/own", Env: []map[string]string{{"BAD_X": "k"}}}},
		Files:   map[string]*FileConfig{"bad/file": {Template: "t"}},
	}
	own := map[string]data{"own": {"k": "v"}}
	good := data{"user": "u", "password": "p"}
	many := data{}
	for i := range 500 {
		many[fmt.Sprintf("f%d", i)] = strings.Repeat("x", 3<<10)
	}
	for name, test := range map[string]struct {
		bad    data
		around Around
		why    string
	}{
		"a NUL":                   {bad: data{"a": "x\x00y", "b": "fine"}, why: "contains a NUL"},
		"two fields, one name":    {bad: data{"a.b": "1", "a-b": "2"}, why: "which secret"},
		"a field that is no file": {bad: data{"a/b": "1"}, why: "cannot be a file's name"},
		"a long field name":       {bad: data{strings.Repeat("n", 300): "1"}, why: "cannot be a file's name"},
		"a large value":           {bad: data{"a": strings.Repeat("x", 200<<10)}, why: "128 KiB"},
		"a declared variable":     {bad: data{"x": "1"}, why: `is set by secret "own"`},
		"the job's own variable":  {bad: data{"y": "1"}, around: Around{Env: []string{"PATH", "BAD_Y"}}, why: "set by the job itself"},
		"a declared file":         {bad: data{"file": "1"}, why: "the file is written by file"},
		"too many variables":      {bad: many, around: Around{MaxEnv: MaxGrantedEnv}, why: "1024 KiB is the most"},
		"no room for its files": {bad: data{"z": "1"}, why: "no room", around: Around{Fits: func(set *Set) error {
			if slices.ContainsFunc(set.Files, func(f RenderedFile) bool { return strings.HasPrefix(f.Path, "bad/z") }) {
				return errors.New("no room")
			}
			return nil
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := fitted(t, job, map[string]data{"kv/bad": test.bad, "kv/good": good}, own, test.around)
			must.NoError(t, err)
			must.MapLen(t, 1, f.Left)
			must.StrContains(t, f.Left["bad"], test.why)
			must.Eq(t, []string{"BAD_X", "GOOD_PASSWORD", "GOOD_USER"}, slices.Sorted(maps.Keys(f.Set.Env)))
			must.EqOp(t, "v", f.Set.Env["BAD_X"].Text())
			must.Len(t, 3, f.Set.Files) // bad/file is the job's
		})
	}
}

// A variable that two secrets claim goes to the better right, or to nobody.
func TestFitVariablesInDispute(t *testing.T) {
	claim := data{"c": "of a_b"}
	other := data{"b_c": "of a"}
	for name, test := range map[string]struct {
		first, second string
		has           string
		left          []string
	}{
		"equals":            {"kv/a_b", "kv/a", "", []string{"a", "a_b"}},
		"exact":             {"=kv/a_b", "kv/a", "", []string{"a"}},
		"had":               {"kv/a_b", "=kv/a", "a_b", []string{"a"}},
		"had, though found": {"=kv/a_b", "kv/a", "a", []string{"a_b"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := fitted(t, TaskConfig{FromPolicies: "env"}, map[string]data{test.first: claim, test.second: other, "kv/rest": {"x": "y"}}, nil,
				Around{Has: func(name string) bool { return name == test.has }})
			must.NoError(t, err)
			must.Eq(t, test.left, slices.Sorted(maps.Keys(f.Left)))
			must.EqOp(t, 3-len(test.left), len(f.Set.Env))
		})
	}
}

// The small before the large: one secret cannot take the room of the others, whatever it is called.
func TestFitGivesRoomToTheSmall(t *testing.T) {
	f, err := fitted(t, TaskConfig{FromPolicies: "env"}, map[string]data{
		"kv/a": {"x": strings.Repeat("x", 1000)}, "kv/b": {"x": "1"}, "kv/c": {"x": "1"},
	}, nil, Around{MaxEnv: 500})
	must.NoError(t, err)
	must.Eq(t, []string{"B_X", "C_X"}, slices.Sorted(maps.Keys(f.Set.Env)))
}

// A template of the job's, over all secrets, that fails for what is granted fails no start.
func TestFitTemplates(t *testing.T) {
	job := TaskConfig{FromPolicies: "env", Files: map[string]*FileConfig{"f": {Template: "{{ if .app }}{{ .app.user }}{{ end }}{{ if .zed }}{{ .zed.x }}{{ end }}"}}}
	f, err := fitted(t, job, map[string]data{"kv/app": {"planted": "x"}, "kv/zed": {"x": "y"}}, nil, Around{})
	must.NoError(t, err)
	must.Eq(t, []string{"app"}, slices.Sorted(maps.Keys(f.Left)))
	must.StrContains(t, f.Left["app"], `no field "user"`)
	must.EqOp(t, "y", f.Set.Files[0].Data.Text())

	// What is left out is in no template either.
	f, err = fitted(t, job, map[string]data{"kv/app": {"user": "x", "nul": "\x00"}, "kv/zed": {"x": "y"}}, nil, Around{})
	must.NoError(t, err)
	must.MapLen(t, 1, f.Left)
	must.EqOp(t, "y", f.Set.Files[0].Data.Text())

	// One that fails without it, too, is the job's.
	job.Files["f"].Template = "{{ .app.user }}"
	_, err = fitted(t, job, map[string]data{"kv/app": {"planted": "x"}}, nil, Around{})
	must.EqOp(t, NotFound, KindOf(err))
}

// Discovery never sets a variable that changes how programs run; the secret is there otherwise, and a job that
// declares such a variable gets it.
func TestLoaderVariablesAreNotDiscovered(t *testing.T) {
	for name, field := range map[string]string{
		"node": "options", "ld": "preload", "LD": "LIBRARY_PATH", "bash": "env", "git": "ssh-command", "java": "tool.options",
		"https": "proxy", "vault": "addr", "dotnet": "startup_hooks", "ssl": "cert_file", "_java": "options", "python": "x", "glibc": "tunables",
	} {
		f, err := fitted(t, TaskConfig{}, map[string]data{"kv/" + name: {field: "x", "other": "y"}}, nil, Around{})
		must.NoError(t, err)
		must.MapEmpty(t, f.Left)
		variable := fieldEnvName(name + "_" + field)
		must.MapNotContainsKey(t, f.Set.Env, variable)
		must.Len(t, 2, f.Set.Files)
		must.StrContains(t, f.Unset[0].Why, variable)

		spec, err := Compile(one(func(s *SecretConfig) { s.Env = []map[string]string{{variable: field}} }))
		if strings.HasPrefix(variable, "NOMAD_") {
			continue
		}
		must.NoError(t, err)
		set, err := renderSet(spec, map[string]Answer{"db": {Fields: NewFields(data{field: "x"})}})
		must.NoError(t, err)
		must.EqOp(t, "x", set.Env[variable].Text())
	}
}

// The page about from_policies lists them all.
func TestPageListsLoaderVariables(t *testing.T) {
	page, err := os.ReadFile("../docs/policies.md")
	must.NoError(t, err)
	for _, name := range loaderEnv {
		must.True(t, strings.Contains(string(page), "`"+name+"`"), must.Sprint(name))
	}
	for _, prefix := range loaderEnvPrefixes {
		must.True(t, strings.Contains(string(page), "`"+prefix+"*`"), must.Sprint(prefix))
	}
}

// Nothing that is granted, whatever it holds, makes an error.
func FuzzFit(f *testing.F) {
	f.Add("app", "user", "x", "app", "b", "y")
	f.Add("a", "b_c", "x\x00", "a_b", "c", "y")
	f.Add("node", "options", "", "..data", "..", "/")
	f.Fuzz(func(t *testing.T, n1, f1, v1, n2, f2, v2 string) {
		out, _ := Expand(TaskConfig{FromPolicies: "all"}, found("kv/x/"+n1, "kv/y/"+n2), nil)
		spec, err := Compile(out)
		must.NoError(t, err)
		answers := map[string]Answer{secretNameOf("kv/x/" + n1): {Fields: NewFields(data{f1: v1})}, secretNameOf("kv/y/" + n2): {Fields: NewFields(data{f2: v2})}}
		got, err := Fit(spec, answers, Around{MaxEnv: MaxGrantedEnv})
		must.NoError(t, err)
		for _, file := range got.Set.Files {
			must.NoError(t, CheckFilePath(file.Path))
		}
		for name := range got.Set.Env {
			must.NoError(t, checkEnvName(name))
			must.False(t, isLoaderEnv(name))
		}
	})
}

// S8's limits leave out what is granted beyond them, and nothing of what is declared.
func TestFitLimits(t *testing.T) {
	job := TaskConfig{FromPolicies: "files", Secrets: map[string]*SecretConfig{"own": {Path: "kv/own", AllFiles: true}}}
	fields := func(n, size int) data {
		m := data{}
		for i := range n {
			m[fmt.Sprintf("f%d", i)] = strings.Repeat("x", size)
		}
		return m
	}
	for name, test := range map[string]struct {
		large, own data
		why        string
	}{
		"files": {fields(600, 1), fields(500, 1), "more than 1000 files"},
		"bytes": {fields(1, 10<<20), fields(3, 8<<20), "larger than 32 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := fitted(t, job, map[string]data{"kv/large": test.large, "kv/small": fields(2, 1)}, map[string]data{"own": test.own}, Around{})
			must.NoError(t, err)
			must.MapLen(t, 1, f.Left)
			must.StrContains(t, f.Left["large"], test.why)
			must.Len(t, len(test.own)+2, f.Set.Files)
		})
	}
}
