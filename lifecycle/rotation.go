package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// rotation replaces what a batch of changes says (C2). The new secrets are fetched; with them what the task is to have
// is built, without touching what it has; that is journalled, with a record of the rotation; then it is the session's,
// and published and applied to the task; and only when that is done are the old ones revoked. Recovery goes on from the
// record (record.go).
type rotation struct {
	began time.Time
	batch []*change // by name
	mode  secrets.Mode

	// cut ends the old process's time to finish (serving.go); nil: nothing is being applied.
	cut context.CancelFunc
}

func (r *rotation) has(name string) bool {
	return r != nil && slices.ContainsFunc(r.batch, func(c *change) bool { return c.name == name })
}

func (r *rotation) names() []string {
	var names []string
	for _, c := range r.batch {
		names = append(names, c.name)
	}
	return names
}

// rank is how urgently the replacement of h is to be fetched (C11): like a renewal if h is near its end for good; else, and
// where there is nothing left to keep, like any other change.
func (c *change) rank(h *secretState) limit.Priority {
	if h.lost || c.latest.IsZero() {
		return limit.Rotate
	}
	return limit.Renew
}

// fetchBatch fetches the new secrets of a batch.
func (s *Session) fetchBatch(r *rotation) {
	var wanted []*secrets.Secret
	first, u, urgent, keys := time.Time{}, limit.Rotate, false, newKeyring()
	for _, c := range r.batch {
		if c.fresh == nil && !c.drop {
			h := s.secrets[c.name]
			wanted = append(wanted, h.secret)
			keys.reuse(h)
			first = earliest(first, c.latest)
			u = min(u, c.rank(h)) // a batch waits for all of its secrets, and so is as urgent as the first
			urgent = urgent || c.urgent
		}
	}
	if first.IsZero() {
		first = time.Now()
	}
	if len(wanted) == 0 {
		s.batchFetched(r, nil, nil)
		return
	}
	l, turn := s.tokens.current, s.background(u, first)
	if urgent {
		turn = s.foreground
	}
	s.do(func(ctx context.Context) func() {
		got, failed := s.fetch(ctx, l, wanted, keys, turn)
		return func() { s.batchFetched(r, got, failed) }
	})
}

// batchFetched goes on with what could be fetched. What could not is tried again later; the task keeps
// what it has.
func (s *Session) batchFetched(r *rotation, got map[string]*secretState, failed map[string]error) {
	now := time.Now()
	s.noteFetch(got, failed)
	for _, c := range r.batch {
		if h := got[c.name]; h != nil {
			c.fresh = h
		}
		if err := failed[c.name]; err != nil {
			s.fetchFailed(now, c, err)
		}
		if c.drop { // what it was to give the task before the secret was withdrawn
			s.giveUp(now, c)
		}
	}
	// A change that has nothing to give was to give what has ended meanwhile (addChange): it stays, and fetches that next.
	r.keep(func(c *change) bool {
		return failed[c.name] == nil && (c.drop || c.fresh != nil) && !s.unchanged(c)
	})
	set, err := s.renderBatch(now, r)
	if err != nil || len(r.batch) == 0 {
		s.endRotation()
		return
	}

	next := s.next(now, r)
	// The values, too, before they are applied: a crash from here on must find those that the new
	// process may have begun to use (E2).
	if err := s.journalState(next); err != nil {
		s.rollBack(now, r, fmt.Errorf("journal the new secrets: %w", err))
		return
	}
	s.adoptNext(r, next)
	crashpoint.Reached(crashpoint.RotationJournalled, s.task.Name)
	s.startApply(r, set)
}

// next is what the task is to have when a rotation is applied.
func (s *Session) next(now time.Time, r *rotation) state {
	next := maps.Clone(s.secrets)
	for _, c := range r.batch {
		r.mode = strongest(r.mode, c.change.Mode)
		old := s.secrets[c.name]
		switch {
		case c.drop:
			c.old = old
			delete(next, c.name)
		case c.fresh != old: // they are the same when what the task may not have had yet is applied
			c.old = old
			s.schedule(now, c.fresh)
			next[c.name] = c.fresh
		}
	}
	return state{step: journal.StepApplying, secrets: next, applying: s.applying(r.batch)}
}

// adoptNext makes what a rotation is to give the task the session's.
func (s *Session) adoptNext(r *rotation, next state) {
	s.secrets, s.phase = next.secrets, phaseApplying
	for _, c := range r.batch {
		delete(s.changes, c.name)
		if c.fresh != nil {
			s.followKind(c.name, c.fresh)
		}
		if c.old != nil && !c.drop {
			s.emitShortLived(c.fresh)
		}
	}
}

