package lifecycle

import (
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// mayReadAsNode refuses what the node's token is not for, before any request is made with it: what the operator
// allows it for is paths in the operator's own namespace, and a job chooses both the namespace and the path.
func (k *Keeper) mayReadAsNode(issuer *provider, spec *secrets.Spec, namespace string) error {
	if ours := cleanNamespace(k.cfg.Namespace); cleanNamespace(namespace) != ours {
		in := "the root namespace"
		if ours != "" {
			in = "namespace " + ours
		}
		return secrets.Errorf(secrets.Invalid, "the node's token is the operator's, for %s, and the job asks in namespace %q (its namespace option, or VAULT_NAMESPACE in its environment): take that out, or give the task an identity of its own; %s",
			in, namespace, howToIdentify)
	}
	for i := range spec.Secrets {
		sec := &spec.Secrets[i]
		if sec.Request.Provider != issuer.name {
			continue
		}
		if sec.Request.Params != nil {
			return secrets.Errorf(secrets.Invalid, "secret %q: params need an identity of the task's own, and only the node's token is there; %s", sec.Name, howToIdentify)
		}
		allowed, pinned := nodeMayRead(k.cfg.TokenFilePaths, sec.Request.Path)
		if !allowed {
			return secrets.Errorf(secrets.Invalid, "secret %q: the operator's token_file_paths do not allow %s; %s", sec.Name, sec.Request.Path, howToIdentify)
		}
		sec.Request.Mounted = !pinned
	}
	return nil
}

// cleanNamespace is a namespace without the slashes that mean nothing.
func cleanNamespace(namespace string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(namespace, "/"), func(s string) bool { return s == "" }), "/")
}

// nodeMayRead reports whether the globs allow a path, in each spelling that the server, or a proxy before it, might
// take it for. pinned: by one that names the path's first element. A server with namespaces takes
// one at the beginning of a path for a namespace, and such an element the operator has at least written out.
func nodeMayRead(globs []string, path string) (allowed, pinned bool) {
	pinned = true
	for _, p := range secrets.Spellings(path) {
		matched := false
		pin := false
		for _, glob := range globs {
			if matchAsNode(glob, p) {
				first, _, _ := strings.Cut(glob, "/")
				matched, pin = true, pin || !strings.ContainsAny(first, "*+")
			}
		}
		if !matched {
			return false, false
		}
		pinned = pinned && pin
	}
	return true, pinned
}

// matchAsNode is matchPath for paths that a job chooses. On a KV version 2 the API's secret/data/x is the secret
// secret/x: a `+` or a `*` that stands for "data" must also allow that.
func matchAsNode(glob, path string) bool {
	if !matchPath(glob, path) {
		return false
	}
	gs, ps := strings.Split(glob, "/"), strings.Split(path, "/")
	for i := 1; i < len(ps); i++ {
		written := i < len(gs) && gs[i] == "data"
		if ps[i] == "data" && !written && !matchPath(glob, strings.Join(slices.Delete(slices.Clone(ps), i, i+1), "/")) {
			return false
		}
	}
	return true
}

// matchPath matches as the server's own policies do: `+` is one segment, a `*` at the end is any
// rest.
func matchPath(glob, path string) bool {
	prefix, open := strings.CutSuffix(glob, "*")
	gs, ps := strings.Split(prefix, "/"), strings.Split(path, "/")
	if slices.Contains(ps, "..") || len(ps) < len(gs) || (!open && len(ps) != len(gs)) {
		return false
	}
	for i, g := range gs {
		switch {
		case open && i == len(gs)-1:
			if !strings.HasPrefix(ps[i], g) {
				return false
			}
		case g == "+" && ps[i] != "":
		case g != ps[i]:
			return false
		}
	}
	return true
}
