package vault

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// morePaths are where engines have more than credentials that a job may ask for, or know under another name than credentialDirs
// and parameterPaths. What ends in a slash is a directory.
var morePaths = map[string][]string{
	"ad":      {"creds/"},
	"gcp":     {"key/", "token/", "roleset/", "static-account/", "impersonated-account/"},
	"pki":     {"cert/", "sign-verbatim/", "sign-verbatim", "issuer/", "ca", "ca/", "ca_chain", "crl", "crl/", "issuers", "unified-crl"},
	"ssh":     {"config/ca", "public_key"},
	"totp":    {"code/", "keys/"},
	"transit": {"export/", "datakey/", "keys/", "encrypt/", "decrypt/", "rewrap/", "sign/", "verify/", "hmac/", "cmac/", "hash", "hash/", "random", "random/", "backup/", "byok-export/", "wrapping_key"},
}

// Mistyped says what a path is likely meant to be, going by its mount or, where that is the zero Mount, by the path alone;
// empty: nothing is wrong with it.
func Mistyped(req secrets.Request, on Mount) string {
	return mistyped(mount{path: on.Path, typ: on.Type, v2: on.V2}, req.Path, req.Params != nil)
}

// mistyped is Mistyped with what is known of the mount.
func mistyped(m mount, path string, write bool) string {
	if !m.known() {
		return mistypedByLooks(path, write)
	}
	rel := strings.TrimPrefix(path, m.path)
	has, more := slices.Concat(credentialDirs(m.typ), parameterPaths[m.typ]), morePaths[m.typ]
	if len(has) == 0 {
		has = more
	}
	if len(has) == 0 || roleBelow(rel, slices.Concat(has, more)) != "" || slices.Contains(more, rel) || endsLeased(m.typ, rel) {
		return ""
	}
	for _, p := range leasedEnds[m.typ] {
		if !slices.Contains(has, p.dir) {
			has = append(has, p.dir+"NAME"+p.end)
		}
	}
	return fmt.Sprintf("the engine %q has credentials at %s: is %q mistyped?", m.typ, strings.Join(has, " and "), rel)
}

// mistypedByLooks is mistyped for a mount of which nothing is known.
func mistypedByLooks(path string, write bool) string {
	if lacksParams(path, write) {
		return "issue/ and sign/ of a pki or ssh engine take parameters: give the secret params."
	}
	dir, ok := dirOfRole(path)
	if !ok || slices.Contains(credentialNames, dir) || slices.Contains(parameterNames, dir) {
		return ""
	}
	for _, name := range []string{"creds", "static-creds", "issue"} {
		if near(dir, name) {
			return fmt.Sprintf("engines that make credentials have them at creds/ and static-creds/, certificates are at issue/: is %q mistyped for %q?", dir+"/", name+"/")
		}
	}
	return ""
}

// parameterNames are the second elements of paths that give something for parameters alone.
var parameterNames = []string{"issue", "sign"}

// dirOfRole is the second of a path's three elements; false: it has more or fewer, or is of a KV engine by its name.
func dirOfRole(path string) (string, bool) {
	s := strings.Split(path, "/")
	if len(s) != 3 || s[2] == "" || slices.Contains(kvNames, s[0]) {
		return "", false
	}
	return s[1], true
}

// lacksParams reports whether a path looks as if nothing is there without parameters, and none are given.
func lacksParams(path string, write bool) bool {
	dir, ok := dirOfRole(path)
	return ok && !write && slices.Contains(parameterNames, dir)
}

// givesCredentials reports whether a path looks as those of engines that make credentials.
func givesCredentials(path string) bool {
	dir, ok := dirOfRole(path)
	return ok && (slices.Contains(credentialNames, dir) || slices.Contains(parameterNames, dir))
}

// near reports whether a name is likely another one mistyped: a letter more, less or replaced, or letters exchanged.
func near(typed, name string) bool {
	sorted := func(s string) []byte { return slices.Sorted(slices.Values([]byte(s))) }
	return typed != name && (levenshtein.Distance(typed, name, nil) == 1 || slices.Equal(sorted(typed), sorted(name)))
}
