package lifecycle

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// foregroundAtOnce is how many requests of starts and revocations go to the server at once
// (DESIGN 4). They are outside the request rate: somebody waits for them.
const foregroundAtOnce = 16

// limiter keeps the requests of one plugin process within bounds: those in the background (polls,
// renewals, lease checks) to a rate, those in the foreground (starts, rotations, revocations) to a
// number at once. Safe for concurrent use.
type limiter struct {
	slots chan struct{}
	gap   time.Duration // between two background requests

	mu      sync.Mutex // guards what follows
	next    time.Time  // the earliest moment for the next background request
	timer   *time.Timer
	waiting waiters
	count   uint64
}

// newLimiter makes a limiter of requestRate background requests a second; zero or less: no limit.
func newLimiter(requestRate float64) *limiter {
	l := &limiter{slots: make(chan struct{}, foregroundAtOnce)}
	if requestRate > 0 {
		l.gap = time.Duration(float64(time.Second) / requestRate)
	}
	return l
}

// urgency is what a background request is for, the most urgent first. It goes before any due time: where
// the rate is too low for everything, it is looking that gets rarer (C5, C6), and no credential ends
// because a check of another was due before it.
type urgency int

const (
	toKeep urgency = iota // else something ends that a task has: renewals, logins, replacements
	toAct                 // there is something new for a task, or to find out what a refusal means
	toLook                // to see whether there is: polls, lease checks, policies
)

// background waits for its turn to send one request. Who is first is decided by its urgency, among
// equals by due, when the request ought to have been sent or what it is for ends: the earliest, and of
// equals the one who asked first. Due is not waited for. The error is ctx's.
func (l *limiter) background(ctx context.Context, u urgency, due time.Time) error {
	turn := make(chan error, 1)
	l.enqueue(ctx, u, due, func(err error) { turn <- err })
	return <-turn
}

// later is background for many who wait: it returns at once and has run called, in a goroutine of its own,
// at its turn, or with ctx's error.
func (l *limiter) later(ctx context.Context, u urgency, due time.Time, run func(err error)) {
	l.enqueue(ctx, u, due, func(err error) { go run(err) })
}

// enqueue has called called, which must not block, once: at its turn, or with ctx's error.
func (l *limiter) enqueue(ctx context.Context, u urgency, due time.Time, called func(err error)) {
	if err := ctx.Err(); err != nil {
		called(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	w := &waiter{urgency: u, due: due, order: l.count, called: called}
	heap.Push(&l.waiting, w)
	w.stay = context.AfterFunc(ctx, func() {
		if l.leave(w) {
			called(ctx.Err())
		}
	})
	l.grantLocked()
}

// leave takes w out, unless it was granted in the same moment: then the turn is spent, so let it be used.
func (l *limiter) leave(w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.index < 0 {
		return false
	}
	heap.Remove(&l.waiting, w.index)
	if len(l.waiting) == 0 && l.timer != nil {
		l.timer.Stop()
	}
	return true
}

// foreground waits until fewer than foregroundAtOnce requests are under way, and counts as one
// until release is called. The error is ctx's.
func (l *limiter) foreground(ctx context.Context) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case l.slots <- struct{}{}:
		return sync.OnceFunc(func() { <-l.slots }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// grantLocked lets go whoever may, and sets the timer for the next.
func (l *limiter) grantLocked() {
	for len(l.waiting) > 0 {
		now := time.Now()
		if wait := l.next.Sub(now); wait > 0 {
			l.wakeLocked(wait)
			return
		}
		// Counted from now, not from the moment missed: no two requests are closer than gap.
		l.next = now.Add(l.gap)
		w := heap.Pop(&l.waiting).(*waiter)
		w.stay()
		w.called(nil)
	}
}

func (l *limiter) wakeLocked(wait time.Duration) {
	if l.timer != nil {
		l.timer.Reset(wait)
		return
	}
	l.timer = time.AfterFunc(wait, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.grantLocked()
	})
}

// waiter is one request that waits.
type waiter struct {
	urgency urgency
	due     time.Time
	order   uint64
	called  func(error)
	stay    func() bool // it does not leave with its context any more
	index   int         // in waiters; -1 when granted
}

// waiters is a heap, most urgent first.
type waiters []*waiter

func (h waiters) Len() int { return len(h) }
func (h waiters) Less(i, j int) bool {
	if h[i].urgency != h[j].urgency {
		return h[i].urgency < h[j].urgency
	}
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].order < h[j].order
}
func (h waiters) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *waiters) Push(x any) {
	w := x.(*waiter)
	w.index = len(*h)
	*h = append(*h, w)
}
func (h *waiters) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	w.index = -1
	return w
}
