package journal

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
)

// A task of one job never gets at the journal of another's: a million names, made of what collides when
// it is escaped carelessly, and no two share a directory or leave theirs.
func TestAMillionNames(t *testing.T) {
	pieces := []string{"/", "..", ".", "%", "%2F", "%2E", "%25", "~", " ", "a", "A", "b", "é", "e\u0301", "\x00", "\\", ".owed", "-", "_",
		"\u202e", "\xff"}
	r := rand.New(rand.NewPCG(5, 5))
	names := make(map[string]string, 1_000_000) // by escaped name
	for len(names) < 1_000_000 {
		var b strings.Builder
		for range 1 + r.IntN(12) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
		if r.IntN(50) == 0 { // beyond what is kept of a name
			b.WriteString(strings.Repeat("a", 120+r.IntN(20)))
		}
		name := b.String()
		escaped := escapeName(name)
		if other, ok := names[escaped]; ok && other != name {
			t.Fatalf("%q and %q share %q", name, other, escaped)
		}
		names[escaped] = name
		if escaped != filepath.Base(escaped) || escaped[0] == '.' || len(escaped) > 255 || strings.ContainsAny(escaped, "/\x00") {
			t.Fatalf("%q makes %q, which is no safe directory", name, escaped)
		}
	}
}
