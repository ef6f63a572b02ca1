package secrets

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func ptr[T any](v T) *T { return &v }

// kv is a valid secret, changed by each function.
func kv(change ...func(*SecretConfig)) *SecretConfig {
	c := &SecretConfig{Path: "secret/app"}
	for _, f := range change {
		f(c)
	}
	return c
}

// one is a task with one secret "db".
func one(change ...func(*SecretConfig)) TaskConfig {
	return TaskConfig{Secrets: map[string]*SecretConfig{"db": kv(change...)}}
}

func withFile(p string, f *FileConfig) TaskConfig {
	return one(func(s *SecretConfig) { s.Files = map[string]*FileConfig{p: f} })
}

func TestCompileDefaults(t *testing.T) {
	spec, err := Compile(one(func(s *SecretConfig) {
		s.Path = "/secret//app/"
		s.Env = []map[string]string{{"A": "a"}, {"B": "x.y"}}
		s.Files = map[string]*FileConfig{"z": {Field: "f"}, "a/b": {Template: "{{ .f }}", Perms: "0640", UID: ptr(0), GID: ptr(5)}}
	}))
	must.NoError(t, err)
	must.Eq(t, &Spec{
		StopTimeout: 5 * time.Second,
		Secrets: []Secret{{
			Name:     "db",
			Request:  Request{Provider: "vault", Path: "secret/app"},
			Env:      map[string]string{"A": "a", "B": "x.y"},
			Required: true,
			Files: []File{
				{Path: "a/b", Template: "{{ .f }}", Perms: 0o640, UID: ptr(0), GID: ptr(5)},
				{Path: "z", Field: "f", Perms: 0o400},
			},
			Change: Change{Mode: Restart, Splay: 5 * time.Second, Stagger: 10 * time.Second},
		}},
	}, spec)
}

func TestDeclared(t *testing.T) {
	must.False(t, TaskConfig{}.Declared())
	must.False(t, TaskConfig{FromPolicies: "off", Role: "r"}.Declared())
	must.True(t, TaskConfig{FromPolicies: "all"}.Declared())
	must.True(t, one().Declared())
	must.True(t, TaskConfig{Files: map[string]*FileConfig{"x": {}}}.Declared())
}

func TestCompileInherits(t *testing.T) {
	spec, err := Compile(TaskConfig{
		ChangeMode: "noop", Splay: "1s", Stagger: "0s", Namespace: "/team/", Role: "r", StopSignal: "SIGQUIT", StopTimeout: "1m",
		ExposeToken: true, IdentityFile: "private/other.jwt", FromPolicies: "off",
		Secrets: map[string]*SecretConfig{
			"b": kv(),
			"a": kv(func(s *SecretConfig) { s.ChangeMode, s.ChangeSignal, s.Splay = "signal", "SIGHUP", "0" }),
			"c": kv(func(s *SecretConfig) {
				s.ChangeMode, s.ChangeScript, s.Stagger = "script", &ScriptConfig{Command: "/bin/x", Args: []string{"a"}}, "2s"
				s.Required = ptr(false)
				s.Params = []map[string]string{{}}
			}),
		},
		Files: map[string]*FileConfig{"y": {Template: "y"}, "x": {Template: "x"}},
	})
	must.NoError(t, err)
	must.Eq(t, "team", spec.Namespace)
	must.Eq(t, time.Minute, spec.StopTimeout)
	must.Eq(t, []string{"a", "b", "c"}, []string{spec.Secrets[0].Name, spec.Secrets[1].Name, spec.Secrets[2].Name})
	must.Eq(t, Change{Mode: SendSignal, Signal: "SIGHUP", Stagger: 0}, spec.Secrets[0].Change)
	must.Eq(t, Change{Mode: Noop, Splay: time.Second}, spec.Secrets[1].Change)
	must.Eq(t, Change{Mode: RunScript, Script: Script{"/bin/x", []string{"a"}, 5 * time.Second}, Splay: time.Second, Stagger: 2 * time.Second}, spec.Secrets[2].Change)
	must.Nil(t, spec.Secrets[1].Request.Params)
	must.NotNil(t, spec.Secrets[2].Request.Params) // an empty params block is a write all the same
	must.False(t, spec.Secrets[2].Required)
	must.Eq(t, "team", spec.Secrets[2].Request.Namespace)
	must.Eq(t, "x", spec.Files[0].Path)
}

