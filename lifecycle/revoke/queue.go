package revoke

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/contain"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// The pauses between the attempts of one revocation while the server is away.
const (
	retryMin = time.Second
	retryMax = time.Minute
	// When the server answers again: within these.
	retrySoonMin = time.Second / 2
	retrySoonMax = 2 * time.Second
)

// Config is what a Queue needs.
type Config struct {
	StateDir string
	Provider func(name string) Provider
	Limit    *limit.Limiter
	Random   func() float64 // in [0, 1), for the jitter; safe for concurrent use
	// Refused is called when the server refuses a revocation, once a task, with the event about it: an operator must
	// change a policy. What was to be revoked is left to its TTL. Called from a goroutine of its own, without locks.
	Refused func(t journal.Task, event string, err error)
	// Answered, if not nil, is told of the outcome of each request. Must not block.
	Answered func(provider string, err error)
	Log      hclog.Logger
}

// Queue runs the pending revocations of one state directory: of what an ended task had, and of leases
// that a rotation has replaced. Each has a goroutine that tries until it is done, refused, or what it is to
// revoke has ended by itself.
type Queue struct {
	cfg     Config
	pending journal.Pending
	ctx     context.Context
	stop    context.CancelFunc
	runs    sync.WaitGroup

	mu       sync.Mutex // guards what follows
	closed   bool
	again    chan struct{}            // closed when what waits for its next attempt is not to wait any longer
	reported map[journal.TaskKey]bool // of which tasks the operator knows that the server refuses
	refusals map[journal.TaskKey]refusal
	running  map[journal.PendingID]*Status
	changed  chan struct{} // closed when one of these is over
}

// New starts a queue with the revocations that an earlier process left in the state directory. Close ends it.
func New(cfg Config) (*Queue, error) {
	pending, err := journal.OpenPending(cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("pending revocations: %w", err)
	}
	left, err := pending.List()
	if err != nil {
		return nil, fmt.Errorf("pending revocations: %w", err)
	}
	q := &Queue{
		cfg: cfg, pending: pending, again: make(chan struct{}), reported: map[journal.TaskKey]bool{}, refusals: map[journal.TaskKey]refusal{},
		running: map[journal.PendingID]*Status{}, changed: make(chan struct{}),
	}
	q.ctx, q.stop = context.WithCancel(context.Background())
	for _, id := range left {
		q.start(id, journal.Task{}) // of which task it is says its journal
	}
	return q, nil
}

// Close stops all attempts and joins them. What is pending then is left to the next process.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.stop()
	q.runs.Wait()
}

// Pending is how many revocations are not done yet.
func (q *Queue) Pending() (int, error) {
	left, err := q.pending.List()
	return len(left), err
}

// Enqueue ends a task's journal: from its return on the revocation of all its leases, and of its token if
// that is ours, is pending, whatever happens to this process (E1, E2). The first attempt begins at once.
// The journal is closed by it. Idempotent.
func (q *Queue) Enqueue(j *journal.Journal) error {
	id, moved, err := q.pending.Move(j)
	if moved {
		q.moved(id, j.Task())
	}
	return err
}

// EnqueueTask is Enqueue for a task whose journal is not open; nil if there is none. One that cannot be read
// is put aside: what a newer plugin wrote waits for its return.
func (q *Queue) EnqueueTask(t journal.Task) error {
	id, moved, err := q.pending.MoveTask(t)
	if moved {
		q.moved(id, t)
	}
	return err
}

func (q *Queue) moved(id journal.PendingID, t journal.Task) {
	crashpoint.Reached(crashpoint.JournalPending, t.Name)
	q.start(id, t)
}

// EnqueueLeases takes leases off the journal of a task that goes on, to have them revoked: those that a
// rotation has replaced. A crash in between leaves them in both, which does no harm.
func (q *Queue) EnqueueLeases(j *journal.Journal, ids ...secrets.LeaseID) error {
	if len(ids) == 0 {
		return nil
	}
	id, err := q.pending.SplitLeases(j, ids...)
	if id != "" {
		q.start(id, j.Task())
	}
	return err
}

// EnqueueToken takes a token, and the leases made under it, off the journal of a task that goes on with
// another and uses none of them any more. If the token is ours it is revoked and they go with it;
// else they are revoked one by one.
func (q *Queue) EnqueueToken(j *journal.Journal, tokenID string) error {
	id, err := q.pending.SplitToken(j, tokenID)
	if id != "" {
		q.start(id, j.Task())
	}
	if id == "" || err != nil {
		return err
	}
	crashpoint.Reached(crashpoint.TokenPending, j.Task().Name)
	return j.ForgetToken(tokenID)
}

// start starts to run a revocation. After Close it is left to the next process.
func (q *Queue) start(id journal.PendingID, t journal.Task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.running[id] = &Status{Task: t, Since: time.Now()}
	q.runs.Go(func() {
		defer q.over(id)
		q.run(id)
	})
}

