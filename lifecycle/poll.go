package lifecycle

import (
	"container/heap"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	// pollsAtOnce bounds the polls under way, waiting for their turn included.
	pollsAtOnce = 16
	// pollTimeout bounds one request of a poll.
	pollTimeout = 10 * time.Second
	// pollStretch is how many intervals apart the polls of a path get that keep failing.
	pollStretch = 4
	// afterChange is how long after the server's own moment for a change it is looked for, and how
	// often until it is there.
	afterChange = time.Second
	// changeLate is how long it is looked for so: a server may be busy, but not all polls are to be so.
	changeLate = 20 * time.Second
)

// digestAbsent is in a digest's place where there is no secret at the path.
const digestAbsent = "absent"

// digestRefused is in a digest's place where no subscriber's token may read the path. Each is told, for
// only the task itself can find out whether it lost its right or its token.
const digestRefused = "refused"

// digestForeign is in a digest's place where the path turned out to hold something else than a
// static secret.
const digestForeign = "foreign"

// pollKey names what is polled: subscribers with the same key share one poll (C5).
type pollKey struct {
	Namespace string
	Path      string // as the request has it
	Version   int
	Owner     *Session // the only one that may share it; nil: whoever reads the path
}

// pollSubscriber is a task's interest in one secret.
type pollSubscriber struct {
	// Token is what to poll with, if there is one now. Must not block.
	Token func() (secrets.Token, bool)
	// Seen is the digest of what the task has; digestAbsent if it has nothing; empty: not known, so
	// the first poll notifies.
	Seen string
	// Changes is when the server will change it by itself, if known.
	Changes time.Time
	// Notify says that the server has something else than what the subscriber has seen: it should
	// read with its own identity, and then call markSeen. It is not called again for the same thing
	// unless markSeen was. Must not block; called without locks; may come once more after cancel.
	Notify func()
}

// pollerConfig is what a poller needs.
type pollerConfig struct {
	read     func(context.Context, secrets.Token, secrets.Request) (secrets.Answer, error)
	limit    *limiter
	interval time.Duration
	digest   func(secrets.Fields) string // keyed; the same as subscribers use
	random   func() float64              // in [0, 1), for the jitter; safe for concurrent use
	log      hclog.Logger
}

// poller looks for changes of static secrets: one poll a path and interval, however many tasks share
// it (C5). A poll reads with the token of one of them and only tells the others that there is
// something to see: each reads with its own identity, which alone decides what it may have.
//
// When the request rate does not suffice, polls wait for their turn, and as each path's next poll is
// counted from when the last was sent, intervals stretch all alike.
type poller struct {
	cfg     pollerConfig
	ctx     context.Context
	stop    context.CancelFunc
	wake    chan struct{} // something in paths or busy changed
	running sync.WaitGroup

	mu      sync.Mutex // guards what follows, and what is in paths and subscriptions
	paths   map[pollKey]*polledPath
	queue   pathQueue
	busy    int // polls under way
	failing int // paths whose last poll failed
}

// polledPath is one path that is polled.
type polledPath struct {
	key  pollKey
	subs []*subscription // the one whose token was good last comes first
	// next is when the next poll is due; while one is under way, it is not in the queue.
	next     time.Time
	index    int // in the queue, -1: not there
	failures int // polls in a row without an answer
	// changes is when the server will change the content by itself, as it last said; zero: not known.
	changes time.Time
}

// subscription is a subscriber's hold on a poller. The poller's lock guards it.
type subscription struct {
	pollSubscriber
	poller *poller
	path   *polledPath // nil: not polled, or cancelled
	told   string      // what Notify was last called for
}

// newPoller starts a poller. close ends it.
func newPoller(cfg pollerConfig) *poller {
	p := &poller{cfg: cfg, wake: make(chan struct{}, 1), paths: map[pollKey]*polledPath{}}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.running.Go(p.loop)
	return p
}

// close stops all polls and joins them.
func (p *poller) close() {
	p.stop()
	p.running.Wait()
}

