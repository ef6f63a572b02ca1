package vault

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A server that wraps its answers, because something between tells it to: each is opened, once.
func TestWrappedAnswers(t *testing.T) {
	s := startVault(t)
	s.admin(t, "POST", "secret/data/app", map[string]any{"data": map[string]any{"k": "v"}})
	target, err := url.Parse(s.address)
	must.NoError(t, err)
	opened := 0
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		if strings.HasSuffix(r.In.URL.Path, "/sys/wrapping/unwrap") {
			opened++
		} else if strings.HasPrefix(r.In.URL.Path, "/v1/secret/") {
			r.Out.Header.Set("X-Vault-Wrap-TTL", "60s")
		}
	}})
	defer proxy.Close()
	v := newVault(t, Config{Address: proxy.URL})
	a, err := v.Read(t.Context(), s.token(t, `path "secret/data/app" { capabilities = ["read"] }`), secrets.Request{Path: "secret/app"})
	must.NoError(t, err)
	must.EqOp(t, secrets.Static, a.Kind)
	must.Eq(t, map[string]any{"k": "v"}, a.Fields.Map())
	must.EqOp(t, 1, opened)
}

// One that somebody else has opened is lost: that is an error, and says so.
func TestWrappedAnswerThatIsGone(t *testing.T) {
	s := startVault(t)
	_, err := s.unwrap(t.Context(), request{operation: "read x"}, reply{body: envelope{WrapInfo: []byte(`{"token":"hvs.no-such-token"}`)}})
	must.Error(t, err)
	must.StrContains(t, err.Error(), "open the wrapped answer")
	must.StrNotContains(t, err.Error(), "no-such-token")
}

func TestTOTPIsRefused(t *testing.T) {
	s := startVault(t)
	s.admin(t, "POST", "sys/mounts/totp", map[string]any{"type": "totp"})
	s.admin(t, "POST", "totp/keys/me", map[string]any{"generate": true, "issuer": "i", "account_name": "a"})
	_, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: "totp/code/me"})
	must.EqOp(t, secrets.Invalid, secrets.KindOf(err))
	must.StrContains(t, err.Error(), "good for seconds")
}

// It is polled, each task's for itself; and what one token put there, another does not find.
func TestCubbyhole(t *testing.T) {
	s := startVault(t)
	s.admin(t, "POST", "cubbyhole/app", map[string]any{"k": "v"})
	a, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: "cubbyhole/app"})
	must.NoError(t, err)
	must.EqOp(t, secrets.Static, a.Kind)
	must.True(t, a.Own)
	_, err = s.Read(t.Context(), s.token(t, "# the default policy has it"), secrets.Request{Path: "cubbyhole/app"})
	wantKind(t, err, secrets.NotFound, "nothing is there; a cubbyhole is its token's own")
}

// What an engine nobody here knows answers: a lease makes it a lease, else it is never polled.
func TestUnknownEngine(t *testing.T) {
	for _, test := range []struct {
		name, answer string
		want         secrets.Kind
	}{
		{"with a lease", `{"lease_id":"odd/creds/x/1","lease_duration":60,"renewable":true,"data":{"k":"v"}}`, secrets.Leased},
		{"without", `{"lease_id":"","lease_duration":60,"data":{"k":"v"}}`, secrets.Opaque},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/v1/sys/internal/ui/mounts/") {
					_, _ = w.Write([]byte(`{"data":{"path":"odd/","type":"vault-plugin-secrets-odd"}}`))
					return
				}
				_, _ = w.Write([]byte(test.answer))
			}))
			defer server.Close()
			v := newVault(t, Config{Address: server.URL})
			a, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "odd/creds/x"})
			must.NoError(t, err)
			must.EqOp(t, test.want, a.Kind)
			must.Eq(t, map[string]any{"k": "v"}, a.Fields.Map())
		})
	}
}

// The namespace goes with every request of a discovery and a read, as the header.
func TestNamespaceHeader(t *testing.T) {
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("X-Vault-Namespace")+" "+strings.TrimPrefix(r.URL.Path, "/v1/"))
		switch r.URL.Path {
		case "/v1/sys/internal/ui/resultant-acl":
			_, _ = w.Write([]byte(`{"data":{"root":false,"chroot_namespace":"","exact_paths":{"team/a/kv/app":{"capabilities":["read"]}},"glob_paths":{"team/a/kv/d/":{"capabilities":["read","list"]}}}}`))
		case "/v1/sys/internal/ui/mounts":
			_, _ = w.Write([]byte(`{"data":{"secret":{"kv/":{"type":"kv","options":{"version":"1"}}}}}`))
		case "/v1/kv/d":
			_, _ = w.Write([]byte(`{"data":{"keys":["x"]}}`))
		default:
			_, _ = w.Write([]byte(`{"data":{"k":"v"}}`))
		}
	}))
	defer server.Close()
	v := newVault(t, Config{Address: server.URL})
	d, err := v.Discover(t.Context(), rootTok(), "team/a", nil, nil)
	must.NoError(t, err)
	must.Eq(t, []string{"kv/app", "kv/d/x"}, paths(d))
	_, err = v.Read(t.Context(), rootTok(), secrets.Request{Namespace: "team/a", Path: "kv/app"})
	must.NoError(t, err)
	must.Eq(t, []string{
		"team/a sys/internal/ui/resultant-acl", "team/a sys/internal/ui/mounts", "team/a kv/d", "team/a kv/app",
	}, seen)
}
