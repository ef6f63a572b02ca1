package rootonly

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// inside makes a directory that only root can change, for what a test puts in it.
func inside(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

// leads checks that f, which is closed by it, is the directory at path.
func leads(t *testing.T, f *os.File, path string) {
	t.Helper()
	opened, err := f.Stat()
	require.NoError(t, err)
	there, err := os.Lstat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(there, opened), "%s is not %s", f.Name(), path)
	require.NoError(t, f.Close())
}

func TestOpen(t *testing.T) {
	top := inside(t)
	dir := filepath.Join(top, "a", "b")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	links := map[string]string{
		"absolute":       filepath.Join(top, "a"),
		"relative":       "a",
		"up":             "a/../a",
		"over a link":    "relative",
		"up over a link": "elsewhere/../relative",
	}
	require.NoError(t, os.MkdirAll(filepath.Join(top, "x", "y"), 0o755))
	require.NoError(t, os.Symlink("../a", filepath.Join(top, "x", "relative")))
	require.NoError(t, os.Symlink("x/y", filepath.Join(top, "elsewhere")))
	for name, target := range links {
		require.NoError(t, os.Symlink(target, filepath.Join(top, name)))
	}
	paths := []string{dir, dir + "/", filepath.Join(top, "a") + "/./../a//b"}
	for name := range links {
		paths = append(paths, filepath.Join(top, name, "b"))
	}
	for _, path := range paths {
		f, err := Open(path)
		require.NoError(t, err, path)
		leads(t, f, dir)
	}
}

func TestMake(t *testing.T) {
	top := inside(t)
	defer syscall.Umask(syscall.Umask(0o077))
	dir := filepath.Join(top, "a", "b")
	f, err := Make(dir, 0o711)
	require.NoError(t, err)
	leads(t, f, dir)
	for path, want := range map[string]os.FileMode{filepath.Join(top, "a"): 0o755, dir: 0o711} {
		info, err := os.Lstat(path)
		require.NoError(t, err)
		require.Equal(t, want, info.Mode().Perm(), path)
	}
	f, err = Make(dir, 0o700)
	require.NoError(t, err)
	leads(t, f, dir)
	info, err := os.Lstat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o711), info.Mode().Perm(), "one that is there is left as it is")
}

// Whoever can change or replace a directory decides what root reads there.
func TestRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test gives files to other users, and so needs root")
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, top string)
		want  string
	}{
		"it is another's":               {func(t *testing.T, top string) { chown(t, top, "a", "b") }, "a/b is owned by user 4242, not by root"},
		"one above is another's":        {func(t *testing.T, top string) { chown(t, top, "a") }, "a is owned by user 4242, not by root"},
		"others may write to it":        {func(t *testing.T, top string) { chmod(t, 0o777, top, "a", "b") }, "a/b can be written to by users other than root (mode 0777)"},
		"a group may":                   {func(t *testing.T, top string) { chmod(t, 0o770, top, "a", "b") }, "a/b can be written to by users other than root (mode 0770)"},
		"they may, and it is sticky":    {func(t *testing.T, top string) { chmod(t, 0o777|os.ModeSticky, top, "a", "b") }, "a/b can be written to by users other than root (mode 1777)"},
		"others may write to one above": {func(t *testing.T, top string) { chmod(t, 0o777, top, "a") }, "a can be written to by users other than root (mode 0777)"},
		"one above is sticky":           {func(t *testing.T, top string) { chmod(t, 0o777|os.ModeSticky, top, "a") }, ""},
		"it is a file":                  {func(t *testing.T, top string) { replace(t, top); write(t, top, "a", "b") }, "a/b is not a directory"},
		"it is missing":                 {func(t *testing.T, top string) { replace(t, top) }, "a/b: no such file or directory"},
		"a link to it is another's":     {func(t *testing.T, top string) { replace(t, top); link(t, top, "/", 4242) }, "a/b is owned by user 4242, not by root"},
		"a link leads to another's":     {func(t *testing.T, top string) { replace(t, top); link(t, top, others(t), 0) }, "is owned by user 4242, not by root"},
		"a link leads to itself":        {func(t *testing.T, top string) { replace(t, top); link(t, top, "b", 0) }, "a/b: too many levels of symbolic links"},
		"a link leads below another's":  {func(t *testing.T, top string) { replace(t, top); link(t, top, filepath.Join(others(t), "below"), 0) }, "is owned by user 4242, not by root"},
		"a link leads over and up again": {func(t *testing.T, top string) {
			replace(t, top)
			link(t, top, filepath.Join(others(t), "below")+"/../..", 0)
		}, "is owned by user 4242, not by root"},
	} {
		t.Run(name, func(t *testing.T) {
			top := inside(t)
			require.NoError(t, os.MkdirAll(filepath.Join(top, "a", "b"), 0o755))
			c.spoil(t, top)
			f, err := Open(filepath.Join(top, "a", "b"))
			if c.want == "" {
				require.NoError(t, err)
				require.NoError(t, f.Close())
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := Open("a/b")
	require.ErrorContains(t, err, "not an absolute path")
}

func chown(t *testing.T, elem ...string) {
	t.Helper()
	require.NoError(t, os.Lchown(filepath.Join(elem...), 4242, 4242))
}

func chmod(t *testing.T, mode os.FileMode, elem ...string) {
	t.Helper()
	require.NoError(t, os.Chmod(filepath.Join(elem...), mode))
}

// replace makes room for something else at a/b.
func replace(t *testing.T, top string) {
	t.Helper()
	require.NoError(t, os.Remove(filepath.Join(top, "a", "b")))
}

func write(t *testing.T, elem ...string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(elem...), nil, 0o600))
}

func link(t *testing.T, top, target string, owner int) {
	t.Helper()
	require.NoError(t, os.Symlink(target, filepath.Join(top, "a", "b")))
	require.NoError(t, os.Lchown(filepath.Join(top, "a", "b"), owner, owner))
}

// others is another user's directory, with one below it that is root's.
func others(t *testing.T) string {
	t.Helper()
	dir := inside(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "below"), 0o755))
	chown(t, dir)
	return dir
}
