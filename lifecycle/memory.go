package lifecycle

import (
	"errors"
	"sync"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	// smallTask is what a task may fetch whatever others do: nearly all tasks fetch less.
	smallTask = 1 << 20
	// fetchedAtOnce is what all fetches under way may have brought in beyond that. One task more goes on
	// when it is reached, so that many that have a part each do not wait for one another.
	fetchedAtOnce = 32 << 20
)

// errFetchBusy is of a task that asks for much while others do.
var errFetchBusy = &secrets.Error{
	Kind: secrets.Outage, Elsewhere: true,
	Err: errors.New("other tasks are fetching large secrets at the moment; it is tried again"),
}

// memory bounds what is fetched and in no journal yet (S8): the journal's file system bounds what is kept
// of all tasks together, and a task's own limit what it has. Safe for concurrent use.
type memory struct {
	mu    sync.Mutex // guards what follows, and what is in each fetched
	used  int
	ahead *fetched // the one that goes on although fetchedAtOnce is reached
}

func newMemory() *memory { return &memory{} }

// fetched is what one start or one rotation has fetched so far.
type fetched struct {
	m    *memory
	sum  int
	done bool  // closed: what comes later is nobody's, and is not kept
	over error // it asks for more than it may have, and so nothing more is asked for
}

func (m *memory) open() *fetched { return &fetched{m: m} }

// add counts an answer. Its error says that there is no room for it, ever or now; then it must not be kept.
func (f *fetched) add(n int) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.done {
		return nil
	}
	if err := secrets.CheckTaskBytes(f.sum + n); err != nil {
		return err
	}
	if f.sum+n > smallTask && f.m.used+n > fetchedAtOnce && f.m.ahead != f {
		if f.m.ahead != nil {
			return errFetchBusy
		}
		f.m.ahead = f
	}
	f.sum += n
	f.m.used += n
	return nil
}

// giveUp is called when a task that needs all it asks for cannot have it.
func (f *fetched) giveUp(err error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.over == nil && secrets.IsLimit(err) {
		f.over = err
	}
}

// gaveUp is why nothing more is to be asked for.
func (f *fetched) gaveUp() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.over
}

// close is called when what was fetched is journalled, or given up.
func (f *fetched) close() {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.used -= f.sum
	f.sum, f.done = 0, true
	if f.m.ahead == f {
		f.m.ahead = nil
	}
}
