package vault

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// acl is what a token may do, as the server adds its policies up.
type acl struct {
	// within is the full name of the namespace that is asked for, with a slash, which the server puts
	// before each path of a rule. Rules may be about others, and may have a pattern in its place.
	within   string
	exact    map[string]capabilities
	prefixes map[string]capabilities // a rule "a/b*" is kept as "a/b", as the server shows it
	segments []segmentRule           // rules with a `+`
}

// capabilities are what a rule allows; none: it denies.
type capabilities struct {
	read, list, write bool
	wrapped           bool // answers only if the answer is wrapped
}

// segmentRule is a rule with a `+` in it, which stands for one whole segment of a path.
type segmentRule struct {
	text   string // without the `*` at its end
	prefix bool   // it had one
	caps   capabilities
}

// parseACL reads the answer of sys/internal/ui/resultant-acl. Its form is not one that the server
// promises, so whatever is not as expected is refused, and said: a rule that was misread might make
// a deny an allow. namespace is the one that the request was made in.
func parseACL(data map[string]any, namespace string) (*acl, error) {
	root, ok := data["root"].(bool)
	if !ok {
		return nil, unparsable("root is not true or false")
	}
	if root {
		return nil, secrets.Errorf(secrets.Invalid, "the token is a root token, whose policies grant everything: from_policies is refused; give the task a role with policies of its own")
	}
	chroot := ""
	if c, ok := data["chroot_namespace"]; ok && c != nil {
		if chroot, ok = c.(string); !ok {
			return nil, unparsable("chroot_namespace is not a text")
		}
	}
	within := strings.Join(append(secrets.Segments(chroot), secrets.Segments(namespace)...), "/")
	if within != "" {
		within += "/"
	}
	a := &acl{within: within, exact: map[string]capabilities{}, prefixes: map[string]capabilities{}}
	for _, part := range []struct {
		key string
		add func(path string, c capabilities)
	}{
		{"exact_paths", a.addExact},
		{"glob_paths", a.addGlob},
	} {
		rules, ok := data[part.key].(map[string]any)
		if !ok {
			return nil, unparsable("%s is not an object", part.key)
		}
		for path, rule := range rules {
			c, err := parseRule(rule)
			if err != nil {
				return nil, unparsable("%s: %q: %v", part.key, path, err)
			}
			part.add(path, c)
		}
	}
	slices.SortFunc(a.segments, func(x, y segmentRule) int { return strings.Compare(x.text, y.text) })
	return a, nil
}

func unparsable(format string, args ...any) error {
	return secrets.Errorf(secrets.Invalid, "the server's answer is not understood (%s), and so nothing is read: declare the task's secrets, and report this with the server's version", fmt.Sprintf(format, args...))
}

func parseRule(rule any) (capabilities, error) {
	m, ok := rule.(map[string]any)
	if !ok {
		return capabilities{}, errors.New("the rule is not an object")
	}
	words, ok := m["capabilities"].([]any)
	if !ok || len(words) == 0 {
		return capabilities{}, errors.New("the rule has no list of capabilities")
	}
	var c capabilities
	deny := false
	for _, w := range words {
		word, ok := w.(string)
		if !ok {
			return capabilities{}, errors.New("a capability is not a text")
		}
		switch word {
		case "deny":
			deny = true
		case "read":
			c.read = true
		case "list":
			c.list = true
		case "create", "update":
			c.write = true
		}
	}
	if deny { // the server shows it alone; should it ever not, it still wins
		return capabilities{}, nil
	}
	for _, key := range []string{"min_wrapping_ttl", "max_wrapping_ttl"} {
		_, ok := m[key]
		c.wrapped = c.wrapped || ok
	}
	return c, nil
}

func (a *acl) addExact(path string, c capabilities) { a.exact[path] = c }

// addGlob sorts the two kinds that the server puts into one map: prefixes, whose `*` it takes away,
// and rules with a `+`, which it leaves as they were written.
func (a *acl) addGlob(path string, c capabilities) {
	if path != "+" && !strings.Contains(path, "/+") && !strings.HasPrefix(path, "+/") { // the server's own test
		a.prefixes[path] = c
		return
	}
	text, prefix := strings.CutSuffix(path, "*")
	a.segments = append(a.segments, segmentRule{text: text, prefix: prefix, caps: c})
}

