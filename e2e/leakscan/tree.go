package leakscan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Mounts says which file systems mounted below a tree's root belong to it.
type Mounts int

// Which mounts belong to a tree.
const (
	AllMounts Mounts = iota
	NoTmpfs          // all but those in memory
	NoMounts         // none: as `find -xdev`
)

// TreeOptions say what of a tree to leave out. Each thing left out is in the report.
type TreeOptions struct {
	Mounts Mounts
	// Skip are file names that are left out wherever they are.
	Skip []string
}

// Tree is a directory and all that is below it: the files' content, their names, and where symlinks
// point to. No symlink is followed, except by root itself, and what is neither file nor directory
// (sockets, devices, FIFOs) has no content to look at. What vanishes meanwhile is not missed.
func Tree(name, root string, opts TreeOptions) Source {
	return Source{Name: name, read: func(ctx context.Context, v *visitor) error {
		root, err := filepath.EvalSymlinks(root)
		if err != nil {
			return err
		}
		w := &walk{ctx: ctx, v: v, opts: opts, root: root}
		if w.device, err = deviceOf(root); err != nil {
			return fmt.Errorf("%s: %w", root, err)
		}
		err = filepath.WalkDir(root, w.entry)
		return errors.Join(append(w.errs, err)...)
	}}
}

type walk struct {
	ctx    context.Context
	v      *visitor
	opts   TreeOptions
	root   string
	device uint64
	errs   []error
}

// entry is told of everything in the tree. It ends the walk only with its context.
func (w *walk) entry(path string, d fs.DirEntry, err error) error {
	if w.ctx.Err() != nil {
		return w.ctx.Err()
	}
	if err != nil {
		w.note(path, err)
		return nil
	}
	if d.IsDir() || d.Type().IsRegular() { // a file can be mounted, too
		if skip, why := w.leaveOut(path); skip {
			w.v.skip(path + ": " + why)
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
	}
	switch {
	case d.IsDir():
		return nil
	case slices.Contains(w.opts.Skip, d.Name()):
		w.v.skip(path)
		return nil
	case d.Type()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err == nil {
			err = w.v.visit(path, strings.NewReader(target))
		}
		w.note(path, err)
	case d.Type().IsRegular():
		w.note(path, w.file(path))
	default:
		w.note(path, w.v.visit(path, strings.NewReader("")))
	}
	return nil
}

// leaveOut says whether something is a mount that does not belong to the tree.
func (w *walk) leaveOut(path string) (skip bool, why string) {
	if path == w.root || w.opts.Mounts == AllMounts {
		return false, ""
	}
	device, err := deviceOf(path)
	if err != nil || device == w.device {
		return false, "" // an error is met again, and noted, when it is read
	}
	var on unix.Statfs_t
	if err := unix.Statfs(path, &on); err != nil {
		return false, ""
	}
	inMemory := on.Type == unix.TMPFS_MAGIC || on.Type == unix.RAMFS_MAGIC
	switch {
	case inMemory:
		return true, "in memory"
	case w.opts.Mounts == NoMounts:
		return true, fmt.Sprintf("another file system (type %#x)", on.Type)
	}
	return false, ""
}

func (w *walk) file(path string) error {
	// The name may have come to mean something else since: a FIFO must not hold us up.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	var on unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &on); err != nil {
		return err
	}
	if on.Type == unix.NSFS_MAGIC { // a namespace looks like a file, and has no content
		return w.v.visit(path, strings.NewReader(""))
	}
	return w.v.visit(path, f)
}

// note keeps an error, in which paths are without values.
func (w *walk) note(path string, err error) {
	if err == nil || gone(err) {
		return
	}
	var of *fs.PathError
	if errors.As(err, &of) {
		err = of.Err
	}
	w.errs = append(w.errs, fmt.Errorf("%s: %w", w.v.scanner.redact(path), err))
}

func deviceOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, err
	}
	return st.Dev, nil
}
