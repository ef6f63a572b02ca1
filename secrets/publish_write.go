package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// write makes a directory with the set in it and returns its name, at best that of number n.
func (p *Publisher) write(set *Set, n uint64, uid, gid int) (string, error) {
	name, dir, err := p.makeSetDir(n)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	if err := writeSet(dir, set, uid, gid); err != nil {
		return "", errors.Join(err, p.root.RemoveAll(name))
	}
	return name, nil
}

// makeSetDir makes an empty directory and opens it. A task may take the name away between the two: what
// was opened is made sure to be ours, which no one else can write in, or another name is tried.
func (p *Publisher) makeSetDir(n uint64) (string, *os.Root, error) {
	var last error
	for i := range uint64(setTries) {
		name := setName(n + i)
		if last = p.root.Mkdir(name, 0o700); last != nil {
			if errors.Is(last, fs.ErrExist) {
				continue
			}
			return "", nil, last
		}
		dir, err := p.root.OpenRoot(name)
		if err != nil {
			last = err
			continue
		}
		if last = isOurs(dir); last == nil {
			return name, dir, nil
		}
		dir.Close()
	}
	return "", nil, fmt.Errorf("make a directory for the set: %w", last)
}

func isOurs(dir *os.Root) error {
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
	if names, err := f.Readdirnames(1); len(names) > 0 {
		return errors.Join(errors.New("something is in it already"), err)
	}
	return nil
}

// writeSet writes the set's files into dir, and opens dir to readers when all is there.
func writeSet(dir *os.Root, set *Set, uid, gid int) error {
	for _, f := range set.files() {
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

func writeFile(dir *os.Root, rf RenderedFile, uid, gid int) (err error) {
	f, err := dir.OpenFile(rf.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(rf.Data.Bytes()); err != nil {
		return err
	}
	if uid != noOwner || gid != noOwner {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	return f.Chmod(rf.Perms.Perm())
}

// link makes name a symlink to target, atomically whatever is there but a directory, which only a task can
// have put there and which goes first.
func (p *Publisher) link(target, name string) error {
	if now, err := p.root.Readlink(name); err == nil && now == target {
		return nil
	}
	if err := p.root.RemoveAll(linkTemp); err != nil {
		return err
	}
	if err := p.root.Symlink(target, linkTemp); err != nil {
		return err
	}
	err := p.root.Rename(linkTemp, name)
	if info, statErr := p.root.Lstat(name); err != nil && statErr == nil && info.IsDir() {
		if err = p.root.RemoveAll(name); err == nil {
			err = p.root.Rename(linkTemp, name)
		}
	}
	return err
}