// on gives what may be done with a path: by the rule that the server would use, which is the exact
// one, else the most specific of the others. A rule that denies is one like any other.
func (a *acl) on(path string) capabilities {
	path = a.within + path
	if c, ok := a.exact[path]; ok {
		return c
	}
	c, _ := a.pattern(path)
	return c
}

// mayList reports whether a directory, with a slash at its end, may be listed. For that the server
// looks without the slash first.
func (a *acl) mayList(dir string) bool {
	dir = a.within + dir
	bare := strings.TrimSuffix(dir, "/")
	for _, p := range []string{dir, bare} {
		if c, ok := a.exact[p]; ok {
			return c.list
		}
	}
	if c, ok := a.pattern(bare); ok {
		return c.list
	}
	c, _ := a.pattern(dir)
	return c.list
}

// pattern finds the rule for a full path that has no exact one.
func (a *acl) pattern(path string) (c capabilities, found bool) {
	var best specificity
	for p := path; ; p = p[:len(p)-1] {
		if caps, ok := a.prefixes[p]; ok {
			best, c, found = specificity{first: len(p), prefix: true, length: len(p), text: p}, caps, true
			break
		}
		if p == "" {
			break
		}
	}
	parts := strings.Split(path, "/")
	for _, r := range a.segments {
		s, ok := r.match(parts)
		if ok && (!found || best.less(s)) {
			best, c, found = s, r.caps, true
		}
	}
	return c, found
}

func (r segmentRule) match(parts []string) (specificity, bool) {
	want := strings.Split(r.text, "/")
	if len(parts) < len(want) || !r.prefix && len(parts) != len(want) {
		return specificity{}, false
	}
	s := specificity{first: strings.Index(r.text, "+"), prefix: r.prefix, length: len(r.text), text: r.text}
	for i, w := range want {
		switch {
		case w == "+":
			s.wildcards++
		case w == parts[i]:
		case r.prefix && i == len(want)-1 && strings.HasPrefix(parts[i], w):
		default:
			return specificity{}, false
		}
	}
	return s, true
}

// specificity orders the rules that match one path, as the server does.
type specificity struct {
	first     int  // where the first `+`, or the `*`, is
	prefix    bool // it ends in `*`
	wildcards int
	length    int
	text      string
}

// less reports whether o is the more specific.
func (s specificity) less(o specificity) bool {
	switch {
	case s.first != o.first:
		return s.first < o.first
	case s.prefix != o.prefix:
		return s.prefix
	case s.wildcards != o.wildcards:
		return s.wildcards > o.wildcards
	case s.length != o.length:
		return s.length < o.length
	}
	return s.text < o.text
}

// readable are the patterns that let read something, and may be expanded by listing.
func (a *acl) readable() []pattern {
	var all []pattern
	for p, c := range a.prefixes {
		if c.read {
			all = append(all, pattern{text: p, prefix: true})
		}
	}
	for _, r := range a.segments {
		if r.caps.read {
			all = append(all, pattern{text: r.text, prefix: r.prefix})
		}
	}
	slices.SortFunc(all, func(x, y pattern) int { return strings.Compare(x.String(), y.String()) })
	return all
}

// pattern is a rule's path with a `+` or a `*`.
type pattern struct {
	text   string
	prefix bool
}

func (p pattern) String() string {
	if p.prefix {
		return p.text + "*"
	}
	return p.text
}

// reaches reports whether something below dir, which ends in a slash or is empty, can match. It may
// say yes too often; what is found is asked of the rules again.
func (p pattern) reaches(dir string) bool {
	want, have := strings.Split(p.text, "/"), strings.Split(dir, "/")
	have = have[:len(have)-1] // what follows the slash is yet to come
	for i, h := range have {
		switch {
		case i == len(want)-1:
			return p.prefix && (strings.HasPrefix(h, want[i]) || want[i] == "+")
		case want[i] != "+" && want[i] != h:
			return false
		}
	}
	return true
}

// start is the deepest directory below root that all that matches is in.
func (p pattern) start(root string) (dir string, ok bool) {
	if !p.reaches(root) {
		return "", false
	}
	fixed := p.text
	if i := slices.Index(strings.Split(fixed, "/"), "+"); i >= 0 {
		fixed = strings.Join(strings.Split(fixed, "/")[:i], "/") + "/"
	}
	fixed = fixed[:strings.LastIndexByte(fixed, '/')+1]
	if len(fixed) < len(root) {
		return root, true
	}
	return fixed, strings.HasPrefix(fixed, root)
}