// endRotation ends the rotation that is under way.
func (s *Session) endRotation() {
	if s.rotation.cut != nil {
		s.rotation.cut()
	}
	s.rotation, s.phase = nil, phaseWatching
}

// unchanged gives up the change of a static secret that was fetched again, and is as it was for the task (C7).
func (s *Session) unchanged(c *change) bool {
	old := s.secrets[c.name]
	if c.fresh == nil || c.fresh == old || old == nil {
		return false
	}
	if c.interrupted { // what the task has is not known: it is given this
		if c.fresh.answer.Kind == secrets.Static && c.fresh.digest == old.digest {
			c.fresh = old
		}
		return false
	}
	fresh := c.fresh
	if !s.takeUnnoticed(c.name, fresh) {
		return false
	}
	s.liveSet(c.name, fresh.answer.Fields, fresh.answer.At)
	return true
}

func (r *rotation) keep(which func(*change) bool) {
	r.batch = slices.DeleteFunc(r.batch, func(c *change) bool { return !which(c) })
}

func (s *Session) fetchFailed(now time.Time, c *change, err error) {
	c.fails++
	s.noteError(c.name, err)
	c.unanswered = unanswered(err)
	h := s.secrets[c.name]
	s.count(c, err)
	switch {
	case s.retryable(err):
		if secrets.IsElsewhere(err) {
			s.emitFirst(keySecret(c.name), eventNotRotated(h, err))
		}
		c.at = s.retryAt(now, h.ends, h.from, c.fails, err)
		return
	case secrets.KindOf(err) == secrets.Refused:
		s.refused(h, func() { s.emitOnce(keySecret(c.name), eventNotRotated(h, err)) })
	default:
		s.emitOnce(keySecret(c.name), eventNotRotated(h, err))
	}
	c.at = now.Add(slowBackoff(c.fails, s.k.random()))
}

// renderBatch renders what the task is to have. A secret that it cannot be rendered with (a field is
// gone) does not hold up the others.
func (s *Session) renderBatch(now time.Time, r *rotation) (*secrets.Set, error) {
	render := func(b *secrets.Budget, batch ...*change) (*secrets.Set, error) {
		instead := map[string]*secretState{}
		for _, c := range batch {
			instead[c.name] = c.fresh
		}
		return s.render(b, instead)
	}
	together := func() (*secrets.Set, error) {
		b := secrets.NewBudget()
		defer b.Close()
		return render(b, r.batch...)
	}
	set, err := together()
	if err == nil {
		return set, nil
	}
	bad := map[string]bool{}
	each := secrets.NewBudget() // for all of them: a rotation's templates run three budgets at the most
	defer each.Close()
	for _, c := range r.batch {
		if _, alone := render(each, c); alone != nil {
			bad[c.name] = true
			s.reschedule(now, c, alone)
		}
	}
	if len(bad) > 0 {
		r.keep(func(c *change) bool { return !bad[c.name] })
		each.Close()
		if set, err = together(); err == nil {
			return set, nil
		}
	}
	for _, c := range r.batch {
		s.reschedule(now, c, err)
	}
	r.keep(func(*change) bool { return false })
	return nil, err
}

// reschedule gives up what was fetched for a change, to try again much later.
func (s *Session) reschedule(now time.Time, c *change, err error) {
	s.count(c, err)
	c.fails++
	s.noteError(c.name, err)
	c.at = now.Add(slowBackoff(c.fails, s.k.random()))
	s.changes[c.name] = c
	if h := s.secrets[c.name]; h != nil {
		s.emitOnce(keySecret(c.name), eventNotRotated(h, err))
	}
	if c.fresh != nil && c.fresh != s.secrets[c.name] && (c.fresh.answer.Kind != secrets.Static || !s.mayKeep()) {
		s.giveUp(now, c)
	}
}

// giveUp has a change give the task nothing that is there already. What was fetched for it alone is revoked.
func (s *Session) giveUp(now time.Time, c *change) {
	if c.fresh != nil && c.fresh != s.secrets[c.name] {
		s.discard(now, c.fresh)
	}
	c.fresh = nil
}

// rollBack undoes a rotation that was not applied. One that a crash interrupted cannot be undone: what it replaces is
// not known any more; it stays on record, and is tried again.
func (s *Session) rollBack(now time.Time, r *rotation, err error) {
	s.endRotation()
	for _, c := range r.batch {
		if old := c.old; old != nil {
			s.secrets[c.name] = old
			s.followKind(c.name, old)
			if old.answer.Kind != secrets.Static { // the server has what is new
				s.liveSet(c.name, old.answer.Fields, old.answer.At)
			}
			c.old = nil
		}
		s.reschedule(now, c, err)
	}
	if err := s.journalSecrets(); err != nil {
		s.logJournal("a rotation that was rolled back", err)
	}
}
