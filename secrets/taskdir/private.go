package taskdir

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
)

const (
	privateDir = "private"
	// maxPrivate bounds a token or JWT read from a task's directory.
	maxPrivate = 64 << 10
	// stableFor is how long a file must not have been written to: many times what a write takes.
	stableFor = 10 * time.Millisecond
)

// HardenPrivate makes <task dir>/private root's alone. Nomad makes it 0777, so that until then any
// process that reaches the task directory may put its own token there. All is done on
// the open directory, never by name: what the name means may change in between.
func HardenPrivate(taskDir string) error {
	dir, err := beneath.OpenIn(taskDir, privateDir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return pathError("harden", err)
	}
	defer dir.Close()
	// The owner first: the old one could undo the mode.
	if err := dir.Chown(0, 0); err != nil {
		return pathError("change the owner", err)
	}
	if err := dir.Chmod(0o700); err != nil {
		return pathError("change the mode", err)
	}
	return nil
}

// ReadPrivate reads a token or JWT that Nomad wrote below the task directory: rel is such as
// "private/vault.jwt". Who can write in that directory is not trusted: no symlink is followed on
// the way, and what is there must be a regular file with one name, of at most 64 KiB, owned by
// root or one of owners (Nomad gives an identity's JWT to the task's user). White space around the
// content is no part of it. A file that is missing, or has nothing in it yet, is NotFound.
func ReadPrivate(taskDir, rel string, owners ...int) (secrets.Value, error) {
	at, err := beneath.OpenIn(taskDir, rel, unix.O_PATH)
	if err != nil {
		return secrets.Value{}, pathError("read", err)
	}
	defer at.Close()
	f, err := openRegular(at, owners)
	if err != nil {
		return secrets.Value{}, err
	}
	defer f.Close()
	return readStable(f, owners, time.Now, func() { time.Sleep(stableFor) })
}

// openRegular opens for reading what at, an O_PATH file, is: once it is known to be a regular file that may be believed, for to open
// a device may be to act on it.
func openRegular(at *os.File, owners []int) (*os.File, error) {
	if _, err := checkPrivate(at, owners); err != nil {
		return nil, err
	}
	fd, err := unix.Open(beneath.PathOf(at), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, secrets.Errorf(secrets.Outage, "read %s: %w", at.Name(), err)
	}
	return os.NewFile(uintptr(fd), at.Name()), nil
}

// readStable reads a file that Nomad may be writing; pause waits for it.
func readStable(f *os.File, owners []int, now func() time.Time, pause func()) (secrets.Value, error) {
	// Nomad truncates and writes in place: a read in between sees nothing, or half. So a read
	// counts when the file was the same before and after it, and is stable; one that is not
	// is taken as it is in the end.
	const tries = 5
	for try := range tries {
		if try > 0 {
			pause()
		}
		before, err := checkPrivate(f, owners)
		if err != nil {
			return secrets.Value{}, err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return secrets.Value{}, secrets.Errorf(secrets.Outage, "%w", err)
		}
		content, err := io.ReadAll(io.LimitReader(f, maxPrivate+1))
		if err != nil {
			return secrets.Value{}, secrets.Errorf(secrets.Outage, "%w", err)
		}
		after, err := checkPrivate(f, owners)
		if err != nil {
			return secrets.Value{}, err
		}
		whole := int64(len(content)) == after.Size && before.Mtim == after.Mtim && before.Ctim == after.Ctim
		stable := now().Sub(time.Unix(after.Mtim.Unix())) >= stableFor || try == tries-1
		content = bytes.TrimSpace(content)
		if len(content) > 0 && whole && stable {
			return secrets.NewValue(content), nil
		}
	}
	return secrets.Value{}, secrets.Errorf(secrets.NotFound, "read %s: it is empty, or being written", f.Name())
}

// checkPrivate says whether an open file may be believed.
func checkPrivate(f *os.File, owners []int) (unix.Stat_t, error) {
	var st unix.Stat_t
	name := f.Name()
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return st, secrets.Errorf(secrets.Outage, "read %s: %w", name, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return st, secrets.Errorf(secrets.Invalid, "read %s: not a regular file: something else than Nomad put it there", name)
	case st.Nlink > 1:
		return st, secrets.Errorf(secrets.Invalid, "read %s: the file has another name elsewhere: something else than Nomad put it there", name)
	case st.Nlink == 0:
		return st, secrets.Errorf(secrets.NotFound, "read %s: removed meanwhile", name)
	case st.Uid != 0 && !slices.Contains(owners, int(st.Uid)):
		return st, secrets.Errorf(secrets.Invalid, "read %s: owned by user %d: something else than Nomad put it there", name, st.Uid)
	case st.Size > maxPrivate:
		return st, secrets.Errorf(secrets.Invalid, "read %s: larger than 64 KiB: neither a token nor a JWT", name)
	}
	return st, nil
}

func pathError(operation string, err error) error {
	name := privateDir
	if of, ok := errors.AsType[*fs.PathError](err); ok {
		name, err = of.Path, of.Err
	}
	kind := secrets.Invalid
	switch {
	case errors.Is(err, unix.ENOENT):
		kind = secrets.NotFound
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return secrets.Errorf(kind, "%s %s: a symlink, or no directory, on the way: something else than Nomad put it there", operation, name)
	case errors.Is(err, beneath.ErrOutside):
		return secrets.Errorf(kind, "%s %s: not below the task's directory", operation, name)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EAGAIN):
		kind = secrets.Outage
	}
	return secrets.Errorf(kind, "%s %s: %w", operation, name, err)
}
