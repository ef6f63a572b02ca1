package secrets

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	privateDir = "private"
	// maxPrivate bounds a token or JWT read from a task's directory.
	maxPrivate = 64 << 10
	// settle is how long a file must not have been written to: many times what a write takes.
	settle = 10 * time.Millisecond
)

// HardenPrivate makes <task dir>/private root's alone. Nomad makes it 0777, so that until then any
// process that reaches the task directory may put its own token there (DESIGN 5). All is done on
// the open directory, never by name: what the name means may change in between.
func HardenPrivate(taskDir string) error {
	dir := filepath.Join(taskDir, privateDir)
	parent, err := openTaskDir(taskDir)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	fd, err := openat(parent, privateDir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return pathError("harden", dir, err)
	}
	defer unix.Close(fd)
	// The owner first: the old one could undo the mode.
	if err := unix.Fchown(fd, 0, 0); err != nil {
		return pathError("change the owner of", dir, err)
	}
	if err := unix.Fchmod(fd, 0o700); err != nil {
		return pathError("change the mode of", dir, err)
	}
	return nil
}

// ReadPrivate reads a token or JWT that Nomad wrote below the task directory: rel is such as
// "private/vault.jwt". Who can write in that directory is not trusted: no symlink is followed on
// the way, and what is there must be a regular file with one name, of at most 64 KiB, owned by
// root or one of owners (Nomad gives an identity's JWT to the task's user). White space around the
// content is no part of it. A file that is missing, or has nothing in it yet, is NotFound.
func ReadPrivate(taskDir, rel string, owners ...int) (Value, error) {
	name := filepath.Join(taskDir, rel)
	fd, err := openBelow(taskDir, rel)
	if err != nil {
		return Value{}, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return readSettled(f, owners, time.Now, func() { time.Sleep(settle) })
}

// readSettled reads a file that Nomad may be writing; pause waits for it.
func readSettled(f *os.File, owners []int, now func() time.Time, pause func()) (Value, error) {
	// Nomad truncates and writes in place: a read in between sees nothing, or half. So a read
	// counts when the file was the same before and after it, and has settled; one that does not
	// settle is taken as it is in the end.
	const tries = 5
	for try := range tries {
		if try > 0 {
			pause()
		}
		before, err := checkPrivate(f, owners)
		if err != nil {
			return Value{}, err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return Value{}, Errorf(Outage, "%w", err)
		}
		content, err := io.ReadAll(io.LimitReader(f, maxPrivate+1))
		if err != nil {
			return Value{}, Errorf(Outage, "%w", err)
		}
		after, err := checkPrivate(f, owners)
		if err != nil {
			return Value{}, err
		}
		whole := int64(len(content)) == after.Size && before.Mtim == after.Mtim && before.Ctim == after.Ctim
		settled := now().Sub(time.Unix(after.Mtim.Unix())) >= settle || try == tries-1
		content = bytes.TrimSpace(content)
		if len(content) > 0 && whole && settled {
			return NewValue(content), nil
		}
	}
	return Value{}, Errorf(NotFound, "read %s: it is empty, or being written", f.Name())
}

// checkPrivate says whether an open file may be believed.
func checkPrivate(f *os.File, owners []int) (unix.Stat_t, error) {
	var st unix.Stat_t
	name := f.Name()
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return st, Errorf(Outage, "read %s: %w", name, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return st, Errorf(Invalid, "read %s: not a regular file: something else than Nomad put it there", name)
	case st.Nlink > 1:
		return st, Errorf(Invalid, "read %s: the file has another name elsewhere: something else than Nomad put it there", name)
	case st.Nlink == 0:
		return st, Errorf(NotFound, "read %s: removed meanwhile", name)
	case st.Uid != 0 && !slices.Contains(owners, int(st.Uid)):
		return st, Errorf(Invalid, "read %s: owned by user %d: something else than Nomad put it there", name, st.Uid)
	case st.Size > maxPrivate:
		return st, Errorf(Invalid, "read %s: larger than 64 KiB: neither a token nor a JWT", name)
	}
	return st, nil
}

// openBelow opens a file below the task directory, one path element at a time, and follows no link.
func openBelow(taskDir, rel string) (fd int, err error) {
	name := filepath.Join(taskDir, rel)
	if !filepath.IsLocal(rel) {
		return -1, Errorf(Invalid, "read %s: not below the task's directory", rel)
	}
	fd, err = openTaskDir(taskDir)
	if err != nil {
		return -1, err
	}
	elements := strings.Split(filepath.Clean(rel), "/")
	for i, element := range elements {
		flags := unix.O_PATH | unix.O_DIRECTORY
		if i == len(elements)-1 {
			flags = unix.O_RDONLY | unix.O_NONBLOCK // a FIFO must not hold us up; it is refused later
		}
		next, err := openat(fd, element, flags)
		_ = unix.Close(fd)
		if err != nil {
			return -1, pathError("read", name, err)
		}
		fd = next
	}
	return fd, nil
}

// openTaskDir opens what is the operator's to arrange: symlinks on the way there are theirs.
func openTaskDir(taskDir string) (int, error) {
	fd, err := openat(unix.AT_FDCWD, taskDir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, pathError("open", taskDir, err)
	}
	return fd, nil
}

// openat opens without following a link in name's last element.
func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

func pathError(doing, name string, err error) error {
	kind := Invalid
	switch {
	case errors.Is(err, unix.ENOENT):
		kind = NotFound
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return Errorf(kind, "%s %s: a symlink, or no directory, on the way: something else than Nomad put it there", doing, name)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		kind = Outage
	}
	return Errorf(kind, "%s %s: %w", doing, name, err)
}
