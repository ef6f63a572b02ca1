package vault

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Read fetches a secret: one request, and a mount look-up where the cache has none (S3). A path
// that is not there costs one look-up more, for the mount may have changed under the cache.
func (v *Client) Read(ctx context.Context, tok secrets.Token, req secrets.Request) (secrets.Answer, error) {
	// Compile has checked it for a job; who else asks is held to the same.
	path, err := secrets.CleanPath(req.Path, req.Namespace, req.Params != nil)
	if err != nil {
		return secrets.Answer{}, secrets.Errorf(secrets.Invalid, "%w", err)
	}
	req.Path = path
	if tok.Value.IsEmpty() {
		return secrets.Answer{}, secrets.Errorf(secrets.Refused, "read %s: no token to read it with", path)
	}
	m, cached, refused, err := v.mountOf(ctx, tok, req.Namespace, path)
	if err != nil {
		return secrets.Answer{}, err
	}
	c, err := route(tok, req, m, refused)
	// What the operator's own token sees elsewhere is not for a job's events.
	if refused && !req.Mounted && secrets.KindOf(err) == secrets.Refused {
		m.unlisted = v.lookForMount(ctx, tok, req.Namespace, path)
		_, err = route(tok, req, m, refused)
	}
	if err != nil {
		return secrets.Answer{}, err
	}
	r, err := v.do(ctx, c)
	if err != nil {
		v.giveBack(ctx, tok, req.Namespace, r, err)
		return secrets.Answer{}, err
	}

	// Somebody may have upgraded a KV engine to version 2, or mounted another in its place, since
	// the cache was told; or a standby that did not know the token yet has caught up. To a token that may read the right
	// path only the wrong one is forbidden, not missing.
	missing := r.status == http.StatusNotFound && (cached || !m.known())
	forbidden := r.status == http.StatusForbidden && cached
	if (missing || forbidden) && req.Params == nil {
		if missing {
			v.mounts.drop(req.Namespace, m)
		}
		now, _, err := v.askMount(ctx, tok, req.Namespace, path)
		if err != nil {
			return secrets.Answer{}, err
		}
		if !now.same(m) && (missing || now.known()) {
			m = now
			if c, err = route(tok, req, m, false); err != nil {
				return secrets.Answer{}, err
			}
			if r, err = v.do(ctx, c); err != nil {
				v.giveBack(ctx, tok, req.Namespace, r, err)
				return secrets.Answer{}, err
			}
		}
	}
	if !r.ok() {
		if !m.known() && (r.status == http.StatusForbidden || r.status == http.StatusNotFound) {
			c.mount.unlisted = v.lookForMount(ctx, tok, req.Namespace, path)
		}
		return secrets.Answer{}, c.refusal(r)
	}
	if r, err = v.unwrap(ctx, c.request, r); err != nil {
		return secrets.Answer{}, err
	}
	return answerOf(m, c.request, r)
}

// leaseIn finds the lease in how an answer begins.
var leaseIn = regexp.MustCompile(`"lease_id":"([^"\\]+)"`)

// giveBack revokes what came with an answer that is over a limit: nobody will know of it.
func (v *Client) giveBack(ctx context.Context, tok secrets.Token, namespace string, r reply, err error) {
	if m := leaseIn.FindSubmatch(r.head); secrets.IsLimit(err) && m != nil {
		_ = v.Revoke(ctx, tok, namespace, secrets.LeaseID(m[1]))
	}
}

