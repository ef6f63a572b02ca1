package poll

import (
	"container/heap"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	// requestTimeout bounds one request of a poll.
	requestTimeout = 10 * time.Second
	// maxStretch is how many intervals apart the polls of a path get that keep failing.
	maxStretch = 4
	// maxAskers is how many tasks ask one after another, in one poll, what the server answers with an outage that may be
	// of who asks.
	maxAskers = 5
	// afterChange is how long after the server's own moment for a change the poll is sent, and how
	// often until it is there.
	afterChange = time.Second
	// changeLate is how long it is looked for so: a server may be busy, but not all polls are to be so.
	changeLate = 20 * time.Second
)

// Absent is in a digest's place where there is no secret at the path.
const Absent = "absent"

// digestRefused is in a digest's place where no subscriber's token may read the path. Each is notified, for
// only the task itself can find out whether it lost its right or its token.
const digestRefused = "refused"

// digestForeign is in a digest's place where the path turned out to hold something else than a
// static secret.
const digestForeign = "foreign"

// Config is what a poller needs.
type Config struct {
	Read     func(context.Context, secrets.Token, secrets.Request) (secrets.Answer, error)
	Waiter   func(provider string) Waiter // nil: its paths are read again and again; nil as a whole: all are
	Limit    *limit.Limiter
	Interval time.Duration
	Digest   func(secrets.Fields) string // keyed; the same as subscribers use
	Random   func() float64              // in [0, 1), for the jitter; safe for concurrent use
	Log      hclog.Logger
}

// Poller looks for changes of static secrets: one poll a path and interval, however many tasks share
// it (C5). A poll reads with the token of one of them and only notifies the others:
// each reads with its own identity, which alone decides what it may have. Where the provider can wait, one wait a path
// is under way in the place of the reads.
//
// When the request rate does not suffice, polls wait for their turn, in the limiter and without a goroutine;
// and as each path's next poll is counted from when the last was sent, intervals stretch all alike. A poll that
// several tenants share waits for the turn of the one with the fewest waiting (C11), so that sharing a path with a tenant of hundreds
// delays nobody's polls.
type Poller struct {
	cfg     Config
	ctx     context.Context
	stop    context.CancelFunc
	wake    chan struct{} // something in paths changed
	running sync.WaitGroup

	mu      sync.Mutex // guards what follows, and what is in paths and subscriptions
	paths   map[Key]*polledPath
	queue   pathQueue
	failing int // paths whose last poll failed
}

// polledPath is one path that is polled.
type polledPath struct {
	key    Key
	waiter Waiter // nil: the provider has none
	// revision is what the last wait answered: the next begins with it.
	revision string
	asking   *Subscription      // whose token a wait is under way with; nil: none is
	stopWait context.CancelFunc // of that wait
	waitsFor time.Duration      // how long it may take without a change
	subs     []*Subscription    // the one whose token was good last comes first
	// next is when the next poll is due; while one is under way, it is not in the queue.
	next     time.Time
	index    int         // in the queue, -1: not there
	leave    func() bool // cancels the poll that waits for its turn; nil: none waits
	failures int         // polls in a row that failed
	// unanswered is how many polls in a row the server did not answer.
	unanswered int
	// changes is when the server will change the content by itself, or was to and has not yet; zero: not known.
	changes time.Time
	reading time.Time // until then somebody is taken to read it in a live directory
	content string    // the digest of the last poll that found something; empty: none did
}

// New starts a poller. close ends it.
func New(cfg Config) *Poller {
	p := &Poller{cfg: cfg, wake: make(chan struct{}, 1), paths: map[Key]*polledPath{}}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.running.Go(p.loop)
	return p
}

// Close stops all polls and joins them.
func (p *Poller) Close() {
	p.stop()
	p.running.Wait()
}

// dropLocked ends the polls of a path.
func (p *Poller) dropLocked(path *polledPath) {
	if p.paths[path.key] != path {
		return
	}
	delete(p.paths, path.key)
	if path.index >= 0 {
		heap.Remove(&p.queue, path.index)
	} else if path.leave() {
		p.running.Done()
	}
	if path.failures > 0 {
		p.failing--
	}
}

// loop starts each poll at its moment.
func (p *Poller) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if wait, ok := p.startDue(); ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case <-timer.C:
		case <-p.wake:
		case <-p.ctx.Done():
			return
		}
	}
}

// startDue has the polls that are due wait for their turn, and says how long there is to wait for the next;
// false if for something else than time.
func (p *Poller) startDue() (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 {
		if wait := time.Until(p.queue[0].next); wait > 0 {
			return wait, true
		}
		path := heap.Pop(&p.queue).(*polledPath)
		payer := p.payerLocked(path)
		p.running.Add(1) // which the loop keeps above zero
		path.leave = p.queueLocked(path, payer, func(err error) {
			defer p.running.Done()
			if err == nil {
				p.poll(path, payer)
			}
		})
	}
	return 0, false
}

