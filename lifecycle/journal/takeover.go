package journal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// takingDir is where a journal is copied to before it gets its place. No alloc's directory begins with a dot.
const takingDir = ".taking"

// TakeOver moves what an older version left of a driver's tasks at its place, <state_dir>/<driver>, to the
// driver's journal directory: journals, and revocations that are pending. The two are on file systems of their
// own, so that it takes more than a rename; but a kill between any two steps loses nothing, and at each moment a
// journal is either the older version's or ours:
//
//  1. The whole directory gets a name that the older version does not look for: from then on it is ours.
//  2. Each task's directory is copied beside its place, renamed into it, and removed from the old one.
//  3. What is left of the old directory is removed.
//
// The next call goes on where the last one was cut short. The caller sees to it that no other process takes over
// at the same time, and that nobody uses journalDir before it has returned nil.
func TakeOver(old, journalDir string, log hclog.Logger) error {
	return newTakeOver(old, journalDir, log).run()
}

type takeOver struct {
	old, claimed, dir string
	log               hclog.Logger
	step              func() // called after each step; a test's may panic
}

func newTakeOver(old, journalDir string, log hclog.Logger) takeOver {
	claimed := filepath.Join(filepath.Dir(old), "."+filepath.Base(old)+".old")
	return takeOver{old: old, claimed: claimed, dir: journalDir, log: log, step: func() {}}
}

func (t takeOver) run() error {
	// What was claimed before is older than what an older version, which was back in between, has left since.
	err := t.finish()
	if err == nil {
		err = t.claim()
	}
	if err == nil {
		err = t.finish()
	}
	if err != nil {
		return fmt.Errorf("take over what an older version of this plugin left in %s: %w", t.old, err)
	}
	return nil
}

// claim makes the older version's directory ours, if there is one.
func (t takeOver) claim() error {
	info, err := os.Lstat(t.old)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err == nil {
		err = checkOwnDir(t.old)
	}
	if err == nil {
		err = os.Rename(t.old, t.claimed)
	}
	if err == nil {
		t.step()
	}
	return err
}

// finish takes over all that is claimed.
func (t takeOver) finish() error {
	allocs, err := os.ReadDir(t.claimed)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	t.logBegin()
	for _, alloc := range allocs {
		if !alloc.IsDir() || strings.HasPrefix(alloc.Name(), ".") && alloc.Name() != pendingDir {
			continue
		}
		tasks, err := os.ReadDir(filepath.Join(t.claimed, alloc.Name()))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			if !task.IsDir() {
				continue
			}
			rel := filepath.Join(alloc.Name(), task.Name())
			if err := t.move(filepath.Join(t.claimed, rel), filepath.Join(t.dir, rel)); err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(t.claimed); err != nil {
		return err
	}
	t.step()
	return nil
}

// logBegin logs that something is taken over, and what the operator should know of it.
func (t takeOver) logBegin() {
	t.log.Info("taking over the journals of an older version of this plugin", "from", t.old, "to", t.dir)
	var fs unix.Statfs_t
	if err := unix.Statfs(t.claimed, &fs); err == nil && fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.RAMFS_MAGIC {
		t.log.Warn("the older version kept tokens and credentials on a disk, whose free blocks may still hold them: rotate what lives long", "directory", t.old)
	}
}

// move takes over one journal, or one pending revocation.
func (t takeOver) move(from, to string) error {
	files, err := readFiles(from)
	switch {
	case errors.Is(err, errNotOurs): // it never becomes readable
		t.log.Error("a journal of an older version cannot be read: its leases end by their TTL", "error", err)
		files = nil
	case err != nil: // for the moment: the next call goes on
		return err
	}
	if _, ok := files[entryFile]; ok { // else it was never begun, or is half removed
		if err := t.place(files, to); err != nil {
			return err
		}
	}
	if err := removeJournalDir(from); err != nil {
		return err
	}
	t.step()
	return nil
}

// place makes a journal of files at to.
func (t takeOver) place(files map[string][]byte, to string) error {
	switch there, err := readFiles(to); {
	case errors.Is(err, fs.ErrNotExist):
	case err == nil && maps.EqualFunc(files, there, bytes.Equal):
		return nil // placed before, and then we were cut short
	default:
		// It is of an earlier start: an older version, which was back in between, has started the task again.
		if err := t.setAside(to); err != nil {
			return err
		}
	}
	taking := filepath.Join(t.dir, takingDir)
	if err := os.RemoveAll(taking); err != nil {
		return err
	}
	if err := os.Mkdir(taking, 0o700); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(taking, name), content, 0o600); err != nil {
			return err
		}
	}
	t.step()
	if err := makeOwnDir(filepath.Dir(to)); err != nil {
		return err
	}
	if err := os.Rename(taking, to); err != nil {
		return err
	}
	t.step()
	return nil
}

// setAside makes a journal in our directory a pending revocation, as Keeper.Abandon does.
func (t takeOver) setAside(dir string) error {
	pending := filepath.Join(t.dir, pendingDir)
	if err := makeOwnDir(pending); err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(pending, rand.Text())); err != nil {
		return err
	}
	t.step()
	return nil
}

// readFiles reads the files of a journal, less those that a crash left half written.
func readFiles(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if files[e.Name()], err = readOwnFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return files, nil
}
