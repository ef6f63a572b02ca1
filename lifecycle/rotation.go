package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// rotation replaces what a batch of changes says (C2): new ones are fetched, published, the task is
// told, and only then are the old revoked.
type rotation struct {
	batch  []*change // by name
	names  []string
	mode   secrets.Mode
	acting bool             // the new ones are there and journalled; the task is being told
	old    map[string]*held // what they replace
}

func (r *rotation) has(name string) bool { return r != nil && slices.Contains(r.names, name) }

// mint fetches what the batch needs anew.
func (s *Session) mint(r *rotation) {
	var wanted []*secrets.Secret
	first, u := time.Time{}, toAct
	for _, c := range r.batch {
		if c.fresh == nil && !c.drop {
			h := s.held[c.name]
			wanted = append(wanted, h.secret)
			first = earliest(first, c.last)
			if !h.gone { // else there is nothing left to keep
				u = toKeep
			}
		}
	}
	if first.IsZero() {
		first = time.Now()
	}
	if len(wanted) == 0 {
		s.minted(r, nil, nil)
		return
	}
	l := s.login
	s.do(func(ctx context.Context) func() {
		got, failed := s.fetch(ctx, l, wanted, s.background(u, first))
		return func() { s.minted(r, got, failed) }
	})
}

// minted goes on with what could be fetched. What could not is tried again later; the task keeps
// what it has.
func (s *Session) minted(r *rotation, got map[string]*held, failed map[string]error) {
	now := time.Now()
	if len(got) > 0 {
		s.heard(nil)
	}
	var away error
	for _, c := range r.batch {
		if h := got[c.name]; h != nil {
			c.fresh = h
		}
		if err := failed[c.name]; err != nil {
			away = err
			s.mintFailed(now, c, err)
		}
	}
	if away != nil && len(got) == 0 {
		s.heard(away) // once: they failed together
	}
	r.keep(func(c *change) bool { return failed[c.name] == nil })
	set, err := s.renderBatch(now, r)
	if err != nil || len(r.batch) == 0 {
		s.rotation = nil
		return
	}

	for _, c := range r.batch {
		old := s.held[c.name]
		if c.drop {
			r.old[c.name] = old
			delete(s.held, c.name)
		} else if c.fresh != old { // they are the same when an interrupted rotation is taken up
			r.old[c.name] = old
			s.held[c.name] = c.fresh
			s.schedule(now, c.fresh)
		}
		r.mode = strongest(r.mode, c.change.Mode)
		delete(s.changes, c.name)
	}
	r.acting = true
	// The values, too, before the task is told: a crash from here on must find those that the new
	// process may have begun to use (E2).
	if err := s.journalHeld(stepActing); err != nil {
		s.takeBack(now, r, fmt.Errorf("journal: %w", err))
		return
	}
	crashpoint.Reached(crashpoint.RotationJournalled, s.task.Name)
	s.do(func(ctx context.Context) func() { return s.act(ctx, r, set) })
}

func (r *rotation) keep(which func(*change) bool) {
	r.batch = slices.DeleteFunc(r.batch, func(c *change) bool { return !which(c) })
	r.names = r.names[:0]
	for _, c := range r.batch {
		r.names = append(r.names, c.name)
	}
}

func (s *Session) mintFailed(now time.Time, c *change, err error) {
	c.fails++
	h := s.held[c.name]
	switch {
	case s.waitable(err):
		if secrets.IsElsewhere(err) {
			s.sayFirst(aboutSecret(c.name), sayFailed(h, err))
		}
		c.act = retryRenewal(now, h.ends, c.fails, s.k.random())
		return
	case secrets.KindOf(err) == secrets.Refused:
		s.askToken(toAct, func() { s.sayOnce(aboutSecret(c.name), sayFailed(h, err)) })
	default:
		s.sayOnce(aboutSecret(c.name), sayFailed(h, err))
	}
	c.act = now.Add(slowly(c.fails, s.k.random()))
}

// renderBatch renders what the task is to have. A secret that it cannot be rendered with (a field is
// gone) does not hold up the others.
func (s *Session) renderBatch(now time.Time, r *rotation) (*secrets.Set, error) {
	render := func(batch ...*change) (*secrets.Set, error) {
		instead := map[string]*held{}
		for _, c := range batch {
			instead[c.name] = c.fresh
		}
		return secrets.Render(s.spec, s.answers(instead))
	}
	set, err := render(r.batch...)
	if err == nil {
		return set, nil
	}
	bad := map[string]bool{}
	for _, c := range r.batch {
		if _, alone := render(c); alone != nil {
			bad[c.name] = true
			s.putOff(now, c, alone)
		}
	}
	if len(bad) > 0 {
		r.keep(func(c *change) bool { return !bad[c.name] })
		if set, err = render(r.batch...); err == nil {
			return set, nil
		}
	}
	for _, c := range r.batch {
		s.putOff(now, c, err)
	}
	r.keep(func(*change) bool { return false })
	return nil, err
}

// putOff gives up what was fetched for a change, to try again much later.
func (s *Session) putOff(now time.Time, c *change, err error) {
	c.fails++
	c.act = now.Add(slowly(c.fails, s.k.random()))
	s.changes[c.name] = c
	s.sayOnce(aboutSecret(c.name), sayFailed(s.held[c.name], err))
	if c.fresh != nil && c.fresh.answer.Kind != secrets.Static && c.fresh != s.held[c.name] {
		if c.fresh.answer.Kind == secrets.Leased {
			s.retire(retired{id: c.fresh.answer.Lease.ID, under: c.fresh.under, at: now, ends: c.fresh.ends})
		}
		c.fresh = nil
	}
}

