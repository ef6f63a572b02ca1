package secrets

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Expand adds what was discovered to what a job declares. Names go to whoever has the better right, and a
// secret that comes away without one is left out: whoever may write a key below a pattern must neither
// stop a task nor put a value of their own in the place of another's. The job's own come first, then what
// the task has already (has; nil: nothing), then what a policy names exactly, then what a pattern found.
// Where two of the same right come to one name, neither gets it. What is declared wins by its path, too.
func Expand(c TaskConfig, d *Discovery, has func(name string) bool) (out TaskConfig, left []Skipped) {
	e := expansion{
		env:    c.FromPolicies == "env" || c.FromPolicies == "all",
		files:  c.FromPolicies == "files" || c.FromPolicies == "all",
		out:    map[string]*SecretConfig{},
		owners: map[string]string{},
	}
	taken := d.declaredPaths(c)
	for name, s := range c.Secrets {
		switch {
		case !s.Discovered:
			e.out[name] = s
			e.owners[e.key(name)] = fmt.Sprintf("the job declares a secret %q", name)
		case has != nil && has(name) && d.finds(s.Path):
			e.out[name] = s
			e.owners[e.key(name)] = fmt.Sprintf("the task has %s by the name %q", s.Path, name)
			taken[s.Path] = true
		}
	}
	claims := map[string][]Found{} // by key
	for _, f := range d.Found {
		if !taken[f.Path] {
			key := e.key(secretNameOf(f.Path))
			claims[key] = append(claims[key], f)
		}
	}
	exactFirst := func(a, b string) int {
		return cmp.Or(cmp.Compare(bestOf(claims[a]), bestOf(claims[b])), strings.Compare(a, b))
	}
	for _, key := range slices.SortedFunc(maps.Keys(claims), exactFirst) {
		left = append(left, e.give(key, claims[key])...)
	}
	for _, s := range d.Skipped {
		if !taken[s.Path] { // else the task has it: the job says how
			left = append(left, s)
		}
	}
	out = c
	out.Secrets = e.out
	return out, left
}

// declaredPaths are the API's paths of what a job declares, by whatever name and in whatever spelling: it is neither taken
// a second time, nor told as left out.
func (d *Discovery) declaredPaths(c TaskConfig) map[string]bool {
	paths := map[string]bool{}
	for _, s := range c.Secrets {
		if !s.Discovered && s.provider() == DefaultProvider { // whose policies grant it
			paths[d.canonical(s.Path)] = true
		}
	}
	return paths
}

// bestOf is the better, the smaller, where a policy names one of claims exactly.
func bestOf(claims []Found) int {
	if slices.ContainsFunc(claims, func(f Found) bool { return f.Exact }) {
		return 0
	}
	return 1
}

func (d *Discovery) finds(path string) bool {
	return slices.ContainsFunc(d.Found, func(f Found) bool { return f.Path == path })
}

// expansion is an Expand under way.
type expansion struct {
	env, files bool
	out        map[string]*SecretConfig
	owners     map[string]string // key → why nobody else gets it
}

// key is what makes two names one: a-b and a_b make the same variables.
func (e *expansion) key(name string) string {
	if e.env {
		return fieldEnvName(name)
	}
	return name
}

// give gives a name to the one of claims that has a right to it, if there is one, and tells of the others.
func (e *expansion) give(key string, claims []Found) (left []Skipped) {
	leave := func(fs []Found, format string, args ...any) {
		for _, f := range fs {
			left = append(left, Skipped{f.Path, fmt.Sprintf(format, args...)})
		}
	}
	if owner, ok := e.owners[key]; ok {
		leave(claims, "%s", owner)
		return left
	}
	best := claims
	if exact := slices.DeleteFunc(slices.Clone(claims), func(f Found) bool { return !f.Exact }); len(exact) > 0 {
		best = exact
	}
	if len(best) > 1 {
		for i, f := range claims {
			other := claims[(i+1)%len(claims)]
			leave([]Found{f}, "its name would be that of %s, too; declare one of them, or narrow the policy", other.Path)
		}
		return left
	}
	if len(e.out) >= MaxSecrets {
		leave(claims, "a task may have %d secrets, and has them", MaxSecrets)
		return left
	}
	winner := best[0]
	leave(slices.DeleteFunc(slices.Clone(claims), func(f Found) bool { return f.Path == winner.Path }),
		"its name would be that of %s, which the policies name exactly", winner.Path)
	name := secretNameOf(winner.Path)
	notRequired := false
	s := &SecretConfig{Path: winner.Path, AllFiles: e.files, Required: &notRequired, Discovered: true, Exact: winner.Exact}
	if e.env {
		prefix := fieldEnvName(name) + "_"
		s.EnvPrefix = &prefix
	}
	e.out[name] = s
	return left
}

// secretNameOf makes a secret's name of the last element of its path.
func secretNameOf(path string) string {
	last := path[strings.LastIndexByte(path, '/')+1:]
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-':
			return r
		}
		return '_'
	}, last)
	if name == "" || name[0] == '-' || name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	return name[:min(len(name), 128)]
}
