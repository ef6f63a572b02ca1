package lifecycle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// entryVersion is the version that this code writes. It reads that and older ones. Raise it when an
// older plugin would do harm with what is written; a field that it may ignore needs no new version.
const entryVersion = 1

// errJournalUnreadable means that something is written about a task but cannot be made sense of:
// it is damaged, or a newer plugin wrote it. The task runs on, unwatched (DESIGN 2).
var errJournalUnreadable = errors.New("the journal cannot be read")

// errJournalNewer is the errJournalUnreadable of what a newer plugin wrote, who may come back for it.
var errJournalNewer = fmt.Errorf("%w: a newer version of this plugin wrote it", errJournalUnreadable)

// errJournalClosed means that the journal was removed or handed over to the debts. A write after
// that could fall into the journal of the same task's next start.
var errJournalClosed = errors.New("the journal is closed")

// step names what is under way, so that recovery knows where it was interrupted (E2). Its values
// are the session's.
type step string

// tokenSource says whose a token is, and so who may revoke it (DESIGN 5).
type tokenSource string

const (
	fromVaultBlock tokenSource = "vault"    // Nomad owns it: never revoked by us
	fromIdentity   tokenSource = "identity" // ours: revoked at the end, and all leases with it
	fromNodeFile   tokenSource = "node"     // the operator's: never revoked by us
)

// entry is what is written about one task. No secret is in it (L2): tokens and values rest in files
// of their own beside it.
type entry struct {
	Version int
	Task    Task
	Step    step
	Config  secrets.TaskConfig // compiled again at recovery
	Driver  json.RawMessage    `json:",omitempty"` // the driver's own notes

	TokenSource   tokenSource
	TokenAccessor string // of the token in use; its value is in the token file
	Namespace     string
	Role          string

	Secrets map[string]heldSecret `json:",omitempty"` // by name: what the task has now
	// Leases is every lease that the server made for the task and that is not known to be ended.
	// One that no secret holds is a leftover of an interrupted step: recovery owes it.
	Leases []heldLease `json:",omitempty"`
	// Pending are the secrets that the task is being told of (stepActing).
	Pending []string `json:",omitempty"`

	// KeepTokens is set in a debt of single leases: its tokens are copies, in use by a task that
	// goes on, and must not be revoked.
	KeepTokens bool `json:",omitempty"`
}

// heldSecret is where one secret of a task stands. Which fields mean something depends on Kind.
type heldSecret struct {
	Kind      secrets.Kind
	Own       bool            `json:",omitempty"` // another token finds something else at its path
	LeaseID   secrets.LeaseID `json:",omitempty"`
	Duration  time.Duration   `json:",omitempty"` // granted at issue or at the last renewal
	Renewable bool            `json:",omitempty"`
	IssuedAt  time.Time       `json:",omitzero"`
	RenewedAt time.Time       `json:",omitzero"`
	ExpiresAt time.Time       `json:",omitzero"` // of the lease, as last granted
	Ends      time.Time       `json:",omitzero"` // Issued: when the content stops being valid
	// TokenAccessor is of the token that the secret was read with: a lease ends with it.
	TokenAccessor string `json:",omitempty"`
	// Digest tells a change from the same content. It is keyed: a plain hash would give away
	// secrets that can be guessed.
	Digest string `json:",omitempty"`
	// What the session has decided, so that a recovery neither forgets nor repeats it.
	RenewAt  time.Time `json:",omitzero"`
	RotateAt time.Time `json:",omitzero"`
	Why      string    `json:",omitempty"` // the reason for RotateAt
	Untold   bool      `json:",omitempty"` // the task has not had it yet
}

// heldLease is what revoking a lease takes.
type heldLease struct {
	ID            secrets.LeaseID
	TokenAccessor string // of the token that it was made under
	// Ends is when it ends by itself, as last granted: addLease again after a renewal. From then on
	// its revocation is not waited for. Zero: not known.
	Ends time.Time `json:",omitzero"`
	// RevokeAt is when to revoke it, of a lease that was replaced.
	RevokeAt time.Time `json:",omitzero"`
}

// journal is the handle on what is written about one task: <StateDir>/<alloc>/<task>/. Every write
// replaces a whole file by rename, so that a crash leaves the old or the new and nothing between.
// Nothing is synced to disk: the state directory is on tmpfs by contract, where a rename is as
// durable as it gets, and a host that loses it loses the tasks too.
//
// A handle serialises its writes; two handles on one task must not write at the same time.
type journal struct {
	stateDir string
	dir      string

	mu     sync.Mutex // guards what follows, and the directory's files
	closed bool
	e      entry
	tokens map[string]storedToken
}

// createJournal writes first for its Task (the intent) and gives a handle on it. fs.ErrExist if
// there is a journal already: the leftovers of an earlier start are to be owed first.
func createJournal(stateDir string, first entry) (*journal, error) {
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
	j := &journal{stateDir: stateDir, dir: dir, tokens: map[string]storedToken{}}
	if err := j.update(func(e *entry) { *e = first }); err != nil {
		_ = removeTaskDir(dir)
		return nil, err
	}
	return j, nil
}

