package live

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/mountinfo"
)

// Place binds a declared directory to target, a directory on a shared mount, unless it is there. What is mounted there already,
// of a file server that died, stays below: so who looks finds the one or the other at every moment.
func Place(source, target string) error {
	want, err := mountOf(source)
	if err != nil {
		return err
	}
	have, ok, err := mountinfo.Top(target)
	if err != nil {
		return fmt.Errorf("read what is mounted at %s: %w", target, err)
	}
	if ok && have.Device == want.Device && have.Root == want.Root {
		return nil
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the live directory to %s: %w", target, withRemedy(err))
	}
	return nil
}

// mountOf is what a bind mount of source would be. A declared directory is at the top of the file server's root.
func mountOf(source string) (mountinfo.Mount, error) {
	i := strings.LastIndexByte(source, '/')
	root, ok, err := mountinfo.Top(source[:i])
	if err == nil && (!ok || root.Type != fsType) {
		err = errors.New("no file server is mounted there")
	}
	if err != nil {
		return mountinfo.Mount{}, fmt.Errorf("the live directory %s: %w", source, err)
	}
	root.Root = source[i:]
	return root, nil
}

const fsType = "fuse.live"

// maxLayers bounds Clear: one is added each time that a file server dies.
const maxLayers = 10_000

// Clear unmounts all that was placed at target, until it is bare. What still has a file open there keeps that.
func Clear(target string) error {
	for range maxLayers {
		switch err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case err == nil:
		case err == unix.EINVAL, errors.Is(err, fs.ErrNotExist):
			return nil // nothing is mounted there
		default:
			return fmt.Errorf("unmount %s: %w", target, withRemedy(err))
		}
	}
	return fmt.Errorf("unmount %s: still mounted after %d times", target, maxLayers)
}

// withRemedy says what a mount or unmount lacks that is not permitted.
func withRemedy(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: root with CAP_SYS_ADMIN is needed", err)
	}
	return err
}

// Users counts the mounts of what is placed at target, in all mount namespaces, but for that one itself: each
// container that a directory was bound into has one. Copies of target in namespaces that have the host's files are no users.
func Users(target string) (int, error) {
	self, err := mountinfo.Self()
	if err != nil {
		return 0, err
	}
	placed := map[[2]string]bool{}
	for _, m := range self {
		if m.Point == target && m.Type == fsType {
			placed[[2]string{m.Device, m.Root}] = true
		}
	}
	users := 0
	err = mountinfo.Each(func(m mountinfo.Mount) {
		if placed[[2]string{m.Device, m.Root}] && m.Point != target {
			users++
		}
	})
	return users, err
}

// SharedDir makes dir the mount point of a small tmpfs of its own that is shared, as targets of Place need it: what is placed
// later in a directory of it is then seen by containers that have the directory.
func SharedDir(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	m, ok, err := mountinfo.Top(dir)
	if err != nil {
		return err
	}
	if !ok {
		flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
		if err := unix.Mount("nomad-driver-secrets", dir, "tmpfs", flags, "mode=0711,size=1m,nr_inodes=20k"); err != nil {
			return fmt.Errorf("mount a tmpfs at %s: %w", dir, withRemedy(err))
		}
	}
	if !m.Shared {
		if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
			return fmt.Errorf("make the mount at %s a shared one: %w", dir, err)
		}
	}
	return nil
}
