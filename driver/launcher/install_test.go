package launcher

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// The bound of the issue "No trace".
func TestSize(t *testing.T) {
	must.LessEq(t, 2_500_000, len(binary))
}

func install(dirs ...string) (string, error) { return (&Installer{Dirs: dirs}).Install() }

func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	installer := &Installer{Dirs: []string{dir}}
	path, err := installer.Install()
	must.NoError(t, err)
	must.True(t, new(Installer).intact(path))
	must.Eq(t, dir, filepath.Dir(path))
	first, err := os.Stat(path)
	must.NoError(t, err)

	again, err := installer.Install()
	must.NoError(t, err)
	must.Eq(t, path, again)
	second, err := os.Stat(path)
	must.NoError(t, err)
	must.True(t, os.SameFile(first, second), must.Sprint("what is intact stays, a container may run it"))

	for name, spoil := range map[string]func(){
		"content":    func() { must.NoError(t, os.WriteFile(path, make([]byte, len(binary)), 0o555)) },
		"mode":       func() { must.NoError(t, os.Chmod(path, 0o775)) },
		"owner":      func() { must.NoError(t, os.Chown(path, 7, 7)) },
		"removed":    func() { must.NoError(t, os.Remove(path)) },
		"directory":  func() { must.NoError(t, os.Remove(path)); must.NoError(t, os.Mkdir(path, 0o755)) },
		"a symlink":  func() { must.NoError(t, os.Remove(path)); must.NoError(t, os.Symlink("/bin/busybox", path)) },
		"other file": func() { must.NoError(t, os.WriteFile(filepath.Join(dir, "launcher-0123456789abcdef"), nil, 0o555)) },
	} {
		_, err := installer.Install() // has compared the content now
		must.NoError(t, err)
		spoil()
		again, err := installer.Install()
		must.NoError(t, err, must.Sprint(name))
		must.Eq(t, path, again)
		must.True(t, new(Installer).intact(path), must.Sprint(name))
	}
	files, err := os.ReadDir(dir)
	must.NoError(t, err)
	must.SliceLen(t, 2, files, must.Sprint("old versions are left, nothing else is"))
}

func TestInstallAtTheSameTime(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			path, err := install(dir)
			must.NoError(t, err)
			must.True(t, new(Installer).intact(path))
		})
	}
	wg.Wait()
	files, err := os.ReadDir(dir)
	must.NoError(t, err)
	must.SliceLen(t, 1, files)
}

// L1: root-owned, and on a file system that programs may be run from.
func TestInstallWhereItMayNot(t *testing.T) {
	noexec := t.TempDir()
	must.NoError(t, unix.Mount("tmpfs", noexec, "tmpfs", unix.MS_NOEXEC, "mode=0755"))
	t.Cleanup(func() { must.NoError(t, unix.Unmount(noexec, unix.MNT_DETACH)) })
	writable := t.TempDir()
	must.NoError(t, os.Chmod(writable, 0o777|os.ModeSticky))
	below := filepath.Join(t.TempDir(), "open", "below")
	must.NoError(t, os.MkdirAll(below, 0o755))
	must.NoError(t, os.Chmod(filepath.Dir(below), 0o777))
	others := filepath.Join(t.TempDir(), "others", "below")
	must.NoError(t, os.MkdirAll(others, 0o755))
	must.NoError(t, os.Chown(filepath.Dir(others), 7, 7))
	link := filepath.Join(t.TempDir(), "link")
	must.NoError(t, os.Symlink(noexec, link))
	file := filepath.Join(t.TempDir(), "file")
	must.NoError(t, os.WriteFile(file, nil, 0o644))

	for dir, want := range map[string]string{
		noexec:     "mounted noexec",
		link:       "mounted noexec",
		writable:   "can be written to by users other than root (mode 1777)",
		below:      "can be written to by users other than root (mode 0777)",
		others:     "is owned by user 7, not by root",
		file:       "not a directory",
		"relative": "not an absolute path",
	} {
		_, err := install(dir)
		must.ErrorContains(t, err, want)
		must.ErrorContains(t, err, dir)
	}
	good := t.TempDir()
	path, err := install(noexec, writable, good)
	must.NoError(t, err)
	must.Eq(t, good, filepath.Dir(path))
}
