package secrets

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// Login exchanges a workload's JWT for a token.
func (v *Vault) Login(ctx context.Context, in Login) (Token, error) {
	mountPath := strings.Trim(in.Mount, "/")
	if mountPath == "" || strings.Contains("/"+mountPath+"/", "/../") {
		return Token{}, Errorf(Invalid, "log in: %q is no path of an auth method", in.Mount)
	}
	c := call{
		errand: errand{
			doing:     "log in at auth/" + mountPath + " as role " + in.Role,
			namespace: in.Namespace,
			path:      "auth/" + mountPath + "/login",
			hide:      []string{in.JWT.Text()},
			hint:      "is the JWT auth method mounted there, and does the role's configuration (bound_audiences, bound_claims) fit the job's identity block?",
		},
		body: map[string]any{"jwt": in.JWT.Text()},
	}
	if in.Role == "" {
		c.doing = "log in at auth/" + mountPath + " as the method's default role"
	} else {
		c.body["role"] = in.Role
	}
	r, err := v.do(ctx, c)
	if err != nil {
		return Token{}, err
	}
	if !r.ok() {
		return Token{}, c.loginRefusal(r, in.JWT)
	}
	if r.body.Auth == nil || r.body.Auth.ClientToken == "" {
		return Token{}, Errorf(Invalid, "%s: the server gives no token (does it ask for MFA?)", c.where())
	}
	return grantedToken(r, TextValue(r.body.Auth.ClientToken)), nil
}

// loginRefusal sorts a refused login: what ends by itself when Nomad's servers are back is an
// outage (S2).
func (c call) loginRefusal(r reply, jwt Value) error {
	refused := c.refusal(r)
	if KindOf(refused) == Outage {
		return refused
	}
	// The server says 400 for an expired JWT as for a wrong one. The JWT itself says it better.
	if end := jwtExpiry(jwt); !end.IsZero() && r.at.After(end) {
		return Errorf(Outage, "%s: the task's JWT expired at %s, and Nomad has not renewed it yet (are its servers away?)", c.where(), end.UTC().Format(time.RFC3339))
	}
	// The server gets Nomad's public keys from Nomad, and when it cannot it answers 400, too. This
	// one has no other sign than its words, and a wrong guess only waits.
	if strings.Contains(c.quote(r), "fetching keys") {
		return Errorf(Outage, "%w", refused)
	}
	return refused
}

// jwtExpiry is the JWT's own `exp`; zero if there is none. Nothing is verified: the server does.
func jwtExpiry(jwt Value) time.Time {
	parts := strings.Split(jwt.Text(), ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Exp <= 0 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0)
}

// grantedToken is what the server granted by a login or a renewal.
func grantedToken(r reply, value Value) Token {
	t := Token{
		Value:     value,
		Accessor:  r.body.Auth.Accessor,
		TTL:       time.Duration(r.body.Auth.LeaseDuration) * time.Second,
		Renewable: r.body.Auth.Renewable,
	}
	if t.TTL > 0 {
		t.Expires = r.at.Add(t.TTL)
	}
	return t
}

// tokenCall is a request of a token about itself.
func tokenCall(tok Token, namespace, verb string) call {
	c := call{
		errand: errand{
			doing:     verb + " the token",
			token:     tok.Value,
			namespace: namespace,
			path:      "auth/token/" + verb + "-self",
			needs:     `"update"`,
			mount:     mount{typ: "token"},
		},
	}
	if tok.Accessor != "" {
		c.doing += " with accessor " + tok.Accessor
	}
	return c
}

// RenewToken extends tok.
func (v *Vault) RenewToken(ctx context.Context, tok Token, namespace string) (Token, error) {
	c := tokenCall(tok, namespace, "renew")
	c.body = map[string]any{}
	r, err := v.do(ctx, c)
	if err != nil {
		return Token{}, err
	}
	if r.status == http.StatusForbidden {
		return Token{}, v.goneOrRefused(ctx, c, r)
	}
	if !r.ok() {
		return Token{}, c.refusal(r)
	}
	if r.body.Auth == nil {
		return Token{}, Errorf(Outage, "%s: the answer has no token in it", c.where())
	}
	return grantedToken(r, tok.Value), nil
}

// LookupToken says what is left of tok.
func (v *Vault) LookupToken(ctx context.Context, tok Token, namespace string) (Token, error) {
	c := tokenCall(tok, namespace, "lookup")
	c.needs = `"read"`
	r, err := v.do(ctx, c)
	if err != nil {
		return Token{}, err
	}
	if r.status == http.StatusForbidden {
		return Token{}, v.goneOrRefused(ctx, c, r)
	}
	if !r.ok() {
		return Token{}, c.refusal(r)
	}
	t := Token{Value: tok.Value, TTL: tok.TTL}
	t.Accessor, _ = r.body.Data["accessor"].(string)
	t.Renewable, _ = r.body.Data["renewable"].(bool)
	if t.TTL == 0 {
		// What the last renewal granted is not told. A token of Nomad's own is first seen here.
		t.TTL = seconds(r.body.Data["creation_ttl"])
	}
	if left := seconds(r.body.Data["ttl"]); left > 0 {
		t.Expires = r.at.Add(left)
	}
	return t, nil
}

// RevokeToken ends tok, and with it every lease under it.
func (v *Vault) RevokeToken(ctx context.Context, tok Token, namespace string) error {
	c := tokenCall(tok, namespace, "revoke")
	c.body = map[string]any{}
	r, err := v.do(ctx, c)
	if err != nil {
		return err
	}
	switch {
	case r.ok():
		return nil
	case r.status == http.StatusForbidden:
		if err := v.goneOrRefused(ctx, c, r); KindOf(err) != Gone {
			return err
		}
		return nil
	}
	return c.refusal(r)
}

// goneOrRefused is the error of a 403 to a token about itself: that it is dead, or that its
// policies do not let it ask (a role with token_no_default_policy). The server answers both alike,
// so it is asked for something that needs a live token and no policy: the list of those mounts
// that the token may see, which may be empty.
func (v *Vault) goneOrRefused(ctx context.Context, c call, r reply) error {
	probe := call{errand: errand{doing: c.doing, namespace: c.namespace, token: c.token, path: "sys/internal/ui/mounts"}}
	alive, err := v.do(ctx, probe)
	if err != nil {
		return err
	}
	switch {
	case alive.ok():
		return c.refusal(r)
	case kindOf(alive.status) == Outage:
		return probe.refusal(alive)
	}
	return Errorf(Gone, "%s: the server does not know it (expired, or revoked)", c.where())
}
