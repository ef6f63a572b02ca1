package secrets

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func paths(d *Discovery) []string {
	var all []string
	for _, f := range d.Found {
		all = append(all, f.Path)
	}
	return all
}

func reasonOf(d *Discovery, path string) string {
	for _, s := range d.Skipped {
		if s.Path == path {
			return s.Why
		}
	}
	return ""
}

// A real server: what the policies grant is found, what they deny is not, and nothing is asked of an
// engine that would make a credential.
func TestDiscover(t *testing.T) {
	s := startVault(t)
	mountKV(t, s, "v1", "1")
	mountKV(t, s, "team/kv", "2")
	for path, typ := range map[string]string{"database": "database", "second/db": "database", "rabbitmq": "rabbitmq", "pki": "pki", "ssh": "ssh", "totp": "totp", "aws": "aws", "transit": "transit"} {
		s.admin(t, "POST", "sys/mounts/"+path, map[string]any{"type": typ})
	}
	for _, path := range []string{"secret/data/app", "secret/data/denied", "team/kv/data/x/one", "team/kv/data/x/deep/er/two",
		"team/kv/data/x/no/three", "team/kv/data/y/z/cert", "team/kv/data/y/z/other", "secret/data/blind/a"} {
		s.admin(t, "POST", path, map[string]any{"data": map[string]any{"k": "v"}})
	}
	s.admin(t, "POST", "v1/all/a", map[string]any{"k": "v"})
	tok := s.token(t, `
path "secret/data/app" { capabilities = ["read"] }
path "secret/data/missing" { capabilities = ["read"] }
path "secret/data/denied" { capabilities = ["deny"] }
path "secret/data/blind/*" { capabilities = ["read"] }
path "secret/metadata/app" { capabilities = ["read"] }
path "team/kv/data/x/*" { capabilities = ["read"] }
path "team/kv/metadata/x/*" { capabilities = ["list"] }
path "team/kv/data/x/no/*" { capabilities = ["deny"] }
path "team/kv/data/y/+/cert" { capabilities = ["read"] }
path "team/kv/metadata/y/*" { capabilities = ["list"] }
path "v1/*" { capabilities = ["read", "list"] }
path "database/creds/app" { capabilities = ["read"] }
path "database/static-creds/rot" { capabilities = ["read"] }
path "database/roles/app" { capabilities = ["read"] }
path "database/config/*" { capabilities = ["read"] }
path "second/db/creds/*" { capabilities = ["read"] }
path "rabbitmq/creds/mq" { capabilities = ["read"] }
path "pki/issue/web" { capabilities = ["create", "update"] }
path "pki/cert/ca" { capabilities = ["read"] }
path "ssh/sign/me" { capabilities = ["update"] }
path "aws/creds/deploy" { capabilities = ["read"] }
path "aws/static-creds/ci" { capabilities = ["read"] }
path "aws/sts/deploy" { capabilities = ["read"] }
path "totp/code/me" { capabilities = ["read"] }
path "transit/encrypt/k" { capabilities = ["update"] }
path "nowhere/x" { capabilities = ["read"] }
path "sys/policies/acl/x" { capabilities = ["read"] }
path "auth/token/accessors" { capabilities = ["read"] }
path "identity/entity/id/x" { capabilities = ["read"] }
path "v1/wrapped" {
  capabilities = ["read"]
  min_wrapping_ttl = "10s"
}
`)
	turns := 0
	d, err := s.Discover(t.Context(), tok, "", func(context.Context) error { turns++; return nil })
	must.NoError(t, err)
	must.Eq(t, []string{
		"aws/creds/deploy", "aws/static-creds/ci", "database/creds/app", "database/static-creds/rot", "rabbitmq/creds/mq",
		"secret/data/app", "secret/data/missing",
		"team/kv/data/x/deep/er/two", "team/kv/data/x/one", "team/kv/data/y/z/cert", "v1/all/a",
	}, slices.Sorted(slices.Values(paths(d))))
	must.False(t, d.Cut)
	must.EqOp(t, 2+4+2+2, turns, must.Sprint("two requests, and one a directory: x/ deep/ deep/er/ no/, y/ y/z/, v1/ v1/all/"))
	for path, why := range map[string]string{
		"pki/issue/web": "parameters", "ssh/sign/me": "parameters", "aws/sts/deploy": "parameters",
		"totp/code/me": "TOTP", "nowhere/x": "no secrets engine", "v1/wrapped": "wrapped",
		"secret/data/blind/*": `path "secret/metadata/blind/" { capabilities = ["list"] }`,
		"second/db/creds/*":   "not expanded",
	} {
		must.StrContains(t, reasonOf(d, path), why, must.Sprint(path))
	}
	must.Len(t, 8, d.Skipped)

	_, err = s.Discover(t.Context(), rootTok(), "", nil)
	must.EqOp(t, Invalid, KindOf(err))
	_, err = s.Discover(t.Context(), Token{Value: TextValue("hvs.nobody")}, "", nil)
	must.EqOp(t, Refused, KindOf(err))
}

