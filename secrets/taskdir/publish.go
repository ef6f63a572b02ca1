package taskdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Names in a secrets directory that are the publisher's. All begin with ReservedPrefix.
const (
	dataLink   = "..data"  // → the set that the task sees now
	setPrefix  = "..set-"  // a directory with one set; a number follows
	newPrefix  = "..new-"  // one that is being written; what follows nobody can guess
	linkPrefix = "..link-" // a symlink on its way to its name; the same
)

const (
	oldLinkTemp = "..link" // what older versions had for it
)

const (
	lastSet  = 999_999_999_999 // the highest number of a set's directory
	setTries = 16              // how far from the current one's number others of ours may be
	dirPerms = 0o755           // of a set's directories: what is secret is in the files
	maxShare = 45              // percent of the file system that a set may take (S5)
)

// NoOwner has files stay root's until they are given (Publisher.Give).
const NoOwner = -1

// Publisher writes a task's files into its secrets directory, as one set (S6):
//
//	..set-000000000007/tls/{cert.pem,key.pem}   a set, root's
//	..data → ..set-000000000007                 what the task sees: this link is replaced, atomically
//	tls → ..data/tls                            for each name at the top of the set
//
// A reader that opens the directory secrets/tls once, and its files in there, gets files that match.
// The set before the current one stays until the next is in place.
//
// The secrets directory is hostile: all may make files in it, so a task may plant what it likes in it, at any
// moment, and its own root may rename and remove. Nothing is therefore reached but through an os.Root on the directory, which no
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
		_ = p.Close()
		return nil, fmt.Errorf("open secrets directory: %s was replaced while it was opened", dir)
	}
	if err := p.Harden(); err != nil {
		_ = p.Close()
		return nil, err
	}
	p.tidy()
	return p, nil
}

// secretsMode lets anybody make files in the directory, as with Nomad's own drivers, and nobody rename or
// remove those of others.
const secretsMode = 0o777 | fs.ModeSticky

// Harden makes the directory root's, and sticky. Nomad makes it nobody's and 0777, so that whoever reaches it may
// exchange whatever is in it, the links of a set included.
func (p *Publisher) Harden() error {
	dir, err := p.root.Open(".")
	if err != nil {
		return fmt.Errorf("make %s root's: %w", p.dir, err)
	}
	defer dir.Close()
	// The owner first: the old one could undo the mode.
	if err := dir.Chown(os.Geteuid(), os.Getegid()); err != nil {
		return fmt.Errorf("make %s root's: %w", p.dir, err)
	}
	if err := dir.Chmod(secretsMode); err != nil {
		return fmt.Errorf("change the mode of %s: %w", p.dir, err)
	}
	return nil
}

// Close lets go of the directory. What is published stays.
func (p *Publisher) Close() error { return p.root.Close() }

// OnlyNomads reports whether a file that Nomad has written is in the directory: a regular one of root's, by
// no other name. Anything else of that name somebody has put there, and it is removed, if it lets itself be.
func (p *Publisher) OnlyNomads(name string) (bool, error) {
	info, err := p.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s in the secrets directory: %w", name, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && info.Mode().IsRegular() && ownerOf(info) == os.Geteuid() && st.Nlink == 1 {
		return true, nil
	}
	_ = p.discard(name)
	return false, nil
}

// Publish makes the set's files what the task sees. Files without an owner of their own get uid and
// gid (NoOwner: root's). On an error the task goes on seeing what it saw.
func (p *Publisher) Publish(set *secrets.Set, uid, gid int) error {
	err := p.publish(set, uid, gid)
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w; other files fill it: enlarge the directory with the resources block's secrets option", err)
	}
	if err != nil {
		return fmt.Errorf("publish files: %w", err)
	}
	return nil
}

