package statedir

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// openInChild is where a copy of this test opens a state directory, in a process of its own.
const openInChild = "STATEDIR_TEST_OPEN"

func TestOpenInChild(t *testing.T) {
	path := os.Getenv(openInChild)
	if path == "" {
		return // it is the others' helper
	}
	_, err := Open(path)
	require.NoError(t, err)
	for name, m := range mountPoints(t, path) {
		fmt.Println("mounted", name, m.count, m.super)
	}
}

func child(path string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestOpenInChild$")
	cmd.Env = append(os.Environ(), openInChild+"="+path)
	return cmd
}

// The plugins of several drivers start at the same time.
func TestOpenByManyProcessesMountsOnce(t *testing.T) {
	path := newPath(t)
	var all []*exec.Cmd
	for range 8 {
		cmd := child(path)
		require.NoError(t, cmd.Start())
		all = append(all, cmd)
	}
	for _, cmd := range all {
		require.NoError(t, cmd.Wait())
	}
	mounts := mountPoints(t, path)
	require.Len(t, mounts, 2)
	for name, m := range mounts {
		require.Equal(t, 1, m.count, name)
	}
}

// A kernel that does not let swap be turned off, as in a user namespace, is no reason to refuse.
func TestOpenWithoutNoswap(t *testing.T) {
	path := newPath(t)
	cmd := child(path)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 2, strings.Count(string(out), "mounted"), "%s", out)
	require.NotContains(t, string(out), "noswap")
}

// Without the right to mount, the error says what is missing.
func TestOpenWithoutTheRightToMount(t *testing.T) {
	path := newPath(t)
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and never back: the thread goes with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		err := unix.Capget(&header, &caps[0])
		caps[unix.CAP_SYS_ADMIN/32].Effective &^= 1 << (unix.CAP_SYS_ADMIN % 32)
		if err == nil {
			err = unix.Capset(&header, &caps[0])
		}
		if err == nil {
			_, err = Open(path)
		}
		failed <- err
	}()
	err := <-failed
	require.ErrorIs(t, err, ErrUnusable)
	require.ErrorIs(t, err, unix.EPERM)
	require.ErrorContains(t, err, "state_dir")
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "CAP_SYS_ADMIN")
	require.Empty(t, mountPoints(t, path))

	// An operator may mount for it.
	for name, mode := range map[string]string{"journal": "mode=0755", "shared": "mode=1777"} {
		require.NoError(t, unix.Mount("operators", filepath.Join(path, name), "tmpfs", 0, mode))
	}
	_, err = Open(path)
	require.NoError(t, err)
}

