package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
)

// ErrOutside is of a path that leaves the allocation's directory.
var ErrOutside = errors.New("it leads out of the allocation's directory")

// Source is a file that is open and known to be inside of an allocation's directory.
type Source struct {
	File *os.File // O_PATH
	Rel  string   // where it is, below the allocation's directory; "." is the directory itself
}

// RootOpens reports whether a source is a directory in which root opens names while a container has it: the allocation's own, or
// another task's than that whose directory is taskDir. Their sticky bit keeps nobody from replacing one who is root in a container. Names in
// the task's own directory are opened when it has no container: HardenTaskDir looks at them then.
func (s *Source) RootOpens(taskDir string) bool {
	return (s.Rel == "." || !strings.Contains(s.Rel, "/") && s.Rel != sharedDir && s.Rel != filepath.Base(taskDir)) && isDir(s.File) == nil
}

// Resolve opens what a path inside of an allocation's directory means, following symlinks as the Docker
// engine would, and refuses what is not inside after all. What is asked is where the open file is, not what its
// path looks like: so nobody can change the answer by a rename.
//
// A directory that is not there is made if there is a maker, with all above it, as the Docker engine does for
// `volumes`; what is there already, a dangling symlink too, is not replaced.
func Resolve(allocDir, path string, maker Owner) (*Source, error) {
	root, err := openPath(allocDir, 0)
	if err != nil {
		return nil, fmt.Errorf("open the allocation's directory: %w", err)
	}
	defer root.Close()
	inside, err := location(root)
	if err != nil {
		return nil, err
	}
	file, rel, err := resolve(inside, filepath.Clean(path), maker)
	if err != nil {
		return nil, err
	}
	return &Source{File: file, Rel: rel}, nil
}

func resolve(inside, path string, maker Owner) (*os.File, string, error) {
	file, err := openPath(path, 0)
	if maker != nil && errors.Is(err, fs.ErrNotExist) && path != "/" {
		parent, _, err := resolve(inside, filepath.Dir(path), maker)
		if err != nil {
			return nil, "", err
		}
		defer parent.Close()
		file, err := makeDir(parent, filepath.Base(path), maker)
		if err != nil {
			return nil, "", fmt.Errorf("make directory %s: %w", path, err)
		}
		return within(inside, file)
	}
	if err != nil {
		return nil, "", err
	}
	return within(inside, file)
}

// within closes a file that is not inside.
func within(inside string, file *os.File) (*os.File, string, error) {
	at, err := location(file)
	if err != nil {
		_ = file.Close()
		return nil, "", err
	}
	rel, err := filepath.Rel(inside, at)
	if err != nil || !filepath.IsLocal(rel) {
		_ = file.Close()
		return nil, "", ErrOutside
	}
	return file, rel, nil
}

// Owner tells whose a directory is to be that is made.
type Owner func() (uid, gid int, err error)

// makeDir makes a directory as the Docker engine makes a bind's missing source.
func makeDir(parent *os.File, name string, maker Owner) (*os.File, error) {
	uid, gid, err := maker()
	if err != nil {
		return nil, err
	}
	err = unix.Mkdirat(int(parent.Fd()), name, 0o755)
	if errors.Is(err, unix.EEXIST) { // another start was faster
		return beneath.Open(parent, name, unix.O_PATH|unix.O_DIRECTORY)
	}
	if err != nil {
		return nil, err
	}
	dir, err := beneath.Open(parent, name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil || uid == os.Geteuid() && gid == os.Getegid() {
		return dir, err
	}
	if err := unix.Fchownat(int(dir.Fd()), "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		_ = dir.Close()
		return nil, err
	}
	return dir, nil
}

// location is where an open file is now. One that was removed is nowhere.
func location(file *os.File) (string, error) {
	at, err := os.Readlink(beneath.PathOf(file))
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return "", err
	}
	if st.Nlink == 0 || !filepath.IsAbs(at) {
		return "", fmt.Errorf("%s: %w", at, fs.ErrNotExist)
	}
	return at, nil
}

// OpenRegular opens a file that can be read without waiting (O_PATH): a regular one that has a size, which those of /proc and
// /sys have not.
func OpenRegular(path string) (*os.File, error) {
	file, err := openPath(path, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		_ = file.Close()
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 {
		_ = file.Close()
		return nil, fmt.Errorf("%s is no regular file, or an empty one", path)
	}
	return file, nil
}

// openPath opens a file without touching it: no device is opened, no FIFO waited for.
func openPath(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, unix.O_PATH|flags, 0)
}

// openBelow opens a path (O_PATH) below a directory that is trusted: no symlink is followed.
func openBelow(dir, rel string) (*os.File, error) {
	if !filepath.IsLocal(rel) {
		return nil, fmt.Errorf("%s: %w", rel, ErrOutside)
	}
	in, err := openPath(dir, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	file, err := beneath.Open(in, rel, unix.O_PATH)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%w: something else than Nomad put it there", err)
	}
	return file, err
}
