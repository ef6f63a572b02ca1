package secrets

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// notSecrets are the server's own ends, which hold no secrets but make tokens and policies. They
// are refused for everyone (DESIGN 5).
var notSecrets = []string{"sys", "auth", "identity"}

func isNotSecrets(segment string) bool {
	for _, s := range notSecrets {
		if strings.EqualFold(segment, s) {
			return true
		}
	}
	return false
}

// cleanRequestPath is a path as typed at the CLI, without the slashes that mean nothing. It refuses
// the server's own ends however they are spelled: the server, its client or a proxy between might
// undo an escape or fold a path that we took literally.
//
// A path may begin with its namespace (team/secret/app). Which of its segments is the mount only the
// server knows, and a KV path may well hold a segment "auth", so for a read the first segment counts,
// and the one after the task's own namespace. A write is to no KV mount, so there any segment counts
// that something follows: team/auth/token/create is refused, pki/issue/auth is not.
func cleanRequestPath(path, namespace string, write bool) (string, error) {
	if path == "" {
		return "", errors.New(`path is missing; give the secret's path, such as "secret/app"`)
	}
	if strings.ContainsFunc(path, unicode.IsControl) || strings.TrimSpace(path) != path {
		return "", fmt.Errorf("path %q has control characters, or white space around it; take them out", path)
	}
	clean, err := checkRequestPath(path, namespace, write)
	if err != nil {
		return "", fmt.Errorf("path %q: %w", path, err)
	}
	// Escapes may be nested. Each undoing makes the path shorter, so this ends.
	for p := path; ; {
		next := escape.ReplaceAllStringFunc(p, func(e string) string {
			b, _ := strconv.ParseUint(e[1:], 16, 8)
			return string([]byte{byte(b)})
		})
		if next == p {
			return clean, nil
		}
		if _, err := checkRequestPath(next, namespace, write); err != nil {
			return "", fmt.Errorf("path %q: with its escapes undone: %w", path, err)
		}
		p = next
	}
}

// escape is one escaped byte; what is no valid escape beside it stays as it is.
var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

func checkRequestPath(path, namespace string, write bool) (string, error) {
	segments := cleanSegments(path)
	if len(segments) == 0 {
		return "", errors.New(`nothing but slashes; give the secret's path, such as "secret/app"`)
	}
	for _, s := range segments {
		if s == ".." {
			return "", errors.New(`".." is not allowed; write the path in full`)
		}
	}
	rest := segments
	if ns := cleanSegments(namespace); len(ns) > 0 && len(rest) > len(ns) && strings.EqualFold(strings.Join(rest[:len(ns)], "/"), strings.Join(ns, "/")) {
		rest = rest[len(ns):]
	}
	for i, s := range segments {
		if !isNotSecrets(s) {
			continue
		}
		if i == 0 || i == len(segments)-len(rest) || write && i < len(segments)-1 {
			return "", fmt.Errorf("%s/ holds the server's own settings, not secrets, and is refused; give the path of a secrets engine", strings.ToLower(s))
		}
	}
	return strings.Join(segments, "/"), nil
}

// cleanSegments are a path's segments but the empty ones and ".", which the server's client drops.
func cleanSegments(path string) []string {
	var out []string
	for s := range strings.SplitSeq(path, "/") {
		if s != "" && s != "." {
			out = append(out, s)
		}
	}
	return out
}
