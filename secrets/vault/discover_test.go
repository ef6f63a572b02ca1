package vault

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func paths(d *secrets.Discovery) []string {
	var all []string
	for _, f := range d.Found {
		all = append(all, f.Path)
	}
	return all
}

func reasonOf(d *secrets.Discovery, path string) string {
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
	d, err := s.Discover(t.Context(), tok, "", nil, func(context.Context) error { turns++; return nil })
	must.NoError(t, err)
	must.Eq(t, []string{
		"aws/creds/deploy", "aws/static-creds/ci", "database/creds/app", "database/static-creds/rot", "rabbitmq/creds/mq",
		"secret/data/app", "secret/data/missing",
		"team/kv/data/x/deep/er/two", "team/kv/data/x/one", "team/kv/data/y/z/cert", "v1/all/a",
	}, slices.Sorted(slices.Values(paths(d))))
	for _, f := range d.Found {
		must.EqOp(t, !strings.HasPrefix(f.Path, "team/") && !strings.HasPrefix(f.Path, "v1/"), f.Exact, must.Sprint(f.Path))
	}
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

	_, err = s.Discover(t.Context(), rootTok(), "", nil, nil)
	must.EqOp(t, secrets.Invalid, secrets.KindOf(err))
	_, err = s.Discover(t.Context(), secrets.Token{Value: secrets.TextValue("hvs.nobody")}, "", nil, nil)
	must.EqOp(t, secrets.Refused, secrets.KindOf(err))
}

// A path that the policies name exactly, by what the engine there has below it. Names of roles have slashes for LDAP alone.
func TestDiscoverExactPaths(t *testing.T) {
	for path, want := range map[string]string{ // "": a secret; "-": nothing at all
		"aws/creds/a": "", "aws/static-creds/a": "", "aws/roles/a": "-", "aws/sts/a": "parameters",
		"database/creds/a": "", "database/static-creds/a": "", "database/config/a": "-",
		"database/creds/a/b": "slash", "database/static-creds/a/b": "slash", "database/creds": "-",
		"ldap/creds/a": "", "ldap/creds/team/a": "", "ldap/static-cred/team/a": "", "ldap/static-role/team/a": "-",
		"openldap/static-cred/team/a": "", "rabbitmq/creds/a/b": "slash", "pki/issue/a": "parameters", "pki/issue/a/b": "slash",
		"pki/cert/ca": "-", "ssh/config/ca": "-", "kubernetes/creds/a": "parameters", "totp/code/a": "TOTP", "odd/creds/a": "not known",
	} {
		engine, _, _ := strings.Cut(path, "/")
		d := &discovery{
			acl:    &acl{exact: map[string]capabilities{path: {read: true, write: true}}},
			mounts: []mount{{path: engine + "/", typ: engine}},
		}
		d.exactPaths()
		switch why := reasonOf(&d.Discovery, path); want {
		case "":
			must.Eq(t, []string{path}, paths(&d.Discovery))
		case "-":
			must.SliceEmpty(t, d.Found, must.Sprint(path))
			must.SliceEmpty(t, d.Skipped, must.Sprint(path))
		default:
			must.SliceEmpty(t, d.Found, must.Sprint(path))
			must.StrContains(t, why, want, must.Sprint(path))
		}
	}
}

// A glob over more than the limit is cut, and it is said.
func TestDiscoverIsBounded(t *testing.T) {
	s := startVault(t)
	mountKV(t, s, "many", "1")
	for n := range secrets.MaxDiscovered + 5 {
		s.admin(t, "POST", fmt.Sprintf("many/s%03d", n), map[string]any{"k": "v"})
	}
	tok := s.token(t, `path "many/*" { capabilities = ["read", "list"] }`)
	d, err := s.Discover(t.Context(), tok, "", nil, nil)
	must.NoError(t, err)
	must.True(t, d.Cut)
	must.Len(t, secrets.MaxDiscovered, d.Found)
	out, left := secrets.Expand(secrets.TaskConfig{FromPolicies: "env"}, d, nil)
	must.MapLen(t, secrets.MaxDiscovered, out.Secrets)
	must.SliceEmpty(t, left)
}
