package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Names in a secrets directory that are the publisher's. All begin with ReservedPrefix.
const (
	dataLink  = "..data" // → the set that the task sees now
	setPrefix = "..set-" // a directory with one set; a number follows
	linkTemp  = "..link" // a symlink on its way to its name
)

const (
	lastSet  = 999_999_999_999 // the highest number of a set's directory
	setTries = 16              // attempts at a free name for one
	dirPerms = 0o755           // of a set's directories: what is secret is in the files
	maxShare = 45              // percent of the file system that a set may take (S5)
	noOwner  = -1              // chown: leave as it is
)

// Publisher writes a task's files into its secrets directory, as one set (S6):
//
//	..set-000000000007/tls/{cert.pem,key.pem}   a set, root's
//	..data → ..set-000000000007                 what the task sees: this link is replaced, atomically
//	tls → ..data/tls                            for each name at the top of the set
//
// A reader that opens the directory secrets/tls once, and its files in there, gets files that match.
// The set before the current one stays until the next is in place.
//
// The secrets directory is hostile: Nomad makes it 0777, so a task may plant and rename what it likes
// in it, at any moment. Nothing is therefore reached but through an os.Root on the directory, which no
// symlink leads out of; sets are written through a handle on a directory that is known to be ours; files
// are made with O_EXCL and given away by their descriptor. What a task can do is spoil its own files.
//
// Not safe for concurrent use: one task has one publisher.
type Publisher struct {
	root *os.Root
	dir  string // for messages
}