// subscribe asks to be notified of changes of a static secret: one that a first read has found to be
// so, for polling any other would mint credentials. A secret pinned to a version never changes, and
// is not polled.
func (p *poller) subscribe(key pollKey, s pollSubscriber) *subscription {
	sub := &subscription{pollSubscriber: s, poller: p}
	if key.Version > 0 {
		return sub
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	path := p.paths[key]
	if path == nil {
		// At a random moment of the first interval: tasks that came together are spread.
		path = &polledPath{key: key, next: time.Now().Add(p.part(p.cfg.interval)), index: -1}
		p.paths[key] = path
		heap.Push(&p.queue, path)
		p.wakeUp()
	} else if path.failures > 0 && path.index >= 0 {
		p.hastenLocked(path) // it was put off, and the new subscriber's token may be good
		p.wakeUp()
	}
	if !s.Changes.IsZero() && path.index >= 0 {
		path.changes = s.Changes
		if at := s.Changes.Add(afterChange); at.Before(path.next) {
			path.next = at
			heap.Fix(&p.queue, path.index)
			p.wakeUp()
		}
	}
	sub.path = path
	path.subs = append(path.subs, sub)
	return sub
}

// markSeen tells the digest of what the subscriber has now; digestAbsent if there is nothing.
func (s *subscription) markSeen(digest string) {
	s.poller.mu.Lock()
	defer s.poller.mu.Unlock()
	s.Seen, s.told = digest, ""
}

// cancel ends the subscription. Idempotent.
func (s *subscription) cancel() {
	p := s.poller
	p.mu.Lock()
	defer p.mu.Unlock()
	path := s.path
	if path == nil {
		return
	}
	s.path = nil
	path.subs = slices.DeleteFunc(path.subs, func(o *subscription) bool { return o == s })
	if len(path.subs) == 0 {
		p.dropLocked(path)
	}
}

// dropLocked ends the polls of a path.
func (p *poller) dropLocked(path *polledPath) {
	if p.paths[path.key] != path {
		return
	}
	delete(p.paths, path.key)
	if path.index >= 0 {
		heap.Remove(&p.queue, path.index)
	}
	if path.failures > 0 {
		p.failing--
	}
}

// loop starts each poll at its moment.
func (p *poller) loop() {
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

// startDue starts the polls that are due, as many as may be under way, and says how long there is
// to wait for the next; false if for something else than time.
func (p *poller) startDue() (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 && p.busy < pollsAtOnce {
		if wait := time.Until(p.queue[0].next); wait > 0 {
			return wait, true
		}
		path := heap.Pop(&p.queue).(*polledPath)
		p.busy++
		p.running.Go(func() { p.poll(path) })
	}
	return 0, false
}

func (p *poller) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// poll reads a path once, tells who has something else, and sets the next moment.
func (p *poller) poll(path *polledPath) {
	digest, changes, sent, err := p.read(path)
	if p.ctx.Err() != nil {
		return
	}
	if kind := secrets.KindOf(err); kind == secrets.Refused || kind == secrets.Gone {
		digest = digestRefused
	}
	p.mu.Lock()
	var notify []func()
	if err == nil {
		// A change that is late is said to come now, at each poll: what counts is when it was due.
		if path.changes.IsZero() || changes.IsZero() || changes.Sub(sent) > afterChange {
			path.changes = changes
		}
	}
	if err == nil || digest == digestRefused {
		for _, s := range path.subs {
			if digest != s.Seen && digest != s.told {
				notify = append(notify, s.Notify)
				s.told = digest
			} else if digest == s.Seen {
				if s.told == digestRefused {
					notify = append(notify, s.Notify) // it was told of a refusal, and that is over
				}
				s.told = "" // it is as it was: what comes next is news again
			}
		}
	}
	p.busy--
	if p.paths[path.key] == path { // else nobody is left
		if digest == digestForeign {
			p.dropLocked(path)
		} else {
			p.scheduleLocked(path, sent, err != nil)
		}
	}
	p.mu.Unlock()
	p.wakeUp()
	for _, f := range notify {
		f()
	}
}

// scheduleLocked sets when a path is polled next, counted from when its last poll was sent.
func (p *poller) scheduleLocked(path *polledPath, sent time.Time, failed bool) {
	wait := p.cfg.interval
	switch {
	case failed:
		if path.failures == 0 {
			p.failing++
		}
		path.failures++
		wait = p.cfg.interval * time.Duration(min(path.failures, pollStretch))
	case path.failures > 0:
		path.failures = 0
		p.failing--
		p.recoverLocked()
	}
	path.next = sent.Add(wait)
	if !failed {
		path.next = earliest(path.next, lookAt(sent, path.changes))
	}
	heap.Push(&p.queue, path)
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
// were put off by more than an interval are not to wait for it.
func (p *poller) recoverLocked() {
	if p.failing == 0 {
		return
	}
	for _, path := range slices.Clone(p.queue) {
		if path.failures > 0 {
			p.hastenLocked(path)
		}
	}
}

// hastenLocked brings the next poll of a path that was put off back to within an interval.
func (p *poller) hastenLocked(path *polledPath) {
	if soon := time.Now().Add(p.part(p.cfg.interval)); soon.Before(path.next) {
		path.next = soon
		heap.Fix(&p.queue, path.index)
	}
}

// part is a random part of d.
func (p *poller) part(d time.Duration) time.Duration {
	return time.Duration(p.cfg.random() * float64(d))
}

// read asks the server what is at a path, with the token of one subscriber after the other until one
// is good for it. The digest is what the answer comes to; the error is that of the last one asked.
func (p *poller) read(path *polledPath) (digest string, changes, sent time.Time, err error) {
	p.mu.Lock()
	due := path.next
	subs := slices.Clone(path.subs)
	p.mu.Unlock()

	err = errors.New("no task has a token now")
	sent = time.Now()
	for _, s := range subs {
		tok, ok := s.Token()
		if !ok {
			continue
		}
		if err := p.cfg.limit.background(p.ctx, toLook, due); err != nil {
			return "", changes, sent, err
		}
		sent = time.Now()
		digest, changes, err = p.readWith(tok, path.key)
		switch secrets.KindOf(err) {
		case secrets.Refused, secrets.Gone:
			p.last(path, s)
			continue
		case secrets.NotFound:
			return digestAbsent, changes, sent, nil
		}
		break
	}
	if err != nil {
		p.cfg.log.Debug("poll", "path", path.key.Path, "error", err)
	}
	return digest, changes, sent, err
}

func (p *poller) readWith(tok secrets.Token, key pollKey) (digest string, changes time.Time, err error) {
	ctx, cancel := context.WithTimeout(p.ctx, pollTimeout)
	defer cancel()
	answer, err := p.cfg.read(ctx, tok, secrets.Request{Namespace: key.Namespace, Path: key.Path})
	if err != nil {
		return "", changes, err
	}
	if answer.Kind != secrets.Static {
		// The mount was replaced by one of another type. Each further read might mint a credential.
		p.cfg.log.Warn("no longer polled: not a static secret any more", "path", key.Path)
		return digestForeign, changes, nil
	}
	return p.cfg.digest(answer.Fields), answer.Changes, nil
}

// last puts a subscription whose token was no good at the end, so that the next poll begins with
// another's.
func (p *poller) last(path *polledPath, s *subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(path.subs, s); i >= 0 {
		path.subs = append(slices.Delete(path.subs, i, i+1), s)
	}
}

// pathQueue is a heap of paths, the next to be polled first.
type pathQueue []*polledPath

func (q pathQueue) Len() int           { return len(q) }
func (q pathQueue) Less(i, j int) bool { return q[i].next.Before(q[j].next) }
func (q pathQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *pathQueue) Push(x any) {
	path := x.(*polledPath)
	path.index = len(*q)
	*q = append(*q, path)
}
func (q *pathQueue) Pop() any {
	old := *q
	path := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	path.index = -1
	return path
}
