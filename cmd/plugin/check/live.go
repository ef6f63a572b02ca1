package check

import (
	"context"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// Server is what Live asks.
type Server interface {
	MountOf(ctx context.Context, tok secrets.Token, namespace, path string) (vault.Mount, bool, error)
	Capabilities(ctx context.Context, tok secrets.Token, namespace string, paths []string) (map[string][]string, error)
	SeenInstead(ctx context.Context, tok secrets.Token, namespace, path string) string
	Whose(ctx context.Context, tok secrets.Token) (string, error)
}

// Live asks the server for what each secret's path is, and whether the caller's token may do there what the task's is to do. No
// secret is read, and nothing made.
func (r *Report) Live(ctx context.Context, server Server, tok secrets.Token) error {
	whose, err := server.Whose(ctx, tok)
	if err != nil {
		return err
	}
	r.Rights = "the token " + whose
	for i := range r.Tasks {
		t := &r.Tasks[i]
		if t.tells.config.Spec == nil {
			continue
		}
		for _, sec := range t.tells.config.Spec.Secrets {
			if sec.Request.Provider != secrets.DefaultProvider || t.tells.config.Unknown("secret", sec.Name, "path") || t.tells.config.Unknown("namespace") {
				continue
			}
			n := slices.IndexFunc(t.Secrets, func(row Secret) bool { return row.Name == sec.Name })
			if err := t.tells.live(ctx, server, tok, sec.Request, &t.Secrets[n]); err != nil {
				return err
			}
		}
	}
	r.sort()
	return nil
}

func (s *subject) live(ctx context.Context, server Server, tok secrets.Token, req secrets.Request, row *Secret) error {
	steps := in("secret", row.Name, "path")
	m, known, err := server.MountOf(ctx, tok, req.Namespace, req.Path)
	if err != nil {
		return err
	}
	if !known {
		hint := server.SeenInstead(ctx, tok, req.Namespace, req.Path)
		if hint == "" {
			hint = "no engine is mounted there, or this token has no right on it"
		}
		s.warnf(steps, "secret %q: path %q: %s", row.Name, req.Path, hint)
		return nil
	}
	if row.Mount = m.Type; m.V2 {
		row.Mount = "kv v2"
	}
	if hint := vault.Mistyped(req, m); hint != "" {
		s.warnf(steps, "secret %q: path %q: %s", row.Name, req.Path, hint)
	}
	needs, err := vault.Grants(req, m)
	if err != nil {
		s.errorf(steps, "secret %q: %v", row.Name, err)
		return nil
	}
	var paths []string
	for _, need := range needs {
		paths = append(paths, need.Path)
	}
	allowed := true
	if len(paths) > 0 {
		has, err := server.Capabilities(ctx, tok, req.Namespace, paths)
		if err != nil {
			return err
		}
		for _, need := range needs {
			if !allows(has[need.Path], need.Capabilities) {
				allowed = false
				s.warnf(steps, "secret %q: this token may not %s %s (it has: %s)", row.Name, strings.Join(need.Capabilities, ", "), need.Path, orNone(has[need.Path]))
			}
		}
	}
	row.Allowed = &allowed
	return nil
}

// allows reports whether a token that has some capabilities may do what is needed. A write of what is not there yet is a
// create.
func allows(has, needs []string) bool {
	if slices.Contains(has, "deny") {
		return false
	}
	return slices.Contains(has, "root") || !slices.ContainsFunc(needs, func(n string) bool {
		return !slices.Contains(has, n)
	})
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}
