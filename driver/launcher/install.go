package launcher

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/rootonly"
)

// ContainerPath is where the launcher is bound into a container, read-only.
const ContainerPath = "/.nomad-secrets-launcher"

// defaultDirs are on the root file system of most machines. Not /run, which Debian mounts noexec.
var defaultDirs = []string{"/var/lib/nomad-driver-secrets", "/usr/local/lib/nomad-driver-secrets"}

// ErrNotInstalled is of a host on whose disk the launcher cannot be put now.
var ErrNotInstalled = errors.New("no directory for the launcher")

// Installer puts the launcher on the host's disk: one for commands on the host, and one for each container. The zero
// value uses default directories. It may be used by many at once.
type Installer struct {
	Dirs []string // the first usable one is taken

	mu      sync.Mutex
	checked unix.Stat_t // of the file whose content was last found right
}

// Install sees to it that the launcher for commands on the host is there, and gives its path. It is for each start:
// what somebody has removed or changed meanwhile is put right. The file's name has the content's hash, so that an
// upgrade adds a file. A file of that name with other content is replaced. No container has it bound.
//
// A directory is usable if only root can write to it, and to all above it, and programs may be run
// from it.
func (i *Installer) Install() (hostPath string, err error) {
	err = i.inFirst(func(dir string) (err error) {
		hostPath, err = i.installIn(dir)
		return err
	})
	return hostPath, err
}

func (i *Installer) dirs() []string {
	if len(i.Dirs) == 0 {
		return defaultDirs
	}
	return i.Dirs
}

// inFirst does something in the first directory where it can be done.
func (i *Installer) inFirst(do func(dir string) error) error {
	var unusable []error
	for _, dir := range i.dirs() {
		err := do(dir)
		if err == nil {
			return nil
		}
		unusable = append(unusable, fmt.Errorf("%s: %w", dir, err))
	}
	return fmt.Errorf("%w: %w", ErrNotInstalled, errors.Join(unusable...))
}

func (i *Installer) installIn(dir string) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	opened, err := rootonly.Make(dir, 0o755)
	if err != nil {
		return "", err
	}
	defer opened.Close()
	// Docker resolves symlinks in what it binds. These are root's, so they lead to what was checked.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	var fsys unix.Statfs_t
	if err := unix.Fstatfs(int(opened.Fd()), &fsys); err != nil {
		return "", fmt.Errorf("statfs: %w", err)
	}
	if fsys.Flags&unix.MS_NOEXEC != 0 { // statfs(2): ST_NOEXEC, the same bit
		return "", errors.New("its file system is mounted noexec")
	}
	path := filepath.Join(dir, fileName())
	if i.intact(path) {
		return path, nil
	}
	return path, write(path)
}

// fileName has the content's hash. Older plugins bound "launcher-" and the hash into all containers, one of which may
// still run, and write to it: this is another file.
var fileName = sync.OnceValue(func() string {
	sum := sha256.Sum256(binary)
	return "launcher-host-" + hex.EncodeToString(sum[:8])
})

// intact reports whether path is the launcher, as root's, which nobody can change. Its content is compared
// once, and after that only if its inode has changed: to read it takes longer than all else.
func (i *Installer) intact(path string) bool {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Mode != unix.S_IFREG|0o555 || st.Uid != 0 {
		return false
	}
	if st.Dev == i.checked.Dev && st.Ino == i.checked.Ino && st.Ctim == i.checked.Ctim {
		return true
	}
	content, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(content, binary) {
		return false
	}
	i.checked = st
	return true
}

// write swaps the file in, so that whoever installs at the same time, or starts a container, finds
// either none or a whole one.
func write(path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(binary)
	err = errors.Join(err, f.Chmod(0o555), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && info.IsDir() { // Docker makes one of a bind's missing source
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return os.Rename(f.Name(), path)
}
