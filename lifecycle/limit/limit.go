package limit

import (
	"context"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"
)

const (
	// lowerTurn: one background turn in this many goes to a lower priority than the highest that waits. A
	// tenant whose credentials use the whole rate must not stop the polls of all others for good.
	lowerTurn = 8
	// backlogAfter is how long a background request waits before the operator is warned; backlogAgain is the
	// pause until the next warning.
	backlogAfter = 30 * time.Second
	backlogAgain = time.Hour
)

// Limiter bounds the requests of one plugin process, so that no tenant delays another (C11):
// those in the background (polls, renewals, lease checks) to a rate, those in the foreground (starts,
// revocations) to a number at once. Safe for concurrent use.
//
// How many background requests are under way is bounded by the rate, which falls as answers take longer, and by their timeouts: one
// that the server does not answer holds up nobody, not even its own tenant, whose other credentials may live elsewhere.
type Limiter struct {
	rate   float64       // background requests a second
	gap    time.Duration // between two of them
	behind func(Backlog) // called when background requests wait for too long; must not block
	random func() float64

	mu         sync.Mutex // guards what follows
	next       time.Time  // the earliest moment for the next background request
	timer      *time.Timer
	ranks      ranks
	paces      map[string]*serverPace // by server
	live       turns                  // looks at secrets that are being read: see live.go
	nextLive   time.Time              // the earliest moment for the next of them
	slots      slots
	count      uint64
	lastWarned time.Time // when behind was called
}

// Backlog is what waits in the background when the rate does not suffice.
type Backlog struct {
	Waited         time.Duration // of the one that went last
	Waiting        int
	Busiest        Tenant // the one with most of them
	BusiestWaiting int
}

// New makes a limiter of requestRate background requests a second; zero or less: no limit.
func New(requestRate float64, behind func(Backlog)) *Limiter {
	l := &Limiter{rate: requestRate, behind: behind, random: mathrand.Float64, paces: map[string]*serverPace{}, slots: newSlots(ForegroundAtOnce)}
	if requestRate > 0 {
		l.slots.first = slowestAtOnce
		l.gap = time.Duration(float64(time.Second) / requestRate)
	}
	return l
}

// Priority is what a background request is for, the highest first. It counts before tenants and due times:
// where the rate is too low for everything, polls and checks get rarer (C5, C6), and no credential ends
// because a check of another was due before it.
type Priority int

// The priorities.
const (
	Renew  Priority = iota // else something that a task has ends: renewals, logins, replacements of what is near its end for good
	Rotate                 // something new for a task: what has changed, was revoked, or is newly granted; or to find out what a refusal means
	Poll                   // to find out whether there is something new: polls, lease checks, policies
	priorities
)

// ranks are the background requests that wait, by priority.
type ranks struct {
	turns  [priorities]turns
	served [priorities]uint64 // when a rank had its last turn
	turn   uint64             // counts turns
	passed int                // turns since a lower rank that waited had one
}

// next takes out the request whose turn it is, of those that may go now: of the highest priority, except for one in
// lowerTurn turns. Nil if none may.
func (r *ranks) next(may func(Priority, *line) bool) *waiter {
	top, lower := priorities, priorities
	for u := range priorities {
		switch {
		case !r.turns[u].any(func(l *line) bool { return may(u, l) }):
		case top == priorities:
			top = u
		case lower == priorities || r.served[u] < r.served[lower]:
			lower = u // the one that has waited longest for a turn
		}
	}
	if top == priorities {
		return nil
	}
	u := top
	if lower < priorities {
		if r.passed++; r.passed >= lowerTurn {
			u = lower
		}
	}
	if u != top {
		r.passed = 0
	}
	r.turn++
	r.served[u] = r.turn
	return r.turns[u].next(func(l *line) bool { return may(u, l) })
}

func (r *ranks) size() (n int) {
	for u := range r.turns {
		n += r.turns[u].size
	}
	return n
}

// busiest is the tenant with the most requests that wait in one rank.
func (r *ranks) busiest() (busiest Tenant, most int) {
	for u := range r.turns {
		for t, l := range r.turns[u].lines {
			if len(l.waiting) > most {
				busiest, most = t, len(l.waiting)
			}
		}
	}
	return busiest, most
}

// Background waits for its turn to send one request. The order is by priority; among equals
// tenants take turns; of one tenant's requests the one that is due first goes first. Due is when it should be sent, or
// when what it is for ends; it is not waited for. The error is ctx's.
func (l *Limiter) Background(ctx context.Context, t Tenant, u Priority, due time.Time) error {
	turn := make(chan error, 1)
	l.queueTurn(ctx, t, u, due, func(err error) { turn <- err })
	return <-turn
}

