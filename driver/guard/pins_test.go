package guard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func mountsBelow(t *testing.T, dir string) (found []string) {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	must.NoError(t, err)
	for line := range strings.Lines(string(info)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, dir+"/") {
			found = append(found, at)
		}
	}
	return found
}

// A pin is the file that was open, whatever its name has come to mean, and goes without a trace: what is mounted in
// the task's directory stays mounted there.
func TestPins(t *testing.T) {
	allocDir, taskDir, host := tree(t)
	// As on a host of systemd's: all mounts are shared.
	must.NoError(t, unix.Mount(allocDir, allocDir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must.NoError(t, unix.Unmount(allocDir, unix.MNT_DETACH)) })
	must.NoError(t, unix.Mount("", allocDir, "", unix.MS_SHARED, ""))
	secrets := filepath.Join(taskDir, "secrets")
	must.NoError(t, os.Mkdir(secrets, 0o777))
	must.NoError(t, unix.Mount("tmpfs", secrets, "tmpfs", 0, "size=1m"))
	must.NoError(t, os.WriteFile(filepath.Join(secrets, "s"), []byte("secret"), 0o600))

	root := filepath.Join(t.TempDir(), "binds")
	pins, err := NewPins(root)
	must.NoError(t, err)
	task, err := Resolve(allocDir, taskDir, nil)
	must.NoError(t, err)
	defer task.File.Close()
	file, err := Resolve(allocDir, filepath.Join(taskDir, "local", "file"), nil)
	must.NoError(t, err)
	defer file.File.Close()
	must.NoError(t, os.Rename(filepath.Join(taskDir, "local", "file"), filepath.Join(taskDir, "local", "other")))
	must.NoError(t, os.Symlink(filepath.Join(host, "secret"), filepath.Join(taskDir, "local", "file")))

	pinned, err := pins.Add(task.File)
	must.NoError(t, err)
	content, err := os.ReadFile(filepath.Join(pinned, "secrets", "s"))
	must.NoError(t, err)
	must.EqOp(t, "secret", string(content))
	pinned, err = pins.Add(file.File)
	must.NoError(t, err)
	content, err = os.ReadFile(pinned)
	must.NoError(t, err)
	must.EqOp(t, "", string(content), must.Sprint("the pin followed a symlink that came later"))

	must.NoError(t, Sweep(root))
	must.Len(t, 3, mountsBelow(t, root), must.Sprint("a sweep takes what is in use"))
	pins.Release()
	pins.Release()
	must.Len(t, 0, mountsBelow(t, root))
	left, err := os.ReadDir(root)
	must.NoError(t, err)
	must.Len(t, 0, left)
	content, err = os.ReadFile(filepath.Join(secrets, "s"))
	must.NoError(t, err, must.Sprint("the task's own mount went with the pin"))
	must.EqOp(t, "secret", string(content))
	_, err = pins.Add(file.File)
	must.ErrorIs(t, err, os.ErrClosed)
}

// What a process has left that was killed is removed by the next.
func TestSweep(t *testing.T) {
	allocDir, taskDir, _ := tree(t)
	root := filepath.Join(t.TempDir(), "binds")
	must.NoError(t, Sweep(root), must.Sprint("there is none yet"))
	pins, err := NewPins(root)
	must.NoError(t, err)
	source, err := Resolve(allocDir, taskDir, nil)
	must.NoError(t, err)
	defer source.File.Close()
	_, err = pins.Add(source.File)
	must.NoError(t, err)
	must.NoError(t, pins.dir.Close(), must.Sprint("as by a kill")) // the lock goes with it
	must.NoError(t, pins.root.Close())

	must.NoError(t, Sweep(root))
	must.Len(t, 0, mountsBelow(t, root))
	left, err := os.ReadDir(root)
	must.NoError(t, err)
	must.Len(t, 0, left)
	_, err = os.Stat(filepath.Join(taskDir, "local", "file"))
	must.NoError(t, err, must.Sprint("the sweep removed through a mount"))
}

func TestPinsOnlyInADirectoryOfRoots(t *testing.T) {
	root := filepath.Join(t.TempDir(), "binds")
	must.NoError(t, os.Mkdir(root, 0o777))
	must.NoError(t, os.Chmod(root, 0o777))
	_, err := NewPins(root)
	must.ErrorContains(t, err, "root")
	must.NoError(t, os.Chmod(root, 0o755))
	must.NoError(t, os.Chown(root, 4242, 4242))
	_, err = NewPins(root)
	must.ErrorContains(t, err, "root")
}

// Through a pin that is read-only nobody writes, nor to what is mounted below it; the task still does, in its own directory.
func TestReadOnlyPin(t *testing.T) {
	allocDir, taskDir, _ := tree(t)
	secrets := filepath.Join(taskDir, "secrets")
	must.NoError(t, os.Mkdir(secrets, 0o777))
	must.NoError(t, unix.Mount("tmpfs", secrets, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { must.NoError(t, unix.Unmount(secrets, unix.MNT_DETACH)) })
	pins, err := NewPins(filepath.Join(t.TempDir(), "binds"))
	must.NoError(t, err)
	defer pins.Release()
	source, err := Resolve(allocDir, allocDir, nil)
	must.NoError(t, err)
	defer source.File.Close()
	must.True(t, source.RootOpens(taskDir))
	pinned, err := pins.Add(source.File)
	must.NoError(t, err)
	must.NoError(t, ReadOnly(pinned))
	for _, dir := range []string{"web", "web/secrets"} {
		must.ErrorIs(t, os.WriteFile(filepath.Join(pinned, dir, "x"), nil, 0o600), unix.EROFS)
		must.NoError(t, os.WriteFile(filepath.Join(allocDir, dir, "x"), nil, 0o600))
	}
}
