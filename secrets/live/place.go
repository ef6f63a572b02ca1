package live

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/mountinfo"
)

// Place binds a declared directory to target, a directory on a shared mount, unless it is there. What is mounted there already,
// of a file server that died, stays below: so who looks finds the one or the other at every moment.
func Place(source, target string) error {
	mounts, err := mountinfo.Self()
	if err != nil {
		return fmt.Errorf("read what is mounted at %s: %w", target, err)
	}
	want, err := mountOf(mounts, source)
	if err != nil {
		return err
	}
	if have, ok := mountinfo.TopOf(mounts, target); ok && have.Device == want.Device && have.Root == want.Root {
		return nil
	}
	if err := roomFor(mounts); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the live directory to %s: %w", target, withRemedy(err))
	}
	return nil
}

// mountOf is what a bind mount of source would be. A declared directory is at the top of the file server's root.
func mountOf(mounts []mountinfo.Mount, source string) (mountinfo.Mount, error) {
	i := strings.LastIndexByte(source, '/')
	root, ok := mountinfo.TopOf(mounts, source[:i])
	if !ok || root.Type != fsType {
		return mountinfo.Mount{}, fmt.Errorf("the live directory %s: no file server is mounted there", source)
	}
	root.Root = source[i:]
	return root, nil
}

// maxMounts bounds the mounts of live directories. Each time that a file server dies there is one more of each, and a container
// with CAP_SYS_ADMIN can end one over and over: the node must not come to the kernel's own bound (fs.mount-max, 100,000), at
// which nothing more can be mounted at all.
const maxMounts = 20_000

func roomFor(mounts []mountinfo.Mount) error {
	n := 0
	for _, m := range mounts {
		if m.Type == fsType {
			n++
		}
	}
	if n >= maxMounts {
		return fmt.Errorf("%d mounts of live directories: too many file servers have died; restart the tasks that have live directories, and find out what ends it (umount -f in a container with CAP_SYS_ADMIN?)", n)
	}
	return nil
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

// Users counts the mounts of what is placed at target, or of a folder in it, in all mount namespaces, but for that one itself:
// each container that a directory was bound into has one. Copies of target in namespaces that have the host's files are no users.
func Users(target string) (int, error) {
	self, err := mountinfo.Self()
	if err != nil {
		return 0, err
	}
	var placed []mountinfo.Mount
	for _, m := range self {
		if m.Point == target && m.Type == fsType {
			placed = append(placed, m)
		}
	}
	users := 0
	err = mountinfo.Each(func(m mountinfo.Mount) {
		ofPlaced := func(p mountinfo.Mount) bool { return m.Device == p.Device && m.Within(p.Root) }
		if m.Point != target && slices.ContainsFunc(placed, ofPlaced) {
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