// Queue is Background without a waiting goroutine: it returns at once and has run called, in a goroutine of its own,
// at its turn, or with ctx's error. Leave, which never blocks for long, takes the request back: if it
// reports true, run is not called.
func (l *Limiter) Queue(ctx context.Context, t Tenant, u Priority, due time.Time, run func(err error)) (leave func() bool) {
	return l.queueTurn(ctx, t, u, due, func(err error) { go run(err) })
}

// queueTurn has called run once, at its turn or with ctx's error. It must not block.
func (l *Limiter) queueTurn(ctx context.Context, t Tenant, u Priority, due time.Time, called func(err error)) (leave func() bool) {
	return l.wait(ctx, &l.ranks.turns[u], &waiter{tenant: t, due: due, called: called}, l.grantLocked)
}

// Foreground waits for a slot, and takes it until release is called. Tenants take turns. The error is ctx's.
func (l *Limiter) Foreground(ctx context.Context, t Tenant, k Kind) (release func(), err error) {
	turn := make(chan error, 1)
	w := &waiter{tenant: t.At(""), server: t.Server, called: func(err error) { turn <- err }} // its share is one, whatever it asks
	l.wait(ctx, &l.slots.waiting[k], w, l.fillLocked)
	if err := <-turn; err != nil {
		return nil, fmt.Errorf("the request waited for its turn: earlier requests have no answer yet: %w", err)
	}
	return func() { l.release(w.flight) }, nil
}

// wait has w wait among in, unless ctx has ended; then it has grantLocked decide which may go.
func (l *Limiter) wait(ctx context.Context, in *turns, w *waiter, grantLocked func()) (leave func() bool) {
	if err := ctx.Err(); err != nil {
		w.called(err)
		return func() bool { return false }
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	w.order, w.asked = l.count, time.Now()
	in.add(w)
	stay := context.AfterFunc(ctx, func() {
		if l.leave(in, w) {
			w.called(ctx.Err())
		}
	})
	w.stay = stay
	grantLocked()
	return func() bool {
		if !l.leave(in, w) {
			return false
		}
		stay()
		return true
	}
}

// leave takes w out, unless it was granted, or left, before: a turn that is spent may as well be used.
func (l *Limiter) leave(in *turns, w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.index < 0 {
		return false
	}
	in.remove(w)
	if l.timer != nil && l.ranks.size()+l.live.size == 0 {
		l.timer.Stop()
	}
	return true
}

// grantLocked lets those background requests go that may, and sets the timer for the next.
func (l *Limiter) grantLocked() {
	for l.ranks.size()+l.live.size > 0 {
		now := time.Now()
		if wait := l.next.Sub(now); wait > 0 {
			l.wakeLocked(wait)
			return
		}
		w, wait := l.nextLocked(now)
		if w == nil {
			l.wakeLocked(wait)
			return
		}
		// Counted from now, not from the moment missed: no two requests are closer than gap.
		l.next = now.Add(l.gap)
		if p := l.paces[w.tenant.Server]; p != nil {
			p.sent(now, w.tenant, l.random())
		}
		l.warnLocked(now, w)
		w.stay()
		w.called(nil)
	}
}

// warnLocked warns when requests wait for so long that the rate cannot suffice.
func (l *Limiter) warnLocked(now time.Time, w *waiter) {
	waited := now.Sub(w.asked)
	if waited < backlogAfter || l.behind == nil || !l.lastWarned.IsZero() && now.Sub(l.lastWarned) < backlogAgain {
		return
	}
	l.lastWarned = now
	b := Backlog{Waited: waited, Waiting: l.ranks.size()}
	b.Busiest, b.BusiestWaiting = l.ranks.busiest()
	l.behind(b)
}

// Waiting is how many background requests of a tenant wait at a priority.
func (l *Limiter) Waiting(t Tenant, u Priority) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ranks.turns[u].waitingOf(t)
}

func (l *Limiter) wakeLocked(wait time.Duration) {
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

// fillLocked lets those foreground requests go that may.
func (l *Limiter) fillLocked() {
	for {
		now := time.Now()
		w := l.slots.next(now)
		if w == nil {
			return
		}
		f := w.flight
		f.timer = time.AfterFunc(slowAfter, func() { l.turnSlow(f) })
		w.stay()
		w.called(nil)
	}
}

// turnSlow has a request leave its slot, now or as soon as it is slow and may.
func (l *Limiter) turnSlow(f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.over {
		return
	}
	now := time.Now()
	if after, ails := l.slowAfterLocked(now, f.server); now.Sub(f.began) < after || !l.slots.turnSlow(now, f, ails) {
		f.timer.Reset(slowAfter)
		return
	}
	l.fillLocked()
}

// release ends a request of the foreground. Idempotent.
func (l *Limiter) release(f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.over {
		return
	}
	f.over = true
	f.timer.Stop()
	l.slots.end(time.Now(), f)
	l.fillLocked()
}
