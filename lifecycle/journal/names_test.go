package journal

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEscapeName(t *testing.T) {
	long := strings.Repeat("a", 300)
	for name, want := range map[string]string{
		"web":      "web",
		"Web-1_x":  "Web-1_x",
		"a.b":      "a.b",
		"":         "%",
		".":        "%2E",
		"..":       "%2E.",
		".owed":    "%2Eowed",
		"a/b":      "a%2Fb",
		"../../x":  "%2E.%2F..%2Fx",
		"%":        "%25",
		"%2E":      "%252E",
		"a~b":      "a%7Eb",
		"é":        "%C3%A9",
		"nul\x00":  "nul%00",
		long[:128]: long[:128],
	} {
		require.Equal(t, want, escapeName(name), "%q", name)
	}
	require.Regexp(t, "^a{128}~[0-9a-f]{64}$", escapeName(long))
}

// No name leaves the state directory, falls into .owed, or shares a directory with another (docs/architecture.md, "Who owns which file").
func FuzzNames(f *testing.F) {
	long := strings.Repeat("a", 200)
	for _, seed := range [][2]string{
		{"", "%"}, {".", ".."}, {".owed", "%2Eowed"}, {"a/b", "a%2Fb"}, {"A", "a"},
		{long + "1", long + "2"}, {long, escapeName(long)}, {"\x00", "é"}, {"~", strings.Repeat("/", 90)},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		ea, eb := escapeName(a), escapeName(b)
		if (a == b) != (ea == eb) {
			t.Errorf("%q and %q give %q and %q", a, b, ea, eb)
		}
		for _, e := range []string{ea, eb} {
			if e == "" || strings.HasPrefix(e, ".") || strings.ContainsAny(e, "/\x00") || len(e) > 255 {
				t.Errorf("%q is no safe path element", e)
			}
		}
		dir := journalDir("/state", Task{AllocID: a, Name: b})
		if rel, err := filepath.Rel("/state", dir); err != nil || rel != filepath.Join(ea, eb) || strings.Count(rel, "/") != 1 {
			t.Errorf("%q/%q lies in %q", a, b, dir)
		}
	})
}
