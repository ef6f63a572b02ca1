package vault

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// discovery is a Discovery in the making: what the token may do, and where the engines are.
type discovery struct {
	secrets.Discovery
	acl    *acl
	mounts []mount
}

// grants reports whether the policies let the token read path (of a Found).
func (d *discovery) grants(path string) bool { return d.acl.on(path).read }

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
// parameters. A role's configuration is elsewhere on the mount (roles/…, config/…). What an engine stores and
// rotates is in rotations.
var credentialPaths = map[string][]string{
	"alicloud":     {"creds/"},
	"aws":          {"creds/"},
	"azure":        {"creds/"},
	"consul":       {"creds/"},
	"database":     {"creds/"},
	"ldap":         {"creds/"},
	"mongodbatlas": {"creds/"},
	"nomad":        {"creds/"},
	"openldap":     {"creds/"},
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

// slashNames are the engines whose roles may have a slash in their name; those of all others in the tables may not.
var slashNames = map[string]bool{"ldap": true, "openldap": true}

// credentialDirs are where an engine gives credentials for a read, made or stored.
func credentialDirs(engine string) []string {
	dirs := slices.Clone(credentialPaths[engine])
	if r, ok := rotations[engine]; ok {
		dirs = append(dirs, r.dir)
	}
	return dirs
}

// serversOwn are the server's own ends, which hold no secrets.
var serversOwn = map[string]bool{"system": true, "identity": true, "token": true, "ns_system": true, "ns_identity": true, "ns_token": true}

// exactPaths sorts the paths that the policies name without a pattern.
func (d *discovery) exactPaths() {
	for _, full := range slices.Sorted(maps.Keys(d.acl.exact)) {
		c := d.acl.exact[full]
		path, ok := strings.CutPrefix(full, d.acl.within)
		if !ok || !c.read && !c.write || strings.HasSuffix(path, "/") {
			continue
		}
		if secrets.IsServersOwn(strings.SplitN(path, "/", 2)[0]) {
			continue
		}
		m := mountAt(d.mounts, path)
		if serversOwn[m.typ] {
			continue
		}
		rel := strings.TrimPrefix(path, m.path)
		parameterRole, role := roleBelow(rel, parameterPaths[m.typ]), roleBelow(rel, credentialDirs(m.typ))
		switch {
		case !m.known():
			if c.read {
				d.skip(path, "no secrets engine is mounted there")
			}
		case m.isKV():
			d.exactKV(path, rel, m, c)
		case strings.Contains(parameterRole+role, "/") && !slashNames[m.typ]:
			d.skip(path, fmt.Sprintf("no role of the engine %q has a slash in its name", m.typ))
		case parameterRole != "" && (c.write || m.typ == "aws"):
			d.skip(path, "it needs parameters; declare it with params")
		case !c.read:
		case m.typ == "totp" && roleBelow(rel, []string{"code/"}) != "":
			d.skip(path, "a TOTP code is good for seconds, and no secret to start a task with")
		case role != "":
			d.take(path, c)
		case credentialDirs(m.typ) == nil && parameterPaths[m.typ] == nil && m.typ != "totp" && m.typ != "transit":
			d.skip(path, fmt.Sprintf("what the engine %q gives there is not known; declare it", m.typ))
		}
	}
}

// roleBelow is what follows one of dirs in rel, a path on a mount; empty: rel is below none.
func roleBelow(rel string, dirs []string) string {
	for _, dir := range dirs {
		if role, ok := strings.CutPrefix(rel, dir); ok {
			return role
		}
	}
	return ""
}

func (d *discovery) exactKV(path, rel string, m mount, c capabilities) {
	if !c.read || rel == "" {
		return
	}
	if m.v2 {
		if name, ok := strings.CutPrefix(rel, "data/"); !ok || name == "" {
			return // metadata, delete, destroy and the like
		}
	}
	d.take(path, c)
}

func (d *discovery) take(path string, c capabilities) {
	if c.wrapped {
		d.skip(path, "the policy lets it be read only wrapped, which is not asked for")
		return
	}
	if slices.ContainsFunc(d.Found, func(f secrets.Found) bool { return f.Path == path }) {
		return
	}
	if len(d.Found) >= secrets.MaxSecrets {
		d.Cut = true
		return
	}
	_, exact := d.acl.exact[d.acl.within+path]
	d.Found = append(d.Found, secrets.Found{Path: path, Exact: exact})
}

func (d *discovery) skip(path, why string) {
	d.Skipped = append(d.Skipped, secrets.Skipped{Path: path, Why: why})
}

// patterns says which directories of KV mounts are to be listed for the policies' patterns. A
// pattern over credentials is never expanded: each read of what it names would make one.
func (d *discovery) patterns() (start []kvDir) {
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
				for _, dir := range credentialDirs(m.typ) {
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
func (d *discovery) wants(dir kvDir) bool {
	full := d.acl.within + dir.mount.dataRoot() + dir.dir
	return slices.ContainsFunc(d.acl.readable(), func(p pattern) bool { return p.reaches(full) })
}

// listed takes in what a directory holds, and gives those of its directories that are to be listed.
func (d *discovery) listed(dir kvDir, names []string) (next []kvDir) {
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
			if len(d.Found) >= secrets.MaxDiscovered {
				d.Cut = true
				return nil
			}
			d.take(path, c)
		}
	}
	return next
}
