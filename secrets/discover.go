package secrets

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// MaxDiscovered bounds the paths that globs of a token's policies are expanded to.
const MaxDiscovered = 100

// Discovery is what a token's policies let it read, as secrets.
type Discovery struct {
	Found   []Found
	Skipped []Skipped
	// Cut is set when the globs hold more than MaxDiscovered paths: the rest is not in Found.
	Cut bool
	// Granted adds to what Grants says yes to.
	Granted map[string]bool

	acl    *acl
	mounts []mount
}

// Found is one secret that a policy grants.
type Found struct {
	Path string // the API's, as the policy has it
	CLI  string // as a job would say it
}

// Skipped is what a policy grants and is not read, and why.
type Skipped struct{ Path, Why string }

// Grants reports whether the policies still let the token read path (of a Found).
func (d *Discovery) Grants(path string) bool {
	return d.Granted[path] || d.acl != nil && d.acl.on(path).read
}

// canonical is the API's path of what a job declares.
func (d *Discovery) canonical(path string) string {
	path = strings.Join(cleanSegments(path), "/")
	if m := mountAt(d.mounts, path); m.v2 {
		return dataPath(m.path, path)
	}
	return path
}

// mountAt is the mount that a path is on: the longest.
func mountAt(mounts []mount, path string) mount {
	var best mount
	for _, m := range mounts {
		if strings.HasPrefix(path, m.path) && len(m.path) > len(best.path) {
			best = m
		}
	}
	return best
}

// credentialPaths are where engines keep the paths whose reading makes a credential and needs no
// parameters. A role's configuration is elsewhere on the mount (roles/…, config/…).
var credentialPaths = map[string][]string{
	"alicloud":     {"creds/"},
	"aws":          {"creds/", "static-creds/"},
	"azure":        {"creds/"},
	"consul":       {"creds/"},
	"database":     {"creds/", "static-creds/"},
	"ldap":         {"creds/", "static-cred/"},
	"mongodbatlas": {"creds/"},
	"nomad":        {"creds/"},
	"openldap":     {"creds/", "static-cred/"},
	"rabbitmq":     {"creds/"},
	"terraform":    {"creds/"},
}

// parameterPaths are where engines give something for parameters: a name, a key, a role's ARN.
var parameterPaths = map[string][]string{
	"aws":        {"sts/"},
	"kubernetes": {"creds/"},
	"pki":        {"issue/", "sign/"},
	"ssh":        {"sign/", "issue/", "creds/"},
}

// serversOwn are the server's own ends, which hold no secrets.
var serversOwn = map[string]bool{"system": true, "identity": true, "token": true, "ns_system": true, "ns_identity": true, "ns_token": true}

// exactPaths sorts the paths that the policies name without a pattern.
func (d *Discovery) exactPaths() {
	for _, full := range slices.Sorted(maps.Keys(d.acl.exact)) {
		c := d.acl.exact[full]
		path, ok := strings.CutPrefix(full, d.acl.within)
		if !ok || !c.read && !c.write || strings.HasSuffix(path, "/") {
			continue
		}
		if isNotSecrets(strings.SplitN(path, "/", 2)[0]) {
			continue
		}
		m := mountAt(d.mounts, path)
		if serversOwn[m.typ] {
			continue
		}
		rel := strings.TrimPrefix(path, m.path)
		switch {
		case !m.known():
			if c.read {
				d.skip(path, "no secrets engine is mounted there")
			}
		case m.isKV():
			d.exactKV(path, rel, m, c)
		case under(rel, parameterPaths[m.typ]) && (c.write || m.typ == "aws"):
			d.skip(path, "it needs parameters; declare it with params")
		case !c.read:
		case m.typ == "totp" && under(rel, []string{"code/"}):
			d.skip(path, "a TOTP code is good for seconds, and no secret to start a task with")
		case under(rel, credentialPaths[m.typ]):
			d.take(path, path, c)
		case credentialPaths[m.typ] == nil && parameterPaths[m.typ] == nil && m.typ != "totp" && m.typ != "transit":
			d.skip(path, fmt.Sprintf("what the engine %q gives there is not known; declare it", m.typ))
		}
	}
}

// under reports whether rel is one name below one of dirs.
func under(rel string, dirs []string) bool {
	for _, dir := range dirs {
		if name, ok := strings.CutPrefix(rel, dir); ok && name != "" {
			return true
		}
	}
	return false
}

func (d *Discovery) exactKV(path, rel string, m mount, c capabilities) {
	if !c.read || rel == "" {
		return
	}
	if m.v2 {
		name, ok := strings.CutPrefix(rel, "data/")
		if !ok || name == "" {
			return // metadata, delete, destroy and the like
		}
		d.take(path, m.path+name, c)
		return
	}
	d.take(path, path, c)
}

func (d *Discovery) take(path, cli string, c capabilities) {
	if c.wrapped {
		d.skip(path, "the policy lets it be read only wrapped, which is not asked for")
		return
	}
	if slices.ContainsFunc(d.Found, func(f Found) bool { return f.Path == path }) {
		return
	}
	d.Found = append(d.Found, Found{Path: path, CLI: cli})
}

func (d *Discovery) skip(path, why string) { d.Skipped = append(d.Skipped, Skipped{path, why}) }

