package lifecycle

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// static is the watch over one static secret (C5).
type static struct {
	poll    *subscription
	changed atomic.Bool // set by the poll
	busy    bool
	retry   time.Time
	fails   int
}

// subscribe has all static secrets polled. The polls are shared with other tasks; so what they find
// is only a reason to look with the task's own rights.
func (s *Session) subscribe() {
	for name, h := range s.held {
		s.subscribeTo(name, h)
	}
}

func (s *Session) subscribeTo(name string, h *held) {
	if h.answer.Kind != secrets.Static {
		return
	}
	st := &static{}
	s.statics[name] = st
	key := pollKey{Namespace: s.namespaceOf(h), Path: h.secret.Request.Path, Version: h.secret.Request.Version}
	if h.answer.Own {
		key.Owner = s
	}
	st.poll = s.k.polls.subscribe(key,
		pollSubscriber{
			Token: s.identity.token,
			Seen:  h.digest, Changes: h.answer.Changes,
			Notify: func() {
				st.changed.Store(true)
				select {
				case s.wake <- struct{}{}:
				default: // the loop is to wake already
				}
			},
		})
}

// forget ends the watch over a secret that the task has no more.
func (s *Session) forget(name string) {
	if st := s.statics[name]; st != nil {
		st.poll.cancel()
		delete(s.statics, name)
	}
}

// stepStatic reads a secret that a poll found changed, with the task's own identity.
func (s *Session) stepStatic(now time.Time, name string, st *static) (next time.Time) {
	if st.busy || s.login.dead || s.rotation.has(name) {
		return time.Time{}
	}
	if !due(now, st.retry) && !st.changed.Load() {
		return st.retry
	}
	st.changed.Store(false)
	st.busy, st.retry = true, time.Time{}
	l, sec := s.login, s.held[name].secret
	s.do(func(ctx context.Context) func() {
		fresh, err := s.fetchOne(ctx, l, sec, s.background(toAct, now))
		return func() {
			st.busy = false
			s.heard(err)
			s.staticRead(time.Now(), name, st, fresh, err)
		}
	})
	return time.Time{}
}

func (s *Session) staticRead(now time.Time, name string, st *static, fresh *held, err error) {
	if s.statics[name] != st {
		return // the task has it no more
	}
	if s.rotation.has(name) {
		st.changed.Store(true) // what is being replaced is compared with when it is there
		return
	}
	if err == nil {
		st.fails = 0
		st.poll.markSeen(fresh.digest)
		if fresh.digest == s.held[name].digest {
			delete(s.changes, name) // the same again: nothing happens (C7)
			delete(s.told, aboutSecret(name))
			return
		}
		s.addChange(now, name, "", fresh, time.Time{})
		return
	}
	st.fails++
	switch {
	case s.waitable(err):
		st.retry = now.Add(retryIn(st.fails, s.k.random()))
	case secrets.KindOf(err) == secrets.NotFound:
		st.poll.markSeen(digestAbsent)
		s.sayOnce(aboutSecret(name), sayFailed(s.held[name], err))
	case secrets.KindOf(err) == secrets.Refused:
		st.retry = now.Add(slowRetry)
		s.askToken(toAct, func() { s.sayOnce(aboutSecret(name), sayFailed(s.held[name], err)) })
	default:
		st.retry = now.Add(slowRetry)
		s.sayOnce(aboutSecret(name), sayFailed(s.held[name], err))
	}
}
