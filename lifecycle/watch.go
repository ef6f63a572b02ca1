package lifecycle

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// loop keeps a task's secrets alive until the session ends. It does what is due, learns when to look
// again, and sleeps until then or until something happens.
func (s *Session) loop() {
	s.subscribe()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if next := s.step(time.Now()); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C:
		case <-s.wake:
		case done := <-s.results:
			done()
		}
	}
}

// step does all that is due, and says when something will be.
func (s *Session) step(now time.Time) (next time.Time) {
	if s.over {
		return time.Time{}
	}
	next = s.stepLogin(now)
	for name, h := range s.held {
		next = earliest(next, s.stepHeld(now, name, h))
	}
	for name, st := range s.statics {
		next = earliest(next, s.stepStatic(now, name, st))
	}
	return earliest(next, s.stepPolicies(now), s.stepChanges(now), s.stepRetired(now), s.stepFormer(now))
}

// do runs a request beside the loop. What it returns is run by the loop, unless the session has
// ended by then.
func (s *Session) do(request func(ctx context.Context) (done func())) {
	s.work.Go(func() { s.deliver(request(s.ctx)) })
}

func (s *Session) deliver(done func()) {
	select {
	case s.results <- done:
	case <-s.ctx.Done():
	}
}

// ask sends one request within the request rate, when it is its turn.
func (s *Session) ask(u urgency, due time.Time, request func(ctx context.Context) error, done func(err error)) {
	s.askWhile(s.ctx, u, due, request, done)
}

// askWhile is ask for what is not wanted any more once ctx ends: then nothing is done of it.
func (s *Session) askWhile(ctx context.Context, u urgency, due time.Time, request func(ctx context.Context) error, done func(err error)) {
	s.work.Add(1) // which the loop, that runs, keeps above zero
	s.k.limit.later(ctx, u, due, func(err error) {
		defer s.work.Done()
		if err == nil {
			rctx, cancel := context.WithTimeout(ctx, requestTimeout)
			err = request(rctx)
			if rctx.Err() != nil && secrets.KindOf(err) == 0 && errors.Is(err, context.DeadlineExceeded) {
				err = secrets.Errorf(secrets.Outage, "no answer in %v: %w", requestTimeout, err)
			}
			cancel()
		}
		s.deliver(func() {
			if ctx.Err() == nil {
				s.heard(err)
				done(err)
			}
		})
	})
}

// outage is what is known of the server's being away.
type outage struct {
	fails int
	told  bool
}

// heard takes note of whether the server answered (C3). A single failure is no outage: the next
// attempt comes within a second or two, and only then is there something to tell. But one that was
// waited for in vain has taken longer than two that fail at once.
func (s *Session) heard(err error) {
	if secrets.KindOf(err) == secrets.Outage {
		s.outage.fails++
		surely := s.outage.fails > 1 || errors.Is(err, context.DeadlineExceeded)
		if surely && !s.outage.told {
			s.outage.told = true
			s.host.Event(sayOutage(time.Now(), s.validUntil()))
		}
		return
	}
	if s.outage.told {
		s.host.Event(sayOutageOver())
	}
	s.outage = outage{}
}

// validUntil is when the first of the credentials in hand ends, if nothing can be renewed.
func (s *Session) validUntil() time.Time {
	var first time.Time
	for _, h := range s.held {
		first = earliest(first, h.ends)
		if h.answer.Kind == secrets.Leased {
			first = earliest(first, h.under.ends)
		}
	}
	return first
}

// topic is what an event is about that would otherwise come with every attempt. It is told when there
// is something else to say of it; whoever finds that all is well again deletes the topic, so that the
// next failure is news.
type topic string

const (
	aboutLogin        topic = "login"
	aboutTokenRenewal topic = "token renewal"
	aboutChecks       topic = "checks"
	aboutPolicies     topic = "policies"
)

func aboutSecret(name string) topic  { return topic("secret " + name) }
func aboutRenewal(name string) topic { return topic("renewal " + name) }

// aboutGrant is about one path that the policies grant: what is said of it names the path.
func aboutGrant(said string) topic { return topic("grant " + said) }

func (s *Session) sayOnce(t topic, msg string) {
	if s.told[t] != msg {
		s.told[t] = msg
		s.host.Event(msg)
	}
}

// stepHeld renews, checks and replaces one leased or issued secret.
func (s *Session) stepHeld(now time.Time, name string, h *held) (next time.Time) {
	if h.gone {
		return time.Time{} // a change replaces it
	}
	if !h.rotate.IsZero() && s.changes[name] == nil && !s.rotation.has(name) {
		if now.Before(h.rotate) {
			next = h.rotate
		} else {
			s.addChange(now, name, h.why, nil, h.ends)
		}
	}
	if h.renewing || s.login.dead {
		return next // the answer, or the new token, wakes the loop
	}
	if due(now, h.renew) {
		s.renew(name, h)
		return next
	}
	next = earliest(next, h.renew)
	switch {
	case h.dropCheck != nil: // one is under way, and its answer wakes the loop
	case due(now, h.check):
		s.checkLease(name, h)
	default:
		next = earliest(next, h.check)
	}
	return next
}

