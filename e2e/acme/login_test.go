package acme

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// The token of a login lives for seconds, and so does the JWT, which is replaced in its file: the issuer logs in again
// and again, with what is there then. At its end it revokes its token.
func TestLogsInAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t, "login", shared.Vault, harness.PebbleOptions{})
	l.token() // makes the policy
	identity := l.jwtAuth("jwt-login", "issuer", "issuer-login", 6*time.Second)
	file := filepath.Join(t.TempDir(), "jwt")
	renewJWT := func() { identity.write(file, 5*time.Second) }
	renewJWT()
	began := time.Now()
	mark, err := l.vault.Mark()
	require.NoError(t, err)
	port := freePort(t)
	i := l.start(l.head()+l.certificate("web", "default", "login.example.com")+fmt.Sprintf(`
http {
  address = "127.0.0.1:%d"
}
vault {
  jwt {
    path = "jwt-login"
    role = "issuer"
    file = %q
  }
}
`, port, file), "", "HOME=/nonexistent")
	logins := func() (n int) {
		requests, err := l.vault.Requests(mark, "auth/jwt-login/login")
		require.NoError(t, err)
		for _, r := range requests {
			if r.Error == "" {
				n++
			}
		}
		return n
	}
	l.until("five logins, and a check that passes", func() error {
		renewJWT()
		code, body, err := l.httpGet(fmt.Sprintf("http://127.0.0.1:%d/health", port))
		if err != nil {
			return err
		}
		if n := logins(); n < 5 || code != http.StatusOK {
			return fmt.Errorf("%d logins, %d: %s", n, code, body)
		}
		return nil
	})
	l.issued(l.path("web"), "login.example.com")
	require.LessOrEqual(t, logins(), int(time.Since(began)/(4*time.Second))+2, "not for each request, but at two thirds of a token's life")
	require.NotContains(t, strings.ToLower(i.out.String()), "error")

	require.NoError(t, i.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, 0, i.status(), "%s", i.out)
	revoked, err := l.vault.Requests(mark, "auth/token/revoke-self")
	require.NoError(t, err)
	require.NotEmpty(t, revoked)
}

// identity replaces JWTs that the issuer logs in with, as Nomad does those of an identity block.
type identity struct {
	*lab
	*harness.Identities
}

// jwtAuth enables an auth method with one role. What identity signs can log in there, not a second longer than it lives.
func (l *lab) jwtAuth(mount, role, policy string, tokenTTL time.Duration) *identity {
	l.t.Helper()
	identities, err := l.vault.EnableJWT(l.ctx, mount, role, map[string]any{
		"clock_skew_leeway": -1, "expiration_leeway": -1, "token_policies": policy, "token_ttl": tokenTTL.String(),
	})
	require.NoError(l.t, err)
	return &identity{l, identities}
}

// write replaces a file by a JWT that lives for so long.
func (i *identity) write(file string, life time.Duration) {
	i.t.Helper()
	signed, err := i.JWT(life)
	require.NoError(i.t, err)
	require.NoError(i.t, os.WriteFile(file+".new", []byte(signed), 0o600))
	require.NoError(i.t, os.Rename(file+".new", file))
}

// An authority that wants an account of its own elsewhere: it is bound to it, and without it the error says so.
func TestExternalAccountBinding(t *testing.T) {
	t.Parallel()
	const hmac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	l := newLab(t, "binding", shared.Vault, harness.PebbleOptions{Bindings: map[string]string{"kid-1": hmac}})
	config := l.head() + l.certificate("web", "default", "binding.example.com")
	i := l.start(config, "-once")
	require.Equal(t, 1, i.status(), "%s", i.out)
	require.Contains(t, i.out.String(), "result=misconfigured")
	require.Contains(t, i.out.String(), "urn:ietf:params:acme:error:externalAccountRequired")

	config = strings.Replace(config, "accept_terms = true", `accept_terms = true
  external_account_binding {
    key_id   = "kid-1"
    hmac_key = env("EAB_HMAC_KEY")
  }`, 1)
	i = l.start(config, "-once", "VAULT_TOKEN="+l.token(), "EAB_HMAC_KEY="+hmac)
	require.Equal(t, 0, i.status(), "%s", i.out)
	l.issued(l.path("web"), "binding.example.com")
	require.NotContains(t, i.out.String(), hmac)
}