// patterns says which directories of KV mounts are to be listed for the policies' patterns. A
// pattern over credentials is never expanded: each read of what it names would make one.
func (d *Discovery) patterns() (start []kvDir) {
	for _, p := range d.acl.readable() {
		for _, m := range d.mounts {
			switch {
			case serversOwn[m.typ] || m.typ == "cubbyhole":
				// Nothing is in a new token's cubbyhole, and the default policy grants it to all.
			case m.isKV():
				root := d.acl.within + m.dataRoot()
				if dir, ok := p.start(root); ok {
					start = append(start, kvDir{mount: m, dir: strings.TrimPrefix(dir, root), pattern: p.String()})
				}
			default:
				for _, dir := range credentialPaths[m.typ] {
					if p.reaches(d.acl.within + m.path + dir) {
						d.skip(p.String(), "a pattern over credentials of "+m.path+" is not expanded; name the paths")
						break
					}
				}
			}
		}
	}
	// A directory within another that is listed anyway is not listed twice.
	slices.SortStableFunc(start, func(a, b kvDir) int {
		return cmp.Or(strings.Compare(a.mount.path, b.mount.path), strings.Compare(a.dir, b.dir))
	})
	return slices.CompactFunc(start, func(a, b kvDir) bool { return a.mount.path == b.mount.path && a.dir == b.dir })
}

// kvDir is a directory of a KV mount.
type kvDir struct {
	mount   mount
	dir     string // below the mount's root; ends in a slash, or is empty
	pattern string // the pattern that asks for it
}

// dataRoot is before each path of a secret on a KV mount, in the API.
func (m mount) dataRoot() string {
	if m.v2 {
		return m.path + "data/"
	}
	return m.path
}

// listRoot is before each directory that is listed.
func (m mount) listRoot() string {
	if m.v2 {
		return m.path + "metadata/"
	}
	return m.path
}

// wants reports whether a pattern may match something below a directory.
func (d *Discovery) wants(dir kvDir) bool {
	full := d.acl.within + dir.mount.dataRoot() + dir.dir
	return slices.ContainsFunc(d.acl.readable(), func(p pattern) bool { return p.reaches(full) })
}

// listed takes in what a directory holds, and gives those of its directories that are to be listed.
func (d *Discovery) listed(dir kvDir, names []string) (next []kvDir) {
	for _, name := range slices.Sorted(slices.Values(names)) {
		switch {
		case name == "" || name == "/" || strings.Contains(strings.TrimSuffix(name, "/"), "/"):
		case strings.HasSuffix(name, "/"):
			sub := kvDir{mount: dir.mount, dir: dir.dir + name, pattern: dir.pattern}
			if d.wants(sub) {
				next = append(next, sub)
			}
		default:
			path := dir.mount.dataRoot() + dir.dir + name
			if _, exact := d.acl.exact[d.acl.within+path]; exact {
				continue // it has been looked at
			}
			c := d.acl.on(path)
			if !c.read {
				continue
			}
			if len(d.Found) >= MaxDiscovered {
				d.Cut = true
				return nil
			}
			d.take(path, dir.mount.path+dir.dir+name, c)
		}
	}
	return next
}

// Expand adds what was discovered to what a job declares, which wins: a path declared is not taken
// twice, and a name declared is not taken away, of which an event says so. Two paths that come to one
// name are an error.
func Expand(c TaskConfig, d *Discovery) (out TaskConfig, events []string, err error) {
	env := c.FromPolicies == "env" || c.FromPolicies == "all"
	files := c.FromPolicies == "files" || c.FromPolicies == "all"
	key := func(name string) string {
		if env {
			return fieldEnvName(name) // a-b and a_b make the same variables
		}
		return name
	}
	out = c
	out.Secrets = map[string]*SecretConfig{}
	taken := map[string]string{} // key → path
	declared := map[string]bool{}
	paths := map[string]bool{}
	for name, s := range c.Secrets {
		if s.Discovered {
			continue
		}
		out.Secrets[name] = s
		taken[key(name)], declared[key(name)] = s.Path, true
		paths[d.canonical(s.Path)] = true
	}
	notRequired := false
	var shadowed, clashes []string
	for _, f := range d.Found {
		if paths[f.Path] {
			continue
		}
		name := secretNameOf(f.Path)
		if other, ok := taken[key(name)]; ok {
			if declared[key(name)] {
				shadowed = append(shadowed, fmt.Sprintf("%s (the job declares a secret %q)", f.Path, name))
			} else {
				clashes = append(clashes, fmt.Sprintf("%s and %s would both be secret %q", other, f.Path, name))
			}
			continue
		}
		taken[key(name)] = f.Path
		s := &SecretConfig{Path: f.Path, AllFiles: files, Required: &notRequired, Discovered: true}
		if env {
			prefix := fieldEnvName(name) + "_"
			s.EnvPrefix = &prefix
		}
		out.Secrets[name] = s
	}
	if len(clashes) > 0 {
		return c, nil, Errorf(Invalid, "from_policies: %s; declare one of them under another name, or narrow the policy", strings.Join(clashes, "; "))
	}
	if len(shadowed) > 0 {
		events = append(events, "secrets: not taken from the policies: "+shortList(shadowed))
	}
	if len(d.Skipped) > 0 {
		var all []string
		for _, s := range d.Skipped {
			all = append(all, s.Path+" ("+s.Why+")")
		}
		events = append(events, "secrets: granted by the policies and not read: "+shortList(all))
	}
	if d.Cut {
		events = append(events, fmt.Sprintf("secrets: the policies' globs hold more than %d paths; the rest is left out: narrow the policy, or declare secrets", MaxDiscovered))
	}
	return out, events, nil
}

// shortList is a list that fits into a task event.
func shortList(all []string) string {
	const most = 4
	if len(all) <= most {
		return strings.Join(all, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(all[:most], "; "), len(all)-most)
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