// route makes the request for a secret on mount m: the API's path, and whether it is a write.
func route(tok secrets.Token, req secrets.Request, m mount, refused bool) (call, error) {
	if req.Mounted && !m.known() {
		return call{}, secrets.Errorf(secrets.Refused, "read %s: not sent: the server tells of no engine there, and the path may begin with another namespace's name; have token_file_paths name the engine", req.Path)
	}
	c := call{
		makes: !readMakesNothing(m, req.Path),
		request: request{
			operation:    "read " + req.Path,
			token:        tok.Value,
			namespace:    req.Namespace,
			path:         req.Path,
			capabilities: `"read"`,
			mount:        m,
		},
	}
	if m.typ == "aws" {
		c.hint = fmt.Sprintf("look at the role, at %sconfig/root, and at what its key may do in AWS", m.path)
	}
	if req.Params != nil {
		return routeWrite(c, req, refused)
	}
	if m.isKV() && req.Path+"/" == m.path {
		return call{}, secrets.Errorf(secrets.Invalid, "%s: an engine is mounted there; give the path of a secret on it", c.operation)
	}
	if takesParams(m, req.Path) {
		return call{}, secrets.Errorf(secrets.Invalid, "%s: not sent: the engine %q answers there only to a request with parameters; give the secret `params`, such as params = { common_name = \"web.example.com\" } for a certificate", c.operation, m.typ)
	}
	if m.typ == "totp" && strings.HasPrefix(req.Path, m.path+"code/") {
		return call{}, secrets.Errorf(secrets.Invalid, "%s: a TOTP code is good for seconds, and would have ended when the task has it: let the task make codes of the key, from a KV secret", c.operation)
	}
	if m.typ == "cubbyhole" {
		c.hint = "a cubbyhole is its token's own: only who has the task's token can write there"
	}
	if m.v2 {
		c.path = secrets.DataPath(m.path, req.Path)
	}
	if req.Version != 0 {
		switch {
		case m.v2:
			c.query = url.Values{"version": {strconv.Itoa(req.Version)}}
		case refused:
			// Refused, not Invalid: a standby that lags knows the token in a moment (S2).
			return call{}, secrets.Errorf(secrets.Refused, "%s: `version` needs to know that the mount is a KV version 2, and the token has no rights there; %s", c.operation, c.policy())
		default:
			return call{}, secrets.Errorf(secrets.Invalid, "%s: `version` is for KV version 2 only, and this is not on one", c.operation)
		}
	}
	return c, nil
}

// takesParams reports whether a read of path is always refused, for want of parameters. AWS has a default for its.
func takesParams(m mount, path string) bool {
	return m.typ != "aws" && m.path != "" && roleBelow(strings.TrimPrefix(path, m.path), parameterPaths[m.typ]) != ""
}

// routeWrite makes the request of a secret with params. On a KV mount, and on one that may be, it
// would overwrite the secret; and what is there without a write would be polled, by reads, and written again at each
// difference. There it is an error, and nothing is sent.
func routeWrite(c call, req secrets.Request, refused bool) (call, error) {
	m := c.mount
	c.operation = "write " + req.Path
	c.capabilities = `"create", "update"`
	switch {
	case m.isKV():
		return call{}, secrets.Errorf(secrets.Invalid, "%s: `params` would overwrite the secret: %s is a %s mount; leave them out to read it", c.operation, m.path, m.typ)
	case readMakesNothing(m, req.Path):
		return call{}, secrets.Errorf(secrets.Invalid, "%s: not sent: with `params` the request is a write, and what the engine %q has there is only read; leave them out to read it", c.operation, m.typ)
	case !m.known() && refused:
		return call{}, secrets.Errorf(secrets.Refused, "%s: not sent: with `params` on a mount of unknown type it might overwrite a secret, and the token has no rights there that would tell the type; %s", c.operation, c.policy())
	case !m.known():
		return call{}, secrets.Errorf(secrets.Invalid, "%s: not sent: the server does not tell the type of the mount, and on a KV mount `params` would overwrite the secret", c.operation)
	case req.Version != 0:
		return call{}, secrets.Errorf(secrets.Invalid, "%s: `version` is for KV version 2 only, which takes no `params`", c.operation)
	}
	c.body = map[string]any{}
	for name, value := range req.Params {
		c.body[name] = value
		c.redact = append(c.redact, value)
	}
	return c, nil
}