// openJournal gives a handle on what is written about t. ErrNoJournal if nothing is;
// errJournalUnreadable if it makes no sense.
func openJournal(stateDir string, t Task) (*journal, error) {
	dir := journalDir(stateDir, t)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoJournal
	}
	if err := checkStateDir(stateDir); err != nil {
		return nil, err
	}
	j, err := openJournalDir(stateDir, dir)
	if err != nil {
		return nil, err
	}
	if e := j.e.Task; e.AllocID != t.AllocID || e.Name != t.Name {
		return nil, fmt.Errorf("%w: %s is of another task", errJournalUnreadable, dir)
	}
	return j, nil
}

// openJournalDir reads a journal's directory, be it in its place or among the debts.
func openJournalDir(stateDir, dir string) (*journal, error) {
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := checkOwnDir(d); err != nil {
			return nil, fmt.Errorf("%w: %w", errJournalUnreadable, err)
		}
	}
	b, err := readOwnFile(filepath.Join(dir, entryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoJournal
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errJournalUnreadable, err)
	}
	e, err := decodeEntry(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	tokens, err := readTokens(dir)
	if err != nil {
		return nil, err
	}
	return &journal{stateDir: stateDir, dir: dir, e: e, tokens: tokens}, nil
}

// decodeEntry makes sense of an entry file, or says errJournalUnreadable. Unknown fields are
// ignored: a newer plugin that adds some does so without raising the version.
func decodeEntry(b []byte) (entry, error) {
	if err := checkVersion(b); err != nil {
		return entry{}, err
	}
	var e entry
	if err := json.Unmarshal(b, &e); err != nil {
		return entry{}, fmt.Errorf("%w: %w", errJournalUnreadable, err)
	}
	return e, nil
}

// checkVersion looks at the version alone: what a newer plugin wrote may not even decode.
func checkVersion(b []byte) error {
	var v struct{ Version int }
	if err := json.Unmarshal(b, &v); err != nil {
		// The text of a JSON error may quote what it stumbled on, and this may be a secret's file.
		return fmt.Errorf("%w: not valid JSON with a version", errJournalUnreadable)
	}
	if v.Version > entryVersion {
		return fmt.Errorf("%w (version %d, not %d)", errJournalNewer, v.Version, entryVersion)
	}
	if v.Version < 1 {
		return fmt.Errorf("%w: no version in it", errJournalUnreadable)
	}
	return nil
}

// entry is what is written now. The caller may keep it: later updates do not show in it.
func (j *journal) entry() entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.e.clone()
}

// update changes what is written: change gets the entry as it is and it is on tmpfs when update
// returns. On error nothing has changed. It must not call the journal's other methods.
func (j *journal) update(change func(*entry)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.updateLocked(change)
}

func (j *journal) updateLocked(change func(*entry)) error {
	if j.closed {
		return errJournalClosed
	}
	e := j.e.clone()
	change(&e)
	e.Version = entryVersion
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("journal %s: %w", j.dir, err)
	}
	if err := writeFile(j.dir, entryFile, b); err != nil {
		return err
	}
	j.e = e.clone() // change may have kept what it put in
	return nil
}

// addLease writes down a lease that the server just made: before anything else is done with it, for
// a crash from now on must not leak it (E2). Adding one again replaces what is known of it.
func (j *journal) addLease(l heldLease) error {
	return j.update(func(e *entry) {
		e.Leases = slices.DeleteFunc(e.Leases, func(o heldLease) bool { return o.ID == l.ID })
		e.Leases = append(e.Leases, l)
	})
}

// forgetLeases takes leases off the list that are known to be ended, or owed elsewhere.
func (j *journal) forgetLeases(ids ...secrets.LeaseID) error {
	return j.update(func(e *entry) {
		e.Leases = slices.DeleteFunc(e.Leases, func(o heldLease) bool { return slices.Contains(ids, o.ID) })
	})
}

// remove deletes all that is written about the task, who owes nothing. The handle is closed.
func (j *journal) remove() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	return removeTaskDir(j.dir)
}

func (e entry) clone() entry {
	e.Driver = bytes.Clone(e.Driver)
	e.Secrets = maps.Clone(e.Secrets)
	e.Leases = slices.Clone(e.Leases)
	e.Pending = slices.Clone(e.Pending)
	return e
}

// listJournals gives every task of stateDir that something readable is written about; the error
// joins what is said of the others.
func listJournals(stateDir string) ([]Task, error) {
	dirs, err := filepath.Glob(filepath.Join(globEscape(stateDir), "[^.]*", "*"))
	if err != nil {
		return nil, err
	}
	var tasks []Task
	var bad []error
	for _, dir := range dirs {
		j, err := openJournalDir(stateDir, dir)
		switch {
		case errors.Is(err, ErrNoJournal): // never begun, or half removed
		case err != nil:
			bad = append(bad, err)
		default:
			tasks = append(tasks, j.e.Task)
		}
	}
	return tasks, errors.Join(bad...)
}
