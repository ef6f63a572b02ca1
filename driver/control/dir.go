package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/rootonly"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
)

// dirName is the sockets' directory, below the state directory.
const dirName = "status"

// dir is the sockets' directory, opened: what is in it is reached through the descriptor, whatever its path leads to
// now. A socket's path so is short enough for the kernel (107 bytes), however long the directory's is.
type dir struct{ f *os.File }

// makeDir makes the directory, root's alone.
func makeDir(stateDir string) (dir, error) {
	f, err := rootonly.Make(filepath.Join(stateDir, dirName), 0o700)
	if err != nil {
		return dir{}, fmt.Errorf("state_dir: %w", err)
	}
	d := dir{f}
	if err := os.Chmod(d.path("."), 0o700); err != nil {
		return dir{}, errors.Join(fmt.Errorf("state_dir: %w", err), f.Close())
	}
	return d, nil
}

// openDir opens the directory that a plugin has made.
func openDir(stateDir string) (dir, error) {
	f, err := rootonly.Open(filepath.Join(stateDir, dirName))
	return dir{f}, err
}

func (d dir) close() { _ = d.f.Close() }

func (d dir) path(name string) string { return beneath.PathOf(d.f) + "/" + name }

func (d dir) remove(name string) error { return unix.Unlinkat(int(d.f.Fd()), name, 0) }

// socket is one plugin process's, by its file's name.
type socket struct {
	name, driver string
	pid          int
}

func socketOf(driver string, pid int) socket {
	return socket{name: fmt.Sprintf("%s-%d.sock", driver, pid), driver: driver, pid: pid}
}

// newName is what a socket is called until it can be connected to.
func (s socket) newName() string { return "." + s.name }

var socketName = regexp.MustCompile(`^\.?(.+)-(\d+)\.sock$`)

// sockets are those in the directory, by name. New ones are those that cannot be connected to yet, or never will be.
func (d dir) sockets() (ready, unready []socket, err error) {
	entries, err := os.ReadDir(d.path("."))
	if err != nil {
		return nil, nil, fmt.Errorf("state_dir: %w", err)
	}
	for _, e := range entries {
		m := socketName.FindStringSubmatch(e.Name())
		if m == nil || e.Type() != fs.ModeSocket {
			continue
		}
		pid, err := strconv.Atoi(m[2])
		if err != nil {
			continue
		}
		s := socket{name: e.Name(), driver: m[1], pid: pid}
		if strings.HasPrefix(s.name, ".") {
			unready = append(unready, s)
		} else {
			ready = append(ready, s)
		}
	}
	return ready, unready, nil
}

// sweep removes the sockets of processes that have ended.
func (d dir) sweep() error {
	ready, unready, err := d.sockets()
	if err != nil {
		return err
	}
	for _, s := range ready {
		if d.refuses(s) {
			_ = d.remove(s.name)
		}
	}
	for _, s := range unready {
		if errors.Is(unix.Kill(s.pid, 0), unix.ESRCH) {
			_ = d.remove(s.name)
		}
	}
	return nil
}
