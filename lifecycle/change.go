package lifecycle

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// change is a secret that is to be replaced, and why.
type change struct {
	name   string
	change secrets.Change
	why    reason
	// fresh is what to replace it with, where that is there already; else it is fetched when the
	// change is due, so that it lives as long as can be.
	fresh  *secretState
	at     time.Time // when to apply it, were it alone
	latest time.Time // when it must be applied at the latest, since what the task has ends; zero: it does not
	fails  int       // failed attempts; at is the next
	// unanswered: the last attempt had no answer of the server's.
	unanswered bool
	added      bool // the task has not had it before
	drop       bool // it is to be left out
	urgent     bool // an operator waits for it: its request is one of the foreground

	// Of one that is being applied, or was when a crash came, which tells nobody how far it got:
	old         *secretState // what it replaces; nil: nothing, or it is not known
	replaces    []retired    // leases that the task may still use, beside old's
	interrupted bool

	// onlyDrop: there is no other reason for it, so that it is over when the secret is to stay after all.
	onlyDrop bool
}

func byName(a, b *change) int { return strings.Compare(a.name, b.name) }

// addChange notes that a secret is to be replaced, and why; the loop calls it. fresh is what to replace it with, if it has been
// read already; nil: it is fetched when the change is due. limit is when what the task has ends for good, so that the change
// waits no longer than that; zero for what does not end, or can still be renewed.
//
// A change is not journalled before it is applied: after a restart of the plugin its cause must find it again.
func (s *Session) addChange(now time.Time, name string, why reason, fresh *secretState, limit time.Time) {
	c := s.changes[name]
	if c == nil {
		c = &change{name: name, change: s.secrets[name].secret.Change, why: why}
		s.changes[name] = c
	}
	if c.onlyDrop { // there is another reason now, but for what addDrop says
		c.why, c.onlyDrop = why, false
	}
	switch {
	case fresh != nil:
		c.fresh, c.why, c.fails = fresh, why, 0
	case !limit.IsZero() && c.fresh == s.secrets[name]: // what it was to give the task is what ends
		c.fresh = nil
	}
	wait := spread(c.change, s.task.AllocIndex, s.k.random())
	if c.change.Mode == secrets.Noop {
		wait = 0 // splay and stagger are for what the task notices
	}
	var last time.Time
	if !limit.IsZero() {
		last = limit.Add(-applyTime(c.change.Mode, s.spec.StopTime()))
		if last.Before(now.Add(coalesce)) {
			last = now.Add(coalesce) // what is lost already can wait for others that are lost, too
		}
	}
	c.latest = earliest(c.latest, last)
	c.at = earliest(c.at, applyAt(now, wait, last))
	if s.mayGoAgain(now, name, limit) {
		c.at = now
	}
}

// mayGoAgain reports whether the server of a secret, that ends at a moment within the minute, has been away lately. It may answer for this
// moment only: what must be replaced is fetched while it does.
func (s *Session) mayGoAgain(now time.Time, name string, ends time.Time) bool {
	h := s.secrets[name]
	return h != nil && !ends.IsZero() && now.Before(ends) && ends.Sub(now) < shortLife && s.outageOf(h.from).lately(now)
}

// replaceBefore is addChange for a cause that is found again at each step until the secret is replaced: it adds nothing to a
// change that is on its way, but for a limit that it has not known.
func (s *Session) replaceBefore(now time.Time, name string, why reason, limit time.Time) {
	c := s.changes[name]
	switch {
	case s.rotation.has(name):
	case c == nil, c.latest.IsZero() && !limit.IsZero():
		s.addChange(now, name, why, nil, limit)
	}
}

// reason is why a secret is replaced, as events and the log say it.
func (c *change) reason() string {
	const resumed = "resumed after a restart of the plugin"
	switch {
	case !c.interrupted:
		return c.why.text
	case c.why.text == "":
		return resumed
	}
	return c.why.text + "; " + resumed
}

