package poll

import (
	"container/heap"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	// liveInterval is how often a path is polled that is being read in a live directory, and readAgo how long after its last
	// read that is so.
	liveInterval = time.Second
	readAgo      = 3 * time.Second
)

// Looks is a subscriber's wish to be told of each look at its secret (doc.go), and not only of changes. A live directory
// has it.
type Looks struct {
	// Every is how far apart they may be at the most, also when nobody reads: what is served has been looked at lately.
	Every time.Duration
	// Looked says that a look that was sent at that moment found just what the subscriber has seen; with an error, that
	// the server could not be asked. Must not block; called without locks; may come once more after Cancel.
	Looked func(sent time.Time, err error)
}

// Reading says that somebody reads the secret in its live directory: it is polled at once, if nobody has lately, and each
// second for a while. It reports false if no poll will come of it.
func (s *Subscription) Reading() bool {
	p := s.poller
	p.mu.Lock()
	defer p.mu.Unlock()
	path := s.path
	if path == nil || path.waiter != nil && path.failures == 0 { // who waits for a change has what is current
		return false
	}
	now := time.Now()
	idle := now.After(path.reading)
	path.reading = now.Add(readAgo)
	if idle && path.index >= 0 {
		path.next = now
		heap.Fix(&p.queue, path.index)
		p.wakeUp()
	}
	return true
}

// BeingRead reports whether somebody has read the secret in its live directory lately.
func (s *Subscription) BeingRead() bool {
	s.poller.mu.Lock()
	defer s.poller.mu.Unlock()
	return s.path != nil && time.Now().Before(s.path.reading)
}

// queueLocked has a poll wait for its turn.
func (p *Poller) queueLocked(path *polledPath, payer limit.Tenant, run func(error)) (leave func() bool) {
	if time.Now().Before(path.reading) {
		return p.cfg.Limit.QueueLive(p.ctx, payer, path.next, run)
	}
	return p.cfg.Limit.Queue(p.ctx, payer, limit.Poll, path.next, run)
}

// intervalLocked is how often a path is to be polled, and whether that is because it is being read.
func (path *polledPath) intervalLocked(usual time.Duration, now time.Time) (every time.Duration, reading bool) {
	if now.Before(path.reading) {
		return min(usual, liveInterval), true
	}
	for _, s := range path.subs {
		if s.Looks != nil {
			usual = min(usual, s.Looks.Every)
		}
	}
	return usual, false
}

// answeredLocked are the calls that tell subscribers that polls have no answer, or have one again. A refusal is one.
func (path *polledPath) answeredLocked(err error) (calls []func()) {
	kind := secrets.KindOf(err)
	switch {
	case kind == secrets.Outage:
		path.unanswered++
	case err != nil && kind == 0 || path.unanswered == 0: // nobody was asked; or it is no news
		return nil
	default:
		path.unanswered, err = 0, nil
	}
	failures := path.unanswered
	for _, s := range path.subs {
		if s.Answered != nil {
			calls = append(calls, func() { s.Answered(failures, err) })
		}
	}
	return calls
}

// lookedLocked are the calls that tell subscribers of a look: those that have seen what it found, or all of them if
// there was no answer. Of what else it found they know once they have read it. Of a refusal they are told nothing: their
// own read finds out.
func (path *polledPath) lookedLocked(digest string, sent time.Time, err error) (calls []func()) {
	if kind := secrets.KindOf(err); kind == secrets.Refused || kind == secrets.Gone {
		return nil
	}
	for _, s := range path.subs {
		gone := s.Seen == Absent && digest == s.notified // by a revision, which its subscriber does not know
		if s.Looks != nil && (err != nil || digest == s.Seen || gone) {
			calls = append(calls, func() { s.Looks.Looked(sent, err) })
		}
	}
	return calls
}
