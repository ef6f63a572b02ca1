package leakscan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
	"golang.org/x/sys/unix"
)

// Mounts says which file systems mounted below a tree's root belong to it.
type Mounts int

// Which mounts belong to a tree.
const (
	AllMounts Mounts = iota
	NoTmpfs          // all but those in memory
	NoMounts         // none, bind mounts included
)

// TreeOptions say what of a tree to leave out. Each thing left out is in the report.
type TreeOptions struct {
	Mounts Mounts
	// Skip are file names that are left out wherever they are.
	Skip []string
	// SkipDirs are directories that are left out with all below them: patterns of filepath.Match for the path
	// from the root.
	SkipDirs []string
	// Enter says of a directory, by its path from the root, whether it belongs to the tree; nil: all do. What does not is not
	// in the report.
	Enter func(rel string) bool
	// MaxFile is how much of a file is looked at, at the most; 0: all.
	MaxFile int64
}

// maxDepth is how deep a tree is looked through: a directory is open for each step.
const maxDepth = 200

// Tree is a directory and all that is below it: the files' content, their names, and where symlinks
// point to. No symlink is followed, except by root itself, and what is neither file nor directory
// (sockets, devices, FIFOs) has no content to look at. What vanishes meanwhile is not missed.
//
// The tree may be another's, who changes it meanwhile: each step is taken from the directory before it, by descriptor, and what
// was found to be a regular file is what is read.
func Tree(name, root string, opts TreeOptions) Source {
	return Source{Name: name, read: func(ctx context.Context, v *visitor) error {
		root, err := filepath.EvalSymlinks(root)
		if err != nil {
			return err
		}
		w := &walk{ctx: ctx, v: v, opts: opts, root: root}
		top, err := openPath(unix.AT_FDCWD, root)
		if err != nil {
			return fmt.Errorf("%s: %w", root, err)
		}
		defer top.Close()
		if w.mount, err = mountOf(top); err != nil {
			return fmt.Errorf("%s: %w", root, err)
		}
		err = w.visit(top, root, 0)
		if w.moreErrs > 0 {
			w.errs = append(w.errs, fmt.Errorf("and %d more", w.moreErrs))
		}
		return errors.Join(append(w.errs, err)...)
	}}
}

// Files calls visit with each regular file of a tree, which it walks as Tree does. What visit returns ends nothing, and is in the error.
func Files(ctx context.Context, root string, opts TreeOptions, visit func(path string, content io.Reader) error) error {
	v := &visitor{scanner: &Scanner{}, report: &Report{}, files: visit}
	return Tree("", root, opts).read(ctx, v)
}

type walk struct {
	ctx      context.Context
	v        *visitor
	opts     TreeOptions
	root     string
	mount    mount
	errs     []error
	moreErrs int
}

// visit looks at what an O_PATH descriptor is of. Its error ends the walk: it is the context's.
func (w *walk) visit(f *os.File, path string, depth int) error {
	if w.ctx.Err() != nil {
		return w.ctx.Err()
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		w.note(path, err)
		return nil
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR && path != w.root && w.opts.Enter != nil && !w.opts.Enter(w.rel(path)) {
		return nil
	}
	if w.v.files != nil && kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return nil
	}
	if (kind == unix.S_IFDIR || kind == unix.S_IFREG) && path != w.root { // a file can be mounted, too
		if why := w.leaveOut(f, path, kind); why != "" {
			w.v.skip(path + ": " + why)
			return nil
		}
	}
	switch {
	case kind == unix.S_IFDIR && depth > maxDepth:
		w.v.skip(fmt.Sprintf("%s: more than %d directories deep", path, maxDepth))
	case kind == unix.S_IFDIR:
		return w.dir(f, path, depth)
	case slices.Contains(w.opts.Skip, filepath.Base(path)):
		w.v.skip(path)
	case kind == unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(f.Fd()), "", buf)
		if err == nil {
			err = w.v.visit(path, strings.NewReader(string(buf[:n])))
		}
		w.note(path, err)
	case kind == unix.S_IFREG:
		w.note(path, w.file(f, path, st.Size))
	default:
		w.note(path, w.v.visit(path, strings.NewReader("")))
	}
	return nil
}

