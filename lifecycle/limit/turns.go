package limit

import (
	"container/heap"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/queue"
)

// Tenant is whose request it is (C11): a namespace's job, all its allocations and tasks together. Where requests go to
// several servers, it is a tenant of its own at each.
type Tenant struct{ Namespace, Job, Server string }

// At is the tenant at a server.
func (t Tenant) At(server string) Tenant {
	t.Server = server
	return t
}

// TenantOf is the tenant of a job's allocation. Without a job (an older version journalled none) each allocation is
// a tenant of its own.
func TenantOf(namespace, job, alloc string) Tenant {
	if job == "" {
		return Tenant{Job: "allocation " + alloc}
	}
	// Nomad names each run of a parameterized or periodic job differently. They are one tenant.
	for _, sep := range []string{"/dispatch-", "/periodic-"} {
		job, _, _ = strings.Cut(job, sep)
	}
	return Tenant{Namespace: namespace, Job: job}
}

// roundTurns bounds the turns that tenants who come during a round may have in it, so that each round ends.
const roundTurns = 256

// turns is a queue in which tenants take turns: in each round every tenant that waits has one, and of those
// whose turn has not been the request that is due first goes. So nobody waits for more than the requests of a
// round or two, however many one tenant has; and where tenants have one request each, the order is by due.
//
// It decides and does nothing else. The zero turns is empty. It remembers only who waits, and who has had the
// turn of the present round. Its operations take logarithmic time.
type turns struct {
	round  uint64
	taken  int // turns in this round
	size   int
	lines  map[Tenant]*line
	order  queue.Heap[*line]   // the tenant whose turn it is first
	served map[Tenant]struct{} // those without a line that have had their turn of this round
}

// line is what waits of one tenant.
type line struct {
	tenant  Tenant
	round   uint64              // of its next turn
	waiting queue.Heap[*waiter] // the one due first
	index   int                 // in order
}

// add has a request wait.
func (t *turns) add(w *waiter) {
	if t.lines == nil {
		t.lines, t.served = map[Tenant]*line{}, map[Tenant]struct{}{}
	}
	t.size++
	if l := t.lines[w.tenant]; l != nil {
		heap.Push(&l.waiting, w)
		heap.Fix(&t.order, l.index)
		return
	}
	l := &line{tenant: w.tenant, round: t.round, waiting: queue.Heap[*waiter]{w}}
	if _, had := t.served[w.tenant]; had || t.taken >= roundTurns {
		l.round++
		delete(t.served, w.tenant)
	}
	t.lines[w.tenant] = l
	heap.Push(&t.order, l)
}

// remove takes out a request that waits.
func (t *turns) remove(w *waiter) {
	l := t.lines[w.tenant]
	heap.Remove(&l.waiting, w.index)
	t.size--
	if len(l.waiting) > 0 {
		heap.Fix(&t.order, l.index)
		return
	}
	heap.Remove(&t.order, l.index)
	t.drop(l)
}

// any reports whether one of those that wait may send now.
func (t *turns) any(may func(*line) bool) bool { return slices.ContainsFunc(t.order, may) }

// next takes out whose turn it is, of the tenants that may send now; nil if none may.
func (t *turns) next(may func(*line) bool) *waiter {
	var passed []*line
	var found *waiter
	for found == nil && len(t.order) > 0 {
		l := heap.Pop(&t.order).(*line)
		if may != nil && !may(l) {
			passed = append(passed, l)
			continue
		}
		found = heap.Pop(&l.waiting).(*waiter)
		t.size--
		if l.round > t.round {
			t.round, t.taken = l.round, 0
			clear(t.served)
		}
		t.taken++
		l.round = t.round + 1
		if len(l.waiting) > 0 {
			passed = append(passed, l)
		} else {
			t.drop(l)
		}
	}
	for _, l := range passed {
		heap.Push(&t.order, l)
	}
	return found
}

// drop forgets a tenant that has nothing waiting, but for its turn of this round.
func (t *turns) drop(l *line) {
	delete(t.lines, l.tenant)
	if t.size == 0 {
		clear(t.served) // nobody waits that could lose a turn
	} else if l.round > t.round {
		t.served[l.tenant] = struct{}{}
	}
}

// waitingOf is how many requests of a tenant wait.
func (t *turns) waitingOf(who Tenant) int {
	if l := t.lines[who]; l != nil {
		return len(l.waiting)
	}
	return 0
}

// waiter is one request that waits.
type waiter struct {
	tenant Tenant
	server string // of the foreground
	due    time.Time
	order  uint64 // of asking
	asked  time.Time
	called func(error)
	stay   func() bool // it does not leave with its context any more
	index  int         // in its tenant's line; -1 when granted
	flight *flight     // of the foreground: set when granted
}

// Before reports whether it is due before another.
func (w *waiter) Before(o *waiter) bool {
	if !w.due.Equal(o.due) {
		return w.due.Before(o.due)
	}
	return w.order < o.order
}

// SetIndex is for the queue.
func (w *waiter) SetIndex(i int) { w.index = i }

// Before reports whether it is the line's turn before another's.
func (l *line) Before(o *line) bool {
	if l.round != o.round {
		return l.round < o.round
	}
	return l.waiting[0].Before(o.waiting[0])
}

// SetIndex is for the queue.
func (l *line) SetIndex(i int) { l.index = i }