// run tries to revoke until nothing is left.
func (q *Queue) run(id journal.PendingID) {
	defer func() {
		if p := contain.Of(recover()); p != nil {
			q.cfg.Log.Error("a revocation ended because of an error in this plugin, and is tried again by its next process; please report it", "error", p, "stack", p.Stack)
		}
	}()
	j, err := q.read(id)
	switch {
	case q.ctx.Err() != nil:
		return
	case errors.Is(err, journal.ErrNewer):
		q.cfg.Log.Warn("pending revocations are left to the newer version of this plugin that wrote them", "error", err)
		return
	case errors.Is(err, journal.ErrNone): // done, and half removed
		q.remove(id)
		return
	case err != nil:
		q.cfg.Log.Error("a pending revocation is damaged, and no token can be revoked in its place: its leases end by their TTL", "error", err)
		q.remove(id)
		return
	}
	j.Shrink()
	e := j.Entry()
	address := q.cfg.Provider(e.TokenProvider).Server
	r := newRevocation(e, j.Tokens(), address)
	if len(r.elsewhere) > 0 {
		q.cfg.Log.Warn("pending revocations wait until their secrets server is this plugin's address again, or what is to be revoked has ended",
			"alloc_id", r.task.AllocID, "task", r.task.Name, "servers", r.servers, "address", address)
	}
	began, leases, tokens := time.Now(), len(r.leases), len(r.revoke)
	q.update(id, r.describe)
	try := 0
	for ; !q.attempt(r); try++ {
		q.update(id, func(s *Status) {
			r.describe(s)
			s.Attempts = try + 1
		})
		if !q.pause(try) {
			return
		}
	}
	if q.ctx.Err() != nil {
		return // what looked done may have been cut short; the next process asks again
	}
	crashpoint.Reached(crashpoint.RevocationDone, r.task.Name)
	q.cfg.Log.Debug("revocation", "alloc_id", r.task.AllocID, "task", r.task.Name, "leases", leases, "tokens", tokens, "attempts", try+1,
		"duration", time.Since(began).String())
	q.remove(id)
	crashpoint.Reached(crashpoint.RevocationRemoved, r.task.Name)
	if e.Step != "" { // a whole journal: the task has ended
		q.mu.Lock()
		delete(q.reported, r.task.Key())
		delete(q.refusals, r.task.Key())
		q.mu.Unlock()
	}
}

// read reads a pending revocation, or of a damaged one what can be revoked. What cannot be read for the moment is
// read again: too few descriptors are no reason to lose leases.
func (q *Queue) read(id journal.PendingID) (*journal.Journal, error) {
	for try := 0; ; try++ {
		j, err := q.pending.Journal(id)
		if errors.Is(err, journal.ErrUnreadable) && !errors.Is(err, journal.ErrNewer) {
			damaged := err
			if j, err = q.pending.Salvage(id); err == nil {
				q.cfg.Log.Error("a pending revocation is damaged; its tokens are revoked, and all leases under them", "error", damaged)
			}
		}
		if err == nil || errors.Is(err, journal.ErrNone) || errors.Is(err, journal.ErrUnreadable) {
			return j, err
		}
		q.cfg.Log.Warn("a pending revocation cannot be read now, and is read again", "error", err)
		if !q.pause(try) {
			return nil, err
		}
	}
}

// Retry is for when a server answers again: what waits for its next attempt is tried soon. Not at once, for what keeps
// credentials of running tasks alive is more urgent.
func (q *Queue) Retry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	close(q.again)
	q.again = make(chan struct{})
}

// pause waits before the next attempt; false if the queue is closed meanwhile.
func (q *Queue) pause(try int) bool {
	q.mu.Lock()
	again := q.again
	q.mu.Unlock()
	t := time.NewTimer(limit.Backoff(retryMin, retryMax, try+1, q.cfg.Random()))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-again:
	case <-q.ctx.Done():
		return false
	}
	soon := time.NewTimer(between(retrySoonMin, retrySoonMax, q.cfg.Random()))
	defer soon.Stop()
	select {
	case <-t.C:
	case <-soon.C:
	case <-q.ctx.Done():
		return false
	}
	return true
}

// between is the duration that lies r of the way from lo to hi.
func between(lo, hi time.Duration, r float64) time.Duration {
	return lo + time.Duration(r*float64(hi-lo))
}

func (q *Queue) remove(id journal.PendingID) {
	if err := q.pending.Remove(id); err != nil {
		q.cfg.Log.Warn("a revocation that is done cannot be removed from state_dir", "error", err)
	}
}

// report tells the operator that the server refuses to revoke, once a task.
func (q *Queue) report(t journal.Task, event string, err error) {
	key := t.Key()
	q.mu.Lock()
	known := q.reported[key]
	q.reported[key] = true
	q.refusals[key] = refusal{time.Now(), err}
	q.mu.Unlock()
	if !known {
		q.cfg.Refused(t, event, err)
	}
}
