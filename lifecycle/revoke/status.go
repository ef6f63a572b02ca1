package revoke

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Status is one pending revocation.
type Status struct {
	Task     journal.Task
	Since    time.Time // when this process began with it
	Leases   int       // still to be revoked
	Tokens   int       // likewise
	Attempts int
	Err      error // of the last attempt; nil: there was none that failed
}

// Status is what is pending, the oldest first. It waits for nothing.
func (q *Queue) Status() []Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]Status, 0, len(q.running))
	for _, s := range q.running {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b Status) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Task.AllocID, b.Task.AllocID), cmp.Compare(a.Task.Name, b.Task.Name))
	})
	return all
}

// Await waits until nothing is pending of a task. The error is ctx's, or the server's refusal, if that came at since
// or later: then what was to be revoked lives on to its TTL.
func (q *Queue) Await(ctx context.Context, t journal.TaskKey, since time.Time) error {
	for {
		q.mu.Lock()
		pending := q.pendingLocked(t)
		refusal, changed := q.refusals[t], q.changed
		q.mu.Unlock()
		if !refusal.at.IsZero() && !refusal.at.Before(since) {
			return refusal.err
		}
		if !pending {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// refusal is a server's last refusal to revoke something of a task.
type refusal struct {
	at  time.Time
	err error
}

func (q *Queue) pendingLocked(t journal.TaskKey) bool {
	for _, s := range q.running {
		if s.Task.Key() == t {
			return true
		}
	}
	return false
}

// update notes how far a revocation has come.
func (q *Queue) update(id journal.PendingID, change func(*Status)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s := q.running[id]; s != nil {
		change(s)
	}
}

// over notes that a revocation does not run any more.
func (q *Queue) over(id journal.PendingID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.running, id)
	close(q.changed)
	q.changed = make(chan struct{})
}

// describe notes what is left of a revocation after an attempt.
func (r *revocation) describe(s *Status) {
	s.Task, s.Leases, s.Tokens, s.Err = r.task, len(r.leases), len(r.revoke), secrets.ShortError(r.err)
}
