package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// fakeStore is a provider that can be read and waited at, and nothing else: it knows a task by its directory.
type fakeStore struct {
	mu      sync.Mutex
	away    error
	noReads error           // the answer to reads, not to waits
	denied  map[string]bool // by task directory
	items   map[string]map[string]any
	at      map[string]int // by path: its revision
	count   int
	changed chan struct{} // closed at each change
	reads   []secrets.Request
	waits   int // sent
	waiting int // under way
	tokens  int // requests that came with one
}

func newFakeStore() *fakeStore {
	return &fakeStore{denied: map[string]bool{}, items: map[string]map[string]any{}, at: map[string]int{}, changed: make(chan struct{})}
}

// with changes the store.
func (f *fakeStore) with(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeStore) put(path, value string) {
	f.with(func() {
		f.count++
		f.items[path], f.at[path] = map[string]any{"password": value}, f.count
	})
}

// look gives what a request may see; the lock is held.
func (f *fakeStore) look(tok secrets.Token, req secrets.Request) (revision string, err error) {
	if !tok.Value.IsEmpty() {
		f.tokens++
	}
	switch {
	case f.away != nil:
		return "", f.away
	case f.denied[req.Task.Dir] || req.Task.Dir == "":
		return "", secrets.Errorf(secrets.Refused, "task %q may not read %s", req.Task.Name, req.Path)
	}
	return fmt.Sprint("r", f.at[req.Path]), nil
}

func (f *fakeStore) Read(_ context.Context, tok secrets.Token, req secrets.Request) (secrets.Answer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads = append(f.reads, req)
	if f.noReads != nil {
		return secrets.Answer{}, f.noReads
	}
	revision, err := f.look(tok, req)
	if err != nil {
		return secrets.Answer{}, err
	}
	item, ok := f.items[req.Path]
	if !ok {
		return secrets.Answer{}, secrets.Errorf(secrets.NotFound, "nothing is at %s", req.Path)
	}
	return secrets.Answer{Kind: secrets.Static, Fields: secrets.NewFields(maps.Clone(item)), Revision: revision, At: time.Now()}, nil
}

func (f *fakeStore) Wait(ctx context.Context, tok secrets.Token, req secrets.Request, since string, atMost time.Duration) (string, error) {
	over := time.NewTimer(atMost)
	defer over.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits++
	f.waiting++
	defer func() { f.waiting-- }()
	for {
		revision, err := f.look(tok, req)
		if err != nil || revision != since {
			return revision, err
		}
		changed := f.changed
		f.mu.Unlock()
		var ended error
		select {
		case <-changed:
		case <-over.C:
			f.mu.Lock()
			return revision, nil
		case <-ctx.Done():
			ended = ctx.Err()
		}
		f.mu.Lock()
		if ended != nil {
			return "", secrets.Errorf(secrets.Outage, "%w", ended)
		}
	}
}

// sent are the requests that the store was sent since the last call, but for those that wait.
func (f *fakeStore) sent() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = len(f.reads)
	f.reads = nil
	return n
}

// now is how many waits have been sent, and how many are under way.
func (f *fakeStore) now() (sent, waiting int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waits, f.waiting
}

// inStore is a secret of the store's.
func inStore(path, change string) secrets.SecretConfig {
	return changing(secrets.SecretConfig{Provider: "store", Path: path, AllFiles: true, ChangeMode: change, Splay: "0s"})
}

// withStore gives the world a second provider.
func (w *world) withStore() *fakeStore {
	f := newFakeStore()
	w.keeper.Close()
	w.cfg.Providers["store"] = f
	w.cfg.PollInterval = time.Hour // no poll finds anything
	w.start()
	return f
}
