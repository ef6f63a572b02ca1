package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
)

// What of the secrets directory of a task is read.
const (
	maxFile      = 1 << 20
	maxTaskFiles = 1000
)

// collectFiles learns what is in the secrets directories of all allocations: Nomad has them in memory, and whatever is
// in one is a secret, whoever put it there.
func (v *values) collectFiles(ctx context.Context, allocDir string) error {
	files := map[taskKey]int{}
	return leakscan.Files(ctx, allocDir, leakscan.TreeOptions{
		MaxFile: maxFile,
		Enter: func(rel string) bool { // <alloc>/<task>/secrets/…
			parts := strings.SplitN(rel, "/", 4)
			return len(parts) < 3 || parts[2] == "secrets"
		},
	}, func(path string, content io.Reader) error {
		rel, err := filepath.Rel(allocDir, path)
		parts := strings.SplitN(rel, "/", 4)
		if err != nil || len(parts) < 4 || parts[2] != "secrets" {
			return nil //nolint:nilerr // a file beside the directories
		}
		t := v.task(parts[0], parts[1])
		if files[t.key()]++; files[t.key()] > maxTaskFiles {
			v.TooMany++
			return nil
		}
		text, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		v.addFile(t, "secrets/"+parts[3], text)
		return nil
	})
}

// addFile learns the values in a file: all of it if it is one line, else what its form shows to be values. The name of a key is
// not told: in a file that is no list of keys it may be part of a secret.
func (v *values) addFile(t *Task, name string, content []byte) {
	text := strings.Trim(string(content), "\r\n")
	var tree any
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.UseNumber()
	switch {
	case strings.HasPrefix(strings.TrimSpace(text), "{") && dec.Decode(&tree) == nil:
		v.addJSON(t, name, "", tree)
	case strings.Contains(text, "PRIVATE KEY-----"):
		v.addPrivateKeys(t, name, text)
	case strings.Contains(text, "-----BEGIN "):
		v.Public++
	case strings.Contains(text, "\n"):
		for i, line := range strings.Split(text, "\n") {
			v.addLine(t, name+" line "+strconv.Itoa(i+1), line, false)
		}
	default:
		v.addLine(t, name, text, true)
	}
}

// addPrivateKeys learns the lines within the keys: headers, and certificates beside them, are no secrets.
func (v *values) addPrivateKeys(t *Task, name, text string) {
	inKey := false
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "-----"):
			inKey = strings.HasPrefix(line, "-----BEGIN") && strings.Contains(line, "PRIVATE KEY")
		case inKey:
			v.add(t, fmt.Sprintf("%s line %d", name, i+1), line)
		}
	}
}

// secretKey is how keys of secrets are named.
var secretKey = regexp.MustCompile(`(?i)pass|pwd|secret|token|key|cred|auth|private|dsn|conn|session|salt|pin`)

// setting is a line of a configuration: `KEY=value`, `export KEY="value"`, `key: value`.
var setting = regexp.MustCompile(`^\s*(?:export\s+)?["']?([A-Za-z_][\w.-]{0,99})["']?\s*(?:=|:\s|:$)\s*(.*?)\s*,?\s*$`)

// addLine learns a line, or the value in it. The texts around values are in the job, which Nomad keeps: so of what is
// not the whole file only what looks like a secret is taken.
func (v *values) addLine(t *Task, what, line string, whole bool) {
	trimmed := strings.TrimSpace(line)
	if trimmed == "" || !whole && (trimmed[0] == '#' || trimmed[0] == ';') {
		return
	}
	m := setting.FindStringSubmatch(line)
	switch {
	case whole && (m == nil || !secretKey.MatchString(m[1])):
		v.add(t, what, line) // base64 has an = in it, too
	case m == nil && mixed(trimmed) && !strings.ContainsAny(trimmed, " \t"):
		v.add(t, what, trimmed)
	case m != nil && (secretKey.MatchString(m[1]) || mixed(m[2])):
		v.add(t, what, unquote(m[2]))
	case m == nil && strings.Contains(trimmed, "://") && strings.Contains(trimmed, "@"):
		v.add(t, what, trimmed)
	default:
		v.Ordinary++
	}
}

func unquote(s string) string {
	if len(s) > 1 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		if text, err := strconv.Unquote(s); err == nil && s[0] == '"' {
			return text
		}
		return s[1 : len(s)-1]
	}
	return s
}

// addJSON learns the texts in a JSON document.
func (v *values) addJSON(t *Task, what, key string, tree any) {
	switch tree := tree.(type) {
	case map[string]any:
		for key, member := range tree {
			v.addJSON(t, what, key, member)
		}
	case []any:
		for _, member := range tree {
			v.addJSON(t, what, key, member)
		}
	case string:
		if secretKey.MatchString(key) || mixed(tree) {
			v.add(t, what, tree)
		} else {
			v.Ordinary++
		}
	case json.Number:
		if secretKey.MatchString(key) {
			v.add(t, what, tree.String())
		}
	}
}
