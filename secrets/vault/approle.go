package vault

import (
	"context"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// AppRole is what a machine's own identity, which no task has, is exchanged for a token with.
type AppRole struct {
	Namespace string
	Mount     string // of the AppRole auth method
	RoleID    string
	SecretID  secrets.Value
}

// LoginAppRole exchanges in for a token.
func (v *Client) LoginAppRole(ctx context.Context, in AppRole) (secrets.Token, error) {
	mountPath := strings.Trim(in.Mount, "/")
	if mountPath == "" || strings.Contains("/"+mountPath+"/", "/../") {
		return secrets.Token{}, secrets.Errorf(secrets.Invalid, "log in: %q is no path of an auth method", in.Mount)
	}
	c := call{
		fresh: true,
		request: request{
			operation: "log in at auth/" + mountPath + " with an AppRole",
			namespace: in.Namespace,
			path:      "auth/" + mountPath + "/login",
			redact:    []string{in.SecretID.Text()},
			hint:      "is the AppRole auth method mounted there, and are role id and secret id of one role (and the secret id not expired or used up)?",
		},
		body: map[string]any{"role_id": in.RoleID, "secret_id": in.SecretID.Text()},
	}
	r, err := v.do(ctx, c)
	if err != nil {
		return secrets.Token{}, err
	}
	if !r.ok() {
		return secrets.Token{}, c.refusal(r)
	}
	if r.body.Auth == nil || r.body.Auth.ClientToken == "" {
		return secrets.Token{}, secrets.Errorf(secrets.Invalid, "%s: the server gives no token", c.where())
	}
	return grantedToken(r, secrets.TextValue(r.body.Auth.ClientToken)), nil
}
