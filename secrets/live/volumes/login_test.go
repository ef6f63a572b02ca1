package volumes

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const policy = `path "secret/data/*" { capabilities = ["read"] }`

func TestLogins(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "bob")
	v.admin("POST", "sys/policies/acl/reader", map[string]any{"policy": policy})
	v.admin("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	v.admin("POST", "auth/approle/role/node", map[string]any{"token_policies": "reader", "token_ttl": "4s", "token_max_ttl": "6s"})
	roleID := v.admin("GET", "auth/approle/role/node/role-id", nil)["data"].(map[string]any)["role_id"].(string)
	secretID := v.admin("POST", "auth/approle/role/node/secret-id", nil)["data"].(map[string]any)["secret_id"].(string)

	n := newNode(t, v)
	file := n.path("secret-id")
	must.NoError(t, os.WriteFile(file, []byte(secretID+"\n"), 0o600))
	d := n.open(func(c *Config) {
		c.Credentials = Credentials{AppRoleMount: "approle", RoleID: roleID, SecretIDFile: file}
	})
	must.NoError(t, create(d, "secret/app"))
	at := mount(t, d, "secret/app", "x")
	user := filepath.Join(at, "user")
	must.NoError(t, wantFile(user, "bob")())

	// Beyond the token's longest life: it has logged in again.
	deadline := time.Now().Add(9 * time.Second)
	for i := 0; time.Now().Before(deadline); i++ {
		v.put("app", "user", string(rune('a'+i)))
		eventually(t, 1500*time.Millisecond, wantFile(user, string(rune('a'+i))))
	}

	// A token that is revoked behind its back.
	tok, err := d.token.get(t.Context())
	must.NoError(t, err)
	v.admin("POST", "auth/token/revoke", map[string]any{"token": tok.Value.Text()})
	v.put("app", "user", "after")
	eventually(t, 8*time.Second, wantFile(user, "after"))
	must.NoError(t, unmount(d, "secret/app", "x"))
}

func TestATokenThatIsReplacedInItsFile(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "bob")
	v.admin("POST", "sys/policies/acl/reader", map[string]any{"policy": policy})
	token := func() string {
		return v.admin("POST", "auth/token/create", map[string]any{"policies": []string{"reader"}, "ttl": "1h"})["auth"].(map[string]any)["client_token"].(string)
	}
	n := newNode(t, v)
	file := n.path("node-token")
	first := token()
	must.NoError(t, os.WriteFile(file, []byte(first), 0o600))
	d := n.open(func(c *Config) { c.Credentials = Credentials{TokenFile: file} })
	must.NoError(t, create(d, "secret/app"))
	must.NoError(t, os.WriteFile(file, []byte(token()), 0o600))
	v.admin("POST", "auth/token/revoke", map[string]any{"token": first})
	eventually(t, 8*time.Second, func() error {
		err := create(d, "x", "path=secret/app")
		return err
	})
}

// tokenServer renews one token, and counts.
type tokenServer struct {
	server
	ttl              time.Duration
	renewed, lookups int
}

func (s *tokenServer) token() secrets.Token {
	return secrets.Token{Value: secrets.TextValue("x"), TTL: s.ttl, Expires: time.Now().Add(s.ttl), Renewable: true}
}

func (s *tokenServer) RenewToken(context.Context, secrets.Token, string) (secrets.Token, error) {
	s.renewed++
	return s.token(), nil
}

func (s *tokenServer) LookupToken(context.Context, secrets.Token, string) (secrets.Token, error) {
	s.lookups++
	return secrets.Token{}, nil
}

// A volume whose reads are refused brings a doubt each second.
func TestDoubtsPostponeNoRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tokenServer{ttl: 2 * time.Minute}
		tok := newToken(s, Credentials{TokenFile: "x"}, hclog.NewNullLogger())
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+time.Second)
		defer cancel()
		go func() {
			for ctx.Err() == nil {
				tok.doubt()
				sleep(ctx, time.Second)
			}
		}()
		tok.keep(ctx, s.token())
		must.ErrorIs(t, ctx.Err(), context.DeadlineExceeded) // not because it gave up
		must.Eq(t, 10, s.renewed)                            // each time that half of its life is over
		must.Between(t, 100, s.lookups, 130)
	})
}

func TestCredentialsThatAreMissing(t *testing.T) {
	must.Error(t, Credentials{}.Check())
	must.Error(t, Credentials{TokenFile: "a", JWTFile: "b"}.Check())
	must.Error(t, Credentials{RoleID: "a"}.Check())
	must.NoError(t, Credentials{RoleID: "a", SecretIDFile: "b"}.Check())

	v := startVault(t)
	n := newNode(t, v)
	d := n.open(func(c *Config) { c.Credentials = Credentials{TokenFile: n.path("none")} })
	must.ErrorContains(t, create(d, "secret/app"), "no such file")
	d.Close()
	d = n.open(func(c *Config) {
		c.Credentials = Credentials{AppRoleMount: "approle", RoleID: "x", SecretIDFile: n.path("token")}
	})
	must.ErrorContains(t, create(d, "secret/app"), "log in at auth/approle with an AppRole")
}
