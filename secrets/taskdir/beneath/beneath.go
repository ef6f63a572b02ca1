// Package beneath opens what is below a directory that others can write to. The kernel walks the path
// (openat2): it never leaves the directory and follows no link, whatever is exchanged meanwhile.
package beneath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrOutside is of a path that is not below its directory, by what it says.
var ErrOutside = errors.New("the path leads out of the directory")

// attempts bounds how often the kernel is asked again: it answers EAGAIN where something was renamed on the way.
const attempts = 100

// Open opens rel below dir with the flags of open(2). A symbolic link on the way, or at its end, is ELOOP. The
// errors of the path are *fs.PathError; what exists for the caller to open is the kernel's to say, so the type of
// the file is the caller's to check.
func Open(dir *os.File, rel string, flags int) (*os.File, error) {
	name := filepath.Join(dir.Name(), rel)
	if !filepath.IsLocal(rel) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: ErrOutside}
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	var fd int
	var err error
	for range attempts {
		fd, err = unix.Openat2(int(dir.Fd()), filepath.Clean(rel), &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	if errors.Is(err, unix.ENOSYS) {
		err = fmt.Errorf("%w: the kernel lacks openat2; Linux 5.6 or later is needed", err)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// OpenIn is Open below the directory at a path. Links on the way to that directory are followed: they are the
// operator's. The directory itself must be none.
func OpenIn(dir, rel string, flags int) (*os.File, error) {
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return Open(d, rel, flags)
}

// PathOf is a path that leads to what an open file is of, and to nothing else, whatever is exchanged meanwhile: for calls that
// take a path only.
func PathOf(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
