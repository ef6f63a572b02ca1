package lifecycle

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// owedDir is where debts lie in the state directory. No alloc's directory begins with a dot.
const owedDir = ".owed"

// The pauses between the attempts to pay a debt while the server is away.
const (
	debtRetryMin = time.Second
	debtRetryMax = time.Minute
)

// debtsConfig is what debts need.
type debtsConfig struct {
	stateDir string
	provider revoker
	limit    *limiter
	random   func() float64 // in [0, 1), for the jitter; safe for concurrent use
	// refused is told when the server refuses a revocation, once a task: a person must change a
	// policy, and say is the event about it. What was to be revoked is left to its TTL. Called from a
	// goroutine of its own, without locks.
	refused func(t Task, say string, err error)
	log     hclog.Logger
}

// debts are the revocations that are owed to the server: of what an ended task had, and of leases
// that a rotation has replaced. Each debt is a directory below .owed with a journal's files, and has
// a goroutine that attempts to pay it until it is paid, refused, or ended by itself.
type debts struct {
	cfg     debtsConfig
	dir     string
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex // guards what follows
	closed bool
	told   map[string]bool // by journal directory: whose refusal the operator has been told
}

// newDebts takes up the debts that an earlier process left in the state directory. close ends it.
func newDebts(cfg debtsConfig) (*debts, error) {
	if err := checkStateDir(cfg.stateDir); err != nil {
		return nil, err
	}
	d := &debts{cfg: cfg, dir: filepath.Join(cfg.stateDir, owedDir), told: map[string]bool{}}
	if err := makeOwnDir(d.dir); err != nil {
		return nil, fmt.Errorf("revocations owed: %w", err)
	}
	left, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("revocations owed: %w", err)
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	for _, debt := range left {
		d.begin(filepath.Join(d.dir, debt.Name()))
	}
	return d, nil
}

// close stops all attempts and joins them. What is owed then is taken up by the next process.
func (d *debts) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.stop()
	d.running.Wait()
}

// owe ends a task's journal: from its return on the revocation of all its leases, and of its token if
// that is ours, is owed, whatever happens to this process (E1, E2). The first attempt begins at once.
// The journal is closed by it. Idempotent.
func (d *debts) owe(j *journal) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	if err := d.take(j.dir); err != nil {
		return err
	}
	j.closed = true
	return nil
}

// oweTask is owe for a task whose journal is not open; nil if there is none. One that cannot be read
// is put aside: what a newer plugin wrote waits for its return.
func (d *debts) oweTask(t Task) error {
	err := d.take(journalDir(d.cfg.stateDir, t))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// take makes a task's journal directory a debt, in one step: a crash leaves the one or the other.
func (d *debts) take(dir string) error {
	debt := d.newDir()
	if err := os.Rename(dir, debt); err != nil {
		return err
	}
	removeAllocDir(dir)
	crashpoint.Reached(crashpoint.JournalOwed, filepath.Base(dir))
	d.begin(debt)
	return nil
}

// oweLeases takes leases off the journal of a task that goes on, to have them revoked: those that a
// rotation has replaced. A crash in between leaves them in both, which does no harm.
func (d *debts) oweLeases(j *journal, ids ...secrets.LeaseID) error {
	if len(ids) == 0 {
		return nil
	}
	return d.split(j, func(e *entry, tokens map[string]storedToken) (entry, map[string]storedToken) {
		owed := entry{KeepTokens: true}
		for _, id := range ids {
			l := heldLease{ID: id}
			if i := slices.IndexFunc(e.Leases, func(l heldLease) bool { return l.ID == id }); i >= 0 {
				l = e.Leases[i]
				e.Leases = slices.Delete(e.Leases, i, i+1)
			}
			owed.Leases = append(owed.Leases, l)
		}
		return owed, tokens
	})
}

// oweToken takes a token, and the leases under it, off the journal of a task that goes on with
// another and holds none of them any more. If the token is ours it is revoked and they go with it;
// else they are revoked one by one.
func (d *debts) oweToken(j *journal, accessor string) error {
	tok, ok := j.token(accessor)
	if !ok {
		return nil
	}
	err := d.split(j, func(e *entry, _ map[string]storedToken) (entry, map[string]storedToken) {
		var owed entry
		under := func(l heldLease) bool { return l.TokenAccessor == accessor }
		for _, l := range e.Leases {
			if under(l) {
				owed.Leases = append(owed.Leases, l)
			}
		}
		e.Leases = slices.DeleteFunc(e.Leases, under)
		return owed, map[string]storedToken{accessor: tok}
	})
	if err != nil {
		return err
	}
	crashpoint.Reached(crashpoint.TokenOwed, filepath.Base(j.dir))
	return j.forgetToken(accessor)
}

// split makes a debt of a part of a journal. What is owed is written first and taken off the journal
// after: to owe twice does no harm, for to revoke what is gone is no error.
func (d *debts) split(j *journal, part func(*entry, map[string]storedToken) (entry, map[string]storedToken)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return errJournalClosed
	}
	rest := j.e.clone()
	owed, tokens := part(&rest, j.tokens)
	owed.Version = entryVersion
	owed.Task, owed.TokenSource, owed.Namespace = j.e.Task, j.e.TokenSource, j.e.Namespace

	dir := d.newDir()
	if err := makeOwnDir(dir); err != nil {
		return err
	}
	// The entry last: until it is there, there is no debt.
	err := writeTokens(dir, tokens)
	if err == nil {
		err = writeJSON(dir, entryFile, owed)
	}
	if err != nil {
		_ = removeJournalDir(dir)
		return err
	}
	crashpoint.Reached(crashpoint.LeaseOwed, filepath.Base(j.dir))
	d.begin(dir)
	return j.updateLocked(func(e *entry) { *e = rest })
}