// pre_stop_signal and pre_stop_wait go together, and each alone.
func TestCompilePreStop(t *testing.T) {
	for _, test := range []struct {
		signal, wait string
		want         time.Duration
	}{{"SIGUSR1", "30s", 30 * time.Second}, {"SIGUSR1", "", 0}, {"", "5m", 5 * time.Minute}, {"", "", 0}} {
		c := one()
		c.PreStopSignal, c.PreStopWait, c.StopTimeout = test.signal, test.wait, "10s"
		spec, err := Compile(c)
		must.NoError(t, err)
		must.Eq(t, test.signal, spec.PreStopSignal)
		must.Eq(t, test.want, spec.PreStopWait)
		must.Eq(t, test.want+10*time.Second, spec.StopTime())
	}
}

func TestCompileRefuses(t *testing.T) {
	secret := func(f func(*SecretConfig)) TaskConfig { return one(f) }
	task := func(f func(*TaskConfig)) TaskConfig { c := one(); f(&c); return c }
	for want, c := range map[string]TaskConfig{
		// The secret itself.
		`secret "db": provider "nomad" is not known; use vault`:                                       secret(func(s *SecretConfig) { s.Provider = "nomad" }),
		`secret "db": provider "aws" is not known; use vault`:                                         secret(func(s *SecretConfig) { s.Provider = "aws" }),
		`secret "db": path is missing; give the secret's path, such as "secret/app"`:                  secret(func(s *SecretConfig) { s.Path = "" }),
		`secret "db": version -1 is below 0`:                                                          secret(func(s *SecretConfig) { s.Version = -1 }),
		`secret "db": version is for reading a KV v2 secret and params for a write; give one of them`: secret(func(s *SecretConfig) { s.Version = 1; s.Params = []map[string]string{{"a": "b"}} }),
		`secret "db": params: "a" is given twice; take one out`:                                       secret(func(s *SecretConfig) { s.Params = []map[string]string{{"a": "b"}, {"a": "b"}} }),
		`secret "db": params: a name is empty`:                                                        secret(func(s *SecretConfig) { s.Params = []map[string]string{{"": "b"}} }),
		`secret "my db": the name is not valid; use a letter or _ first`:                              {Secrets: map[string]*SecretConfig{"my db": kv()}},
		`secret "../x": the name is not valid`:                                                        {Secrets: map[string]*SecretConfig{"../x": kv()}},
		`secret "": the name is not valid`:                                                            {Secrets: map[string]*SecretConfig{"": kv()}},
		`secret "9": the name is not valid`:                                                           {Secrets: map[string]*SecretConfig{"9": kv()}},

		// Env (S4).
		`secret "db": env: "A-B": not a valid variable name; use a letter or _ first`:             secret(func(s *SecretConfig) { s.Env = []map[string]string{{"A-B": "f"}} }),
		`secret "db": env: "": not a valid variable name`:                                         secret(func(s *SecretConfig) { s.Env = []map[string]string{{"": "f"}} }),
		`secret "db": env: "A=B": not a valid variable name`:                                      secret(func(s *SecretConfig) { s.Env = []map[string]string{{"A=B": "f"}} }),
		`secret "db": env: "A" has no field; give the name of the secret's field`:                 secret(func(s *SecretConfig) { s.Env = []map[string]string{{"A": ""}} }),
		`secret "db": env: "NOMAD_X": names that begin with NOMAD_ are Nomad's; use another`:      secret(func(s *SecretConfig) { s.Env = []map[string]string{{"NOMAD_X": "f"}} }),
		`secret "db": env: "A" is given twice; take one out`:                                      secret(func(s *SecretConfig) { s.Env = []map[string]string{{"A": "f"}, {"A": "g"}} }),
		`secret "db": env_prefix "NOMAD_": names that begin with NOMAD_ are Nomad's; use another`: secret(func(s *SecretConfig) { s.EnvPrefix = ptr("NOMAD_") }),
		`secret "db": env_prefix "a b": not a valid variable name`:                                secret(func(s *SecretConfig) { s.EnvPrefix = ptr("a b") }),
		`secret "b": env: "X" is set by secret "a" too; give one of them another name`:            {Secrets: map[string]*SecretConfig{"a": kv(func(s *SecretConfig) { s.Env = []map[string]string{{"X": "f"}} }), "b": kv(func(s *SecretConfig) { s.Env = []map[string]string{{"X": "f"}} })}},

		// Change.
		`secret "db": change_mode "reload" is not known; use restart, signal, script or noop`: secret(func(s *SecretConfig) { s.ChangeMode = "reload" }),
		`secret "db": change_mode "signal" needs a change_signal, such as "SIGHUP"`:           secret(func(s *SecretConfig) { s.ChangeMode = "signal" }),
		`secret "db": change_signal "HUP" is not a signal; use a name such as "SIGHUP"`:       secret(func(s *SecretConfig) { s.ChangeMode, s.ChangeSignal = "signal", "HUP" }),
		`secret "db": change_signal is for change_mode "signal", and the mode is "restart"`:   secret(func(s *SecretConfig) { s.ChangeSignal = "SIGHUP" }),
		`secret "db": change_mode "script" needs a change_script block with a command`:        secret(func(s *SecretConfig) { s.ChangeMode = "script" }),
		`secret "db": change_script is for change_mode "script", and the mode is "noop"`:      secret(func(s *SecretConfig) { s.ChangeMode, s.ChangeScript = "noop", &ScriptConfig{Command: "x"} }),
		`secret "db": change_script has no command; give the program to run in the task`:      secret(func(s *SecretConfig) { s.ChangeMode, s.ChangeScript = "script", &ScriptConfig{} }),
		`secret "db": change_script: timeout "5" is not a duration; use a number with a unit`: secret(func(s *SecretConfig) {
			s.ChangeMode, s.ChangeScript = "script", &ScriptConfig{Command: "x", Timeout: "5"}
		}),
		`secret "db": change_script: timeout is 0`: secret(func(s *SecretConfig) {
			s.ChangeMode, s.ChangeScript = "script", &ScriptConfig{Command: "x", Timeout: "0s"}
		}),
		`secret "db": splay "soon" is not a duration; use a number with a unit, such as "5s"`: secret(func(s *SecretConfig) { s.Splay = "soon" }),
		`secret "db": stagger "-1s" is below 0; use 0s or more`:                               secret(func(s *SecretConfig) { s.Stagger = "-1s" }),
		`change_mode "reload" is not known`:                                                   task(func(c *TaskConfig) { c.ChangeMode = "reload" }),
		`splay "x" is not a duration`:                                                         task(func(c *TaskConfig) { c.Splay = "x" }),
		`stagger "x" is not a duration`:                                                       task(func(c *TaskConfig) { c.Stagger = "x" }),
		`stop_timeout "-5s" is below 0`:                                                       task(func(c *TaskConfig) { c.StopTimeout = "-5s" }),
		`pre_stop_wait "-1s" is below 0; use 0s or more`:                                      task(func(c *TaskConfig) { c.PreStopWait = "-1s" }),
		`pre_stop_wait "301s" is above 5m; use 5m or less`:                                    task(func(c *TaskConfig) { c.PreStopWait = "301s" }),
		`pre_stop_wait "5" is not a duration; use a number with a unit, such as "5s"`:         task(func(c *TaskConfig) { c.PreStopWait = "5" }),
		`pre_stop_signal "USR1" is not a signal; use a name such as "SIGHUP"`:                 task(func(c *TaskConfig) { c.PreStopSignal = "USR1" }),
		`stop_signal "SIGFOO" is not a signal`:                                                task(func(c *TaskConfig) { c.StopSignal = "SIGFOO" }),

		// The task.
		`from_policies "on" is not known; use off, env, files or all`:                          task(func(c *TaskConfig) { c.FromPolicies = "on" }),
		`role "a\n" has control characters`:                                                    task(func(c *TaskConfig) { c.Role = "a\n" }),
		`namespace "a/../b": ".." is not allowed`:                                              task(func(c *TaskConfig) { c.Namespace = "a/../b" }),
		`identity_file "/etc/x": the path is absolute; give the path below the task directory`: task(func(c *TaskConfig) { c.IdentityFile = "/etc/x" }),
		`identity_file "../x": the path contains ".."`:                                         task(func(c *TaskConfig) { c.IdentityFile = "../x" }),

		// Files (S5).
		`secret "db": file "../x": the path contains ".."; use a path below the secrets directory`:     withFile("../x", &FileConfig{Field: "f"}),
		`secret "db": file "a/../b": the path contains ".."`:                                           withFile("a/../b", &FileConfig{Field: "f"}),
		`secret "db": file "/etc/passwd": the path is absolute`:                                        withFile("/etc/passwd", &FileConfig{Field: "f"}),
		`secret "db": file "": the path is empty`:                                                      withFile("", &FileConfig{Field: "f"}),
		`secret "db": file ".": the path is not in its shortest form`:                                  withFile(".", &FileConfig{Field: "f"}),
		`secret "db": file "a//b": the path is not in its shortest form`:                               withFile("a//b", &FileConfig{Field: "f"}),
		`secret "db": file "a/": the path is not in its shortest form`:                                 withFile("a/", &FileConfig{Field: "f"}),
		`secret "db": file "a\x00b": the path contains a NUL`:                                          withFile("a\x00b", &FileConfig{Field: "f"}),
		`a name in the path is longer than 255 bytes`:                                                  withFile(strings.Repeat("x", 256), &FileConfig{Field: "f"}),
		`the path is longer than 1024 bytes`:                                                           withFile(strings.Repeat("x/", 600)+"x", &FileConfig{Field: "f"}),
		`secret "db": file "..data": names that begin with ".." are kept for the driver's own files`:   withFile("..data", &FileConfig{Field: "f"}),
		`secret "db": file "..set-1/x": names that begin with ".." are kept`:                           withFile("..set-1/x", &FileConfig{Field: "f"}),
		`secret "db": file "vault_token": "vault_token" is a file that Nomad keeps in the secrets dir`: withFile("vault_token", &FileConfig{Field: "f"}),
		`secret "db": file "nomad_token": "nomad_token" is a file that Nomad keeps`:                    withFile("nomad_token", &FileConfig{Field: "f"}),
		`secret "db": file "nomad_vault.jwt": "nomad_vault.jwt" is a file that Nomad keeps`:            withFile("nomad_vault.jwt", &FileConfig{Field: "f"}),
		`secret "db": file "api.sock/x": "api.sock" is a file that Nomad keeps`:                        withFile("api.sock/x", &FileConfig{Field: "f"}),
		`secret "vault_token": files: "vault_token" is a file that Nomad keeps`:                        {Secrets: map[string]*SecretConfig{"vault_token": kv(func(s *SecretConfig) { s.AllFiles = true })}},
		`secret "db": file "x": neither field nor template is given; give one of them`:                 withFile("x", &FileConfig{}),
		`secret "db": file "x": field and template are both given; give one of them`:                   withFile("x", &FileConfig{Field: "f", Template: "t"}),
		`secret "db": file "x": perms "0999" are not valid; use octal digits up to 0777`:               withFile("x", &FileConfig{Field: "f", Perms: "0999"}),
		`secret "db": file "x": perms "4755" are not valid`:                                            withFile("x", &FileConfig{Field: "f", Perms: "4755"}),
		`secret "db": file "x": perms "rw" are not valid`:                                              withFile("x", &FileConfig{Field: "f", Perms: "rw"}),
		`secret "db": file "x": uid -1 is not valid; use a number from 0 to 4294967294`:                withFile("x", &FileConfig{Field: "f", UID: ptr(-1)}),
		`secret "db": file "x": gid 4294967295 is not valid`:                                           withFile("x", &FileConfig{Field: "f", GID: ptr(1<<32 - 1)}),
		`secret "db": file "x": decode "hex" is not known; use base64`:                                 withFile("x", &FileConfig{Field: "f", Decode: "hex"}),
		`secret "db": file "x": decode is for a field; in a template use the function b64dec`:          withFile("x", &FileConfig{Template: "t", Decode: "base64"}),
		`file "x": field is for a file inside a secret block; here give a template`:                    task(func(c *TaskConfig) { c.Files = map[string]*FileConfig{"x": {Field: "f"}} }),
		`file "x": neither field nor template is given`:                                                task(func(c *TaskConfig) { c.Files = map[string]*FileConfig{"x": {}} }),
		`secret "b": file "x": the file is written by secret "a": file "x" too; give one of them ano`:  {Secrets: map[string]*SecretConfig{"a": kv(func(s *SecretConfig) { s.Files = map[string]*FileConfig{"x": {Field: "f"}} }), "b": kv(func(s *SecretConfig) { s.Files = map[string]*FileConfig{"x": {Field: "f"}} })}},
		`secret "db": file "x/y": the directory "x" is a file of secret "db": file "x"`:                one(func(s *SecretConfig) { s.Files = map[string]*FileConfig{"x": {Field: "f"}, "x/y": {Field: "f"}} }),
		`file "x": the path is a directory for secret "db": file "x/y"; give one of them another path`: {Secrets: map[string]*SecretConfig{"db": kv(func(s *SecretConfig) { s.Files = map[string]*FileConfig{"x/y": {Field: "f"}} })}, Files: map[string]*FileConfig{"x": {Template: "t"}}},
		`secret "db": file "db": the path is a directory for secret "db"; give one of them another`:    one(func(s *SecretConfig) { s.AllFiles, s.Files = true, map[string]*FileConfig{"db": {Field: "f"}} }),
		`secret "db": files: the directory "db" is a file of secret "a": file "db"`:                    {Secrets: map[string]*SecretConfig{"a": kv(func(s *SecretConfig) { s.Files = map[string]*FileConfig{"db": {Field: "f"}} }), "db": kv(func(s *SecretConfig) { s.AllFiles = true })}},

		// Templates.
		"secret \"db\": file \"x\": template line 2: function \"env\" is not available; templates have":                                          withFile("x", &FileConfig{Template: "a\n{{ env \"VAULT_TOKEN\" }}"}),
		`secret "db": file "x": template line 1: bad character U+002D '-': a name with a dash in it goes by index: {{ index . "my-db" "user" }}`: withFile("x", &FileConfig{Template: "{{ .my-db.user }}"}),
		`secret "db": file "x": template line 1: unclosed action`:                                                                                withFile("x", &FileConfig{Template: "{{ .a"}),
		`secret "db": file "x": template line 1: unexpected EOF`:                                                                                 withFile("x", &FileConfig{Template: "{{ if .a }}"}),
		`secret "db": file "x": the template is longer than 1 MiB`:                                                                               withFile("x", &FileConfig{Template: strings.Repeat("x", 1<<20+1)}),
	} {
		t.Run(want, func(t *testing.T) {
			_, err := Compile(c)
			must.Error(t, err)
			must.True(t, strings.HasPrefix(err.Error(), want) || strings.HasSuffix(strings.SplitN(err.Error(), ";", 2)[0], want), must.Sprintf("got %s", err))
			must.Eq(t, Invalid, KindOf(err))
		})
	}
}

