package vault

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// startProxy starts a real Vault Proxy with a cache before a server.
func startProxy(t *testing.T, s *vaultServer) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	listen := l.Addr().String()
	must.NoError(t, l.Close())
	home := t.TempDir()
	config := filepath.Join(home, "proxy.hcl")
	must.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
vault { address = %q }
cache {}
listener "tcp" {
  address     = %q
  tls_disable = true
}
`, s.address, listen), 0o600))
	out, err := os.Create(filepath.Join(home, "proxy.log"))
	must.NoError(t, err)
	defer out.Close()
	cmd := exec.Command(vaultBinary(t), "proxy", "-config="+config)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = []string{"HOME=" + home}, home, out, out
	must.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	proxy := newVault(t, Config{Address: "http://" + listen})
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := proxy.LookupToken(t.Context(), rootTok(), "")
		if err == nil {
			return proxy
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(out.Name())
			t.Fatalf("the proxy does not come up: %v\n%s", err, log)
		}
		time.Sleep(20 * time.Millisecond) // between two looks at the condition
	}
}

// A Vault Proxy with a cache keeps logins, and renewals of tokens. Each login gives a token of its own all the same; and of a renewal that
// the proxy answers we believe no more than the server itself knows.
func TestProxyThatCaches(t *testing.T) {
	s, nomad := startVault(t), newIssuer(t)
	s.enableJWT(t, nomad)
	s.admin(t, "POST", "auth/jwt-nomad/role/short", map[string]any{
		"role_type": "jwt", "user_claim": "nomad_job_id", "bound_audiences": []string{"vault.io"}, "token_ttl": "8s",
	})
	proxy := startProxy(t, s)
	in := secrets.Login{Mount: "jwt-nomad", Role: "short", JWT: nomad.sign(t, time.Now().Add(time.Hour))}
	first, err := proxy.Login(t.Context(), in)
	must.NoError(t, err)
	second, err := proxy.Login(t.Context(), in)
	must.NoError(t, err)
	must.NotEq(t, first.Value.Text(), second.Value.Text(), must.Sprint("a login from the cache"))

	// The proxy answers most of these.
	renewed := map[int64]bool{}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		tok, err := proxy.RenewToken(t.Context(), secrets.Token{Value: first.Value, Accessor: first.Accessor}, "")
		must.NoError(t, err)
		must.Between(t, 7*time.Second, tok.TTL, 9*time.Second) // the server tells the renewal's moment in whole seconds
		known, err := s.LookupToken(t.Context(), secrets.Token{Value: first.Value}, "")
		must.NoError(t, err)
		must.True(t, tok.Expires.Before(known.Expires.Add(2*time.Second)), must.Sprintf("until %v, and the server knows it until %v", tok.Expires, known.Expires))
		renewed[known.Expires.Unix()/2] = true
	}
	must.Greater(t, 2, len(renewed), must.Sprint("it lives on"))
}

// Nor does it answer the login of a machine with an AppRole, whose earlier token may have been revoked.
func TestProxyThatCachesAndAnAppRole(t *testing.T) {
	s := startVault(t)
	s.admin(t, "POST", "sys/auth/approle", map[string]any{"type": "approle"})
	s.admin(t, "POST", "auth/approle/role/node", map[string]any{"token_ttl": "1h"})
	roleID := s.admin(t, "GET", "auth/approle/role/node/role-id", nil)["data"].(map[string]any)["role_id"].(string)
	secretID := s.admin(t, "POST", "auth/approle/role/node/secret-id", nil)["data"].(map[string]any)["secret_id"].(string)
	in := AppRole{Mount: "approle", RoleID: roleID, SecretID: secrets.TextValue(secretID)}
	proxy := startProxy(t, s)
	first, err := proxy.LoginAppRole(t.Context(), in)
	must.NoError(t, err)
	must.NoError(t, s.RevokeToken(t.Context(), first, ""))
	second, err := proxy.LoginAppRole(t.Context(), in)
	must.NoError(t, err)
	must.NotEq(t, first.Value.Text(), second.Value.Text(), must.Sprint("a login from the cache"))
	_, err = proxy.LookupToken(t.Context(), second, "")
	must.NoError(t, err)
}

// A renewal of a lease that a cache answers is none: what the server knows of the lease decides whether it is renewed past the cache.
func TestRenewalFromACache(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		left  time.Duration // as the server knows it
		past  bool          // the cache is passed by
		since time.Duration
	}{
		"somebody renews it":   {left: 50 * time.Minute, since: -10 * time.Minute},
		"nobody does":          {left: 15 * time.Minute, past: true},
		"the server denies it": {past: true},
	} {
		t.Run(name, func(t *testing.T) {
			var ids, kept atomic.Int64
			fake := startFake(t, func(w http.ResponseWriter, r *http.Request) {
				renewal := `{"lease_id":"a/1","lease_duration":3600,"renewable":true}`
				switch {
				case r.URL.Path == "/v1/sys/leases/lookup" && test.left == 0:
					w.WriteHeader(http.StatusForbidden)
					fmt.Fprint(w, `{"errors":["permission denied"]}`)
				case r.URL.Path == "/v1/sys/leases/lookup":
					at := now.Add(test.left - time.Hour)
					body, _ := json.Marshal(map[string]any{"data": map[string]any{
						"ttl": int(test.left.Seconds()), "renewable": true,
						"issue_time": now.Add(-100 * time.Hour).Format(time.RFC3339Nano), "last_renewal": at.Format(time.RFC3339Nano), "expire_time": at.Add(time.Hour).Format(time.RFC3339Nano),
					}})
					_, _ = w.Write(body)
				case r.Header.Get("X-Request-Id") != "":
					must.EqOp(t, "no-cache", r.Header.Get("Cache-Control"))
					ids.Add(1)
					fmt.Fprint(w, renewal)
				default:
					kept.Add(1)
					w.Header().Set("Age", "2400")
					fmt.Fprint(w, renewal)
				}
			})
			v := newVault(t, Config{Address: fake.URL})
			lease, err := v.Renew(t.Context(), rootTok(), "", "a/1", time.Hour)
			must.NoError(t, err)
			must.EqOp(t, time.Hour, lease.Duration)
			must.EqOp(t, 1, kept.Load())
			must.EqOp(t, test.past, ids.Load() == 1)
			must.EqOp(t, test.past, lease.Since.IsZero())
			if !test.past {
				must.False(t, lease.Since.Before(now.Add(test.since-2*time.Second)))
			}
		})
	}
}

// What a cache gives counts from when the server gave it; and what may make a credential is asked for past caches, each time anew.
func TestAnswerFromACache(t *testing.T) {
	seen := map[string]bool{}
	fake := startFake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/database/creds/app" {
			fmt.Fprint(w, `{"data":{"type":"database","path":"database/"}}`)
			return
		}
		must.NotEq(t, "", r.Header.Get("X-Request-Id"))
		must.False(t, seen[r.Header.Get("X-Request-Id")])
		seen[r.Header.Get("X-Request-Id")] = true
		w.Header().Set("Age", "600")
		fmt.Fprint(w, `{"lease_id":"database/creds/app/1","lease_duration":3600,"renewable":true,"data":{"username":"u"}}`)
	})
	v := newVault(t, Config{Address: fake.URL})
	for range 2 {
		before := time.Now()
		a, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "database/creds/app"})
		must.NoError(t, err)
		must.False(t, a.At.After(time.Now().Add(-10*time.Minute)))
		must.False(t, a.At.Before(before.Add(-10*time.Minute)))
	}
}
