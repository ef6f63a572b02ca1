package lifecycle

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/poll"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// static is the watch over one static secret (C5).
type static struct {
	poll    *poll.Subscription
	changed atomic.Bool            // set by the poll
	away    atomic.Pointer[polled] // likewise; nil: nothing new
	busy    bool
	retry   time.Time
	fails   int
	// unanswered: the last read had no answer; retry is when to try again.
	unanswered bool
}

// polled says that so many polls in a row had no answer, the last for err; none: one has an answer again.
type polled struct {
	failures int
	err      error
}

// wakeUp has the loop look. Any goroutine may call it.
func (s *Session) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default: // the loop is to wake already
	}
}

// subscribe has all static secrets polled. The polls are shared with other tasks; so what they find
// is only a reason to look with the task's own rights.
func (s *Session) subscribe() {
	for name, h := range s.secrets {
		s.subscribeTo(name, h)
	}
}

func (s *Session) subscribeTo(name string, h *secretState) {
	if h.answer.Kind != secrets.Static || h.secret.PullOnly {
		return
	}
	st := &static{}
	s.statics[name] = st
	key := poll.Key{Provider: h.from.name, Namespace: s.namespaceOf(h.secret.Request), Path: h.secret.Request.Path, Version: h.secret.Request.Version}
	if h.answer.Own {
		key.Owner = s
	}
	st.poll = s.k.polls.Subscribe(key,
		poll.Subscriber{
			Tenant: s.tenant().At(h.from.name),
			Token:  s.tokenFor(h.from), Task: s.asker(),
			Seen: h.seen(), Changes: h.answer.Changes,
			Looks: s.liveLooks(name),
			Answered: func(failures int, err error) {
				st.away.Store(&polled{failures, err})
				s.wakeUp()
			},
			Notify: func() {
				st.changed.Store(true)
				s.wakeUp()
			},
		})
	s.livePolled(name, h, st.poll)
}

// forget ends the watch over a secret that the task has no more.
func (s *Session) forget(name string) {
	if st := s.statics[name]; st != nil {
		st.poll.Cancel()
		delete(s.statics, name)
	}
}

// followKind begins or ends the watch over a secret that is of another kind than before: the engine at its path was replaced.
func (s *Session) followKind(name string, h *secretState) {
	_, watched := s.statics[name]
	switch static := h.answer.Kind == secrets.Static; {
	case static && !watched:
		s.subscribeTo(name, h)
	case !static && watched:
		s.forget(name)
		s.livePolled(name, h, nil)
	}
}

// stepStatic reads a secret that a poll found changed, with the task's own identity.
func (s *Session) stepStatic(now time.Time, name string, st *static) (next time.Time) {
	h := s.secrets[name]
	if h == nil { // a rotation that is being applied drops it
		return time.Time{}
	}
	if p := st.away.Swap(nil); p != nil {
		s.notePolled(h.from, p)
	}
	if st.busy || s.waitsForToken(h) || s.rotation.has(name) {
		return time.Time{}
	}
	if !due(now, st.retry) && !st.changed.Load() {
		return st.retry
	}
	t := s.background(limit.Rotate, now)
	if st.poll.BeingRead() {
		t = s.liveTurn(now)
	}
	s.readStatic(name, st, h, t, func(error) {})
	return time.Time{}
}

// readStatic reads a static secret with the task's own identity. What has come is taken in before read is called.
func (s *Session) readStatic(name string, st *static, h *secretState, t turn, read func(error)) {
	st.changed.Store(false)
	st.busy, st.retry = true, time.Time{}
	l, sec := s.tokens.current, h.secret
	s.do(func(ctx context.Context) func() {
		f := s.k.memory.open()
		defer f.close()
		fresh, err := s.fetchOne(ctx, l, sec, newKeyring(), t, f)
		return func() {
			st.busy = false
			s.noteAnswer(h.from, err)
			s.staticRead(time.Now(), name, st, fresh, err)
			read(err)
		}
	})
}

