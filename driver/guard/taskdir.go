package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
)

// HardenTaskDir makes a task's directory root's and sticky, and the directories of its containers' binds
// root's: Nomad makes them nobody's, for everybody to write to, so that whoever reaches them could put a symlink in the
// place of what root opens there by name. Everybody may still write. Of the files that root will write to
// (the executor's log, resolv.conf), one that is not root's own is removed, and an empty one put there.
//
// Nomad sets the modes back at each start of the task: so this is for each start, and each recovery.
func HardenTaskDir(allocDir, task string, rootsFiles ...string) error {
	dir, err := openBelow(allocDir, task)
	if err != nil {
		return fmt.Errorf("the task's directory: %w", err)
	}
	defer dir.Close()
	if err := isDir(dir); err != nil {
		return fmt.Errorf("the task's directory: %w", err)
	}
	if err := makeRoots(dir, 0o1777); err != nil {
		return err
	}
	for _, name := range []string{"local", "secrets"} {
		sub, err := beneath.Open(dir, name, unix.O_PATH|unix.O_DIRECTORY)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("the task's directory: %w: something else than Nomad put it there", err)
		}
		err = chown(sub)
		_ = sub.Close()
		if err != nil {
			return err
		}
	}
	for _, name := range rootsFiles {
		if err := ownFile(dir, name); err != nil {
			return fmt.Errorf("the task's directory: %s: %w", name, err)
		}
	}
	return nil
}

// RemoveForeign removes a file of an allocation's directory that is not root's own: of one that is there root
// binds what its name leads to.
func RemoveForeign(allocDir, name string) error {
	dir, err := openPath(allocDir, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	if own, err := isOwn(dir, name); own || errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("the allocation's directory: %s: %w", name, err)
	}
	return remove(dir, name)
}

// isOwn reports whether an entry of a directory is a regular file of root's, with one name.
func isOwn(dir *os.File, name string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 && int(st.Uid) == os.Geteuid(), nil
}

func remove(dir *os.File, name string) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
	}
	return err
}

// makeRoots changes the owner first: the old one could undo the mode.
func makeRoots(dir *os.File, mode uint32) error {
	if err := chown(dir); err != nil {
		return err
	}
	if err := unix.Fchmodat(unix.AT_FDCWD, beneath.PathOf(dir), mode, 0); err != nil {
		return fmt.Errorf("change the mode of %s: %w", dir.Name(), err)
	}
	return nil
}

func chown(file *os.File) error {
	if err := unix.Fchownat(int(file.Fd()), "", os.Geteuid(), os.Getegid(), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("change the owner of %s: %w", file.Name(), err)
	}
	return nil
}

// ownFile sees to it that a file of a hardened directory is root's own, and so stays there.
func ownFile(dir *os.File, name string) error {
	for range 10 { // somebody may put one there as often as we remove it, but not for long
		own, err := isOwn(dir, name)
		if own {
			return nil
		}
		if err == nil {
			err = remove(dir, name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
		if err == nil {
			return unix.Close(fd)
		}
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return errors.New("another process keeps replacing it")
}
