package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// issuer signs workload identities as Nomad's servers do.
type issuer struct {
	signer jose.Signer
	public string
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	must.NoError(t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	must.NoError(t, err)
	return &issuer{signer, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

func (i *issuer) sign(t *testing.T, expires time.Time) secrets.Value {
	t.Helper()
	text, err := jwt.Signed(i.signer).Claims(map[string]any{
		"sub": "global:default:job:group:task:vault", "aud": "vault.io",
		"iat": time.Now().Add(-time.Hour).Unix(), "nbf": time.Now().Add(-time.Hour).Unix(), "exp": expires.Unix(),
		"nomad_namespace": "default", "nomad_job_id": "job",
	}).Serialize()
	must.NoError(t, err)
	return secrets.TextValue(text)
}

func (s *vaultServer) enableJWT(t *testing.T, i *issuer) {
	t.Helper()
	s.admin(t, "POST", "sys/auth/jwt-nomad", map[string]any{"type": "jwt"})
	s.admin(t, "POST", "auth/jwt-nomad/config", map[string]any{"jwt_validation_pubkeys": []string{i.public}, "default_role": "workloads"})
	for role, options := range map[string]map[string]any{
		"workloads":   {"token_ttl": "1h"},
		"no-defaults": {"token_ttl": "1h", "token_no_default_policy": true, "token_policies": []string{"nothing"}},
		"other-aud":   {"bound_audiences": []string{"elsewhere"}},
		"batch":       {"token_ttl": "45s", "token_type": "batch"},
		"one-use":     {"token_ttl": "1h", "token_num_uses": 1},
		"eight-uses":  {"token_ttl": "1h", "token_num_uses": 8},
	} {
		all := map[string]any{"role_type": "jwt", "user_claim": "nomad_job_id", "bound_audiences": []string{"vault.io"}}
		for k, v := range options {
			all[k] = v
		}
		s.admin(t, "POST", "auth/jwt-nomad/role/"+role, all)
	}
}

func TestLoginAndTheTokensLife(t *testing.T) {
	s, nomad := startVault(t), newIssuer(t)
	s.enableJWT(t, nomad)
	jwt := nomad.sign(t, time.Now().Add(time.Hour))

	before := time.Now()
	tok, err := s.Login(t.Context(), secrets.Login{Mount: "jwt-nomad", Role: "workloads", JWT: jwt})
	must.NoError(t, err)
	must.EqOp(t, time.Hour, tok.TTL)
	must.True(t, tok.Renewable)
	must.NotEq(t, "", tok.Accessor)
	must.Between(t, before.Add(time.Hour).UnixNano(), tok.Expires.UnixNano(), time.Now().Add(time.Hour).UnixNano())
	_, err = s.Login(t.Context(), secrets.Login{Mount: "/jwt-nomad/", JWT: jwt}) // the default role
	must.NoError(t, err)

	renewed, err := s.RenewToken(t.Context(), tok, "")
	must.NoError(t, err)
	must.EqOp(t, tok.Value.Text(), renewed.Value.Text())
	must.EqOp(t, tok.Accessor, renewed.Accessor)
	must.EqOp(t, time.Hour, renewed.TTL)
	must.True(t, renewed.Expires.After(tok.Expires))

	// Of Nomad's own token the value alone is known at first.
	looked, err := s.LookupToken(t.Context(), secrets.Token{Value: tok.Value}, "")
	must.NoError(t, err)
	must.EqOp(t, tok.Accessor, looked.Accessor)
	must.EqOp(t, time.Hour, looked.TTL)
	must.True(t, looked.Renewable)
	must.Between(t, time.Now().Add(59*time.Minute).Unix(), looked.Expires.Unix(), time.Now().Add(time.Hour).Unix())

	must.NoError(t, s.RevokeToken(t.Context(), tok, ""))
	_, err = s.LookupToken(t.Context(), tok, "")
	wantKind(t, err, secrets.Gone, "lookup the token with accessor "+tok.Accessor)
	_, err = s.RenewToken(t.Context(), tok, "")
	wantKind(t, err, secrets.Gone)
	must.NoError(t, s.RevokeToken(t.Context(), tok, "")) // gone already
	_, err = s.Read(t.Context(), tok, secrets.Request{Path: "secret/app"})
	wantKind(t, err, secrets.Refused, "does not know the token")
}

func TestTokenThatNeverExpires(t *testing.T) {
	s := startVault(t)
	tok, err := s.LookupToken(t.Context(), rootTok(), "")
	must.NoError(t, err)
	must.True(t, tok.Expires.IsZero())
	must.EqOp(t, 0, tok.TTL)
	_, err = s.RenewToken(t.Context(), rootTok(), "")
	wantKind(t, err, secrets.Invalid, "not renewable")
}

// A token that lives, and whose policies do not let it look at itself, is no dead one: taking it
// for one would log in again for ever.
func TestTokenWithoutTheDefaultPolicy(t *testing.T) {
	s, nomad := startVault(t), newIssuer(t)
	s.enableJWT(t, nomad)
	tok, err := s.Login(t.Context(), secrets.Login{Mount: "jwt-nomad", Role: "no-defaults", JWT: nomad.sign(t, time.Now().Add(time.Hour))})
	must.NoError(t, err)
	_, err = s.LookupToken(t.Context(), tok, "")
	wantKind(t, err, secrets.Refused, `path "auth/token/lookup-self" { capabilities = ["read"] }`)
	_, err = s.RenewToken(t.Context(), tok, "")
	wantKind(t, err, secrets.Refused, `path "auth/token/renew-self" { capabilities = ["update"] }`)
	wantKind(t, s.RevokeToken(t.Context(), tok, ""), secrets.Refused, `path "auth/token/revoke-self" { capabilities = ["update"] }`)
}

func TestLoginRefused(t *testing.T) {
	s, nomad, other := startVault(t), newIssuer(t), newIssuer(t)
	s.enableJWT(t, nomad)
	good := nomad.sign(t, time.Now().Add(time.Hour))
	for name, test := range map[string]struct {
		in   secrets.Login
		kind secrets.ErrorKind
		says string
	}{
		"no such role":    {secrets.Login{Mount: "jwt-nomad", Role: "nope", JWT: good}, secrets.Invalid, "log in at auth/jwt-nomad as role nope: the server answers 400"},
		"other audience":  {secrets.Login{Mount: "jwt-nomad", Role: "other-aud", JWT: good}, secrets.Invalid, "bound_audiences"},
		"other issuer":    {secrets.Login{Mount: "jwt-nomad", Role: "workloads", JWT: other.sign(t, time.Now().Add(time.Hour))}, secrets.Invalid, "signature"},
		"no JWT":          {secrets.Login{Mount: "jwt-nomad", Role: "workloads", JWT: secrets.TextValue("nonsense")}, secrets.Invalid, ""},
		"no such mount":   {secrets.Login{Mount: "nope", Role: "workloads", JWT: good}, secrets.Refused, "is the JWT auth method mounted there"},
		"no mount":        {secrets.Login{Role: "workloads", JWT: good}, secrets.Invalid, "no path of an auth method"},
		"mount elsewhere": {secrets.Login{Mount: "../sys", Role: "workloads", JWT: good}, secrets.Invalid, "no path of an auth method"},
		// Nomad's servers are away: they will be back (S2).
		"expired": {secrets.Login{Mount: "jwt-nomad", Role: "workloads", JWT: nomad.sign(t, time.Now().Add(-10*time.Minute))}, secrets.Outage, "JWT expired at"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Login(t.Context(), test.in)
			wantKind(t, err, test.kind, test.says)
			must.StrNotContains(t, err.Error(), test.in.JWT.Text())
		})
	}
}

// The server cannot get Nomad's keys while Nomad's servers are away, and says 400.
func TestLoginWithoutNomadsKeysIsAnOutage(t *testing.T) {
	s, nomad := startVault(t), newIssuer(t)
	s.admin(t, "POST", "sys/auth/jwt-nomad", map[string]any{"type": "jwt"})
	jwks := startFake(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"keys":[]}`)
	})
	s.admin(t, "POST", "auth/jwt-nomad/config", map[string]any{"jwks_url": jwks.URL + "/.well-known/jwks.json"})
	s.admin(t, "POST", "auth/jwt-nomad/role/r", map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": []string{"vault.io"}})
	jwks.Close()
	_, err := s.Login(t.Context(), secrets.Login{Mount: "jwt-nomad", Role: "r", JWT: nomad.sign(t, time.Now().Add(time.Hour))})
	wantKind(t, err, secrets.Outage, "fetching keys")
}

// A batch token has no accessor, and says that it is one; the server revokes none.
func TestLoginBatch(t *testing.T) {
	s, nomad := startVault(t), newIssuer(t)
	s.enableJWT(t, nomad)
	tok, err := s.Login(t.Context(), secrets.Login{Mount: "jwt-nomad", Role: "batch", JWT: nomad.sign(t, time.Now().Add(time.Hour))})
	must.NoError(t, err)
	must.True(t, tok.Batch)
	must.False(t, tok.Renewable)
	must.EqOp(t, "", tok.Accessor)
	must.EqOp(t, 45*time.Second, tok.TTL)
	_, err = s.LookupToken(t.Context(), tok, "")
	must.NoError(t, err)
	wantKind(t, s.RevokeToken(t.Context(), tok, ""), secrets.Invalid, "revoke the token")
}

// A count of uses is refused by the role's name, and the token that came with it does not stay.
func TestLoginCountedUses(t *testing.T) {
	s, nomad := startVault(t), newIssuer(t)
	s.enableJWT(t, nomad)
	accessors := func() int {
		return len(s.admin(t, "LIST", "auth/token/accessors", nil)["data"].(map[string]any)["keys"].([]any))
	}
	before := accessors()
	for role, uses := range map[string]string{"one-use": "1", "eight-uses": "8"} {
		_, err := s.Login(t.Context(), secrets.Login{Mount: "jwt-nomad", Role: role, JWT: nomad.sign(t, time.Now().Add(time.Hour))})
		wantKind(t, err, secrets.Invalid, "log in at auth/jwt-nomad as role "+role, "good for "+uses+" requests only (token_num_uses)", `set token_num_uses = 0 for the role "`+role+`"`)
	}
	for deadline := time.Now().Add(10 * time.Second); accessors() > before; time.Sleep(50 * time.Millisecond) {
		must.True(t, time.Now().Before(deadline), must.Sprint("a token of a refused login stays"))
	}
}
