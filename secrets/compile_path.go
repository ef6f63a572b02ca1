package secrets

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// notSecrets are the server's own ends, which hold no secrets but make tokens and policies. They
// are refused for everyone.
var notSecrets = []string{"sys", "auth", "identity"}

// IsServersOwn reports whether a path that begins with segment is one of the server's own ends.
func IsServersOwn(segment string) bool {
	for _, s := range notSecrets {
		if strings.EqualFold(segment, s) {
			return true
		}
	}
	return false
}

// CleanPath is a path as typed at the CLI, without the slashes that mean nothing. It refuses
// the server's own ends however they are spelled: the server, its client or a proxy between might
// undo an escape or fold a path that we took literally.
//
// A path may begin with its namespace (team/secret/app). Which of its segments is the mount only the
// server knows, and a KV path may well hold a segment "auth", so for a read the first segment counts,
// and the one after the task's own namespace. A write is to no KV mount, so there any segment counts
// that something follows: team/auth/token/create is refused, pki/issue/auth is not.
func CleanPath(path, namespace string, write bool) (string, error) {
	if err := plainPath(path); err != nil {
		return "", err
	}
	clean, err := checkRequestPath(path, namespace, write)
	if err != nil {
		return "", fmt.Errorf("path %q: %w", path, err)
	}
	for _, p := range Spellings(path)[1:] {
		if _, err := checkRequestPath(p, namespace, write); err != nil {
			return "", fmt.Errorf("path %q: with its escapes undone: %w", path, err)
		}
	}
	return clean, nil
}

// cleanPathOf is CleanPath for a provider: others than the default one have no ends of Vault's.
func cleanPathOf(provider, path, namespace string, write bool) (string, error) {
	if provider == DefaultProvider {
		return CleanPath(path, namespace, write)
	}
	if err := plainPath(path); err != nil {
		return "", err
	}
	segments := Segments(path)
	switch {
	case provider == NomadProvider && !nomadPath.MatchString(path):
		return "", fmt.Errorf("path %q: a Nomad Variable's path has letters, digits, -, _, ~ and /, 128 at the most", path)
	case len(segments) == 0:
		return "", fmt.Errorf("path %q: %w", path, errNoSegments)
	case slices.Contains(segments, ".."):
		return "", fmt.Errorf("path %q: %w", path, errDots)
	}
	return strings.Join(segments, "/"), nil
}

// nomadPath is what Nomad takes for the path of a variable.
var nomadPath = regexp.MustCompile(`^[a-zA-Z0-9-_~/]{1,128}$`)

var (
	errNoSegments = errors.New(`nothing but slashes; give the secret's path, such as "secret/app"`)
	errDots       = errors.New(`".." is not allowed; write the path in full`)
)

// plainPath refuses what is no path of any provider's.
func plainPath(path string) error {
	if path == "" {
		return errors.New(`path is missing; give the secret's path, such as "secret/app"`)
	}
	if len(path) > maxPath {
		return fmt.Errorf("path is longer than %d bytes; a secret so deep cannot be asked for", maxPath)
	}
	if strings.ContainsFunc(path, unicode.IsControl) || strings.TrimSpace(path) != path {
		return fmt.Errorf("path %q has control characters, or white space around it; take them out", path)
	}
	return nil
}

// Spellings are what a path may be taken for: itself, and with its escapes undone, which may be nested.
func Spellings(path string) []string {
	all := []string{path}
	for { // each undoing makes the path shorter, so this ends
		next := escape.ReplaceAllStringFunc(path, func(e string) string {
			b, _ := strconv.ParseUint(e[1:], 16, 8)
			return string([]byte{byte(b)})
		})
		if next == path {
			return all
		}
		all = append(all, next)
		path = next
	}
}

// escape is one escaped byte; what is no valid escape beside it stays as it is.
var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

func checkRequestPath(path, namespace string, write bool) (string, error) {
	segments := Segments(path)
	if len(segments) == 0 {
		return "", errNoSegments
	}
	for _, s := range segments {
		if s == ".." {
			return "", errDots
		}
	}
	rest := segments
	if ns := Segments(namespace); len(ns) > 0 && len(rest) > len(ns) && strings.EqualFold(strings.Join(rest[:len(ns)], "/"), strings.Join(ns, "/")) {
		rest = rest[len(ns):]
	}
	for i, s := range segments {
		if !IsServersOwn(s) {
			continue
		}
		if i == 0 || i == len(segments)-len(rest) || write && i < len(segments)-1 {
			return "", fmt.Errorf("%s/ holds the server's own settings, not secrets, and is refused; give the path of a secrets engine", strings.ToLower(s))
		}
	}
	return strings.Join(segments, "/"), nil
}

// Segments are a path's segments but the empty ones and ".", which the server's client drops.
func Segments(path string) []string {
	var out []string
	for s := range strings.SplitSeq(path, "/") {
		if s != "" && s != "." {
			out = append(out, s)
		}
	}
	return out
}