func (p *Publisher) publish(set *secrets.Set, uid, gid int) error {
	// What is written below the root must be checked here too: a set need not come from Fit.
	for _, f := range files(set) {
		if err := secrets.CheckFilePath(f.Path); err != nil {
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
	if err := p.checkWay(tops, now, uid); err != nil {
		return err
	}
	// What others keep putting there does not go. If it is in the way, it is exchanged for ours.
	_ = p.clear(now, false)
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
			return errors.Join(err, p.discard(next))
		}
	}
	if err := p.link(next, dataLink); err != nil {
		return errors.Join(err, p.discard(next))
	}
	// The swap is done. What follows only clears up, and the next call or the next start does it again:
	// an error here must not be taken for a failed publication.
	if after, err := p.state(); err == nil {
		after.previous = now.current
		p.unlink(now.tops, after.tops)
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
	left := maxRemoved
	errs := []error{p.removeOurs(dataLink, &left), p.clear(&published{number: now.number}, true)}
	for _, name := range now.tops {
		if secrets.Reserved(name) == nil {
			errs = append(errs, p.removeOurs(name, &left))
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
		return st, nil //nolint:nilerr // whatever is there instead counts as none
	}
	n, ok := setNumber(target)
	if !ok || n > lastSet-setTries { // only a task can have set it so high; begin again
		return st, nil
	}
	if !p.isRoots(dataLink) || !p.isSet(target) {
		return st, nil
	}
	st.current, st.number = target, n
	if st.tops, err = p.names(target, secrets.MaxFiles); err != nil {
		return nil, err
	}
	for i := uint64(1); i <= 2*setTries && i < st.number; i++ {
		if p.isSet(setName(st.number - i)) {
			st.previous = setName(st.number - i)
			break
		}
	}
	return st, nil
}

// isSet reports whether a name is that of a directory of ours, which no one else can write in.
func (p *Publisher) isSet(name string) bool {
	info, err := p.root.Lstat(name)
	return err == nil && info.IsDir() && info.Mode()&0o022 == 0 && ownerOf(info) == os.Geteuid()
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
func (p *Publisher) tidy() {
	if st, err := p.state(); err == nil {
		_ = p.clear(st, true) // what others keep putting there does not go
	}
}

// clear removes every set but the current and the previous, links on their way, and, if stale, links to
// names that the current set does not have. What of it is at its usual place is found by its name; what
// else a crash left, only among the first entries of the directory.
func (p *Publisher) clear(st *published, stale bool) error {
	names, err := p.names(".", maxScanned)
	if err != nil {
		return err
	}
	var gone, links []string
	for _, name := range append(names, setsAround(st.number)...) {
		switch {
		case name == dataLink && st.current == "",
			name == oldLinkTemp, strings.HasPrefix(name, linkPrefix), strings.HasPrefix(name, newPrefix),
			strings.HasPrefix(name, setPrefix) && name != st.current && name != st.previous:
			gone = append(gone, name)
		case stale:
			links = append(links, name)
		}
	}
	left := maxRemoved
	var errs []error
	for _, name := range gone {
		errs = append(errs, p.removeOurs(name, &left))
	}
	p.unlink(links, st.tops)
	return errors.Join(errs...)
}

// unlink removes those of our links that are among names and not among keep.
func (p *Publisher) unlink(names, keep []string) {
	kept := make(map[string]bool, len(keep))
	for _, name := range keep {
		kept[name] = true
	}
	for _, name := range names {
		if !kept[name] && p.isOurLink(name) {
			_ = p.root.Remove(name)
		}
	}
}

func (p *Publisher) isOurLink(name string) bool {
	target, err := p.root.Readlink(name)
	return err == nil && target == path.Join(dataLink, name) && p.isRoots(name)
}

// checkWay refuses a name that something else has, of root's or of the task's user: it would be lost. What stands in
// place of a name of the current set is ours to replace: programs that edit a file in place put a file over the
// link. And nobody else has a right to the name.
func (p *Publisher) checkWay(tops []string, st *published, uid int) error {
	for _, name := range tops {
		info, err := p.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || p.isOurLink(name) || slices.Contains(st.tops, name) {
			continue
		} else if err != nil {
			return err
		}
		if owner := ownerOf(info); owner != os.Geteuid() && owner != uid {
			continue
		}
		return fmt.Errorf("file %q: something else has that name in the secrets directory (a template block, or the task itself); use another name", name)
	}
	return nil
}

// topNames are the names at the top of a set, sorted.
func topNames(set *secrets.Set) []string {
	var out []string
	for _, f := range files(set) {
		top, _, _ := strings.Cut(f.Path, "/")
		out = append(out, top)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