func due(now, at time.Time) bool { return !at.IsZero() && !now.Before(at) }

// renew extends a lease (C1). That checks it, too: a check that still waits for its turn is not needed.
func (s *Session) renew(name string, h *held) {
	h.renewing = true
	if h.dropCheck != nil {
		h.dropCheck()
		h.dropCheck = nil
	}
	lease, tok := h.answer.Lease, s.login.tok
	var at time.Time
	var got secrets.Lease
	s.ask(toKeep, h.ends, func(ctx context.Context) (err error) {
		at = time.Now() // the answer may take long: the lease counts from its sending
		got, err = s.k.cfg.Provider.Renew(ctx, tok, s.namespaceOf(h), lease.ID, lease.Duration)
		return err
	}, func(err error) {
		h.renewing = false
		if s.held[name] != h {
			return
		}
		s.renewed(time.Now(), name, h, at, got, err)
	})
}

func (s *Session) renewed(now time.Time, name string, h *held, at time.Time, got secrets.Lease, err error) {
	switch {
	case err == nil:
		crashpoint.Reached(crashpoint.RenewalAnswered, s.task.Name)
		h.fails = 0
		delete(s.told, aboutRenewal(name))
		h.ends = at.Add(got.Duration)
		h.check = s.nextCheck(at)
		if atMaximum(h.answer.Lease.Duration, got.Duration) {
			s.lastOf(now, h, "its lease reached its maximum")
		} else {
			h.renew = renewAt(at, got.Duration, s.k.random())
		}
		s.note()
		crashpoint.Reached(crashpoint.RenewalJournalled, s.task.Name)
	case s.waitable(err):
		h.fails++
		h.renew = retryRenewal(now, h.ends, h.fails, s.k.random())
	case secrets.KindOf(err) == secrets.Gone:
		s.gone(now, name, h, "its lease was revoked or has expired")
	case secrets.KindOf(err) == secrets.Refused:
		h.fails++
		h.renew = retryRenewal(now, h.ends, h.fails, s.k.random())
		s.askToken(toAct, func() {
			s.sayOnce(aboutRenewal(name), sayRenewalRefused(name))
			if s.held[name] == h && !h.gone {
				s.lastOf(time.Now(), h, "its lease may not be renewed")
				s.note()
			}
		})
	default:
		s.log.Warn("a lease cannot be renewed", "secret", name, "error", err)
		s.lastOf(now, h, "its lease cannot be renewed")
		s.note()
	}
}

// checkLease asks whether the server still knows a lease (C6).
func (s *Session) checkLease(name string, h *held) {
	ctx, cancel := context.WithCancel(s.ctx)
	h.dropCheck = cancel
	id, tok := h.answer.Lease.ID, s.login.tok
	var at time.Time
	var left time.Duration
	s.askWhile(ctx, toLook, h.check, func(ctx context.Context) (err error) {
		at = time.Now()
		left, err = s.k.cfg.Provider.LeaseTTL(ctx, tok, s.namespaceOf(h), id)
		return err
	}, func(err error) {
		cancel()
		h.dropCheck = nil
		if s.held[name] != h {
			return
		}
		now := time.Now()
		h.check = s.nextCheck(now)
		switch {
		case err == nil:
			s.believe(at, h, left)
		case s.waitable(err):
			h.check = earliest(h.check, now.Add(retryIn(s.outage.fails+1, s.k.random())))
		case secrets.KindOf(err) == secrets.Gone:
			s.gone(now, name, h, "its lease was revoked")
		case secrets.KindOf(err) == secrets.Refused:
			s.askToken(toAct, func() {
				s.sayOnce(aboutChecks, sayCheckRefused())
				h.check = time.Time{}
			})
		default:
			s.log.Warn("check a lease", "secret", name, "error", err)
		}
	})
}

// believe takes the server's word for how long a lease lives, where that is less than we think. Our clock
// may have stood still while the machine slept, or was set back between two runs of the plugin.
func (s *Session) believe(at time.Time, h *held, left time.Duration) {
	ends := at.Add(left)
	if left <= 0 || !ends.Before(h.ends.Add(-clockSlack)) {
		return
	}
	h.ends = ends
	switch {
	case !h.renew.IsZero():
		h.renew = earliest(h.renew, renewAt(at, left, s.k.random()))
	case !h.rotate.IsZero():
		h.rotate = earliest(h.rotate, rotateAt(at, ends, h.answer.Lease.Duration, s.need(h)))
	}
	s.note()
}

func (s *Session) nextCheck(seen time.Time) time.Time {
	return checkAt(seen, s.k.cfg.LeaseCheckInterval, s.k.random())
}

// gone is for a credential that has ended before its time: nothing is left to wait for (C6).
func (s *Session) gone(now time.Time, name string, h *held, why string) {
	if h.gone {
		return
	}
	h.gone = true
	h.renew, h.check, h.rotate = time.Time{}, time.Time{}, time.Time{}
	s.addChange(now, name, why, nil, now)
}

func (s *Session) namespaceOf(h *held) string {
	return firstOf(h.secret.Request.Namespace, s.namespace)
}

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
