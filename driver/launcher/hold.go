package launcher

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bound is how long a launcher waits for its command, and Release for the launcher.
const Bound = 60 * time.Second

// Hold is one start, of a container or of an exec in one, that waits at the launcher: two FIFOs in
// the task's secrets directory. That directory is the container's too, and what is in it may be
// renamed, removed and replaced by a hostile one. So the FIFOs are held by descriptors (O_PATH), and
// their names are used only to remove them.
type Hold struct {
	bound time.Duration

	mu      sync.Mutex // for what Remove ends
	removed bool
	dir     *os.File
	in, out *fifo
}

// fifo is one of a Hold's two.
type fifo struct {
	name string
	path *os.File // O_PATH: a name for the inode that cannot be taken away
}

// New makes the FIFOs, which only root can open until Release. One of Release and Remove must follow.
func New(secretsDir string) (_ *Hold, err error) {
	h := &Hold{bound: Bound}
	defer func() {
		if err != nil {
			h.Remove()
			err = fmt.Errorf("make the launcher's FIFOs: %w", err)
		}
	}()
	h.dir, err = os.OpenFile(secretsDir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	name := ".launch-" + rand.Text()
	if h.in, err = makeFIFO(h.dir, name+"-in"); err != nil {
		return nil, err
	}
	h.out, err = makeFIFO(h.dir, name+"-out")
	return h, err
}

func makeFIFO(dir *os.File, name string) (*fifo, error) {
	fd := int(dir.Fd())
	if err := unix.Mkfifoat(fd, name, 0o600); err != nil {
		return nil, fmt.Errorf("mkfifo: %w", err)
	}
	pathFD, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open FIFO: %w", err), unix.Unlinkat(fd, name, 0))
	}
	f := &fifo{name: name, path: os.NewFile(uintptr(pathFD), name)}
	// Somebody may have been between the two calls. What is root's, a FIFO and has this one name is
	// as good as ours.
	var st unix.Stat_t
	err = unix.Fstat(pathFD, &st)
	if err == nil && (st.Mode != unix.S_IFIFO|0o600 || st.Uid != 0 || st.Nlink != 1) {
		err = errors.New("the FIFO was replaced")
	}
	if err != nil {
		return nil, errors.Join(err, unix.Unlinkat(fd, name, 0), f.path.Close())
	}
	return f, nil
}

// Args are the launcher's arguments, given the path of the secrets directory in the container. shown
// is the app's own command, for whoever reads `docker inspect` or a process list: the launcher
// ignores it.
func (h *Hold) Args(containerSecretsDir string, shown ...string) []string {
	args := []string{
		path.Join(containerSecretsDir, h.in.name),
		path.Join(containerSecretsDir, h.out.name),
		strconv.Itoa(int(h.bound / time.Second)),
	}
	if len(shown) > 0 {
		args = append(append(args, "--"), shown...)
	}
	return args
}

// Remove gives the start up: a launcher that waits ends. It is idempotent, and does nothing after
// Release.
func (h *Hold) Remove() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unlink()
	for _, f := range []*fifo{h.in, h.out} {
		if f != nil {
			_ = f.path.Close()
		}
	}
	if h.dir != nil {
		_ = h.dir.Close()
	}
}

// disappear removes the names, while both FIFOs are in use.
func (h *Hold) disappear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unlink()
}

// unlink is called with the lock held. A name that the container took away, or made a directory of, is left.
func (h *Hold) unlink() {
	if h.removed || h.dir == nil {
		return
	}
	h.removed = true
	for _, f := range []*fifo{h.in, h.out} {
		if f != nil {
			_ = unix.Unlinkat(int(h.dir.Fd()), f.name, 0)
		}
	}
}

// chown gives the FIFO to its reader in the container.
func (f *fifo) chown(o Owner) error {
	return f.control(func(fd int) error {
		return unix.Fchownat(fd, "", o.UID, o.GID, unix.AT_EMPTY_PATH)
	})
}

// open opens the FIFO for reading or writing, without waiting for the other side.
func (f *fifo) open(flag int) (opened *os.File, err error) {
	err = f.control(func(fd int) error {
		opened, err = os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), flag|unix.O_NONBLOCK, 0)
		return err
	})
	return opened, err
}

// control runs fn on the descriptor, which cannot be closed and used anew meanwhile.
func (f *fifo) control(fn func(fd int) error) error {
	raw, err := f.path.SyscallConn()
	if err != nil {
		return err
	}
	var fnErr error
	if err := raw.Control(func(fd uintptr) { fnErr = fn(int(fd)) }); err != nil {
		return os.ErrClosed // by Remove: Control has no other error
	}
	return fnErr
}
