package secrets

import (
	"testing"

	"github.com/shoenig/test/must"
)

func TestCompileProvider(t *testing.T) {
	of := func(provider string, f ...func(*SecretConfig)) TaskConfig {
		c := one(f...)
		c.Namespace = "team"
		c.Secrets["db"].Provider = provider
		c.Secrets["of-vault"] = kv()
		return c
	}
	for _, provider := range []string{"", "vault"} {
		spec, err := Compile(of(provider), "store", "vault")
		must.NoError(t, err)
		must.EqOp(t, "vault", spec.Secrets[0].Request.Provider)
		must.EqOp(t, "team", spec.Secrets[0].Request.Namespace)
	}
	spec, err := Compile(of("store", func(s *SecretConfig) { s.Path = "/sys//app/" }), "store", "vault")
	must.NoError(t, err)
	must.EqOp(t, "store", spec.Secrets[0].Request.Provider)
	must.EqOp(t, "", spec.Secrets[0].Request.Namespace)   // the job's option is Vault's
	must.EqOp(t, "sys/app", spec.Secrets[0].Request.Path) // and so are its own ends

	for want, c := range map[string]TaskConfig{
		`secret "db": provider "other" is not known; use nomad or store or vault`: of("other"),
		`secret "db": version is for provider "vault" only; take it out`:          of("store", func(s *SecretConfig) { s.Version = 1 }),
		`secret "db": params are for provider "vault" only; take them out`: of("store", func(s *SecretConfig) {
			s.Params = []map[string]string{{"a": "b"}}
		}),
		`secret "db": path "nomad/jobs/x.y": a Nomad Variable's path has letters, digits, -, _, ~ and /, 128 at the most`: of("nomad", func(s *SecretConfig) {
			s.Path = "nomad/jobs/x.y"
		}),
		`secret "db": path is missing`:                of("store", func(s *SecretConfig) { s.Path = "" }),
		`secret "db": path "a/../b": ".." is not`:     of("store", func(s *SecretConfig) { s.Path = "a/../b" }),
		`secret "db": path "//": nothing but slashes`: of("store", func(s *SecretConfig) { s.Path = "//" }),
	} {
		_, err := Compile(c, "store", "vault", "nomad")
		must.ErrorContains(t, err, want)
		must.EqOp(t, Invalid, KindOf(err))
	}
}

// What is about Vault's tokens is refused where nothing is Vault's, and taken where something is.
func TestCompileOnlyVaults(t *testing.T) {
	for key, set := range map[string]func(*TaskConfig){
		"role":          func(c *TaskConfig) { c.Role = "x" },
		"namespace":     func(c *TaskConfig) { c.Namespace = "x" },
		"identity_file": func(c *TaskConfig) { c.IdentityFile = "x" },
	} {
		c := one(func(s *SecretConfig) { s.Provider = "nomad" })
		set(&c)
		_, err := Compile(c, "nomad")
		must.ErrorContains(t, err, key+` "x" is for provider "vault", and no secret of the task is of that; take it out`)
		must.EqOp(t, Invalid, KindOf(err))
		c.FromPolicies = "all"
		_, err = Compile(c, "nomad")
		must.NoError(t, err)
		c.FromPolicies, c.Secrets["other"] = "off", kv()
		_, err = Compile(c, "nomad")
		must.NoError(t, err)
	}
}

// A path that a job reads from another provider takes none of what the policies grant.
func TestExpandBesideAnotherProvider(t *testing.T) {
	c := TaskConfig{FromPolicies: "all", Secrets: map[string]*SecretConfig{"mine": {Provider: "store", Path: "kv/app"}}}
	out, left := Expand(c, found("kv/app"), nil)
	must.SliceEmpty(t, left)
	must.MapLen(t, 2, out.Secrets)
	must.EqOp(t, "kv/app", out.Secrets["app"].Path)
}
