package taskdir

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// write makes a directory with the set in it and returns its name, that of number n. It is written under another
// name, which nobody can have taken before.
func (p *Publisher) write(set *secrets.Set, n uint64, uid, gid int) (string, error) {
	temp, dir, err := p.makeSetDir()
	if err != nil {
		return "", err
	}
	defer dir.Close()
	name := setName(n)
	err = writeSet(dir, set, uid, gid)
	if err == nil {
		err = p.place(temp, name)
	}
	if err != nil {
		return "", errors.Join(err, p.discard(temp))
	}
	return name, nil
}

// makeSetDir makes an empty directory and opens it. A container's root may take the name away between the two:
// what was opened is made sure to be ours, which no one else can write in.
func (p *Publisher) makeSetDir() (string, *os.Root, error) {
	name := newPrefix + rand.Text()
	if err := p.root.Mkdir(name, 0o700); err != nil {
		return "", nil, err
	}
	dir, err := p.root.OpenRoot(name)
	if err != nil {
		return "", nil, fmt.Errorf("open the directory for the set: %w", err)
	}
	if err := isOurs(dir); err != nil {
		_ = dir.Close()
		return "", nil, fmt.Errorf("open the directory for the set: %w", err)
	}
	return name, dir, nil
}

// onlyOurs refuses a directory that others can write in.
func onlyOurs(dir *os.Root) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return errors.New("somebody else's directory is in its place")
	}
	return nil
}

// isOurs refuses one with something in it, too.
func isOurs(dir *os.Root) error {
	if err := onlyOurs(dir); err != nil {
		return err
	}
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if names, err := f.Readdirnames(1); len(names) > 0 {
		return errors.Join(errors.New("something is in it already"), err)
	}
	return nil
}

// writeSet writes the set's files into dir, and opens dir to readers when all is there.
func writeSet(dir *os.Root, set *secrets.Set, uid, gid int) error {
	for _, f := range files(set) {
		if err := makeDirs(dir, path.Dir(f.Path)); err != nil {
			return fmt.Errorf("file %q: %w", f.Path, err)
		}
		if err := writeFile(dir, f, orElse(f.UID, uid), orElse(f.GID, gid)); err != nil {
			return fmt.Errorf("file %q: %w", f.Path, err)
		}
	}
	return chmodDir(dir, ".")
}

// makeDirs makes each directory of a path, whatever the umask.
func makeDirs(dir *os.Root, p string) error {
	if p == "." {
		return nil
	}
	if err := makeDirs(dir, path.Dir(p)); err != nil {
		return err
	}
	if err := dir.Mkdir(p, dirPerms); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return chmodDir(dir, p)
}

func chmodDir(dir *os.Root, p string) error {
	f, err := dir.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chmod(dirPerms)
}

func orElse(id *int, def int) int {
	if id == nil {
		return def
	}
	return *id
}

func writeFile(dir *os.Root, rf secrets.RenderedFile, uid, gid int) (err error) {
	if rf.Link != "" {
		return dir.Symlink(rf.Link, rf.Path)
	}
	f, err := dir.OpenFile(rf.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteString(rf.Data.Text()); err != nil {
		return err
	}
	if uid != NoOwner || gid != NoOwner {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	return f.Chmod(rf.Perms.Perm())
}

// link makes name a symlink to target, atomically, whatever is there.
func (p *Publisher) link(target, name string) error {
	if now, err := p.root.Readlink(name); err == nil && now == target && p.isRoots(name) {
		return nil
	}
	temp := linkPrefix + rand.Text()
	if err := p.root.Symlink(target, temp); err != nil {
		return err
	}
	if err := p.place(temp, name); err != nil {
		return errors.Join(err, p.discard(temp))
	}
	return nil
}

// place gives what has a name of ours another, atomically. What has that other name, be it even a directory,
// changes places with it, and goes. All may make files here: so it may come and go meanwhile, and what does not go
// is left, under a name that is of no use.
func (p *Publisher) place(temp, name string) error {
	dir, err := p.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	fd := int(dir.Fd())
	for range placeTries {
		err = unix.Renameat2(fd, temp, fd, name, unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) {
			break
		}
		if err = unix.Renameat2(fd, temp, fd, name, unix.RENAME_EXCHANGE); err == nil {
			_ = p.discard(temp)
			return nil
		}
		if !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("put %s in its place: %w", name, err)
	}
	return nil
}

// placeTries is how often a name may be gone again when it is to be exchanged.
const placeTries = 1000

// isRoots reports whether what has a name is ours: nobody but root can have made it.
func (p *Publisher) isRoots(name string) bool {
	info, err := p.root.Lstat(name)
	return err == nil && ownerOf(info) == os.Geteuid()
}

func ownerOf(info fs.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return NoOwner
	}
	return int(st.Uid)
}

// files are a set's; a nil set has none.
func files(set *secrets.Set) []secrets.RenderedFile {
	if set == nil {
		return nil
	}
	return set.Files
}
