package vault

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What a login's refusal tells, on a real server, step by step as an operator sets it up.
func TestProbe(t *testing.T) {
	s := startVault(t)
	h, err := s.Health(t.Context())
	must.NoError(t, err)
	must.True(t, h.Initialized)
	must.False(t, h.Sealed)
	must.NotEq(t, "", h.Version)

	probe := func(want LoginState) string {
		t.Helper()
		state, said := s.ProbeLogin(t.Context(), "jwt-nomad", "web")
		must.Eq(t, want, state, must.Sprint(said))
		must.StrNotContains(t, said, "eyJ")
		return said
	}
	write := func(path string, body map[string]any) {
		t.Helper()
		r, err := s.do(t.Context(), call{request: request{operation: "write", token: rootTok().Value, path: path}, body: body})
		must.NoError(t, err)
		must.True(t, r.ok(), must.Sprint(path, r.status, r.body.Errors))
	}
	probe(LoginNoMethod)
	write("sys/auth/jwt-nomad", map[string]any{"type": "jwt"})
	probe(LoginNoConfig)

	answer := http.StatusOK
	nomad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(answer)
		_, _ = w.Write([]byte(`{"keys":[]}`))
	}))
	defer nomad.Close()
	write("auth/jwt-nomad/config", map[string]any{"jwks_url": nomad.URL, "skip_jwks_validation": true})
	must.StrContains(t, probe(LoginNoRole), `"web"`)
	write("auth/jwt-nomad/role/web", map[string]any{
		"role_type": "jwt", "bound_audiences": []string{"vault.io"}, "user_claim": "sub", "token_policies": []string{"default"}, "token_num_uses": 3,
	})
	must.Eq(t, "", probe(LoginReady))
	answer = http.StatusNotFound
	probe(LoginNoKeys)

	role, err := s.ReadJWTRole(t.Context(), "jwt-nomad", "web", rootTok().Value)
	must.NoError(t, err)
	must.Eq(t, JWTRole{NumUses: 3}, role)
	_, err = s.ReadJWTRole(t.Context(), "jwt-nomad", "web", secrets.TextValue("hvs.none"))
	must.Eq(t, secrets.Refused, secrets.KindOf(err))
}

func TestHealthOfASealedServer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		must.Eq(t, "/v1/sys/health", r.URL.Path)
		_, _ = w.Write([]byte(`{"initialized":true,"sealed":true,"version":"1.21.0","server_time_utc":` + "4102444800" + `}`))
	}))
	defer server.Close()
	c := newVault(t, Config{Address: server.URL})
	h, err := c.Health(t.Context())
	must.NoError(t, err)
	must.True(t, h.Sealed)
	must.Greater(t, time.Hour, h.Ahead, must.Sprint("the server's clock is in another century"))

	server.Close()
	_, err = c.Health(t.Context())
	must.Eq(t, secrets.Outage, secrets.KindOf(err))
	state, _ := c.ProbeLogin(t.Context(), "jwt-nomad", "web")
	must.Eq(t, LoginNotReached, state)
}