func (d *debts) newDir() string { return filepath.Join(d.dir, rand.Text()) }

// begin starts to pay the debt in dir. After close it is left to the next process.
func (d *debts) begin(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.running.Go(func() { d.settle(dir) })
}

// settle attempts to pay a debt until nothing is left of it.
func (d *debts) settle(dir string) {
	j, err := openJournalDir(d.cfg.stateDir, dir)
	switch {
	case errors.Is(err, errJournalNewer):
		d.cfg.log.Warn("revocations owed are left to a newer version of this plugin", "error", err)
		return
	case errors.Is(err, ErrNoJournal): // paid, and half removed
		d.forget(dir)
		return
	case err != nil:
		d.cfg.log.Error("revocations owed are lost: leases end by their TTL", "error", err)
		d.forget(dir)
		return
	}
	_ = removeFiles(dir, valuesFile) // nobody reads them any more; gone with the debt at the latest
	debt := newDebt(j.e, j.tokens)
	for try := 0; !d.attempt(debt); try++ {
		pause := time.NewTimer(debtBackoff(try, d.cfg.random()))
		select {
		case <-pause.C:
		case <-d.ctx.Done():
			pause.Stop()
			return
		}
	}
	if d.ctx.Err() != nil {
		return // what looked paid may have been cut short; the next process asks again
	}
	crashpoint.Reached(crashpoint.DebtRevoked, debt.task.Name)
	d.forget(dir)
	crashpoint.Reached(crashpoint.DebtRemoved, debt.task.Name)
	if j.e.Step != "" { // a whole journal: the task has ended
		d.mu.Lock()
		delete(d.told, journalDir(d.cfg.stateDir, debt.task))
		d.mu.Unlock()
	}
}

func (d *debts) forget(dir string) {
	if err := removeJournalDir(dir); err != nil {
		d.cfg.log.Warn("a paid debt cannot be removed", "error", err)
	}
}

// tell says that the server refuses to revoke, once a task.
func (d *debts) tell(t Task, say string, err error) {
	key := journalDir(d.cfg.stateDir, t)
	d.mu.Lock()
	told := d.told[key]
	d.told[key] = true
	d.mu.Unlock()
	if !told {
		d.cfg.refused(t, say, err)
	}
}

// debtBackoff is the pause after the try-th attempt, counted from 0; r in [0, 1) is its jitter.
func debtBackoff(try int, r float64) time.Duration {
	pause := debtRetryMax
	if try < 6 { // beyond, the shift is past the maximum
		pause = min(debtRetryMin<<try, debtRetryMax)
	}
	return pause/2 + time.Duration(r*float64(pause/2))
}
