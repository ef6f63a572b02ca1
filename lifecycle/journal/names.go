package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
)

// maxName is the longest that an escaped name gets before its tail becomes a hash. The longest
// result, maxName + "~" + 64 digits, and any suffix of a temporary name fit the 255 bytes of a path
// element.
const maxName = 128

// journalDir is where what is written about a task lies.
func journalDir(stateDir string, t Task) string {
	return filepath.Join(stateDir, escapeName(t.AllocID), escapeName(t.Name))
}

// escapeName makes a path element of any text at all. Different texts give different elements (of
// two long ones, as surely as SHA-256 tells them apart), none is "", "." or "..", begins with a dot,
// or holds a slash; so that no job can name its task into another's journal, or out of the state
// directory, or into ".owed". What is common in names is kept as it is, for those who look.
func escapeName(name string) string {
	if name == "" {
		return "%" // no other name gives a lone one
	}
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	escaped := b.String()
	if len(escaped) <= maxName {
		return escaped
	}
	sum := sha256.Sum256([]byte(name))
	return escaped[:maxName] + "~" + hex.EncodeToString(sum[:]) // a short name never has a "~"
}

// globEscape makes a path a pattern that matches it alone.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
