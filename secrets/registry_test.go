package secrets

import (
	"fmt"
	"testing"

	"github.com/shoenig/test/must"
)

// pulling is a task with two secrets whose image is pulled with a registry_auth block.
func pulling(r RegistryAuthConfig, change ...func(*SecretConfig)) TaskConfig {
	c := TaskConfig{Secrets: map[string]*SecretConfig{"db": kv(), "reg": kv(change...)}, RegistryAuth: &r}
	c.Secrets["db"].AllFiles = true
	return c
}

func TestCompileRegistryAuth(t *testing.T) {
	spec, err := Compile(pulling(RegistryAuthConfig{Secret: "reg"}))
	must.NoError(t, err)
	must.Eq(t, &RegistryAuth{Secret: "reg", Username: "username", Password: "password"}, spec.RegistryAuth)
	must.True(t, TaskConfig{RegistryAuth: &RegistryAuthConfig{}}.Declared(), must.Sprint("it is not passed over in silence"))

	spec, err = Compile(pulling(RegistryAuthConfig{Secret: "reg", Username: "u.name", Password: "token", ServerAddress: "reg.example.com"}))
	must.NoError(t, err)
	must.Eq(t, &RegistryAuth{Secret: "reg", Username: "u.name", Password: "token", ServerAddress: "reg.example.com"}, spec.RegistryAuth)
}

func TestCompileRefusesRegistryAuth(t *testing.T) {
	for want, c := range map[string]TaskConfig{
		`registry_auth: secret is missing; name the task's secret that has the registry's credentials`:                   pulling(RegistryAuthConfig{}),
		`registry_auth: secret "x" is not one that the task declares; add a secret block of this name, or use db or reg`: pulling(RegistryAuthConfig{Secret: "x"}),
		`registry_auth: secret "x" is not one of the task's, which declares none; add a secret block of this name`:       {RegistryAuth: &RegistryAuthConfig{Secret: "x"}},
		`registry_auth: secret "reg" is not one that the task declares; add a secret block of this name, or use db`:      pulling(RegistryAuthConfig{Secret: "reg"}, func(s *SecretConfig) { s.Discovered = true }),
		`registry_auth: server_address "reg\n" has control characters, or white space around it; take them out`:          pulling(RegistryAuthConfig{Secret: "reg", ServerAddress: "reg\n"}),
		`registry_auth: password: the field's name is longer than 512 bytes; give a shorter one`:                         pulling(RegistryAuthConfig{Secret: "reg", Password: fmt.Sprintf("%0600d", 0)}),
	} {
		_, err := Compile(c)
		must.ErrorContains(t, err, want)
		must.EqOp(t, Invalid, KindOf(err))
	}
}

// A secret that nothing but the pull makes use of changes nothing of the task; one that has another use is as any other.
func TestPullOnly(t *testing.T) {
	for use, change := range map[string]func(*SecretConfig){
		"":         func(*SecretConfig) {},
		"env":      func(s *SecretConfig) { s.Env = []map[string]string{{"A": "a"}} },
		"prefix":   func(s *SecretConfig) { s.EnvPrefix = ptr("A_") },
		"file":     func(s *SecretConfig) { s.Files = map[string]*FileConfig{"x": {Field: "f"}} },
		"files":    func(s *SecretConfig) { s.AllFiles = true },
		"live_dir": func(s *SecretConfig) { s.LiveDir, s.ChangeMode = "/run/reg", "restart" },
	} {
		spec, err := Compile(pulling(RegistryAuthConfig{Secret: "reg"}, change))
		must.NoError(t, err)
		reg := spec.Secrets[1]
		must.EqOp(t, use == "", reg.PullOnly, must.Sprint(use))
		must.EqOp(t, use == "", reg.Change.Mode == Noop, must.Sprint(use))
		must.False(t, spec.Secrets[0].PullOnly)
	}
	c := pulling(RegistryAuthConfig{Secret: "reg"})
	c.Files = map[string]*FileConfig{"x": {Template: "{{ .reg.username }}"}}
	spec, err := Compile(c)
	must.NoError(t, err)
	must.False(t, spec.Secrets[1].PullOnly)
}

// The credentials are fields of the answer. What is wrong names the secret and the field, and no value.
func TestRegistryLogin(t *testing.T) {
	spec, err := Compile(pulling(RegistryAuthConfig{Secret: "reg", Username: "login.name", Password: "token"}))
	must.NoError(t, err)
	answer := func(fields map[string]any) map[string]Answer {
		return map[string]Answer{"reg": {Fields: NewFields(fields)}}
	}
	login, err := spec.RegistryLogin(answer(map[string]any{"login": map[string]any{"name": "AWS"}, "token": "hunter2"}))
	must.NoError(t, err)
	must.Eq(t, "reg", login.Secret)
	must.Eq(t, "AWS", login.Username.Text())
	must.Eq(t, "hunter2", login.Password.Text())
	must.StrNotContains(t, fmt.Sprintf("%+v", *login), "hunter2")

	for want, fields := range map[string]map[string]any{
		`registry_auth: username: secret "reg": `:                            {"token": "hunter2"},
		`registry_auth: password: secret "reg": field "token" is empty`:      {"login": map[string]any{"name": "AWS"}, "token": ""},
		`registry_auth: username: secret "reg": field "login.name" is empty`: {"login": map[string]any{"name": ""}, "token": "hunter2"},
	} {
		_, err := spec.RegistryLogin(answer(fields))
		must.ErrorContains(t, err, want)
		must.StrNotContains(t, err.Error(), "hunter2")
		must.EqOp(t, NotFound, KindOf(err))
	}
	login, err = spec.RegistryLogin(nil)
	must.NoError(t, err)
	must.Nil(t, login, must.Sprint("required = false, and it is not there"))

	set, err := renderSet(spec, map[string]Answer{"db": {Fields: NewFields(map[string]any{"a": "b"})}})
	must.NoError(t, err, must.Sprint("the task has it no more, and is rendered"))
	must.SliceLen(t, 1, set.Files)
}