func TestCompileReportsAll(t *testing.T) {
	_, err := Compile(TaskConfig{
		FromPolicies: "on",
		Splay:        "x",
		Secrets:      map[string]*SecretConfig{"a": {Path: "sys/x", Provider: "y"}, "b": {Version: -1}},
		Files:        map[string]*FileConfig{"/x": {Template: "{{"}},
	})
	must.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	must.Len(t, 8, lines, must.Sprint(err))
	for _, l := range lines {
		must.True(t, strings.Contains(l, ";") || strings.Contains(l, "template line"), must.Sprintf("no remedy in %q", l))
	}
}

// TestCompileRequestPath: the server's own ends are refused however they are spelled.
func TestCompileRequestPath(t *testing.T) {
	const refused = "holds the server's own settings"
	const dots = `".." is not allowed`
	for _, c := range []struct {
		path, namespace string
		write           bool
		want, err       string
	}{
		{path: "secret/app-1", want: "secret/app-1"},
		{path: "/secret//./app/", want: "secret/app"},
		{path: "secret/auth/github", want: "secret/auth/github"},
		{path: "secret/data/sys/x", want: "secret/data/sys/x"},
		{path: "system/x", want: "system/x"},
		{path: "secret/50%", want: "secret/50%"},
		{path: "secret/a%20b", want: "secret/a%20b"},
		{path: "secret/..app", want: "secret/..app"},
		{path: "pki/issue/auth", write: true, want: "pki/issue/auth"},
		{path: "team/secret/x", namespace: "team", want: "team/secret/x"},

		{path: "sys/raw/x", err: refused},
		{path: "sys", err: refused},
		{path: "/sys/raw", err: refused},
		{path: "//sys/raw", err: refused},
		{path: "./sys/raw", err: refused},
		{path: "/./auth/token/create", err: refused},
		{path: "SYS/raw", err: refused},
		{path: "Auth/token", err: refused},
		{path: "identity/entity", err: refused},
		{path: "%73ys/raw", err: refused},
		{path: "%2573ys/raw", err: refused},
		{path: "%73ys/raw/%zz", err: refused},
		{path: "%2fsys%2fraw", err: refused},
		{path: "team/auth/token/create", namespace: "team", err: refused},
		{path: "team/sys/x", namespace: "/team/", err: refused},
		{path: "a/b/sys/x", namespace: "a/b", err: refused},
		{path: "auth/token/create", namespace: "auth", err: refused},
		{path: "team/auth/token/create", write: true, err: refused},
		{path: "a/b/identity/x", write: true, err: refused},
		{path: "secret/../sys/x", err: dots},
		{path: "..", err: dots},
		{path: "secret/%2e%2e/sys/x", err: dots},
		{path: "secret/%252e%252E/sys/x", err: dots},
		{path: "secret/x%2f..%2f..%2fsys", err: dots},
		{path: "///", err: "nothing but slashes"},
		{path: " secret/x", err: "white space"},
		{path: "secret/x\n", err: "control characters"},
		{path: "sec\x00ret/x", err: "control characters"},
	} {
		got, err := CleanPath(c.path, c.namespace, c.write)
		if c.err != "" {
			must.ErrorContains(t, err, c.err, must.Sprint(c.path))
			continue
		}
		must.NoError(t, err, must.Sprint(c.path))
		must.Eq(t, c.want, got)
	}
}

