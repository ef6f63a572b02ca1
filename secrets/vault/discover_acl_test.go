package vault

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// rules makes the server's answer of rules: "deny" and the like by path.
func rules(exact, globs map[string]string) map[string]any {
	object := func(m map[string]string) map[string]any {
		out := map[string]any{}
		for path, words := range m {
			var caps []any
			for _, w := range strings.Fields(words) {
				caps = append(caps, w)
			}
			out[path] = map[string]any{"capabilities": caps}
		}
		return out
	}
	return map[string]any{"root": false, "chroot_namespace": "", "exact_paths": object(exact), "glob_paths": object(globs)}
}

func TestACLRules(t *testing.T) {
	a, err := parseACL(rules(
		map[string]string{"secret/data/app": "read", "secret/data/no": "deny", "secret/data/x/one": "list"},
		map[string]string{
			"secret/data/x/": "read", "secret/data/x/no": "deny", "secret/data/+/deep": "read",
			"secret/data/x/+/y*": "deny", "secret/data/x/y/+/n*": "deny", "kv/": "list", "kv/sub": "deny",
		}), "")
	must.NoError(t, err)
	for path, want := range map[string]bool{
		"secret/data/app":       true,
		"secret/data/app/":      false,
		"secret/data/app2":      false,
		"secret/data/no":        false,
		"secret/data/x/one":     false, // the exact rule, which does not read, beats the glob that does
		"secret/data/x/two":     true,
		"secret/data/x/nope":    false, // the longer prefix denies
		"secret/data/x/deep":    true,
		"secret/data/z/deep":    true,
		"secret/data/z/z/deep":  false, // a + is one segment
		"secret/data/x/a/y1":    true,  // as far to the first pattern, and with fewer of them: x/* wins
		"secret/data/x/y/a/n1":  false,
		"secret/data/x/y/a/n/z": false,
		"secret/data/x/y/a/m":   true,
		"other":                 false,
	} {
		must.EqOp(t, want, a.on(path).read, must.Sprint(path))
	}
	must.True(t, a.mayList("kv/"))
	must.True(t, a.mayList("kv/a/"))
	must.False(t, a.mayList("kv/sub/"))
	must.False(t, a.mayList("secret/"))
}

// The form is not one that the server promises: what is not as it was seen is refused, not guessed at.
func TestACLThatIsNotUnderstood(t *testing.T) {
	good := func() map[string]any { return rules(map[string]string{"a": "read"}, map[string]string{"b/": "read"}) }
	_, err := parseACL(good(), "")
	must.NoError(t, err)
	for name, spoil := range map[string]func(map[string]any){
		"no root":            func(m map[string]any) { delete(m, "root") },
		"root is a word":     func(m map[string]any) { m["root"] = "false" },
		"chroot is a number": func(m map[string]any) { m["chroot_namespace"] = json.Number("1") },
		"no exact paths":     func(m map[string]any) { delete(m, "exact_paths") },
		"no glob paths":      func(m map[string]any) { delete(m, "glob_paths") },
		"paths in a list":    func(m map[string]any) { m["exact_paths"] = []any{"a"} },
		"null":               func(m map[string]any) { m["glob_paths"] = nil },
		"rule is a list":     func(m map[string]any) { m["exact_paths"].(map[string]any)["a"] = []any{"read"} },
		"rule without words": func(m map[string]any) { m["exact_paths"].(map[string]any)["a"] = map[string]any{} },
		"empty words": func(m map[string]any) {
			m["exact_paths"].(map[string]any)["a"] = map[string]any{"capabilities": []any{}}
		},
		"word is a number": func(m map[string]any) {
			m["exact_paths"].(map[string]any)["a"] = map[string]any{"capabilities": []any{json.Number("1")}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := good()
			spoil(m)
			_, err := parseACL(m, "")
			must.EqOp(t, secrets.Invalid, secrets.KindOf(err))
			must.StrContains(t, err.Error(), "not understood")
		})
	}
	_, err = parseACL(map[string]any{"root": true}, "")
	must.EqOp(t, secrets.Invalid, secrets.KindOf(err))
	must.StrContains(t, err.Error(), "root token")
}

