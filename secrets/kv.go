package secrets

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Read fetches a secret: one request, and a mount look-up where the cache has none (S3). A path
// that is not there costs one look-up more, for the mount may have changed under the cache.
func (v *Vault) Read(ctx context.Context, tok Token, req Request) (Answer, error) {
	// Compile has checked it for a job; who else asks is held to the same.
	path, err := cleanRequestPath(req.Path, req.Namespace, req.Params != nil)
	if err != nil {
		return Answer{}, Errorf(Invalid, "%w", err)
	}
	req.Path = path
	if tok.Value.IsEmpty() {
		return Answer{}, Errorf(Refused, "read %s: no token to read it with", path)
	}
	m, cached, refused, err := v.mountOf(ctx, tok, req.Namespace, path)
	if err != nil {
		return Answer{}, err
	}
	c, err := route(tok, req, m, refused)
	if err != nil {
		return Answer{}, err
	}
	r, err := v.do(ctx, c)
	if err != nil {
		return Answer{}, err
	}

	// Somebody may have upgraded a KV engine to version 2, or mounted another in its place, since
	// the cache was told; or a standby that did not know the token yet has caught up.
	if r.status == http.StatusNotFound && (cached || !m.known()) && req.Params == nil {
		v.mounts.drop(req.Namespace, m)
		now, _, err := v.askMount(ctx, tok, req.Namespace, path)
		if err != nil {
			return Answer{}, err
		}
		if !now.same(m) {
			m = now
			if c, err = route(tok, req, m, false); err != nil {
				return Answer{}, err
			}
			if r, err = v.do(ctx, c); err != nil {
				return Answer{}, err
			}
		}
	}
	if !r.ok() {
		return Answer{}, c.refusal(r)
	}
	if r, err = v.unwrap(ctx, c.errand, r); err != nil {
		return Answer{}, err
	}
	return answerOf(m, c.errand, r)
}

// route makes the request for a secret on mount m: the API's path, and whether it is a write.
func route(tok Token, req Request, m mount, refused bool) (call, error) {
	c := call{
		errand: errand{
			doing:     "read " + req.Path,
			token:     tok.Value,
			namespace: req.Namespace,
			path:      req.Path,
			needs:     `"read"`,
			mount:     m,
		},
	}
	if m.typ == "aws" {
		c.hint = fmt.Sprintf("look at the role, at %sconfig/root, and at what its key may do in AWS", m.path)
	}
	if req.Params != nil {
		return routeWrite(c, req, refused)
	}
	if m.isKV() && req.Path+"/" == m.path {
		return call{}, Errorf(Invalid, "%s: that is where an engine is mounted, not a secret on it", c.doing)
	}
	if m.typ == "totp" && strings.HasPrefix(req.Path, m.path+"code/") {
		return call{}, Errorf(Invalid, "%s: a TOTP code is good for seconds, and would have ended when the task has it: let the task make codes of the key, from a KV secret", c.doing)
	}
	if m.typ == "cubbyhole" {
		c.hint = "a cubbyhole is its token's own: only who has the task's token can write there"
	}
	if m.v2 {
		c.path = dataPath(m.path, req.Path)
	}
	if req.Version != 0 {
		switch {
		case m.v2:
			c.query = url.Values{"version": {strconv.Itoa(req.Version)}}
		case refused:
			// Refused, not Invalid: a standby that lags knows the token in a moment (S2).
			return call{}, Errorf(Refused, "%s: `version` needs to know that the mount is a KV version 2, and the token has no rights there; %s", c.doing, c.policy())
		default:
			return call{}, Errorf(Invalid, "%s: `version` is for KV version 2 only, and this is not on one", c.doing)
		}
	}
	return c, nil
}

// routeWrite makes the request of a secret with params. On a KV mount, and on one that may be, it
// would overwrite the secret: there it is an error, and nothing is sent (DESIGN 3).
func routeWrite(c call, req Request, refused bool) (call, error) {
	m := c.mount
	c.doing = "write " + req.Path
	c.needs = `"create", "update"`
	switch {
	case m.isKV():
		return call{}, Errorf(Invalid, "%s: `params` would overwrite the secret: %s is a %s mount; leave them out to read it", c.doing, m.path, m.typ)
	case !m.known() && refused:
		return call{}, Errorf(Refused, "%s: not sent: with `params` on a mount of unknown type it might overwrite a secret, and the token has no rights there that would tell the type; %s", c.doing, c.policy())
	case !m.known():
		return call{}, Errorf(Invalid, "%s: not sent: the server does not tell the type of the mount, and on a KV mount `params` would overwrite the secret", c.doing)
	case req.Version != 0:
		return call{}, Errorf(Invalid, "%s: `version` is for KV version 2 only, which takes no `params`", c.doing)
	}
	c.body = map[string]any{}
	for name, value := range req.Params {
		c.body[name] = value
		c.hide = append(c.hide, value)
	}
	return c, nil
}

// dataPath maps a path as typed at the CLI to the API's, on a KV version 2 mount. A path that says
// `data/` already is the API's: both are seen in the wild. A secret whose own name begins with
// `data/` is therefore reached as <mount>/data/data/… only.
func dataPath(mountPath, path string) string {
	rest := strings.TrimPrefix(path, mountPath)
	if strings.HasPrefix(rest, "data/") {
		return path
	}
	return mountPath + "data/" + rest
}
