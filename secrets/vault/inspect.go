package vault

import (
	"context"
	"fmt"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What an operator asks about paths, without reading a secret: nothing is made by it.

// MountOf is the engine that a path is on; false: the server does not tell this token.
func (v *Client) MountOf(ctx context.Context, tok secrets.Token, namespace, path string) (Mount, bool, error) {
	m, _, _, err := v.mountOf(ctx, tok, namespace, path)
	return Mount{Path: m.path, Type: m.typ, V2: m.v2}, m.known(), err
}

// Capabilities are what the token may do on each of some paths of the API.
func (v *Client) Capabilities(ctx context.Context, tok secrets.Token, namespace string, paths []string) (map[string][]string, error) {
	c := call{
		request: request{operation: "ask for the token's capabilities", token: tok.Value, namespace: namespace, path: "sys/capabilities-self", capabilities: `"update"`, mount: mount{typ: "system"}},
		body:    map[string]any{"paths": paths},
	}
	r, err := v.do(ctx, c)
	if err != nil {
		return nil, err
	}
	if !r.ok() {
		return nil, c.refusal(r)
	}
	all := map[string][]string{}
	for _, path := range paths {
		all[path] = textsOf(r.body.Data[path])
	}
	return all, nil
}

// Whose describes a token: its name at the server, and its policies.
func (v *Client) Whose(ctx context.Context, tok secrets.Token) (string, error) {
	c := call{request: request{operation: "look up the token", token: tok.Value, path: "auth/token/lookup-self", capabilities: `"read"`, mount: mount{typ: "token"}}}
	r, err := v.do(ctx, c)
	if err != nil {
		return "", err
	}
	if !r.ok() {
		return "", c.refusal(r)
	}
	name, _ := r.body.Data["display_name"].(string)
	policies := append(textsOf(r.body.Data["policies"]), textsOf(r.body.Data["identity_policies"])...)
	return fmt.Sprintf("%q (policies: %s)", name, strings.Join(policies, ", ")), nil
}

// textsOf is a list of an answer.
func textsOf(v any) (texts []string) {
	list, _ := v.([]any)
	for _, e := range list {
		if s, ok := e.(string); ok {
			texts = append(texts, s)
		}
	}
	return texts
}
