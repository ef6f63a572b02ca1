package launcher

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher/internal/wire"
)

// Bound is how long a launcher waits for its command, and Release for the launcher.
const Bound = 60 * time.Second

// Hold is one start, of a container or of a command in a running task, that waits at the launcher: two FIFOs in
// the task's channel. They are held by descriptors (O_PATH), and their names are used only to remove them.
type Hold struct {
	bound   time.Duration
	version byte // that the launcher speaks
	name    string
	meet    func() // called when a launcher waits, before it has its command; nil: nothing is

	mu      sync.Mutex // for what Remove ends
	removed bool       // the names are
	lingers bool       // the names are still to be removed
	dir     *os.File
	in, out *fifo
}

// fifo is one of a Hold's two.
type fifo struct {
	name string
	path *os.File // O_PATH: a name for the inode that cannot be taken away
}

// New makes the FIFOs in a task's channel. Only root can open them until Release. One of Release and Remove
// must follow.
func New(channel string) (*Hold, error) { return newHold(wire.Version, channel, ownDir) }

// NewInSecrets makes the FIFOs in a task's secrets directory: for containers that a plugin without channels
// has started, and whose launcher so is an older one. The directory is root's by now, and sticky
// (secrets.OpenPublisher), so nobody but the process's own user can put others in their place.
func NewInSecrets(secretsDir string) (*Hold, error) {
	return newHold(wire.InSecrets, secretsDir, stickyDir)
}

func newHold(version byte, dir string, check func(unix.Stat_t) error) (_ *Hold, err error) {
	h := &Hold{bound: Bound, version: version, name: randomName()}
	defer func() {
		if err != nil {
			h.discard()
			err = noRoom(fmt.Errorf("make the launcher's FIFOs: %w", err))
		}
	}()
	h.dir, err = os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(h.dir.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", dir, err)
	}
	if err := check(st); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	// An older launcher does not need them like this, and does not mind: who opens it is its owner.
	if h.in, err = makeFIFO(h.dir, h.name+"-in", 0o400); err != nil {
		return nil, err
	}
	out := h.name
	if version == wire.InSecrets { // whoever has seen the one name must not take the other
		out = randomName()
	}
	h.out, err = makeFIFO(h.dir, out+"-out", 0o200)
	return h, err
}

// randomName is one that nobody can know before it is there.
func randomName() string { return ".launch-" + rand.Text() }

// ownDir accepts a directory that nobody but root can put anything into.
func ownDir(st unix.Stat_t) error {
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("users other than root can write to it (owner %d, mode %04o)", st.Uid, st.Mode&0o7777)
	}
	return nil
}

// stickyDir accepts a directory in which nobody can rename or remove what is root's.
func stickyDir(st unix.Stat_t) error {
	if st.Mode&unix.S_ISVTX == 0 || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("users other than root can replace what is in it (owner %d, mode %04o)", st.Uid, st.Mode&0o7777)
	}
	return nil
}

func makeFIFO(dir *os.File, name string, mode uint32) (*fifo, error) {
	fd := int(dir.Fd())
	if err := unix.Mkfifoat(fd, name, mode); err != nil {
		return nil, fmt.Errorf("mkfifo: %w", err)
	}
	pathFD, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open FIFO: %w", err), unix.Unlinkat(fd, name, 0))
	}
	f := &fifo{name: name, path: os.NewFile(uintptr(pathFD), name)}
	// A container's root may be able to make its channel writable, and so may have been between the two
	// calls. What is root's, a FIFO and has this one name is as good as ours.
	var st unix.Stat_t
	err = unix.Fstat(pathFD, &st)
	if err == nil && (st.Mode != unix.S_IFIFO|mode || int(st.Uid) != os.Geteuid() || st.Nlink != 1) {
		err = errors.New("the FIFO was replaced")
	}
	if err != nil {
		return nil, errors.Join(err, unix.Unlinkat(fd, name, 0), f.path.Close())
	}
	return f, nil
}

// Meet has f called when the launcher waits, before it gets its command.
func (h *Hold) Meet(f func()) { h.meet = f }

// Has reports whether a process with these arguments is the launcher that waits, or has taken them from it: nobody can guess them.
func (h *Hold) Has(args []string) bool { return slices.Contains(args, h.name) }

// Args are the launcher's arguments, given the path that the directory of the FIFOs has for it. shown is the
// app's own command, for whoever reads `docker inspect` or a process list: the launcher ignores it.
func (h *Hold) Args(inside string, shown ...string) []string {
	args := []string{path.Clean(inside), h.name}
	if h.version == wire.InSecrets {
		args = []string{path.Join(inside, h.in.name), path.Join(inside, h.out.name)}
	}
	args = append(args, strconv.Itoa(int(h.bound/time.Second)))
	if len(shown) > 0 {
		args = append(append(args, "--"), shown...)
	}
	return args
}

// Remove gives the start up: a launcher that waits ends. It is idempotent, and does nothing after
// Release.
//
// An older launcher looks for its FIFOs by name again and again, in a directory where others may make files:
// it must not find theirs. So the names stay until it has ended, and it ends by its own bound.
func (h *Hold) Remove() {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.lingers:
	case h.version == wire.InSecrets && !h.removed:
		h.lingers = true
		time.AfterFunc(h.bound+grace, h.discard)
	default:
		h.close()
	}
}

// grace is how much later than an older launcher its FIFOs' names go.
const grace = 5 * time.Second

// discard takes the FIFOs away at once.
func (h *Hold) discard() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.close()
}

// close is called with the lock held.
func (h *Hold) close() {
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
