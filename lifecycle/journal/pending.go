package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// pendingDir is where pending revocations lie in the state directory. The name is the first version's, whose
// revocations are still run. No alloc's directory begins with a dot.
const pendingDir = ".owed"

// Pending is the place of the pending revocations of one state directory (E1). Each is a directory of its own, with
// a journal's files: the whole journal of a task that ended, or the leases and the token that a task no longer uses.
type Pending struct {
	stateDir string
	dir      string
}

// PendingID names one pending revocation.
type PendingID string

// OpenPending makes the place, where it is missing.
func OpenPending(stateDir string) (Pending, error) {
	if err := checkStateDir(stateDir); err != nil {
		return Pending{}, err
	}
	p := Pending{stateDir: stateDir, dir: filepath.Join(stateDir, pendingDir)}
	return p, makeOwnDir(p.dir)
}

// List gives what is pending.
func (p Pending) List() ([]PendingID, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return nil, err
	}
	var ids []PendingID
	for _, e := range entries {
		ids = append(ids, PendingID(e.Name()))
	}
	return ids, nil
}

// Journal reads what is to be revoked. The errors are those of [Open].
func (p Pending) Journal(id PendingID) (*Journal, error) {
	return openJournalDir(p.path(id))
}

// Salvage reads what can be revoked of a pending revocation whose entry is damaged: the tokens, with all leases that
// were made under them, unless a task that goes on uses them. An error says that there is nothing.
func (p Pending) Salvage(id PendingID) (*Journal, error) {
	dir := p.path(id)
	for _, d := range []string{p.dir, dir} {
		if err := checkOwnDir(d); err != nil {
			return nil, cannotRead(err)
		}
	}
	e, tokens, err := readTokens(dir)
	switch {
	case err != nil:
		return nil, err
	case len(tokens) == 0:
		return nil, fmt.Errorf("%w: it has no tokens", ErrUnreadable)
	case e.KeepTokens:
		return nil, fmt.Errorf("%w: its tokens are those of a task that goes on", ErrUnreadable)
	}
	// The tokens do not say whose they are: no other provider has any.
	e.Version, e.TokenProvider = entryVersion, secrets.DefaultProvider
	return &Journal{dir: dir, e: e, tokens: tokens}, nil
}

// Remove removes a revocation that is done.
func (p Pending) Remove(id PendingID) error { return removeJournalDir(p.path(id)) }

func (p Pending) path(id PendingID) string { return filepath.Join(p.dir, string(id)) }

// Move makes a task's journal a pending revocation and closes it, in one step: a crash leaves the one or the other.
// moved is false if the journal is closed already.
func (p Pending) Move(j *Journal) (id PendingID, moved bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return "", false, nil
	}
	id, err = p.move(j.dir)
	j.closed = err == nil
	return id, err == nil, err
}

// MoveTask is Move for a task whose journal is not open. It need not be readable: what a newer plugin wrote waits
// for its return. moved is false if there is none.
func (p Pending) MoveTask(t Task) (id PendingID, moved bool, err error) {
	id, err = p.move(journalDir(p.stateDir, t))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	return id, err == nil, err
}

func (p Pending) move(dir string) (PendingID, error) {
	id := newPendingID()
	if err := os.Rename(dir, p.path(id)); err != nil {
		return "", err
	}
	removeAllocDir(dir)
	return id, nil
}

func newPendingID() PendingID { return PendingID(rand.Text()) }

// SplitLeases takes leases off the journal of a task that goes on, as a pending revocation. Its tokens are copies
// there, and not to be revoked. An id is returned whenever there is a pending revocation, even with an error.
func (p Pending) SplitLeases(j *Journal, ids ...secrets.LeaseID) (PendingID, error) {
	return p.split(j, func(e *Entry, tokens map[string]Token) (Entry, map[string]Token) {
		pending := Entry{KeepTokens: true}
		for _, id := range ids {
			l := Lease{ID: id}
			if i := indexLease(e.Leases, id); i >= 0 {
				l = e.Leases[i]
				e.Leases = append(e.Leases[:i], e.Leases[i+1:]...)
			}
			pending.Leases = append(pending.Leases, l)
		}
		return pending, tokens
	})
}

// SplitToken takes a token, and the leases made under it, off the journal of a task that goes on without them. The
// token itself is still in the journal when it returns (see [Journal.ForgetToken]). The id is empty if the journal
// does not have the token.
func (p Pending) SplitToken(j *Journal, tokenID string) (PendingID, error) {
	tok, ok := j.Token(tokenID)
	if !ok {
		return "", nil
	}
	return p.split(j, func(e *Entry, _ map[string]Token) (Entry, map[string]Token) {
		var pending Entry
		var kept []Lease
		for _, l := range e.Leases {
			if l.TokenID == tokenID {
				pending.Leases = append(pending.Leases, l)
			} else {
				kept = append(kept, l)
			}
		}
		e.Leases = kept
		return pending, map[string]Token{tokenID: tok}
	})
}

func indexLease(leases []Lease, id secrets.LeaseID) int {
	for i, l := range leases {
		if l.ID == id {
			return i
		}
	}
	return -1
}

// split makes a pending revocation of a part of a journal. It is written first and taken off the journal after:
// a crash in between leaves it in both, and to revoke what is gone is no error.
func (p Pending) split(j *Journal, part func(*Entry, map[string]Token) (Entry, map[string]Token)) (PendingID, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return "", ErrClosed
	}
	rest := j.e.clone()
	pending, tokens := part(&rest, j.tokens)
	pending.Version = entryVersion
	pending.Task, pending.Namespace = j.e.Task, j.e.Namespace
	pending.TokenSource, pending.TokenProvider = j.e.TokenSource, j.e.TokenProvider

	id := newPendingID()
	dir := p.path(id)
	if err := makeOwnDir(dir); err != nil {
		return "", err
	}
	// The entry last: until it is there, nothing is pending.
	err := writeTokens(dir, pending, tokens)
	if err == nil {
		err = writeJSON(dir, entryFile, pending)
	}
	if err != nil {
		_ = removeJournalDir(dir)
		return "", fmt.Errorf("journal a pending revocation: %w", err)
	}
	crashpoint.Reached(crashpoint.LeasePending, j.e.Task.Name)
	return id, j.updateLocked(func(e *Entry) { *e = rest })
}

// Shrink drops what only a task that runs needs, from a journal that is a pending revocation: nobody reads it any
// more, and it may be large. What fails is gone with the rest at the latest.
func (j *Journal) Shrink() {
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = removeFiles(j.dir, valuesFile)
	if len(j.e.Driver) > largeNotes {
		_ = j.updateLocked(func(e *Entry) {
			e.Driver, e.Config, e.Secrets, e.Rotation, e.Applying = nil, secrets.TaskConfig{}, nil, nil, nil
		})
	}
}

// largeNotes is from which size on a driver's notes are not kept for a pending revocation.
const largeNotes = 64 << 10