// The server puts a namespace's name before each path of its policies, and so does a chroot. A rule of
// the parent may have a pattern in its place.
func TestACLInANamespace(t *testing.T) {
	m := rules(map[string]string{"admin/team/kv/a": "read", "admin/other/kv/b": "read", "kv/c": "read"},
		map[string]string{"admin/team/kv/d/": "read", "admin/+/kv/d/no": "deny", "admin/+/kv/e/*": "read"})
	m["chroot_namespace"] = "admin/"
	a, err := parseACL(m, "team")
	must.NoError(t, err)
	for path, want := range map[string]bool{"kv/a": true, "kv/b": false, "kv/c": false, "kv/d/x": true, "kv/e/x": true} {
		must.EqOp(t, want, a.on(path).read, must.Sprint(path))
	}
}

// What the rules come to is what a real Vault says they do: random policies, asked of both.
func TestACLAsVaultDoes(t *testing.T) {
	s := startVault(t)
	r := rand.New(rand.NewPCG(1, 2))
	word := func() string { return []string{"a", "b", "ab", "+", "abc"}[r.IntN(5)] }
	join := func(n int, plus bool) string {
		var parts []string
		for range n {
			w := word()
			if w == "+" && !plus {
				w = "b"
			}
			parts = append(parts, w)
		}
		return strings.Join(parts, "/")
	}
	checked := 0
	for n := range 60 {
		var policy strings.Builder
		written := map[string]bool{}
		for range 1 + r.IntN(8) {
			path := "kv/" + join(r.IntN(4), true)
			if r.IntN(2) == 0 && !strings.HasSuffix(path, "+") {
				path += "*"
			}
			if written[path] {
				continue
			}
			written[path] = true
			caps := []string{`"read"`, `"read", "list"`, `"deny"`, `"list"`, `"update"`}[r.IntN(5)]
			fmt.Fprintf(&policy, "path %q { capabilities = [%s] }\n", path, caps)
		}
		name := fmt.Sprintf("random-%d", n)
		s.admin(t, "PUT", "sys/policies/acl/"+name, map[string]any{"policy": policy.String()})
		tok := s.newToken(t, map[string]any{"policies": []string{name}, "ttl": "1h"})
		d, err := s.discover(t.Context(), tok, "", nil)
		must.NoError(t, err)

		var paths []string
		for range 30 {
			p := "kv/" + join(r.IntN(5), false)
			paths = append(paths, p, p+"/")
		}
		answer := s.admin(t, "POST", "sys/capabilities", map[string]any{"token": tok.Value.Text(), "paths": paths})
		for _, p := range paths {
			said, _ := answer["data"].(map[string]any)[p].([]any)
			if strings.HasSuffix(p, "/") {
				must.EqOp(t, slices.Contains(said, any("list")), d.acl.mayList(p), must.Sprintf("list %s: Vault says %v of\n%s", p, said, policy.String()))
			} else {
				must.EqOp(t, slices.Contains(said, any("read")), d.acl.on(p).read, must.Sprintf("read %s: Vault says %v of\n%s", p, said, policy.String()))
			}
			checked++
		}
	}
	must.GreaterEq(t, 3000, checked)
}

// Whatever the server answers, it is understood or refused, and nothing that a rule denies by its exact
// path is ever found.
func FuzzACL(f *testing.F) {
	for _, m := range []map[string]any{
		rules(map[string]string{"secret/data/app": "read", "secret/data/no": "deny"}, map[string]string{"secret/": "read list", "+/x/+*": "read"}),
		{"root": true}, {},
	} {
		b, err := json.Marshal(m)
		must.NoError(f, err)
		f.Add(b, "secret/data/app", "team")
	}
	f.Fuzz(func(t *testing.T, b []byte, path, namespace string) {
		var data map[string]any
		if json.Unmarshal(b, &data) != nil {
			t.Skip()
		}
		a, err := parseACL(data, namespace)
		if err != nil {
			must.EqOp(t, secrets.Invalid, secrets.KindOf(err))
			return
		}
		a.on(path)
		a.mayList(path + "/")
		d := &discovery{acl: a, mounts: []mount{{path: "secret/", typ: "kv", v2: true}, {path: "kv/", typ: "kv"}, {path: "db/", typ: "database"}}}
		d.exactPaths()
		for _, dir := range d.patterns() {
			must.True(t, dir.mount.isKV())
			must.True(t, dir.dir == "" || strings.HasSuffix(dir.dir, "/"))
			d.listed(dir, []string{path, "a", "b/"})
		}
		for _, found := range d.Found {
			must.True(t, a.on(found.Path).read)
			if m := mountAt(d.mounts, found.Path); !m.isKV() {
				_, exact := a.exact[a.within+found.Path]
				must.True(t, exact)
			}
		}
	})
}