// replacedBy is why a secret was replaced, for operators.
func (c *change) replacedBy() string {
	if c.added {
		return "the policies grant it now"
	}
	return cmp.Or(c.reason(), "changed on the server")
}

// addDrop notes that a secret is to be left out, since the policies no longer grant it.
func (s *Session) addDrop(now time.Time, name string) {
	c := s.changes[name]
	only := c == nil || c.onlyDrop
	s.addChange(now, name, because(CauseWithdrawn), nil, time.Time{})
	c = s.changes[name]
	c.drop, c.onlyDrop = true, only
}

// cancelDrop is for a secret that is to stay after all. What else is to be done with it stays to be done.
func (s *Session) cancelDrop(name string) {
	c := s.changes[name]
	switch {
	case c == nil || !c.drop:
	case c.onlyDrop:
		delete(s.changes, name)
	default:
		c.drop = false
	}
}

// stepChanges begins a rotation when its deadline has come. Secrets whose change the task does not
// notice do not wait for the others; all the others are done at once, at the deadline of the
// strongest (C7).
func (s *Session) stepChanges(now time.Time) (next time.Time) {
	if s.phase.rotating() {
		return s.rotation.cutShort(now, s.changes) // its end wakes the loop, too
	}
	changes := s.fetchable()
	m := deadlinesOf(changes)
	if now.Before(m.next) || m.next.IsZero() {
		return m.next
	}
	if due(now, m.disruptive) {
		s.pullForward(now)
	}
	r := &rotation{began: now}
	for _, c := range changes {
		if m.due(now, c) {
			r.batch = append(r.batch, c)
		}
	}
	slices.SortFunc(r.batch, byName)
	s.rotation, s.phase = r, phaseFetching
	s.fetchBatch(r)
	return time.Time{}
}

// fetchable are the changes that need not wait for a new token.
func (s *Session) fetchable() map[string]*change {
	if !s.tokens.lost() {
		return s.changes
	}
	now := maps.Clone(s.changes)
	maps.DeleteFunc(now, func(name string, _ *change) bool {
		h := s.secrets[name]
		return h != nil && s.waitsForToken(h)
	})
	return now
}

// pullForward adds what is to be replaced soon anyway, when the task is disturbed now: leases
// that were granted together reach their maximum nearly together.
func (s *Session) pullForward(now time.Time) {
	for name, h := range s.secrets {
		if h.rotate.IsZero() || h.lost || s.waitsForToken(h) || s.changes[name] != nil || h.secret.Change.Mode == secrets.Noop {
			continue
		}
		if h.answer.Kind == secrets.Issued && now.Before(h.answer.At.Add(reissueAtLeast)) {
			continue
		}
		if h.rotate.Sub(now) < h.ends.Sub(h.rotate)/4 {
			s.addChange(now, name, h.why, nil, h.ends)
		}
	}
}

// deadlines are when to apply a set of changes.
type deadlines struct {
	silent, disruptive time.Time // for those that the task does not notice, and those that it does
	next               time.Time // the first of these, and of the failed ones' next attempts
}

func deadlinesOf(changes map[string]*change) (m deadlines) {
	mode := secrets.Noop
	for _, c := range changes {
		if c.fails == 0 {
			mode = strongest(mode, c.change.Mode)
		}
	}
	for _, c := range changes {
		switch {
		case c.fails > 0:
			m.next = earliest(m.next, c.at)
		case c.change.Mode == secrets.Noop:
			m.silent = earliest(m.silent, c.at)
		case c.change.Mode == mode:
			m.disruptive = earliest(m.disruptive, c.at)
		default: // it waits for the stronger as long as it can
			m.disruptive = earliest(m.disruptive, c.latest)
		}
	}
	m.next = earliest(m.next, m.silent, m.disruptive)
	return m
}

// due reports whether a change is to be applied now.
func (m deadlines) due(now time.Time, c *change) bool {
	switch {
	case c.fails > 0:
		return due(now, c.at)
	case c.change.Mode == secrets.Noop:
		return due(now, m.silent) || due(now, m.disruptive)
	}
	return due(now, m.disruptive)
}
