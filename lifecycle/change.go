package lifecycle

import (
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// change is a secret that is to be replaced, and why.
type change struct {
	name   string
	change secrets.Change
	why    string // empty: somebody wrote a static secret
	// fresh is what to replace it with, where that is there already; else it is fetched when the
	// moment to act has come, so that it lives as long as can be.
	fresh *held
	act   time.Time // when to act, were it alone
	last  time.Time // the latest moment to act, for what the task has ends; zero: it does not
	fails int       // attempts in vain; act is the next
	added bool      // the task has not had it before
	drop  bool      // it is to be left out
}

// addChange notes that a secret is to be replaced, before limit if that is not zero.
func (s *Session) addChange(now time.Time, name, why string, fresh *held, limit time.Time) {
	c := s.changes[name]
	if c == nil {
		c = &change{name: name, change: s.held[name].secret.Change, why: why}
		s.changes[name] = c
	}
	if fresh != nil {
		c.fresh, c.why, c.fails = fresh, why, 0
	}
	wait := spread(c.change, s.task.AllocIndex, s.k.random())
	if c.change.Mode == secrets.Noop {
		wait = 0 // splay and stagger are for what the task notices
	}
	var last time.Time
	if !limit.IsZero() {
		last = limit.Add(-actTime(c.change.Mode, s.spec.StopTimeout))
		if last.Before(now.Add(coalesce)) {
			last = now.Add(coalesce) // what is gone already can wait for others that are gone, too
		}
	}
	c.last = earliest(c.last, last)
	c.act = earliest(c.act, actAt(now, wait, last))
}

// stepChanges begins a rotation when its moment has come. Secrets whose change the task does not
// notice do not wait for the others; all the others are done at once, at the moment of the
// strongest (C7).
func (s *Session) stepChanges(now time.Time) (next time.Time) {
	if s.rotation != nil || s.login.dead {
		return time.Time{} // its end wakes the loop
	}
	m := momentsOf(s.changes)
	if now.Before(m.next) || m.next.IsZero() {
		return m.next
	}
	if due(now, m.loud) {
		s.hurry(now)
	}
	r := &rotation{old: map[string]*held{}}
	for name, c := range s.changes {
		if m.comes(now, c) {
			r.batch = append(r.batch, c)
			r.names = append(r.names, name)
		}
	}
	slices.SortFunc(r.batch, func(a, b *change) int { return strings.Compare(a.name, b.name) })
	slices.Sort(r.names)
	s.rotation = r
	s.mint(r)
	return time.Time{}
}

// hurry brings forward what is to be replaced soon anyway, when the task is disturbed now: leases
// that were granted together reach their maximum nearly together.
func (s *Session) hurry(now time.Time) {
	for name, h := range s.held {
		if h.rotate.IsZero() || h.gone || s.changes[name] != nil || h.secret.Change.Mode == secrets.Noop {
			continue
		}
		if h.rotate.Sub(now) < h.ends.Sub(h.rotate)/4 {
			s.addChange(now, name, h.why, nil, h.ends)
		}
	}
}

// moments are when to act on a set of changes.
type moments struct {
	quiet, loud time.Time // for those that the task does not notice, and those that it does
	next        time.Time // the first of these, and of the failed ones' next attempts
}

func momentsOf(changes map[string]*change) (m moments) {
	mode := secrets.Noop
	for _, c := range changes {
		if c.fails == 0 {
			mode = strongest(mode, c.change.Mode)
		}
	}
	for _, c := range changes {
		switch {
		case c.fails > 0:
			m.next = earliest(m.next, c.act)
		case c.change.Mode == secrets.Noop:
			m.quiet = earliest(m.quiet, c.act)
		case c.change.Mode == mode:
			m.loud = earliest(m.loud, c.act)
		default: // it waits for the stronger as long as it can
			m.loud = earliest(m.loud, c.last)
		}
	}
	m.next = earliest(m.next, m.quiet, m.loud)
	return m
}

// comes reports whether a change's moment has come.
func (m moments) comes(now time.Time, c *change) bool {
	switch {
	case c.fails > 0:
		return due(now, c.act)
	case c.change.Mode == secrets.Noop:
		return due(now, m.quiet) || due(now, m.loud)
	}
	return due(now, m.loud)
}
