// Package rootonly opens directories that only root can change or replace. What the plugin reads there
// it acts upon as root, and what it runs from there runs as root in containers: so it must be sure that
// no other user of the host has put it there.
package rootonly

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links one path may go over, as in the kernel.
const maxLinks = 40

// Open opens the directory at an absolute path by descriptor (O_PATH). It refuses one that others than
// root may write to, and one that others may replace: a directory above it that is not root's, or is
// writable for others and not sticky. Symbolic links are followed if root made them: /var/run is one.
//
// The path is walked by descriptors, so that what was checked is what is opened; the kernel's own walk (openat2)
// checks no owners on the way. In tests that do not run
// as root, the process's own user counts as root. Errors name the directory that is at fault, which may be
// one above path.
func Open(path string) (*os.File, error) { return open(path, nil) }

// Make is Open for a directory that may be missing: it is made with mode perm, and what is missing above
// it with 0755, whatever the umask.
func Make(path string, perm uint32) (*os.File, error) { return open(path, &perm) }

func open(path string, perm *uint32) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New("not an absolute path")
	}
	dir, err := walk(path, perm)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("stat %s: %w", path, err), dir.Close())
	}
	if st.Mode&0o022 != 0 {
		return nil, errors.Join(writable(path, st), dir.Close())
	}
	return dir, nil
}

func walk(path string, perm *uint32) (*os.File, error) {
	dir, err := openRoot()
	if err != nil {
		return nil, err
	}
	at := "/" // the path of dir
	left := elements(path)
	for links := 0; len(left) > 0; {
		name := left[0]
		left = left[1:]
		if name == ".." { // from a link's text
			at, left = "/", append(elements(filepath.Dir(at)), left...)
			_ = dir.Close()
			if dir, err = openRoot(); err != nil {
				return nil, err
			}
			continue
		}
		var mode uint32 = 0o755
		if perm != nil && len(left) == 0 {
			mode = *perm
		}
		next, st, err := step(dir, at, name, perm != nil, mode)
		if err != nil {
			return nil, errors.Join(err, dir.Close())
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			_ = dir.Close()
			dir, at = next, filepath.Join(at, name)
			continue
		}
		target, err := readLink(next)
		_ = next.Close()
		if links++; links > maxLinks {
			err = unix.ELOOP
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", filepath.Join(at, name), err), dir.Close())
		}
		left = append(elements(target), left...)
		if filepath.IsAbs(target) {
			_ = dir.Close()
			if dir, err = openRoot(); err != nil {
				return nil, err
			}
			at = "/"
		}
	}
	return dir, nil
}

// step opens what is called name in dir: a directory or a symbolic link, and root's. With create, a
// directory that is missing is made.
func step(dir *os.File, at, name string, create bool, mode uint32) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	path := filepath.Join(at, name)
	fd, err := openAt(dir, name)
	if create && errors.Is(err, unix.ENOENT) {
		if err := unix.Mkdirat(int(dir.Fd()), name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, st, fmt.Errorf("make %s: %w", path, err)
		} else if err == nil {
			// The umask had its part in it.
			if err := unix.Fchmodat(int(dir.Fd()), name, mode, 0); err != nil {
				return nil, st, fmt.Errorf("make %s: %w", path, err)
			}
		}
		fd, err = openAt(dir, name)
	}
	if err != nil {
		return nil, st, fmt.Errorf("open %s: %w", path, err)
	}
	next := os.NewFile(uintptr(fd), path)
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, st, errors.Join(fmt.Errorf("stat %s: %w", path, err), next.Close())
	}
	if err := check(path, st); err != nil {
		return nil, st, errors.Join(err, next.Close())
	}
	return next, st, nil
}

// check refuses what users other than root can replace, or change what is in it.
func check(path string, st unix.Stat_t) error {
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is owned by user %d, not by root", path, st.Uid)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK: // its mode means nothing
		return nil
	case unix.S_IFDIR:
		if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
			return writable(path, st)
		}
		return nil
	}
	return fmt.Errorf("%s is not a directory", path)
}

func writable(path string, st unix.Stat_t) error {
	return fmt.Errorf("%s can be written to by users other than root (mode %04o)", path, st.Mode&0o7777)
}

func openRoot() (*os.File, error) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /: %w", err)
	}
	root := os.NewFile(uintptr(fd), "/")
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("stat /: %w", err), root.Close())
	}
	if err := check("/", st); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

func openAt(dir *os.File, name string) (int, error) {
	return unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// readLink reads the link that an O_PATH descriptor is of.
func readLink(link *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// elements are the names that a path goes over. ".." stays: after a link it is not what the text before
// it says.
func elements(path string) []string {
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return names
}
