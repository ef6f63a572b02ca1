package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// ErrNone means that nothing is written about a task: it has no secrets of ours.
var ErrNone = errors.New("no journal for this task")

// ErrUnreadable means that something is written about a task but cannot be made sense of:
// it is damaged, or a newer plugin wrote it. The task runs on, unwatched (docs/failures.md, "When things fail").
var ErrUnreadable = errors.New("the journal cannot be read")

// ErrNewer is the ErrUnreadable of what a newer plugin wrote. It is kept: that plugin may be installed again.
var ErrNewer = fmt.Errorf("%w: a newer version of this plugin wrote it", ErrUnreadable)

// ErrClosed means that the journal was removed, or made a pending revocation. A write after
// that could fall into the journal of the same task's next start.
var ErrClosed = errors.New("the journal is closed")

// Journal is the handle on what is written about one task: <StateDir>/<alloc>/<task>/. Every write
// replaces a whole file by rename, so that a crash leaves the old or the new and nothing between.
// Nothing is synced to disk: the state directory is on tmpfs by contract, where a rename is as
// durable as it gets, and a host that loses it loses the tasks too.
//
// A handle serialises its writes; two handles on one task must not write at the same time.
type Journal struct {
	dir string

	mu     sync.Mutex // guards what follows, and the directory's files
	closed bool
	e      Entry
	tokens map[string]Token
}

// Create writes first for its Task (the intent) and gives a handle on it. fs.ErrExist if
// there is a journal already: the leftovers of an earlier start must be made a pending revocation first.
func Create(stateDir string, first Entry) (*Journal, error) {
	dir := journalDir(stateDir, first.Task)
	if err := makeTaskDir(stateDir, dir); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, entryFile)); err == nil {
		return nil, fmt.Errorf("journal %s: %w", dir, fs.ErrExist)
	}
	// Without an entry whatever else lies here was never finished, or is half removed.
	if err := removeFiles(dir, tokensFile, valuesFile); err != nil {
		return nil, err
	}
	j := &Journal{dir: dir, tokens: map[string]Token{}}
	if err := j.Update(func(e *Entry) { *e = first }); err != nil {
		_ = removeTaskDir(dir)
		return nil, err
	}
	return j, nil
}

// Open gives a handle on what is written about t. errNoJournal if nothing is;
// ErrUnreadable if it makes no sense.
func Open(stateDir string, t Task) (*Journal, error) {
	dir := journalDir(stateDir, t)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err := checkStateDir(stateDir); err != nil {
		return nil, err
	}
	j, err := openJournalDir(dir)
	if err != nil {
		return nil, err
	}
	if e := j.e.Task; e.AllocID != t.AllocID || e.Name != t.Name {
		return nil, fmt.Errorf("%w: %s is of another task", ErrUnreadable, dir)
	}
	return j, nil
}

// openJournalDir reads a journal's directory, be it in its place or a pending revocation.
func openJournalDir(dir string) (*Journal, error) {
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := checkOwnDir(d); err != nil {
			return nil, cannotRead(err)
		}
	}
	b, err := readOwnFile(filepath.Join(dir, entryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, cannotRead(err)
	}
	e, err := decodeEntry(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	_, tokens, err := readTokens(dir)
	if err != nil {
		return nil, err
	}
	return &Journal{dir: dir, e: e, tokens: tokens}, nil
}

// decodeEntry makes sense of an entry file, or says ErrUnreadable. Unknown fields are
// ignored: a newer plugin that adds some does so without raising the version.
func decodeEntry(b []byte) (Entry, error) {
	if err := checkVersion(b); err != nil {
		return Entry{}, err
	}
	var e Entry
	if err := json.Unmarshal(b, &e); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	e.nameProviders()
	return e, nil
}

// checkVersion looks at the version alone: what a newer plugin wrote may not even decode.
func checkVersion(b []byte) error {
	var v struct{ Version int }
	if err := json.Unmarshal(b, &v); err != nil {
		// The text of a JSON error may quote what it stumbled on, and this may be a secret's file.
		return fmt.Errorf("%w: not valid JSON with a version", ErrUnreadable)
	}
	return checkVersionIs(v.Version)
}

func checkVersionIs(version int) error {
	if version > entryVersion {
		return fmt.Errorf("%w (version %d, not %d)", ErrNewer, version, entryVersion)
	}
	if version < 1 {
		return fmt.Errorf("%w: no version in it", ErrUnreadable)
	}
	return nil
}

// Entry is what is written now. The caller may keep it: later updates do not show in it.
func (j *Journal) Entry() Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.e.clone()
}