// OpenPublisher opens a task's secrets directory on the host and clears what a crash left there.
func OpenPublisher(dir string) (*Publisher, error) {
	before, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("open secrets directory: %w", err)
	}
	if !before.IsDir() {
		return nil, fmt.Errorf("open secrets directory: %s is not a directory", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open secrets directory: %w", err)
	}
	p := &Publisher{root: root, dir: dir}
	// Where a task may replace the directory by a symlink, it may do so between the two calls.
	if after, err := root.Stat("."); err != nil || !os.SameFile(before, after) {
		p.Close()
		return nil, fmt.Errorf("open secrets directory: %s was replaced while it was opened", dir)
	}
	if err := p.tidy(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Close lets go of the directory. What is published stays.
func (p *Publisher) Close() error { return p.root.Close() }

// Publish makes the set's files what the task sees. Files without an owner of their own get uid and
// gid (-1: root's). On an error the task goes on seeing what it saw.
func (p *Publisher) Publish(set *Set, uid, gid int) error {
	err := p.publish(set, uid, gid)
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w; other files take up the room there: enlarge the directory with the resources block's secrets option", err)
	}
	if err != nil {
		return fmt.Errorf("publish files: %w", err)
	}
	return nil
}

func (p *Publisher) publish(set *Set, uid, gid int) error {
	// What is written below the root must be checked here too: a set need not come from Render.
	for _, f := range set.files() {
		if err := checkFilePath(f.Path); err != nil {
			return fmt.Errorf("file %q: %w", f.Path, err)
		}
	}
	now, err := p.state()
	if err != nil {
		return err
	}
	tops := topNames(set)
	if len(tops) == 0 && now.current == "" {
		return nil // a task without files keeps an empty directory
	}
	if err := p.checkWay(tops, now); err != nil {
		return err
	}
	if err := p.clear(now, false); err != nil {
		return err
	}
	if err := p.checkSpace(set, now); err != nil {
		return err
	}
	next, err := p.write(set, now.number+1, uid, gid)
	if err != nil {
		return err
	}
	// The links come before the swap and show nothing until then: so new names, too, appear all at once.
	for _, name := range tops {
		if err := p.link(path.Join(dataLink, name), name); err != nil {
			return errors.Join(err, p.root.RemoveAll(next))
		}
	}
	if err := p.link(next, dataLink); err != nil {
		return errors.Join(err, p.root.RemoveAll(next))
	}
	// The swap is done. What follows only clears up, and the next call or the next start does it again:
	// an error here must not be taken for a failed publication.
	if after, err := p.state(); err == nil {
		after.previous = now.current
		_ = p.clear(after, true)
	}
	return nil
}

// Remove takes away all that was published, and what the task put in its place.
func (p *Publisher) Remove() error {
	now, err := p.state()
	if err != nil {
		return fmt.Errorf("remove files: %w", err)
	}
	// ..data goes first: from then on the task sees nothing, and not a part.
	errs := []error{p.root.RemoveAll(dataLink), p.clear(&published{}, true)}
	for _, name := range now.tops {
		if reserved(name) == nil {
			errs = append(errs, p.root.RemoveAll(name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove files: %w", err)
	}
	return nil
}

// published is what is in the directory.
type published struct {
	current  string   // the set's directory that ..data names; "" if none
	previous string   // the one before it
	number   uint64   // of the current
	tops     []string // the names at the top of the current set
}

// state reads what is there, trusting nothing: a ..data that is not a link to a set's directory counts as
// none.
func (p *Publisher) state() (*published, error) {
	st := &published{}
	target, err := p.root.Readlink(dataLink)
	if err != nil {
		return st, nil
	}
	n, ok := setNumber(target)
	if !ok || n > lastSet-setTries { // only a task can have set it so high; begin again
		return st, nil
	}
	if info, err := p.root.Lstat(target); err != nil || !info.IsDir() {
		return st, nil
	}
	st.current, st.number = target, n
	if st.tops, err = p.names(target); err != nil {
		return nil, err
	}
	top, err := p.names(".")
	if err != nil {
		return nil, err
	}
	var before uint64
	for _, name := range top {
		if n, ok := setNumber(name); ok && n < st.number && (st.previous == "" || n > before) {
			st.previous, before = name, n
		}
	}
	return st, nil
}

func (p *Publisher) names(dir string) ([]string, error) {
	// O_DIRECTORY: opening a FIFO in its place would wait for ever.
	f, err := p.root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

func setName(n uint64) string { return fmt.Sprintf("%s%012d", setPrefix, n) }

func setNumber(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, setPrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && setName(n) == name && n <= lastSet
}

// tidy is what a start does: it takes away what a crash left between any two steps of publish.
func (p *Publisher) tidy() error {
	st, err := p.state()
	if err != nil {
		return fmt.Errorf("tidy secrets directory: %w", err)
	}
	if err := p.clear(st, true); err != nil {
		return fmt.Errorf("tidy secrets directory: %w", err)
	}
	return nil
}

// clear removes every set but the current and the previous, links on their way, and, if stale, links to
// names that the current set does not have.
func (p *Publisher) clear(st *published, stale bool) error {
	names, err := p.names(".")
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		switch {
		case name == dataLink && st.current == "",
			name == linkTemp,
			strings.HasPrefix(name, setPrefix) && name != st.current && name != st.previous:
			errs = append(errs, p.root.RemoveAll(name))
		case stale && p.isOurLink(name) && !slices.Contains(st.tops, name):
			errs = append(errs, p.root.Remove(name))
		}
	}
	return errors.Join(errs...)
}

func (p *Publisher) isOurLink(name string) bool {
	target, err := p.root.Readlink(name)
	return err == nil && target == path.Join(dataLink, name)
}

// checkWay refuses a name that something else has: it would be lost. What stands in place of a name
// of the current set is ours to replace: programs that edit a file in place put a file over the link.
func (p *Publisher) checkWay(tops []string, st *published) error {
	for _, name := range tops {
		if _, err := p.root.Lstat(name); errors.Is(err, fs.ErrNotExist) || p.isOurLink(name) || slices.Contains(st.tops, name) {
			continue
		} else if err != nil {
			return err
		}
		return fmt.Errorf("file %q: something else has that name in the secrets directory (a template block, or the task itself); use another name", name)
	}
	return nil
}

// checkSpace upholds S5's limit before anything is written. Where the room is short, the previous set goes
// before its time.
func (p *Publisher) checkSpace(set *Set, st *published) error {
	var fsys unix.Statfs_t
	dir, err := p.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	statfs := func() error {
		if err := unix.Fstatfs(int(dir.Fd()), &fsys); err != nil {
			return fmt.Errorf("space in the secrets directory: %w", err)
		}
		return nil
	}
	if err := statfs(); err != nil {
		return err
	}
	if fsys.Blocks == 0 { // a tmpfs without a limit
		return nil
	}
	block := uint64(fsys.Bsize)
	need, total := setBlocks(set, block)*block, fsys.Blocks*block
	if need > total*maxShare/100 {
		return fmt.Errorf("the files take %s and the secrets directory has %s, of which one set may take %d%% (a rotation holds two); set secrets = %d or more in the task's resources block",
			size(need), size(total), maxShare, (need*100/maxShare)>>20+1)
	}
	if need > fsys.Bavail*block && st.previous != "" {
		if err := p.root.RemoveAll(st.previous); err != nil {
			return err
		}
		st.previous = ""
		if err := statfs(); err != nil {
			return err
		}
	}
	if need > fsys.Bavail*block {
		return fmt.Errorf("the files take %s and of the secrets directory's %s only %s are free; remove what else is in there, or set a larger secrets in the task's resources block",
			size(need), size(total), size(fsys.Bavail*block))
	}
	return nil
}

// setBlocks is what a set takes on disk: whole blocks for each file, and one for each directory, which is
// what file systems other than tmpfs need.
func setBlocks(set *Set, block uint64) uint64 {
	n := uint64(1)
	dirs := map[string]bool{".": true}
	for _, f := range set.files() {
		n += (uint64(f.Data.Len()) + block - 1) / block
		for d := path.Dir(f.Path); !dirs[d]; d = path.Dir(d) {
			dirs[d] = true
			n++
		}
	}
	return n
}

func size(n uint64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%d KiB", (n+1023)>>10)
	}
	return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20)
}

// topNames are the names at the top of a set, sorted.
func topNames(set *Set) []string {
	var out []string
	for _, f := range set.files() {
		top, _, _ := strings.Cut(f.Path, "/")
		out = append(out, top)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