// A glob over more than the limit is cut, and it is said.
func TestDiscoverIsBounded(t *testing.T) {
	s := startVault(t)
	mountKV(t, s, "many", "1")
	for n := range MaxDiscovered + 5 {
		s.admin(t, "POST", fmt.Sprintf("many/s%03d", n), map[string]any{"k": "v"})
	}
	tok := s.token(t, `path "many/*" { capabilities = ["read", "list"] }`)
	d, err := s.Discover(t.Context(), tok, "", nil)
	must.NoError(t, err)
	must.True(t, d.Cut)
	must.Len(t, MaxDiscovered, d.Found)
	_, events, err := Expand(TaskConfig{FromPolicies: "env"}, d)
	must.NoError(t, err)
	must.Len(t, 1, events)
	must.StrContains(t, events[0], "more than 100 paths")
}

func found(all ...string) *Discovery {
	d := &Discovery{acl: &acl{}, mounts: []mount{{path: "secret/", typ: "kv", v2: true}, {path: "kv/", typ: "kv"}, {path: "database/", typ: "database"}}}
	for _, p := range all {
		d.Found = append(d.Found, Found{Path: p})
	}
	return d
}

func TestExpand(t *testing.T) {
	c := TaskConfig{FromPolicies: "all", Secrets: map[string]*SecretConfig{
		"mine": {Path: "secret/app"}, "cert": {Path: "kv/elsewhere"},
	}}
	d := found("secret/data/app", "secret/data/tls/cert", "database/creds/my-role.1", "kv/9lives")
	out, events, err := Expand(c, d)
	must.NoError(t, err)
	must.MapLen(t, 4, out.Secrets)
	must.EqOp(t, "secret/app", out.Secrets["mine"].Path) // the same path is not taken twice
	must.EqOp(t, "kv/elsewhere", out.Secrets["cert"].Path)
	must.Len(t, 1, events)
	must.StrContains(t, events[0], `secret/data/tls/cert (the job declares a secret "cert")`)
	got := out.Secrets["my-role_1"]
	must.EqOp(t, "database/creds/my-role.1", got.Path)
	must.EqOp(t, "MY_ROLE_1_", *got.EnvPrefix)
	must.True(t, got.AllFiles)
	must.EqOp(t, "kv/9lives", out.Secrets["_9lives"].Path)
	must.MapLen(t, 2, c.Secrets, must.Sprint("the job's own config is left as it is"))

	again, _, err := Expand(out, found("secret/data/app", "kv/new"))
	must.NoError(t, err)
	must.MapLen(t, 3, again.Secrets, must.Sprint("what was discovered before is not taken for declared"))

	spec, err := Compile(out)
	must.NoError(t, err)
	set, err := Render(spec, map[string]Answer{
		"mine": {}, "cert": {},
		"my-role_1": {Fields: NewFields(map[string]any{"username": "u", "password": "p"})},
	})
	must.NoError(t, err)
	must.EqOp(t, "u", set.Env["MY_ROLE_1_USERNAME"].Text())
	must.EqOp(t, "my-role_1/password", set.Files[0].Path)

	for mode, want := range map[string][2]bool{"env": {true, false}, "files": {false, true}} {
		out, _, err := Expand(TaskConfig{FromPolicies: mode}, found("kv/a"))
		must.NoError(t, err)
		must.Eq(t, want, [2]bool{out.Secrets["a"].EnvPrefix != nil, out.Secrets["a"].AllFiles})
	}
}

func TestExpandClashes(t *testing.T) {
	for _, test := range []struct {
		mode string
		a, b string
		ok   bool
	}{
		{"env", "kv/x/app", "database/creds/app", false},
		{"env", "kv/a-b", "kv/a_b", false},
		{"env", "kv/App", "kv/app", false},
		{"files", "kv/a-b", "kv/a_b", true},
		{"files", "kv/x.y", "kv/x_y", false},
	} {
		_, _, err := Expand(TaskConfig{FromPolicies: test.mode}, found(test.a, test.b))
		if test.ok {
			must.NoError(t, err)
			continue
		}
		must.EqOp(t, Invalid, KindOf(err))
		must.StrContains(t, err.Error(), test.a)
		must.StrContains(t, err.Error(), test.b)
	}
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
