package vault

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Login exchanges a workload's JWT for a token.
func (v *Client) Login(ctx context.Context, in secrets.Login) (secrets.Token, error) {
	mountPath := strings.Trim(in.Mount, "/")
	if mountPath == "" || strings.Contains("/"+mountPath+"/", "/../") {
		return secrets.Token{}, secrets.Errorf(secrets.Invalid, "log in: %q is no path of an auth method", in.Mount)
	}
	c := call{
		fresh: true,
		request: request{
			operation: "log in at auth/" + mountPath + " as role " + in.Role,
			namespace: in.Namespace,
			path:      "auth/" + mountPath + "/login",
			redact:    []string{in.JWT.Text()},
			hint:      "is the JWT auth method mounted there, and does the role's configuration (bound_audiences, bound_claims) fit the job's identity block?",
		},
		body: map[string]any{"jwt": in.JWT.Text()},
	}
	if in.Role == "" {
		c.operation = "log in at auth/" + mountPath + " as the method's default role"
	} else {
		c.body["role"] = in.Role
	}
	r, err := v.do(ctx, c)
	if err != nil {
		return secrets.Token{}, err
	}
	if !r.ok() {
		return secrets.Token{}, c.loginRefusal(r, in.JWT)
	}
	if r.body.Auth == nil || r.body.Auth.ClientToken == "" {
		return secrets.Token{}, secrets.Errorf(secrets.Invalid, "%s: the server gives no token (does it ask for MFA?)", c.where())
	}
	tok := grantedToken(r, secrets.TextValue(r.body.Auth.ClientToken))
	if n := r.body.Auth.NumUses; n > 0 {
		// It would be used up by renewals and checks, and its leases would end with it. This is one use; what fails is
		// used up, or ends with its TTL.
		_ = v.RevokeToken(ctx, tok, in.Namespace)
		return secrets.Token{}, secrets.Errorf(secrets.Invalid, "%s: the role's tokens are good for %d requests only (token_num_uses), and credentials could not be kept alive with them: set token_num_uses = 0 for %s",
			c.where(), n, roleName(in.Role))
	}
	return tok, nil
}

func roleName(role string) string {
	if role == "" {
		return "the method's default role"
	}
	return fmt.Sprintf("the role %q", role)
}

// loginRefusal sorts a refused login: what ends by itself when Nomad's servers are back is an
// outage (S2).
func (c call) loginRefusal(r reply, jwt secrets.Value) error {
	refused := c.refusal(r)
	if secrets.KindOf(refused) == secrets.Outage {
		return refused
	}
	// The server says 400 for an expired JWT as for a wrong one. The JWT itself says it better.
	if end := secrets.JWTExpiry(jwt); !end.IsZero() && r.at.After(end) {
		return secrets.Errorf(secrets.Outage, "%s: the task's JWT expired at %s, and Nomad has not renewed it yet (are its servers away?)", c.where(), end.UTC().Format(time.RFC3339))
	}
	// The server gets Nomad's public keys from Nomad, and when it cannot it answers 400, too. This
	// one has no other sign than its words, and a wrong guess only waits.
	if strings.Contains(c.quote(r), "fetching keys") {
		return secrets.Errorf(secrets.Outage, "%w", refused)
	}
	return refused
}

// grantedToken is what the server granted by a login or a renewal.
func grantedToken(r reply, value secrets.Value) secrets.Token {
	t := secrets.Token{
		Value:     value,
		Accessor:  r.body.Auth.Accessor,
		Batch:     r.body.Auth.TokenType == "batch",
		TTL:       time.Duration(r.body.Auth.LeaseDuration) * time.Second,
		Renewable: r.body.Auth.Renewable,
	}
	if t.TTL > 0 {
		t.Expires = r.at.Add(t.TTL)
	}
	return t
}

// tokenCall is a request of a token about itself.
func tokenCall(tok secrets.Token, namespace, verb string) call {
	c := call{
		request: request{
			operation:    verb + " the token",
			token:        tok.Value,
			namespace:    namespace,
			path:         "auth/token/" + verb + "-self",
			capabilities: `"update"`,
			mount:        mount{typ: "token"},
		},
	}
	if tok.Accessor != "" {
		c.operation += " with accessor " + tok.Accessor
	}
	return c
}

// RenewToken extends tok.
func (v *Client) RenewToken(ctx context.Context, tok secrets.Token, namespace string) (secrets.Token, error) {
	c := tokenCall(tok, namespace, "renew")
	c.body = map[string]any{}
	r, err := v.do(ctx, c)
	if err == nil && r.ok() && r.cached {
		if t, err := v.LookupToken(ctx, secrets.Token{Value: tok.Value, Accessor: tok.Accessor}, namespace); err == nil && renewedEnough(t.TTL, time.Until(t.Expires)) {
			return t, nil
		}
		c.fresh = true
		r, err = v.do(ctx, c)
	}
	if err != nil {
		return secrets.Token{}, err
	}
	if r.status == http.StatusForbidden {
		return secrets.Token{}, v.goneOrRefused(ctx, c, r)
	}
	if !r.ok() {
		return secrets.Token{}, c.refusal(r)
	}
	if r.body.Auth == nil {
		return secrets.Token{}, secrets.Errorf(secrets.Outage, "%s: the answer has no token in it", c.where())
	}
	return grantedToken(r, tok.Value), nil
}

// LookupToken says what is left of tok.
func (v *Client) LookupToken(ctx context.Context, tok secrets.Token, namespace string) (secrets.Token, error) {
	c := tokenCall(tok, namespace, "lookup")
	c.capabilities = `"read"`
	r, err := v.do(ctx, c)
	if err != nil {
		return secrets.Token{}, err
	}
	if r.status == http.StatusForbidden {
		return secrets.Token{}, v.goneOrRefused(ctx, c, r)
	}
	if !r.ok() {
		return secrets.Token{}, c.refusal(r)
	}
	t := secrets.Token{Value: tok.Value, TTL: tok.TTL}
	t.Accessor, _ = r.body.Data["accessor"].(string)
	t.Renewable, _ = r.body.Data["renewable"].(bool)
	if t.TTL == 0 {
		// A token of Nomad's own is first seen here, and one that a cache renews.
		t.TTL = grantedBetween(r.body.Data, "expire_time", "last_renewal_time", "creation_time")
	}
	if t.TTL == 0 {
		t.TTL = seconds(r.body.Data["creation_ttl"])
	}
	if left := seconds(r.body.Data["ttl"]); left > 0 {
		t.Expires = r.at.Add(left)
	}
	return t, nil
}

// RevokeToken ends tok, and with it every lease under it.
func (v *Client) RevokeToken(ctx context.Context, tok secrets.Token, namespace string) error {
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
		if err := v.goneOrRefused(ctx, c, r); secrets.KindOf(err) != secrets.Gone {
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
func (v *Client) goneOrRefused(ctx context.Context, c call, r reply) error {
	probe := call{request: request{operation: c.operation, namespace: c.namespace, token: c.token, path: "sys/internal/ui/mounts"}}
	alive, err := v.do(ctx, probe)
	if err != nil {
		return err
	}
	switch {
	case alive.ok():
		return c.refusal(r)
	case kindOf(alive.status) == secrets.Outage:
		return probe.refusal(alive)
	}
	return secrets.Errorf(secrets.Gone, "%s: the server does not know it (expired, or revoked)", c.where())
}
