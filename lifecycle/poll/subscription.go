package poll

import (
	"container/heap"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Key names what is polled: subscribers with the same key share one poll (C5). Owner must be comparable.
type Key struct {
	Provider  string
	Namespace string
	Path      string // as the request has it
	Version   int
	Owner     any // the only one that may share it, by identity; nil: whoever reads the path
}

// Subscriber is a task's interest in one secret.
type Subscriber struct {
	// Tenant is whose task it is.
	Tenant limit.Tenant
	// Token is what to poll with, if there is one now. Must not block.
	Token func() (secrets.Token, bool)
	// Task is for whom the poll asks then.
	Task secrets.Task
	// Seen is the digest of what the task has, or its revision where the provider can wait; Absent if it has nothing;
	// empty: not known, so the first poll notifies.
	Seen string
	// Changes is when the server will change it by itself, if known.
	Changes time.Time
	// Notify says that the server has something else than what the subscriber has seen: it should
	// read with its own identity, and then call markSeen. It is not called again for the same thing
	// unless markSeen was. Must not block; called without locks; may come once more after cancel.
	Notify func()
	// Looks is there if it wants to know of each look; nil: of changes only.
	Looks *Looks
	// Answered, if not nil, is told of each poll, or wait, that got no answer, with how many of them in a row there were;
	// and of the first that got one again, with none. Must not block; called without locks; may come once more after Cancel.
	Answered func(failures int, err error)
}

// request is the one that finds out what is at a key.
func (k Key) request(task secrets.Task) secrets.Request {
	return secrets.Request{Provider: k.Provider, Namespace: k.Namespace, Path: k.Path, Task: task}
}

// Subscription is a subscriber's hold on a poller. The poller's lock guards it.
type Subscription struct {
	Subscriber
	poller   *Poller
	path     *polledPath // nil: not polled, or cancelled
	notified string      // what Notify was last called for
	// refused: its token was no good for the path when last used.
	refused bool
}

// Subscribe asks to be notified of changes of a static secret: one that a first read has found to be
// static, for polling any other would make credentials. A secret pinned to a version never changes, and
// is not polled.
func (p *Poller) Subscribe(key Key, s Subscriber) *Subscription {
	sub := &Subscription{Subscriber: s, poller: p}
	if key.Version > 0 {
		return sub
	}
	if p.subscribe(key, sub) {
		s.Notify()
	}
	return sub
}

// subscribe reports whether the subscriber is to be notified at once: the wait that is under way is for what comes after
// something that it may not have.
func (p *Poller) subscribe(key Key, sub *Subscription) (behind bool) {
	s := sub.Subscriber
	p.mu.Lock()
	defer p.mu.Unlock()
	path := p.paths[key]
	if path == nil {
		// At a random moment of the first interval: tasks that came together are spread.
		path = &polledPath{key: key, next: time.Now().Add(p.part(p.cfg.Interval)), index: -1}
		if p.cfg.Waiter != nil {
			path.waiter = p.cfg.Waiter(key.Provider)
		}
		if path.waiter != nil {
			path.next, path.revision = time.Now(), s.Seen
		}
		p.paths[key] = path
		heap.Push(&p.queue, path)
		p.wakeUp()
	} else if path.failures > 0 && path.index >= 0 {
		p.pullForwardLocked(path) // it was rescheduled for later, and the new subscriber's token may be good
		p.wakeUp()
	}
	path.shortenLocked(s.Looks)
	if !s.Changes.IsZero() && path.index >= 0 && (path.changes.IsZero() || s.Changes.Before(path.changes)) {
		path.changes = s.Changes
		if at := s.Changes.Add(afterChange); at.Before(path.next) {
			path.next = at
			heap.Fix(&p.queue, path.index)
			p.wakeUp()
		}
	}
	sub.path = path
	path.subs = append(path.subs, sub)
	if behind = path.revision != "" && path.revision != s.Seen; behind {
		sub.notified = path.revision
	}
	return behind
}

// MarkSeen sets the digest, or the revision, of what the subscriber has now; Absent if there is nothing.
func (s *Subscription) MarkSeen(digest string) {
	s.poller.mu.Lock()
	defer s.poller.mu.Unlock()
	s.Seen = digest
	if digest == Absent && s.path != nil && s.path.waiter != nil {
		return // of which revision that is, it was notified of
	}
	s.notified = ""
}

// Resume polls the path again if that has ended because there was something else at it than a static secret: the subscriber has read
// it since, and it is one again.
func (s *Subscription) Resume() {
	p := s.poller
	p.mu.Lock()
	path := s.path
	dropped := path != nil && p.paths[path.key] != path
	p.mu.Unlock()
	if dropped && p.subscribe(path.key, s) {
		s.Notify()
	}
}

// Cancel ends the subscription. Idempotent.
func (s *Subscription) Cancel() {
	p := s.poller
	p.mu.Lock()
	defer p.mu.Unlock()
	path := s.path
	if path == nil {
		return
	}
	s.path = nil
	path.subs = slices.DeleteFunc(path.subs, func(o *Subscription) bool { return o == s })
	if path.asking == s {
		path.stopWait() // it goes on with another's token
	}
	if len(path.subs) == 0 {
		p.dropLocked(path)
	}
}