// payerLocked is the tenant whose turn a poll waits for: of those that have a token that may be good, the one
// with the fewest requests that wait already.
func (p *Poller) payerLocked(path *polledPath) limit.Tenant {
	best, least := path.subs[0].Tenant, -1
	for i, s := range path.subs {
		if s.refused || i > 0 && s.Tenant == path.subs[i-1].Tenant && least >= 0 {
			continue
		}
		if _, ok := s.Token(); !ok {
			continue
		}
		if n := p.cfg.Limit.Waiting(s.Tenant, limit.Poll); least < 0 || n < least {
			best, least = s.Tenant, n
		}
	}
	return best
}

func (p *Poller) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// poll reads a path once, notifies those that have something else, and sets the next moment.
func (p *Poller) poll(path *polledPath, payer limit.Tenant) {
	digest, changes, sent, err := p.read(path, payer)
	if p.ctx.Err() != nil {
		return
	}
	if kind := secrets.KindOf(err); kind == secrets.Refused || kind == secrets.Gone {
		digest = digestRefused
	}
	p.mu.Lock()
	notify := append(path.lookedLocked(digest, sent, err), path.answeredLocked(err)...)
	if err == nil {
		path.changes = nextChange(path.changes, changes, sent, path.content != "" && digest != path.content)
		path.content = digest
	}
	if err == nil || digest == digestRefused {
		for _, s := range path.subs {
			if digest != s.Seen && digest != s.notified {
				notify = append(notify, s.Notify)
				s.notified = digest
			} else if digest == s.Seen {
				if s.notified == digestRefused {
					notify = append(notify, s.Notify) // it was notified of a refusal, and that is over
				}
				s.notified = "" // it is as it was: what comes next is news again
			}
		}
	}
	if p.paths[path.key] == path { // else nobody is left
		switch {
		case digest == digestForeign:
			p.dropLocked(path)
		case errors.Is(err, errLeft):
			path.next = time.Now()
			heap.Push(&p.queue, path)
		default:
			interval := p.cfg.Interval
			if path.waiter != nil && err == nil && digest != Absent {
				path.revision, interval = digest, betweenWaits
			}
			p.scheduleLocked(path, sent, interval, err != nil)
		}
	}
	p.mu.Unlock()
	p.wakeUp()
	for _, f := range notify {
		f()
	}
}

// scheduleLocked sets when a path is polled next, counted from when its last poll was sent.
func (p *Poller) scheduleLocked(path *polledPath, sent time.Time, interval time.Duration, failed bool) {
	reading := false
	if path.waiter == nil || failed { // a wait has an end of its own
		interval, reading = path.intervalLocked(interval, time.Now())
	}
	wait := interval
	switch {
	case failed:
		if path.failures == 0 {
			p.failing++
		}
		path.failures++
		if !reading {
			wait = interval * time.Duration(min(path.failures, maxStretch))
		}
	case path.failures > 0:
		path.failures = 0
		p.failing--
		p.recoverLocked()
	}
	path.next = sent.Add(wait)
	if !failed {
		if at := lookAt(sent, path.changes); !at.IsZero() && at.Before(path.next) {
			path.next = at
		}
	}
	heap.Push(&p.queue, path)
}

// nextChange is when the content is to change by itself: until now that was to be at one moment, and a poll that was
// sent at another says a new one. A moment stays due until the content has changed, for a while: servers tell of the
// next period some seconds before the change that begins it, and of one that is late that it comes now.
func nextChange(due, says, sent time.Time, changed bool) time.Time {
	givenUp := sent.After(due.Add(changeLate)) && says.Sub(sent) > afterChange
	if changed || due.IsZero() || says.IsZero() || says.Before(due) || givenUp {
		return says
	}
	return due
}

// lookAt is when to look for a change that the server makes by itself, after a poll that was sent
// without finding it: just after its moment, then every second for a while; zero: no more than else.
func lookAt(sent, changes time.Time) time.Time {
	switch {
	case changes.IsZero() || sent.After(changes.Add(changeLate)):
		return time.Time{}
	case sent.Before(changes):
		return changes.Add(afterChange)
	}
	return sent.Add(afterChange)
}

// recoverLocked is called when a path that failed answers again: the server is back, and those that
// were rescheduled for later than an interval do not wait for it.
func (p *Poller) recoverLocked() {
	if p.failing == 0 {
		return
	}
	for _, path := range slices.Clone(p.queue) {
		if path.failures > 0 {
			p.pullForwardLocked(path)
		}
	}
}

// pullForwardLocked brings the next poll of a path back to within an interval.
func (p *Poller) pullForwardLocked(path *polledPath) {
	if soon := time.Now().Add(p.part(p.cfg.Interval)); soon.Before(path.next) {
		path.next = soon
		heap.Fix(&p.queue, path.index)
	}
}

// part is a random part of d.
func (p *Poller) part(d time.Duration) time.Duration {
	return time.Duration(p.cfg.Random() * float64(d))
}
