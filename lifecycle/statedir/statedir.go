package statedir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/rootonly"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
)

// The names below the state directory.
const (
	journalName = "journal"
	sharedName  = "shared"
	channelName = "channel"
	liveName    = "live"
	lockName    = ".lock"
)

// ErrUnusable is in every error of Open: no task with secrets can run on this node until somebody repairs the
// directory, or gives the plugin another. Trying again helps as soon as that is done.
var ErrUnusable = errors.New("state_dir cannot be used")

// Dir is a state directory that is ready. Its methods give paths.
type Dir struct{ path string }

// Open makes the state directory at path ready, which includes mounting what is not in memory. It may be
// called by many at once, in several processes. Every error is an ErrUnusable that names path and a remedy.
func Open(path string) (*Dir, error) {
	d := &Dir{path: path}
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	return d, nil
}

func (d *Dir) open() error {
	top, err := rootonly.Make(d.path, 0o711)
	if err != nil {
		return fmt.Errorf("%s: %w; make it root's alone, or set state_dir to another directory", d.path, err)
	}
	defer top.Close()
	if err := d.letThrough(top); err != nil {
		return err
	}
	ready, err := d.ready(top)
	if ready || err != nil {
		return err
	}
	unlock, err := lock(top, lockTimeout)
	if err != nil {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	defer unlock()
	return d.make(top)
}

// Lock keeps every other process from making anything in the directory, until unlock. It does not wait for
// longer than seconds.
func (d *Dir) Lock() (unlock func(), err error) {
	top, err := rootonly.Open(d.path)
	if err == nil {
		defer top.Close()
		unlock, err = lock(top, lockTimeout)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.path, err)
	}
	return unlock, nil
}

// Journal is the directory for one driver's journals, root's alone. That it could not be made shows at
// its first use.
func (d *Dir) Journal(driver string) string {
	path := filepath.Join(d.path, journalName, driver)
	_ = os.Mkdir(path, 0o700)
	return path
}

// Channel is the directory for the launcher's channels.
func (d *Dir) Channel() string { return filepath.Join(d.path, sharedName, channelName) }

// Live is the directory for live directories.
func (d *Dir) Live() string { return filepath.Join(d.path, sharedName, liveName) }

// letThrough lets other users go through the directory, whom an older version kept out: a raw_exec task of
// another user reaches its channel so. The directory may be one of the operator's, so nothing is taken away.
func (d *Dir) letThrough(top *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(top.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", d.path, err)
	}
	if st.Mode&0o011 == 0o011 {
		return nil
	}
	if err := os.Chmod(beneath.PathOf(top), os.FileMode(st.Mode&0o777|0o011)); err != nil {
		return fmt.Errorf("let other users go through %s: %w", d.path, err)
	}
	return nil
}

// ready reports whether nothing needs to be made.
func (d *Dir) ready(top *os.File) (bool, error) {
	for _, p := range places {
		dir, err := openDir(top, p.name)
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", d.path, err)
		}
		ready, err := p.ready(top, dir)
		_ = dir.Close()
		if err != nil {
			return false, fmt.Errorf("%s: %w", d.path, err)
		}
		if !ready {
			return false, nil
		}
	}
	return true, nil
}

// make makes what is not there, under the lock.
func (d *Dir) make(top *os.File) error {
	for _, p := range places { // all first: an operator may have to mount something there
		if err := makeDir(top, p.name, p.mode); err != nil {
			return fmt.Errorf("%s: %w", d.path, err)
		}
	}
	for _, p := range places {
		if err := p.make(top); err != nil {
			return fmt.Errorf("%s: %w", d.path, err)
		}
	}
	return nil
}