// Task is the task that the journal is about.
func (j *Journal) Task() Task {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.e.Task
}

// Update changes what is written: change gets the entry as it is and it is on tmpfs when update
// returns. On error nothing has changed. It must not call the journal's other methods.
func (j *Journal) Update(change func(*Entry)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.updateLocked(change)
}

func (j *Journal) updateLocked(change func(*Entry)) error {
	if j.closed {
		return ErrClosed
	}
	f, next, err := j.stageEntry(change)
	if err != nil {
		return err
	}
	if err := f.commit(); err != nil {
		f.discard()
		return err
	}
	j.e = next
	return nil
}

// stageEntry writes what the entry is after a change, to be put in its place.
func (j *Journal) stageEntry(change func(*Entry)) (*stagedFile, Entry, error) {
	e := j.e.clone()
	change(&e)
	e.Version = entryVersion
	b, err := json.Marshal(e)
	if err != nil {
		return nil, Entry{}, fmt.Errorf("journal %s: %w", j.dir, err)
	}
	f, err := stageFile(j.dir, entryFile, maxEntryFile, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	return f, e.clone(), err // a clone: change may have kept what it put in
}

// AddLease writes down a lease that the server just made: before anything else is done with it, for
// a crash from now on must not leak it (E2). Adding one again replaces what is known of it.
func (j *Journal) AddLease(l Lease) error {
	return j.Update(func(e *Entry) {
		e.Leases = slices.DeleteFunc(e.Leases, func(o Lease) bool { return o.ID == l.ID && o.Provider == l.Provider })
		e.Leases = append(e.Leases, l)
	})
}

// HasLease reports whether a lease is on the list.
func (j *Journal) HasLease(provider string, id secrets.LeaseID) bool {
	return slices.ContainsFunc(j.Entry().Leases, func(l Lease) bool { return l.ID == id && l.Provider == provider })
}

// ForgetLeases takes leases off the list that are known to be ended, or revoked elsewhere.
func (j *Journal) ForgetLeases(ids ...secrets.LeaseID) error {
	return j.Update(func(e *Entry) {
		e.Leases = slices.DeleteFunc(e.Leases, func(o Lease) bool { return slices.Contains(ids, o.ID) })
	})
}

// Remove deletes all that is written about the task, of which nothing is to be revoked. The handle is closed.
func (j *Journal) Remove() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	return removeTaskDir(j.dir)
}

func (e Entry) clone() Entry {
	e.Driver = bytes.Clone(e.Driver)
	e.Secrets = maps.Clone(e.Secrets)
	e.Leases = slices.Clone(e.Leases)
	e.Applying = slices.Clone(e.Applying)
	return e
}

// List gives every task of stateDir that something readable is written about; the error
// joins what is said of the others.
func List(stateDir string) ([]Task, error) {
	dirs, err := filepath.Glob(filepath.Join(globEscape(stateDir), "[^.]*", "*"))
	if err != nil {
		return nil, err
	}
	var tasks []Task
	var bad []error
	for _, dir := range dirs {
		j, err := openJournalDir(dir)
		switch {
		case errors.Is(err, ErrNone): // never begun, or half removed
		case err != nil:
			bad = append(bad, err)
		default:
			tasks = append(tasks, j.e.Task)
		}
	}
	return tasks, errors.Join(bad...)
}