// rel is a path from the root.
func (w *walk) rel(path string) string {
	return strings.TrimPrefix(path, strings.TrimSuffix(w.root, "/")+"/")
}

// leaveOut says why something does not belong to the tree, if so.
func (w *walk) leaveOut(f *os.File, path string, kind uint32) string {
	if kind == unix.S_IFDIR && len(w.opts.SkipDirs) > 0 {
		for _, pattern := range w.opts.SkipDirs {
			if match, err := filepath.Match(pattern, w.rel(path)); match && err == nil {
				return "left out"
			}
		}
	}
	if w.opts.Mounts == AllMounts {
		return ""
	}
	on, err := mountOf(f)
	if err != nil || on == w.mount {
		return "" // an error is met again, and noted, when it is read
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return ""
	}
	inMemory := fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC
	switch {
	case inMemory && (w.opts.Mounts == NoMounts || on.device != w.mount.device):
		return "in memory"
	case w.opts.Mounts == NoMounts:
		return fmt.Sprintf("another file system, or a bind mount (type %#x)", fs.Type)
	}
	return ""
}

// dirBatch is how many names of a directory are in memory at once.
const dirBatch = 1024

func (w *walk) dir(f *os.File, path string, depth int) error {
	d, err := os.Open(beneath.PathOf(f))
	if err != nil {
		w.note(path, err)
		return nil
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(dirBatch)
		slices.Sort(names)
		for _, name := range names {
			if err := w.entry(d, name, filepath.Join(path, name), depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			w.note(path, err)
			return nil
		}
	}
}

func (w *walk) entry(dir *os.File, name, path string, depth int) error {
	f, err := openPath(int(dir.Fd()), name)
	if err != nil {
		w.note(path, err)
		return nil
	}
	defer f.Close()
	return w.visit(f, path, depth+1)
}

// file reads a regular file, which the descriptor is of, whatever its name means by now.
func (w *walk) file(f *os.File, path string, size int64) error {
	var on unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &on); err != nil {
		return err
	}
	if on.Type == unix.NSFS_MAGIC { // a namespace looks like a file, and has no content
		return w.v.visit(path, strings.NewReader(""))
	}
	content, err := os.OpenFile(beneath.PathOf(f), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer content.Close()
	if w.opts.MaxFile <= 0 {
		return w.v.visit(path, content)
	}
	if size > w.opts.MaxFile {
		w.v.skip(fmt.Sprintf("%s: all but its first %d MiB", path, w.opts.MaxFile>>20))
	}
	return w.v.visit(path, io.LimitReader(content, w.opts.MaxFile))
}

// maxErrors bounds what is kept of errors: who fills a tree must not fill our memory.
const maxErrors = 100

// note keeps an error, in which paths are without values.
func (w *walk) note(path string, err error) {
	if err == nil || gone(err) {
		return
	}
	if len(w.errs) >= maxErrors {
		w.moreErrs++
		return
	}
	var of *fs.PathError
	if errors.As(err, &of) {
		err = of.Err
	}
	w.errs = append(w.errs, fmt.Errorf("%s: %w", w.v.scanner.redact(path), err))
}

func openPath(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// mount tells mounts apart. Kernels before 5.8 do not number them; there bind mounts within one device look like one.
type mount struct{ device, id uint64 }

func mountOf(f *os.File) (mount, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return mount{}, err
	}
	m := mount{device: unix.Mkdev(st.Dev_major, st.Dev_minor)}
	if st.Mask&unix.STATX_MNT_ID != 0 {
		m.id = st.Mnt_id
	}
	return m, nil
}
