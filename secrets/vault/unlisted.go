package vault

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// unlisted is what the list of the mounts that a token sees tells of a path on none of them. The zero unlisted is that of a list that
// was not had: nothing is said then.
type unlisted struct {
	listed  bool
	instead string // the path of the mount that is likely meant; empty: none is like it
}

// describe says which mount is likely meant.
func (u unlisted) describe(path string) string {
	typed := firstOf(path, strings.Count(u.instead, "/"))
	return fmt.Sprintf("this token sees no secrets engine at %q: is it mistyped for %q?", typed, u.instead)
}

// lookForMount asks for the mounts that a token sees, since it sees none that path is on. To explain an error is not worth one more:
// a list that is refused, or not answered, tells nothing.
func (v *Client) lookForMount(ctx context.Context, tok secrets.Token, namespace, path string) unlisted {
	r, err := v.do(ctx, call{request: request{operation: "look for an engine like " + path, token: tok.Value, namespace: namespace, path: "sys/internal/ui/mounts"}})
	if err != nil || !r.ok() {
		return unlisted{}
	}
	mounts, err := parseMounts(r)
	if err != nil || mountAt(mounts, path+"/").known() {
		return unlisted{}
	}
	return unlisted{listed: true, instead: mountLike(mounts, path)}
}

// SeenInstead says which engine that a token sees a path is likely meant to be on, if it sees none there; empty: none is like it, or
// the server does not tell.
func (v *Client) SeenInstead(ctx context.Context, tok secrets.Token, namespace, path string) string {
	if u := v.lookForMount(ctx, tok, namespace, path); u.instead != "" {
		return u.describe(path)
	}
	return ""
}

// mountLike is the mount whose name is like the beginning of a path, or whose type is its first element; empty: there is none.
func mountLike(mounts []mount, path string) string {
	var named, typed []string
	for _, m := range mounts {
		switch {
		case serversOwn[m.typ] || m.typ == "cubbyhole":
		case near(firstOf(path, strings.Count(m.path, "/")), m.path):
			named = append(named, m.path)
		case m.typ+"/" == firstOf(path, 1):
			typed = append(typed, m.path)
		}
	}
	slices.Sort(named)
	if len(named) == 0 && len(typed) == 1 {
		named = typed
	}
	if len(named) == 0 {
		return ""
	}
	return named[0]
}

// firstOf are the first elements of a path, each with a slash behind it.
func firstOf(path string, n int) string {
	all := strings.SplitAfter(path+"/", "/")
	return strings.Join(all[:min(n, len(all))], "")
}