// takeBack undoes a rotation that the task has not been told of.
func (s *Session) takeBack(now time.Time, r *rotation, err error) {
	s.rotation = nil
	for _, c := range r.batch {
		if old := r.old[c.name]; old != nil {
			s.held[c.name] = old
		}
		s.putOff(now, c, err)
	}
	if err := s.journalHeld(stepWatching); err != nil {
		s.log.Error("journal", "error", err)
	}
}

// act publishes the files, then does the one thing that the batch asks for. It runs beside the loop.
func (s *Session) act(ctx context.Context, r *rotation, set *secrets.Set) (done func()) {
	before := s.set.Swap(set)
	if err := s.host.Publish(ctx, set); err != nil {
		s.set.Store(before)
		return func() { s.takeBack(time.Now(), r, fmt.Errorf("publish: %w", err)) }
	}
	crashpoint.Reached(crashpoint.RotationPublished, s.task.Name)
	var outcome string
	var err error
	switch r.mode {
	case secrets.Noop:
		outcome = "files updated"
	case secrets.SendSignal:
		outcome, err = s.signal(ctx, r)
	case secrets.RunScript:
		outcome, err = s.script(ctx, r, set)
	case secrets.Restart:
		outcome, err = "task restarted in place", s.host.Restart(ctx, set)
	}
	return func() { s.acted(time.Now(), r, outcome, err) }
}

// signal sends each signal that the batch asks for, once.
func (s *Session) signal(ctx context.Context, r *rotation) (outcome string, err error) {
	var sent []string
	for _, c := range r.batch {
		sig := c.change.Signal
		if c.change.Mode != secrets.SendSignal || slices.Contains(sent, sig) {
			continue
		}
		sent = append(sent, sig)
		if e := s.host.Signal(ctx, sig); e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", sig, e))
		}
	}
	if err != nil {
		return fmt.Sprintf("signal failed: %v", err), err
	}
	return "task signalled with " + strings.Join(sent, ", "), nil
}

// script runs each script that the batch asks for, once.
func (s *Session) script(ctx context.Context, r *rotation, set *secrets.Set) (outcome string, err error) {
	var ran []string
	for _, c := range r.batch {
		sc := c.change.Script
		key := fmt.Sprintf("%q %q", sc.Command, sc.Args)
		if c.change.Mode != secrets.RunScript || slices.Contains(ran, key) {
			continue
		}
		ran = append(ran, key)
		if e := s.runScript(ctx, set, sc); e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", sc.Command, e))
		}
	}
	if err != nil {
		return fmt.Sprintf("change_script failed: %v", err), err
	}
	return "change_script run", nil
}

func (s *Session) runScript(ctx context.Context, set *secrets.Set, sc secrets.Script) error {
	if sc.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, sc.Timeout)
		defer cancel()
	}
	exit, err := s.host.Script(ctx, set, sc)
	if err == nil && exit != 0 {
		err = fmt.Errorf("exit code %d", exit)
	}
	return err
}

// acted ends a rotation: the task has been told.
func (s *Session) acted(now time.Time, r *rotation, outcome string, err error) {
	s.rotation = nil
	if r.mode == secrets.Restart && err != nil {
		// The task has ended, or is about to be seen to have (C9). The old process may even live on,
		// so both its leases and the new are kept until End.
		s.over = true
		s.log.Info("a rotation ended with its task", "error", err)
		return
	}
	for _, c := range r.batch {
		delete(s.told, aboutSecret(c.name))
		delete(s.told, aboutRenewal(c.name))
		if h := s.held[c.name]; h != nil {
			h.untold = false
		} else {
			s.forget(c.name)
		}
		old := r.old[c.name]
		if old == nil || old.answer.Kind != secrets.Leased {
			continue
		}
		s.retire(retired{id: old.answer.Lease.ID, under: old.under, at: retireAt(now, r.mode, c.change.Mode, err, old.ends), ends: old.ends})
	}
	for _, l := range s.leftover {
		s.retire(retired{id: l.id, under: l.under, at: retireAt(now, r.mode, r.mode, err, l.ends), ends: l.ends})
	}
	s.leftover = nil
	crashpoint.Reached(crashpoint.OldRetired, s.task.Name)
	s.note()
	crashpoint.Reached(crashpoint.RotationActed, s.task.Name)
	s.host.Event(sayRotated(r, outcome))
}

// resumeRotation takes up what a crash interrupted (E2). A rotation whose new secrets are journalled
// is brought to its end: what is not known is whether the task has been told, and telling it twice
// does less harm than not at all. A lease that no secret holds was made for a rotation that came no
// further, or is an old one that waits for its revocation.
func (s *Session) resumeRotation(now time.Time, e entry) {
	for _, l := range e.Leases {
		used := false
		for _, h := range s.held {
			used = used || h.answer.Lease.ID == l.ID
		}
		if used {
			continue
		}
		r := retired{id: l.ID, under: s.loginOf(l.TokenAccessor), at: l.RevokeAt, ends: l.Ends}
		switch {
		case e.Step == stepActing && l.RevokeAt.IsZero():
			s.leftover = append(s.leftover, r)
			continue
		case l.RevokeAt.IsZero():
			r.at = now
		}
		s.retired = append(s.retired, r)
	}
	for name, h := range s.held {
		if h.untold {
			s.addChange(now, name, "", h, now)
			s.changes[name].added = true
		}
	}
	if e.Step != stepActing {
		return
	}
	for _, name := range e.Pending {
		if h := s.held[name]; h != nil {
			s.addChange(now, name, "taken up after a restart of the plugin", h, now)
			// At once, before anything else: the task may have no process until then.
			s.changes[name].act, s.changes[name].last = now, now
		}
	}
}