// FuzzCompile: no input makes Compile panic, and what it accepts stays below the secrets directory (S5)
// and off the server's own ends.
func FuzzCompile(f *testing.F) {
	for _, c := range []TaskConfig{
		{}, one(), withFile("a/b", &FileConfig{Field: "x"}), withFile("../b", &FileConfig{Template: "{{ .x | upper }}"}),
		one(func(s *SecretConfig) { s.Path = "/./sys/x"; s.AllFiles = true; s.EnvPrefix = ptr("A_") }),
	} {
		b, err := json.Marshal(c)
		must.NoError(f, err)
		f.Add(b, "secret/app", "dir/file")
	}
	f.Add([]byte(`{"Secrets":{"a":{"Params":[{}],"ChangeScript":{"Timeout":"1s"}}}}`), "%2e%2e/sys", "a/../../b")
	f.Fuzz(func(t *testing.T, b []byte, reqPath, filePath string) {
		var c TaskConfig
		if json.Unmarshal(b, &c) != nil {
			return
		}
		for name, s := range c.Secrets {
			s.Path = reqPath
			if s.Files == nil {
				s.Files = map[string]*FileConfig{}
			}
			s.Files[filePath] = &FileConfig{Field: "x"}
			c.Secrets[name] = s
		}
		spec, err := Compile(c)
		if err != nil {
			must.Eq(t, Invalid, KindOf(err))
			must.True(t, errors.As(err, new(*Error)))
			return
		}
		files := spec.Files
		for _, s := range spec.Secrets {
			files = append(files, s.Files...)
			top, _, _ := strings.Cut(s.Request.Path, "/")
			must.False(t, IsServersOwn(top))
			must.False(t, strings.HasPrefix(s.Request.Path, "/"))
			must.SliceNotContains(t, strings.Split(s.Request.Path, "/"), "..")
		}
		for _, file := range files {
			must.True(t, filepath.IsLocal(file.Path))
			must.Eq(t, filepath.Clean(file.Path), file.Path)
			must.False(t, strings.HasPrefix(file.Path, ReservedPrefix))
		}
	})
}
