package launcher

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// What a container gets is labelled, and nothing that a task's links lead to (make selinux has the rest).
func TestLabelsFollowNoLink(t *testing.T) {
	const attr = "trusted.launcher-test"
	dir, outside := secretsDir(t), secretsDir(t)
	victim := filepath.Join(outside, "victim")
	must.NoError(t, os.WriteFile(victim, nil, 0o600))
	must.NoError(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "a", "b", "c"), nil, 0o600))
	must.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must.NoError(t, os.Symlink(victim, filepath.Join(dir, "link")))
	must.NoError(t, os.Symlink(outside, filepath.Join(dir, "links")))
	deep := filepath.Join(dir, strings.Repeat("d/", maxDepth+3))
	must.NoError(t, os.MkdirAll(deep, 0o700))

	must.NoError(t, setAttr(dir, attr, "x"))
	has := func(path string) bool {
		n, err := unix.Lgetxattr(path, attr, nil)
		return err == nil && n == 1
	}
	for _, path := range []string{"", "a", "a/b", "a/b/c", "fifo", "link", "links"} {
		must.True(t, has(filepath.Join(dir, path)), must.Sprint(path))
	}
	must.False(t, has(deep))
	must.False(t, has(outside))
	must.False(t, has(victim))
	must.NoError(t, setAttr(filepath.Join(dir, "link"), attr, "x"), must.Sprint("the link itself"))
	must.False(t, has(victim))
	must.NoError(t, setAttr(victim, attr, "y"), must.Sprint("a file"))
	must.True(t, has(victim))
}

// A task may make more than can be looked at.
func TestLabelsHaveABound(t *testing.T) {
	const attr = "trusted.launcher-test"
	dir := secretsDir(t)
	for i := range maxLabelled + 100 {
		must.NoError(t, unix.Mkfifo(filepath.Join(dir, strings.Repeat("x", 1+i%200)+string(rune('a'+i/200))), 0o600))
	}
	must.NoError(t, setAttr(dir, attr, "x"))
	entries, err := os.ReadDir(dir)
	must.NoError(t, err)
	labelled := 0
	for _, e := range entries {
		if n, err := unix.Lgetxattr(filepath.Join(dir, e.Name()), attr, nil); err == nil && n == 1 {
			labelled++
		}
	}
	must.Eq(t, maxLabelled, labelled)
}
