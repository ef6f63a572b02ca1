package lifecycle

import (
	"context"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

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
		if secrets.IsElsewhere(err) {
			s.sayFirst(aboutRenewal(name), sayRenewalFailed(h, err))
		}
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
