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

// apply publishes the files, then does the one thing that the batch asks for. It runs beside the loop.
func (s *Session) apply(ctx, serving context.Context, r *rotation, set *secrets.Set) (done func()) {
	s.liveBatch(r)
	if r.silent() {
		s.set.Store(set)
		return func() { s.applied(time.Now(), r, "", nil) }
	}
	before := s.set.Swap(set)
	if err := s.host.Publish(ctx, set); err != nil {
		s.set.Store(before)
		return func() { s.rollBack(time.Now(), r, fmt.Errorf("publish: %w", err)) }
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
		outcome, err = "task restarted in place", s.host.Restart(ctx, serving, set)
	}
	return func() { s.applied(time.Now(), r, outcome, err) }
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
			err = errors.Join(err, fmt.Errorf("%s: %w", secrets.Cut(sc.Command, 100), e))
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

// applied ends a rotation that was applied.
func (s *Session) applied(now time.Time, r *rotation, outcome string, err error) {
	s.endRotation()
	if !errors.Is(err, ErrEnded) { // of a task that was stopped meanwhile nothing is to be said
		for _, c := range r.batch {
			s.count(c, err)
		}
	}
	if r.mode == secrets.Restart && err != nil {
		// The task has ended, or is about to be seen to have (C9). The old process may even live on,
		// so both its leases and the new are kept until End.
		s.phase = phaseOver
		s.log.Info("the task ended during a rotation", "error", err)
		return
	}
	for _, c := range r.batch {
		delete(s.lastEvents, keySecret(c.name))
		delete(s.lastEvents, keyRenewal(c.name))
		h := s.secrets[c.name]
		if h != nil {
			h.undelivered = false
			h.changed, h.changedBy, h.unapplied, h.oldUntil = now, c.replacedBy(), err != nil, time.Time{}
		} else {
			s.forget(c.name)
		}
		if err != nil {
			s.noteError(c.name, err)
		}
		for _, old := range c.replaced() {
			old.at = retireAt(now, r.mode, c.change.Mode, err, old.ends)
			s.retired = append(s.retired, old)
			if h != nil && now.Before(old.at) {
				h.oldUntil = old.at
			}
		}
	}
	crashpoint.Reached(crashpoint.OldRetired, s.task.Name)
	s.note()
	crashpoint.Reached(crashpoint.RotationApplied, s.task.Name)
	s.logRotation(now, r, err)
	if outcome != "" {
		s.host.Event(eventRotated(r, outcome))
	}
}
