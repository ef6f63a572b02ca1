package vault

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Health is what a server tells of itself to whoever asks.
type Health struct {
	Version     string
	Initialized bool
	Sealed      bool
	// Ahead is how far the server's clock is ahead of ours, to a second.
	Ahead time.Duration
}

// Health asks the server how it is. The error is that there was no answer.
func (v *Client) Health(ctx context.Context) (Health, error) {
	c := request{operation: "ask the server for its health"}
	base, err := v.api()
	if err != nil {
		return Health{}, secrets.Errorf(secrets.KindOf(err), "%s: %w", c.operation, err)
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	client := base.WithNamespace("") // it is the root's alone
	client.ClearToken()
	at := time.Now()
	got, err := client.Sys().HealthWithContext(ctx)
	if err != nil {
		return Health{}, c.noAnswer(ctx, err)
	}
	h := Health{Version: got.Version, Initialized: got.Initialized, Sealed: got.Sealed}
	if got.ServerTimeUTC > 0 {
		// The server cut its second off, and its answer was made between then and now.
		middle := at.Add(time.Since(at) / 2)
		h.Ahead = time.Unix(got.ServerTimeUTC, 0).Add(500 * time.Millisecond).Sub(middle).Round(time.Second)
	}
	return h, nil
}

// LoginState is what keeps tasks from logging in at a JWT auth method, as far as it can be seen without a JWT that is valid.
type LoginState string

// The states.
const (
	LoginReady      LoginState = "ready"       // method, role and keys are there
	LoginNoMethod   LoginState = "no method"   // nothing is mounted there, or it refuses this node
	LoginNoConfig   LoginState = "no config"   // the method has no configuration
	LoginNoRole     LoginState = "no role"     // the role is not there, or not of type jwt
	LoginNoKeys     LoginState = "no keys"     // the server cannot get Nomad's public keys
	LoginNotPlain   LoginState = "not plain"   // the server's answer says something else
	LoginNotReached LoginState = "not reached" // an outage
)

// ProbeLogin tries to log in with a JWT that no server takes, and tells from the refusal what is set up. It changes nothing. The
// detail is what the server said, for a state that is not ready.
func (v *Client) ProbeLogin(ctx context.Context, mount, role string) (state LoginState, detail string) {
	jwt := unsignedJWT()
	c := call{
		request: request{
			operation: "try the login at auth/" + strings.Trim(mount, "/"),
			path:      "auth/" + strings.Trim(mount, "/") + "/login",
			redact:    []string{jwt},
		},
		body: map[string]any{"jwt": jwt, "role": role},
	}
	r, err := v.do(ctx, c)
	if err != nil {
		return LoginNotReached, err.Error()
	}
	return loginState(r.status, c.quote(r))
}

// loginState reads a refusal. The method answers 400 to all that is wrong, and has no other sign than its words.
func loginState(status int, said string) (LoginState, string) {
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(said, w) {
				return true
			}
		}
		return false
	}
	switch {
	case status == http.StatusForbidden || status == http.StatusNotFound:
		return LoginNoMethod, said
	case has("could not load configuration"):
		return LoginNoConfig, said
	case has("could not be found", "missing role", "oidc role_type"):
		return LoginNoRole, said
	case has("fetching keys", "error configuring token validator"):
		return LoginNoKeys, said
	case has("error validating token"):
		return LoginReady, ""
	case status >= http.StatusInternalServerError || status == http.StatusTooManyRequests:
		return LoginNotReached, said
	}
	return LoginNotPlain, said
}

// unsignedJWT has the form of a JWT, so that the server looks for a key that signed it, and a signature that none made.
func unsignedJWT() string {
	part := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	now := time.Now()
	return part([]byte(`{"alg":"RS256","typ":"JWT","kid":"nomad-driver-secrets-doctor"}`)) + "." +
		part(fmt.Appendf(nil, `{"sub":"nomad-driver-secrets doctor","iat":%d,"exp":%d}`, now.Unix(), now.Add(time.Minute).Unix())) + "." +
		part(make([]byte, 256))
}

// JWTRole is what a token that may read it sees of a role of a JWT auth method.
type JWTRole struct {
	NumUses int64
	Batch   bool
	Bound   bool // its bound claims or subject keep some jobs from using it
}

// ReadJWTRole reads a role.
func (v *Client) ReadJWTRole(ctx context.Context, mount, role string, token secrets.Value) (JWTRole, error) {
	path := "auth/" + strings.Trim(mount, "/") + "/role/" + role
	c := call{request: request{operation: "read " + path, path: path, token: token, capabilities: `"read"`}}
	r, err := v.do(ctx, c)
	if err == nil && !r.ok() {
		err = c.refusal(r)
	}
	if err != nil {
		return JWTRole{}, err
	}
	data := r.body.Data
	claims, _ := data["bound_claims"].(map[string]any)
	subject, _ := data["bound_subject"].(string)
	number, _ := data["token_num_uses"].(json.Number)
	uses, _ := number.Int64() // 0 where it is none
	return JWTRole{
		NumUses: uses, Batch: data["token_type"] == "batch",
		Bound: len(claims) > 0 || subject != "",
	}, nil
}
