package vault

import (
	"context"
	"encoding/json"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// unwrap gives the answer that a wrapped one stands for. A server wraps what it is told to by a proxy
// between, or a policy; the token that opens it is good once, so this is tried once: what cannot be
// opened is lost, and what it made ends with its TTL.
func (v *Client) unwrap(ctx context.Context, e request, r reply) (reply, error) {
	if len(r.body.WrapInfo) == 0 || string(r.body.WrapInfo) == "null" {
		return r, nil
	}
	var wrap struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(r.body.WrapInfo, &wrap); err != nil || wrap.Token == "" {
		return reply{}, secrets.Errorf(secrets.Invalid, "%s: the answer is wrapped, and has no token to open it with", e.operation)
	}
	c := call{
		request: request{
			operation: e.operation + ": open the wrapped answer", token: secrets.TextValue(wrap.Token), namespace: e.namespace,
			path: "sys/wrapping/unwrap", mount: mount{typ: "system"},
			hint: "somebody else may have opened it (a control group's answer must be granted first)",
		},
		body: map[string]any{},
	}
	got, err := v.do(ctx, c)
	if err != nil {
		return reply{}, err
	}
	if !got.ok() {
		return reply{}, c.refusal(got)
	}
	got.at = r.at // a lease counts from its making
	return got, nil
}
