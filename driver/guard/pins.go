package guard

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/rootonly"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
)

// Pins are bind mounts of open files in a directory of root's, so that a process that takes a path (the Docker
// engine, the wrapped drivers' helpers) gets the file that was checked, whatever the task has renamed since.
// They are for the moment in which that process opens them: a container keeps its own mounts.
//
// The directory is locked as long as its Pins live, so that Sweep can tell what a crash has left.
type Pins struct {
	path string
	root *os.File
	dir  *os.File // with the lock

	mu sync.Mutex
	n  int
}

// NewPins makes a directory for pins in root, which is made, too, if need be. The engine must see the
// mounts that the agent makes; so it must for Nomad's secrets directories.
func NewPins(root string) (_ *Pins, err error) {
	// Others may pass, as a container's root must that the engine maps to another user, but not list.
	p := &Pins{path: filepath.Join(root, rand.Text())}
	if p.root, err = rootonly.Make(root, 0o711); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.Release()
		}
	}()
	// Locked before it has its name, lest a Sweep takes it for a leftover. One that comes between the two does: then again.
	for range pinTries {
		if err = p.make(); err == nil || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
	}
	return p, err
}

// pinTries is how often a Sweep may be in the way.
const pinTries = 10

// make makes the directory, with its lock.
func (p *Pins) make() (err error) {
	hidden := "." + filepath.Base(p.path)
	if err := unix.Mkdirat(int(p.root.Fd()), hidden, 0o711); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if p.dir, err = lockDir(p.root, hidden); err != nil {
		return err
	}
	return unix.Renameat(int(p.root.Fd()), hidden, int(p.root.Fd()), filepath.Base(p.path))
}

func openRoot(root string) (*os.File, error) {
	dir, err := os.OpenFile(root, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		_ = dir.Close()
		return nil, err
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		_ = dir.Close()
		return nil, fmt.Errorf("%s is owned by user %d, with mode %04o: only root may be able to write to it", root, st.Uid, st.Mode&0o7777)
	}
	return dir, nil
}

// lockDir opens a directory of pins with its lock. It does not wait: one that is locked is in use.
func lockDir(root *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(root.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Add pins an open file, and gives its path.
func (p *Pins) Add(file *os.File) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir == nil {
		return "", os.ErrClosed
	}
	name := strconv.Itoa(p.n)
	p.n++
	dir := int(p.dir.Fd())
	mountpoint := func() error { return unix.Mknodat(dir, name, unix.S_IFREG|0o600, 0) }
	if isDir(file) == nil {
		mountpoint = func() error { return unix.Mkdirat(dir, name, 0o700) }
	}
	if err := mountpoint(); err != nil {
		return "", fmt.Errorf("pin %s: %w", file.Name(), err)
	}
	target := p.entry(name)
	if err := unix.Mount(beneath.PathOf(file), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("pin %s: %w", file.Name(), err)
	}
	// What is mounted below a shared mount is unmounted with its copies: a task's secrets would go with the pin.
	if err := unix.Mount("", target, "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("pin %s: %w", file.Name(), err)
	}
	return filepath.Join(p.path, name), nil
}

// ReadOnly lets nobody write through a pin, nor through what is mounted below it: the engines before Docker 25 make only the
// topmost mount of a bind read-only.
func ReadOnly(pinned string) error {
	err := unix.MountSetattr(unix.AT_FDCWD, pinned, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("make it read-only with all that is mounted in it: this needs Linux 5.12: %w", err)
	}
	if err != nil {
		return fmt.Errorf("make it read-only: %w", err)
	}
	return nil
}

// entry names an entry of the open directory, for calls that take a path.
func (p *Pins) entry(name string) string { return beneath.PathOf(p.dir) + "/" + name }

// Release takes the pins away. What has opened or bound them keeps them. It may be called more than once.
func (p *Pins) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir != nil {
		_ = clearDir(p.dir) // what cannot be removed is left for a Sweep
		_ = unix.Unlinkat(int(p.root.Fd()), filepath.Base(p.path), unix.AT_REMOVEDIR)
		_ = p.dir.Close()
		p.dir = nil
	}
	if p.root != nil {
		_ = p.root.Close()
		p.root = nil
	}
}

// clearDir unmounts and removes a directory's entries. Nothing is removed through a mount: an entry that
// is still one is busy.
func clearDir(dir *os.File) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		path := beneath.PathOf(dir) + "/" + name
		for unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
		err := unix.Unlinkat(int(dir.Fd()), name, 0)
		if errors.Is(err, unix.EISDIR) {
			err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Sweep removes the pins that a process has left which is gone.
func Sweep(root string) error {
	dir, err := openRoot(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		left, err := lockDir(dir, name)
		if err != nil {
			continue // in use, or gone
		}
		errs = append(errs, clearDir(left), unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR))
		_ = left.Close()
	}
	return errors.Join(errs...)
}