func (s *Session) staticRead(now time.Time, name string, st *static, fresh *secretState, err error) {
	if s.statics[name] != st {
		return // the task has it no more
	}
	if s.rotation.has(name) {
		st.changed.Store(true) // what is being replaced is compared with when it is there
		return
	}
	if err == nil {
		st.fails = 0
		st.poll.MarkSeen(fresh.seen())
		if fresh.answer.Kind == secrets.Static {
			st.poll.Resume()
		}
		s.liveSet(name, fresh.answer.Fields, fresh.answer.At)
		if s.takeUnnoticed(name, fresh) {
			return
		}
		s.addChange(now, name, because(CauseChanged), fresh, time.Time{})
		if !s.mayKeep() {
			s.changes[name].fresh = nil
		}
		return
	}
	st.fails++
	s.noteError(name, err)
	st.unanswered = unanswered(err)
	if secrets.KindOf(err) == secrets.NotFound { // what is not there any more is no file
		s.liveSet(name, secrets.Fields{}, now)
	} else {
		s.liveLooked(name, now, err)
	}
	switch {
	case s.retryable(err):
		st.retry = now.Add(backoff(st.fails, s.k.random()))
	case secrets.KindOf(err) == secrets.NotFound:
		st.poll.MarkSeen(poll.Absent)
		s.emitOnce(keySecret(name), eventNotRotated(s.secrets[name], err))
	case secrets.KindOf(err) == secrets.Refused:
		st.retry = now.Add(slowRetry)
		s.refused(s.secrets[name], func() { s.emitOnce(keySecret(name), eventNotRotated(s.secrets[name], err)) })
	default:
		st.retry = now.Add(slowRetry)
		s.emitOnce(keySecret(name), eventNotRotated(s.secrets[name], err))
	}
}

// takeUnnoticed takes what a static secret is now if the task gets the same of it as before (C7), and reports whether
// that is so. The action that waits for an earlier change is not needed any more.
func (s *Session) takeUnnoticed(name string, fresh *secretState) bool {
	old := s.secrets[name]
	if old.undelivered || fresh.answer.Kind != secrets.Static || old.answer.Kind != secrets.Static {
		return false
	}
	c := s.changes[name]
	interrupted := c != nil && c.interrupted // what the task has is not known
	if fresh.digest != old.digest {
		if interrupted {
			return false
		}
		// What the engine tells of its own settings does not count, and stays as the task has it.
		same := *fresh
		same.changed, same.changedBy, same.unapplied, same.oldUntil = old.changed, old.changedBy, old.unapplied, old.oldUntil
		same.answer.Fields = fresh.answer.Fields.WithFrom(old.answer.Fields, fresh.answer.Settings)
		if live := fresh.secret.Live; live != nil && live.Acts && s.k.digest(same.answer.Fields) != s.k.digest(old.answer.Fields) {
			return false
		}
		if !s.rendersTheSame(&same) {
			return false
		}
		s.secrets[name] = &same
		if err := s.journalSecrets(); err != nil {
			s.logJournal("a change that the task does not notice", err)
		}
	}
	if interrupted {
		c.fresh = old
	} else {
		delete(s.changes, name)
	}
	delete(s.lastEvents, keySecret(name))
	return true
}

// rendersTheSame reports whether the task's variables and files are the same with fresh as they are now. What cannot
// be rendered is not the same: the rotation reports why.
func (s *Session) rendersTheSame(fresh *secretState) bool {
	b := secrets.NewBudget()
	defer b.Close()
	set, err := s.render(b, map[string]*secretState{fresh.secret.Name: fresh})
	return err == nil && set.Equal(s.set.Load())
}

// mayKeep reports whether what was fetched for changes may be kept until the change is due, which
// may be minutes. What is large is fetched again then.
func (s *Session) mayKeep() bool {
	sum := 0
	for _, c := range s.changes {
		if c.fresh != nil {
			sum += c.fresh.answer.Fields.Size()
		}
	}
	return sum <= smallTask
}
