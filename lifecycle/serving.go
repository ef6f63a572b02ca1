package lifecycle

import (
	"context"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Before a restart in place a job may give the old process time to finish what it is serving (pre_stop_wait). That time
// ends before what the process has does; and it ends when another secret cannot wait for its own replacement any longer.

// startApply has a rotation applied, beside the loop.
func (s *Session) startApply(r *rotation, set *secrets.Set) {
	var serving context.Context
	if until := s.serveUntil(time.Now(), r); until.IsZero() {
		serving, r.cut = context.WithCancel(s.watch)
	} else {
		serving, r.cut = context.WithDeadline(s.watch, until)
	}
	s.do(func(ctx context.Context) func() { return s.apply(ctx, serving, r, set) })
}

// serveUntil is until when the old process may serve at the latest: then it can still be stopped before what it has ends.
// Zero: what it has does not end, or it is not known when.
func (s *Session) serveUntil(now time.Time, r *rotation) time.Time {
	var ends time.Time
	for _, c := range r.batch {
		if c.old != nil {
			if c.old.lost {
				return now
			}
			ends = earliest(ends, c.old.ends)
		}
		for _, old := range c.replaced() {
			ends = earliest(ends, old.ends)
			if old.token != nil && old.token != s.tokens.current { // which nobody renews
				ends = earliest(ends, old.token.ends)
			}
		}
	}
	if ends.IsZero() {
		return ends
	}
	return ends.Add(-applyTime(secrets.Restart, s.spec.StopTimeout))
}

// cutShort ends the old process's time to finish when another change must be applied. It returns the moment while that is to
// come.
func (r *rotation) cutShort(now time.Time, waiting map[string]*change) time.Time {
	if r.cut == nil {
		return time.Time{}
	}
	var latest time.Time
	for _, c := range waiting {
		latest = earliest(latest, c.latest)
	}
	if !due(now, latest) {
		return latest
	}
	r.cut()
	return time.Time{}
}
