package lifecycle

import (
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/poll"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Look is what is known of a secret with a live directory since a moment.
type Look struct {
	At     time.Time       // when the server was asked
	Fields *secrets.Fields // what it has; nil: what it had before
	Err    error           // it could not be asked
}

// lookNoteEvery is how often it is journalled when secrets were last looked at, of those that are in live directories.
const lookNoteEvery = time.Minute

// liveDirs is what the task's live directories have. It has a lock of its own: polls tell it of their looks, and readers
// of their reading, beside the session's loop.
type liveDirs struct {
	mu   sync.Mutex
	dirs map[string]*liveDir // by secret

	noted time.Time // when the looks were journalled; the loop's
}

type liveDir struct {
	every  time.Duration // how far apart looks may be
	fields secrets.Fields
	digest string
	looked time.Time
	poll   *poll.Subscription // nil: the secret is not polled
	next   time.Time          // of one that is not: when to say again that it is current; the loop's
}

// openLive begins with what the task has: looked says when the server was known to have it.
func (s *Session) openLive(now time.Time, looked func(name string, h *secretState) time.Time) {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	s.live.dirs, s.live.noted = map[string]*liveDir{}, now
	for _, sec := range s.spec.Secrets {
		if sec.Live == nil {
			continue
		}
		// Without the secret (required = false) the directory is empty.
		d := &liveDir{every: sec.Live.Stale / 3, looked: now}
		if h := s.secrets[sec.Name]; h != nil {
			d.fields, d.looked = h.answer.Fields, looked(sec.Name, h)
		}
		d.digest = s.k.digest(d.fields)
		s.live.dirs[sec.Name] = d
	}
}

func (l *liveDirs) get(name string) *liveDir {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dirs[name]
}

// lookedAt is when the server was last known to have what a live directory has.
func (l *liveDirs) lookedAt(name string) (at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.dirs[name]; d != nil {
		at = d.looked
	}
	return at
}

// Live is what a secret's live directory is to have, and when the server was last known to have that.
func (s *Session) Live(name string) (secrets.Fields, time.Time) {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	d := s.live.dirs[name]
	if d == nil {
		return secrets.Fields{}, time.Time{}
	}
	return d.fields, d.looked
}

// Reading says that somebody reads a secret in its live directory. It reports whether a look at the server comes of
// that: a read makes no credential, and of what cannot be polled the task has the current one.
func (s *Session) Reading(name string) bool {
	s.live.mu.Lock()
	var sub *poll.Subscription
	if d := s.live.dirs[name]; d != nil {
		sub = d.poll
	}
	s.live.mu.Unlock()
	return sub != nil && sub.Reading()
}

// liveLooks has a secret's live directory told of each look; nil if there is none.
func (s *Session) liveLooks(name string) *poll.Looks {
	d := s.live.get(name)
	if d == nil {
		return nil
	}
	return &poll.Looks{Every: d.every, Looked: func(sent time.Time, err error) { s.liveLooked(name, sent, err) }}
}

// livePolled notes the poll of a live directory's secret. One that is pinned to a version has none.
func (s *Session) livePolled(name string, h *secretState, sub *poll.Subscription) {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if d := s.live.dirs[name]; d != nil && h.secret.Request.Version == 0 {
		d.poll = sub
	}
}

// liveLooked tells a live directory that the server still had what it has, or could not be asked.
func (s *Session) liveLooked(name string, at time.Time, err error) {
	s.live.mu.Lock()
	d := s.live.dirs[name]
	if d != nil && err == nil && at.After(d.looked) {
		d.looked = at
	}
	s.live.mu.Unlock()
	if d != nil {
		s.host.Live(name, Look{At: at, Err: err})
	}
}

// liveSet gives a live directory what its secret is now.
func (s *Session) liveSet(name string, f secrets.Fields, at time.Time) {
	if s.live.get(name) == nil {
		return
	}
	digest := s.k.digest(f)
	s.live.mu.Lock()
	d := s.live.dirs[name]
	same := d.digest == digest
	if !same {
		d.fields, d.digest, d.looked = f, digest, at
	}
	s.live.mu.Unlock()
	if same {
		s.liveLooked(name, at, nil)
		return
	}
	s.host.Live(name, Look{At: at, Fields: &f})
}

// liveBatch gives the live directories what a rotation brings. What is static they have had since it was read.
func (s *Session) liveBatch(r *rotation) {
	for _, c := range r.batch {
		if c.fresh != nil {
			s.liveSet(c.name, c.fresh.answer.Fields, c.fresh.answer.At)
		}
	}
}

// stepLive says of what is not polled that it is current, as long as the server is not away, and journals from time to time
// when the server was last looked at.
func (s *Session) stepLive(now time.Time) (next time.Time) {
	var current []string
	s.live.mu.Lock()
	some := len(s.live.dirs) > 0
	for name, d := range s.live.dirs {
		if d.poll != nil {
			continue
		}
		if due(now, d.next) || d.next.IsZero() {
			d.next = now.Add(min(d.every, lookNoteEvery))
			current = append(current, name)
		}
		next = earliest(next, d.next)
	}
	s.live.mu.Unlock()
	if !some {
		return time.Time{}
	}
	for _, name := range current {
		if h := s.secrets[name]; h == nil || s.outageOf(h.from).fails == 0 {
			s.liveLooked(name, now, nil)
		}
	}
	if at := s.live.noted.Add(lookNoteEvery); now.Before(at) {
		return earliest(next, at)
	}
	s.live.noted = now
	s.note()
	return earliest(next, now.Add(lookNoteEvery))
}

// resumedLook is when the journal says that the server was last looked at for a live directory.
func resumedLook(e journal.Entry) func(string, *secretState) time.Time {
	return func(name string, h *secretState) time.Time {
		if at := e.Secrets[name].LookedAt; at.After(h.answer.At) {
			return at
		}
		return h.answer.At
	}
}

// silent reports whether a rotation does nothing that the task or its operator could notice: all of it is in live
// directories alone.
func (r *rotation) silent() bool {
	for _, c := range r.batch {
		if c.fresh == nil || !c.fresh.secret.LiveOnly || c.change.Mode != secrets.Noop {
			return false
		}
	}
	return true
}