// What the operator has mounted is used, if it is memory.
func TestOpenOfAnOperatorsMount(t *testing.T) {
	for _, c := range []struct{ name, fs, want string }{
		{"journal", "tmpfs", ""},
		{"journal", "ramfs", ""},
		{"shared", "ramfs", ""},
		{"journal", "proc", "what is mounted at journal is not in memory (file system type 0x9fa0)"},
		{"shared", "proc", "what is mounted at shared is not in memory"},
	} {
		t.Run(c.name+" is "+c.fs, func(t *testing.T) {
			path := newPath(t)
			point := filepath.Join(path, c.name)
			require.NoError(t, os.MkdirAll(point, 0o755))
			require.NoError(t, unix.Mount("operators", point, c.fs, 0, ""))
			d, err := Open(path)
			if c.want != "" {
				require.ErrorIs(t, err, ErrUnusable)
				require.ErrorContains(t, err, c.want)
				require.ErrorContains(t, err, path)
				require.ErrorContains(t, err, "set state_dir to another directory")
				// The remedy helps at once.
				require.NoError(t, unix.Unmount(point, 0))
				_, err = Open(path)
				require.NoError(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.fs, mountPoints(t, path)[c.name].fs)
			require.Equal(t, 1, mountPoints(t, path)[c.name].count)
			require.Equal(t, os.FileMode(0o700), mode(t, filepath.Join(path, "journal")))
			require.Equal(t, os.FileMode(0o711), mode(t, filepath.Join(path, "shared")))
			require.Equal(t, os.FileMode(0o700), mode(t, d.Journal("docker")))
			require.Contains(t, mountPoints(t, path)["shared"].propagation, "shared:")
		})
	}
}

// A disk is bound over a mount of ours, or ours is unmounted: the next start sees it.
func TestOpenAfterTheMountsHaveChanged(t *testing.T) {
	path := newPath(t)
	_, err := Open(path)
	require.NoError(t, err)
	journal := filepath.Join(path, "journal")
	require.NoError(t, unix.Mount("proc", journal, "proc", 0, ""))
	_, err = Open(path)
	require.ErrorContains(t, err, "not in memory")
	for range 2 {
		require.NoError(t, unix.Unmount(journal, 0))
	}
	_, err = Open(path)
	require.NoError(t, err)
	require.Equal(t, "tmpfs", mountPoints(t, path)["journal"].fs)
}

func TestOpenWhereOthersCouldReplaceIt(t *testing.T) {
	above := filepath.Join(t.TempDir(), "above")
	require.NoError(t, os.Mkdir(above, 0o755))
	require.NoError(t, os.Chmod(above, 0o777))
	for path, want := range map[string]string{
		filepath.Join(above, "state"): "above can be written to by users other than root (mode 0777)",
		"relative":                    "not an absolute path",
	} {
		_, err := Open(path)
		require.ErrorIs(t, err, ErrUnusable)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
		require.ErrorContains(t, err, "set state_dir to another directory")
	}
	require.NoFileExists(t, filepath.Join(above, "state"))
}

// Nothing of a link in a place's stead is followed.
func TestOpenFollowsNoLinkBelow(t *testing.T) {
	path, elsewhere := newPath(t), t.TempDir()
	require.NoError(t, os.Mkdir(path, 0o711))
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(path, "journal")))
	_, err := Open(path)
	require.ErrorContains(t, err, "open journal")
	require.Empty(t, mountPoints(t, elsewhere))
	require.Empty(t, mountPoints(t, filepath.Dir(elsewhere)))
}

// The directory is one of the operator's, or an older version made it.
func TestOpenOfADirectoryThatIsThere(t *testing.T) {
	for before, after := range map[os.FileMode]os.FileMode{0o700: 0o711, 0o755: 0o755, 0o750: 0o751} {
		path := newPath(t)
		require.NoError(t, os.Mkdir(path, before))
		_, err := Open(path)
		require.NoError(t, err)
		require.Equal(t, after, mode(t, path))
	}
	t.Run("behind a link of root's", func(t *testing.T) {
		path := newPath(t)
		require.NoError(t, os.Mkdir(path, 0o711))
		link := filepath.Join(t.TempDir(), "link")
		require.NoError(t, os.Symlink(path, link))
		d, err := Open(link)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(link, "shared", "live"), d.Live())
		require.Len(t, mountPoints(t, path), 2)
	})
}

func TestLock(t *testing.T) {
	path := newPath(t)
	d, err := Open(path)
	require.NoError(t, err)
	unlock, err := d.Lock()
	require.NoError(t, err)
	top, err := os.Open(path)
	require.NoError(t, err)
	defer top.Close()
	_, err = lock(top, 50*time.Millisecond)
	require.ErrorContains(t, err, "another process of this plugin still has it")

	// Where nothing is to be made, nobody waits.
	_, err = Open(path)
	require.NoError(t, err)

	locked := make(chan error)
	go func() {
		unlock, err := d.Lock()
		if err == nil {
			unlock()
		}
		locked <- err
	}()
	unlock()
	require.NoError(t, <-locked)
}

func TestJournalBound(t *testing.T) {
	for memory, want := range map[uint64]uint64{256 << 20: 64 << 20, 4000 << 20: 400 << 20, 64 << 30: 1 << 30} {
		require.Equal(t, want, journalBound(memory))
	}
}
