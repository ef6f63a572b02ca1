package taskdir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A task may fill its secrets directory with as many names as fit, and put directories as deep as it likes
// in the place of ours. The plugin serves others, too: it looks at so many names a publication and removes
// so many, in pieces, and leaves the rest, which then spoils the task's own directory only (S8).
const (
	maxScanned   = 4096   // names of a directory that are looked at
	maxRemoved   = 20_000 // names that are removed: more than a set of ours can have
	namesAtOnce  = 256
	setsLookedAt = 64 // sets before the current one that are looked for by name
)

var errTooMuch = errors.New("more is in it than is removed at once")

// names are the first names in a directory, at most that many.
func (p *Publisher) names(dir string, most int) ([]string, error) {
	// O_DIRECTORY: opening a FIFO in its place would wait for ever.
	f, err := p.root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []string
	for len(all) < most {
		some, err := f.Readdirnames(min(namesAtOnce, most-len(all)))
		all = append(all, some...)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// setsAround are the names that earlier sets, and unfinished ones, have when the current has that number.
func setsAround(number uint64) []string {
	var all []string
	for n := number - min(number, setsLookedAt); n < number+setTries; n++ {
		all = append(all, setName(n))
	}
	return all
}

// discard removes what has a name, whatever it is.
func (p *Publisher) discard(name string) error {
	left := maxRemoved
	return p.remove(name, &left)
}

// remove is discard within what is left to be removed.
func (p *Publisher) remove(name string, left *int) error {
	return removeTree(p.root, name, secrets.MaxDirs+1, left)
}

// removeOurs is remove, and it is an error only if what is ours does not go: others may keep what they have put there.
func (p *Publisher) removeOurs(name string, left *int) error {
	if err := p.remove(name, left); err != nil && p.isRoots(name) {
		return err
	}
	return nil
}

// removeTries is how often a tree is removed that another user's process keeps filling, exchanging or removing.
const removeTries = 16

// removeTree removes a name below dir and, of a directory, what is in it, down to a depth: each level has
// descriptors open. No symlink is followed out of dir.
func removeTree(dir *os.Root, name string, depth int, left *int) (err error) {
	for range removeTries {
		if *left <= 0 {
			return fmt.Errorf("remove %s: %w", name, errTooMuch)
		}
		*left--
		err = dir.Remove(name)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if depth == 0 {
			return fmt.Errorf("remove %s: %w", name, errTooMuch)
		}
		// Any other error may be of something that has gone or come meanwhile, which the next try sees.
		if within := removeWithin(dir, name, depth, left); errors.Is(within, errTooMuch) {
			return within
		}
	}
	return err
}

func removeWithin(dir *os.Root, name string, depth int, left *int) error {
	sub, err := dir.OpenRoot(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	f, err := sub.OpenFile(".", os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(namesAtOnce)
		for _, each := range names {
			if err := removeTree(sub, each, depth-1, left); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
