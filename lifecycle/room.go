package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	// maxReserve is the most that is kept free: a file system of gigabytes need not keep a quarter of them.
	maxReserve = 2 * journal.MaxFile
	// smallJournal is what a task's values may come to at any time once it runs: nearly all have less.
	smallJournal = 64 << 10
)

// room keeps the file system of the journals from filling up (S8). A task that runs must be able to journal
// its next rotation, which is a second copy of its values until the first is replaced. So a part is kept
// for what runs, the reserve:
//   - a start that would go into it is refused, and Nomad tries it again;
//   - a rotation that makes a large task's values larger may use half of it;
//   - any other may use all.
//
// Only one such write is under way at a time, over all plugins that share the file system: each needs its
// second copy only while it writes. The reserve is a quarter of the file system, at most maxReserve and at
// least what the largest task has.
type room struct {
	dir string
	// space tells the size of dir's file system, and what is free; 0 bytes in all: no limit.
	space func(dir string) (total, free int64, err error)

	mu    sync.Mutex // guards tasks, and is held while one writes
	tasks map[*Session]int64
}

func newRoom(stateDir string) *room {
	return &room{dir: stateDir, space: spaceOf, tasks: map[*Session]int64{}}
}

func spaceOf(dir string) (total, free int64, err error) {
	var fsys unix.Statfs_t
	if err := unix.Statfs(dir, &fsys); err != nil {
		return 0, 0, fmt.Errorf("space in state_dir: %w", err)
	}
	return int64(fsys.Blocks) * fsys.Bsize, int64(fsys.Bavail) * fsys.Bsize, nil
}

// start has a start write n bytes, if that leaves the reserve.
func (r *room) start(n int, write func() error) error {
	return r.within(int64(n), 1, write)
}

// save has a session write its values. The first time is its start's.
func (r *room) save(s *Session, values map[string]secrets.Fields, write func() error) error {
	size := journalled(values)
	r.mu.Lock()
	before, runs := r.tasks[s]
	r.mu.Unlock()
	part := int64(1)
	grown := size - before
	switch {
	case runs && size <= smallJournal:
		grown = 0
	case runs:
		part = 2
	}
	err := r.within(grown, part, write)
	if errors.Is(err, unix.ENOSPC) {
		err = &secrets.Error{Kind: secrets.Outage, Elsewhere: true, Err: fmt.Errorf(
			"%w: state_dir is full: make room by stopping tasks with large secrets, or give state_dir more", err)}
	}
	if err == nil {
		r.mu.Lock()
		r.tasks[s] = size
		r.mu.Unlock()
	}
	return err
}

// found notes what a task that runs already has.
func (r *room) found(s *Session, values map[string]secrets.Fields) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tasks[s] = journalled(values)
}

func (r *room) forget(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tasks, s)
}

// journalled is at least what values take in a journal: base64 of their JSON.
func journalled(values map[string]secrets.Fields) (n int64) {
	for _, f := range values {
		n += int64(f.Size())
	}
	return (n + 2) / 3 * 4
}

// within has write take n bytes more than before, if that leaves the reserve divided by part.
func (r *room) within(n, part int64, write func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if n > 0 {
		total, free, err := r.space(r.dir)
		if errors.Is(err, os.ErrNotExist) {
			return write() // somebody removed it; the journal makes it again, or says what is wrong
		}
		if err != nil {
			return err
		}
		if keep := r.reserve(total, n) / part; total > 0 && free-n < keep {
			return &secrets.Error{Kind: secrets.Outage, Elsewhere: true, Err: fmt.Errorf(
				"state_dir: the task's secrets take %s of %s, of which %s are free and %s are kept for the tasks that run; it is tried again: make room by stopping tasks with large secrets, or give state_dir more",
				size(n), size(total), size(free), size(keep))}
		}
	}
	return write()
}

func (r *room) reserve(total, n int64) int64 {
	keep := max(min(total/4, maxReserve), n)
	for _, size := range r.tasks {
		keep = max(keep, size)
	}
	return keep
}

// How long a write of another plugin may take, and how often to look whether it is over. One that takes longer is of a
// process that is stopped.
const (
	roomLockTimeout = 10 * time.Second
	roomLockPause   = 5 * time.Millisecond
)

// lock waits for the other plugins' writes; the directory above is theirs, too.
func (r *room) lock() (unlock func(), err error) {
	dir, err := os.Open(filepath.Dir(r.dir))
	if errors.Is(err, os.ErrNotExist) {
		return func() {}, nil // there is no journal yet that could be written to
	}
	if err != nil {
		return nil, &secrets.Error{Kind: secrets.Outage, Elsewhere: true, Err: fmt.Errorf("state_dir: %w", err)}
	}
	for deadline := time.Now().Add(roomLockTimeout); ; time.Sleep(roomLockPause) {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = dir.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			_ = dir.Close()
			return nil, &secrets.Error{Kind: secrets.Outage, Elsewhere: true, Err: fmt.Errorf(
				"state_dir: %s is locked by another plugin process for more than %v: %w", filepath.Dir(r.dir), roomLockTimeout, err)}
		}
	}
}

// size is a number of bytes for an operator.
func size(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%d KiB", (n+1023)>>10)
	}
	return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20)
}
