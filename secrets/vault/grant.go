package vault

import (
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Mount is a secrets engine, as the server tells of it or as somebody takes it to be.
type Mount struct {
	Path string // with a slash at the end
	Type string // as the server has it; UnknownType
	V2   bool   // KV version 2
}

// UnknownType is of an engine that is known to be no KV, and no more.
const UnknownType = "unknown"

// Grant is what a policy says of a path.
type Grant struct {
	Path         string
	Capabilities []string
}

// Grants are the least rights that a request on a mount needs, with those for the lease that it may make; none: Vault's
// policy `default` has them. What Vault's client would refuse to send is an error.
func Grants(req secrets.Request, on Mount) ([]Grant, error) {
	m := mount{path: on.Path, typ: on.Type, v2: on.V2}
	c, err := route(secrets.Token{}, req, m, false)
	if err != nil {
		return nil, err
	}
	if m.typ == "cubbyhole" {
		return nil, nil
	}
	need := Grant{c.path, []string{"read"}}
	if req.Params != nil {
		need.Capabilities = []string{"update"}
	}
	all := []Grant{need}
	if lends(m, req.Path) {
		all = append(all, Grant{"sys/leases/revoke", []string{"update"}})
	}
	return all, nil
}

// lends reports whether what is at path comes with a lease.
func lends(m mount, path string) bool {
	rel := strings.TrimPrefix(path, m.path)
	dirs, listed := leasedPaths[m.typ]
	switch {
	case m.isKV():
		return false
	case !listed && credentialPaths[m.typ] != nil:
		dirs = credentialPaths[m.typ]
	case !listed: // an engine of which no more is known than that it is no KV
		dirs = []string{"creds/", "sts/"}
	}
	return roleBelow(rel, dirs) != "" || endsLeased(m.typ, rel)
}

// endsLeased reports whether rel, a path on a mount, is one of leasedEnds.
func endsLeased(engine, rel string) bool {
	return slices.ContainsFunc(leasedEnds[engine], func(p dirAndEnd) bool {
		role, below := strings.CutPrefix(rel, p.dir)
		role, ends := strings.CutSuffix(role, p.end)
		return below && ends && role != ""
	})
}

// leasedPaths are where engines give what has a lease, if that is not all of their credentialPaths and nothing else.
var leasedPaths = map[string][]string{
	"aws":        {"creds/", "sts/"},
	"gcp":        {"key/"},
	"kubernetes": {"creds/"},
	"pki":        {}, // a certificate has one only if its role says so (generate_lease)
	"ssh":        {"creds/"},
	"totp":       {},
	"transit":    {},
}

// dirAndEnd are what a path on a mount begins and ends with, around the name of a role.
type dirAndEnd struct{ dir, end string }

// leasedEnds are more of leasedPaths, where a role's name is not at the end.
var leasedEnds = map[string][]dirAndEnd{
	"ad":       {{"library/", "/check-out"}},
	"gcp":      {{"roleset/", "/key"}, {"static-account/", "/key"}},
	"ldap":     {{"library/", "/check-out"}},
	"openldap": {{"library/", "/check-out"}},
}

// credentialNames are the second elements of paths by which engines that make credentials are known, without a server to ask.
var credentialNames = []string{"creds", "static-creds", "static-cred", "sts"}

// kvNames are what KV engines are usually mounted at: below those any name may be.
var kvNames = []string{"secret", "secrets", "kv", "kv1", "kv2"}

// GuessMount is what the mount of a path is, as far as the path itself tells: its first element, and version 2 of KV
// unless the path is one of an engine that makes credentials.
func GuessMount(req secrets.Request) Mount {
	s := secrets.Segments(req.Path)
	if len(s) == 0 {
		return Mount{}
	}
	m := Mount{Path: s[0] + "/"}
	switch {
	case s[0] == "cubbyhole":
		m.Type = "cubbyhole"
	case req.Params != nil, len(s) > 2 && slices.Contains(credentialNames, s[1]):
		m.Type = UnknownType
	default:
		m.Type, m.V2 = "kv", true
	}
	return m
}
