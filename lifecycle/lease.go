package lifecycle

import (
	"context"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// stepSecret renews, checks and replaces one leased or issued secret.
func (s *Session) stepSecret(now time.Time, name string, h *secretState) (next time.Time) {
	if h.lost {
		return time.Time{} // a change replaces it
	}
	s.followToken(now, name, h)
	if due(now, h.rotate) {
		s.replaceBefore(now, name, h.why, h.ends)
	} else {
		next = h.rotate
	}
	if h.renewing || s.tokens.lost() {
		return next // the answer, or the new token, wakes the loop
	}
	if due(now, h.renew) {
		s.renew(name, h)
		return next
	}
	next = earliest(next, h.renew)
	switch {
	case h.cancelCheck != nil: // one is under way, and its answer wakes the loop
	case due(now, h.check):
		s.checkLease(name, h)
	default:
		next = earliest(next, h.check)
	}
	return next
}

func due(now, at time.Time) bool { return !at.IsZero() && !now.Before(at) }

// renew extends a lease (C1). That checks it, too: a check that still waits for its turn is not needed.
func (s *Session) renew(name string, h *secretState) {
	h.renewing = true
	if h.cancelCheck != nil {
		h.cancelCheck()
		h.cancelCheck = nil
	}
	lease, tok := h.answer.Lease, s.tokens.current.tok
	var at time.Time
	var got secrets.Lease
	s.ask(limit.Renew, h.ends, func(ctx context.Context) (err error) {
		at = time.Now() // the answer may take long: the lease counts from its sending
		got, err = h.from.leases.Renew(ctx, tok, s.namespaceOf(h.secret.Request), lease.ID, lease.Duration)
		return err
	}, func(err error) {
		h.renewing = false
		if s.secrets[name] != h {
			return
		}
		s.renewed(time.Now(), name, h, at, got, err)
	})
}

func (s *Session) renewed(now time.Time, name string, h *secretState, at time.Time, got secrets.Lease, err error) {
	if !at.IsZero() { // else it was not sent
		s.logRequest("renewal", at, err, "secret", name)
		s.k.cfg.Meter.Renewed(resultOf(err))
	}
	if err != nil && secrets.KindOf(err) != secrets.Gone {
		s.noteError(name, err)
	}
	switch {
	case err == nil:
		crashpoint.Reached(crashpoint.RenewalAnswered, s.task.Name)
		h.fails, h.endReported, h.unanswered = 0, false, false
		delete(s.lastEvents, keyRenewal(name))
		since := at
		if !got.Since.IsZero() {
			since = got.Since
		}
		h.ends = since.Add(got.Duration)
		h.check = s.nextCheck(at)
		if atMaximum(h.answer.Lease.Duration, got.Duration) {
			s.rotateBeforeEnd(now, h, because(CauseLeaseMaximum))
		} else {
			h.renew = renewedAt(at, since, got.Duration, s.k.random())
		}
		s.note()
		crashpoint.Reached(crashpoint.RenewalJournalled, s.task.Name)
	case s.retryable(err):
		if secrets.IsElsewhere(err) {
			s.emitFirst(keyRenewal(name), eventRenewalFailed(h, err))
		}
		h.unanswered = unanswered(err)
		h.fails++
		h.renew = s.retryAt(now, h.ends, h.from, h.fails, err)
	case secrets.KindOf(err) == secrets.Gone:
		s.secretLost(now, name, h, reason{CauseRevoked, "its lease was revoked or has expired"})
	case secrets.KindOf(err) == secrets.Refused:
		h.fails++
		h.renew = retryRenewal(now, h.ends, h.fails, s.k.random())
		s.askToken(limit.Rotate, func() {
			s.emitOnce(keyRenewal(name), eventRenewalRefused(name))
			if s.secrets[name] == h && !h.lost {
				s.rotateBeforeEnd(time.Now(), h, because(CauseRenewalRefused))
				s.note()
			}
		})
	default:
		s.log.Warn("a lease cannot be renewed", "secret", name, "error", err)
		s.rotateBeforeEnd(now, h, because(CauseNotRenewable))
		s.note()
	}
}

// checkLease asks whether the server still knows a lease (C6).
func (s *Session) checkLease(name string, h *secretState) {
	ctx, cancel := context.WithCancel(s.watch)
	h.cancelCheck = cancel
	id, tok := h.answer.Lease.ID, s.tokens.current.tok
	var at time.Time
	var left time.Duration
	s.askWhile(ctx, limit.Poll, h.check, func(ctx context.Context) (err error) {
		at = time.Now()
		left, err = h.from.leases.LeaseTTL(ctx, tok, s.namespaceOf(h.secret.Request), id)
		return err
	}, func(err error) {
		cancel()
		h.cancelCheck = nil
		if s.secrets[name] == h {
			s.leaseChecked(time.Now(), name, h, at, left, err)
		}
	})
}

// leaseChecked takes in what the server says of a lease: that it lives for as long as left from a moment on, or why not.
func (s *Session) leaseChecked(now time.Time, name string, h *secretState, at time.Time, left time.Duration, err error) {
	h.check = s.nextCheck(now)
	switch {
	case err == nil:
		s.shortenLease(at, h, left)
	case s.retryable(err):
		h.check = earliest(h.check, now.Add(backoff(s.outageOf(h.from).fails+1, s.k.random())))
	case secrets.KindOf(err) == secrets.Gone:
		s.secretLost(now, name, h, because(CauseRevoked))
	case secrets.KindOf(err) == secrets.Refused:
		s.askToken(limit.Rotate, func() {
			s.noteError(name, err)
			s.emitOnce(keyChecks, eventCheckRefused())
			h.check = time.Time{}
		})
	default:
		s.noteError(name, err)
		s.log.Warn("a lease check failed", "secret", name, "error", err)
	}
}

// shortenLease applies the server's answer about how long a lease lives, where that is less than we think. Our clock
// may have stood still while the machine slept, or was set back between two runs of the plugin.
func (s *Session) shortenLease(at time.Time, h *secretState, left time.Duration) {
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

// endOf is when a credential ends, as things are; zero: never, or not known. What of Nomad's token is known may be old.
func (s *Session) endOf(h *secretState) time.Time {
	if h.answer.Kind == secrets.Leased && h.token != nil && s.tokens.identity.ours() {
		return earliest(h.ends, h.token.ends)
	}
	return h.ends
}

// ranOut is why a credential is to be replaced that nobody has revoked.
func (s *Session) ranOut(h *secretState, end time.Time) string {
	if s.outageOf(h.from).covers(end) {
		return "it ended at " + clock(end) + ", while the server was away"
	}
	return "it ended at " + clock(end) + ", without having been renewed"
}

// secretLost is for a credential that has ended, or was revoked: nothing is left to wait for (C6).
func (s *Session) secretLost(now time.Time, name string, h *secretState, why reason) {
	if h.lost {
		return
	}
	if end := s.endOf(h); due(now, end) {
		why = reason{CauseExpired, s.ranOut(h, end)}
	}
	h.lost = true
	h.renew, h.check, h.rotate = time.Time{}, time.Time{}, time.Time{}
	s.addChange(now, name, why, nil, now)
}

// schedule decides when a secret just fetched is to be renewed, replaced and looked after.
func (s *Session) schedule(now time.Time, h *secretState) {
	switch h.answer.Kind {
	case secrets.Leased:
		l := h.answer.Lease
		h.check = checkAt(h.answer.At, s.k.cfg.LeaseCheckInterval, s.k.random())
		if s.endsWithToken(h) {
			return
		}
		if l.Renewable && l.Duration > 0 {
			h.renew = renewAt(h.answer.At, l.Duration, s.k.random())
		} else if l.Duration > 0 {
			s.rotateBeforeEnd(now, h, because(CauseNotRenewable))
		}
	case secrets.Issued:
		h.rotate = issuedAt(h.answer.At, h.ends, s.need(h), s.k.random())
		h.why = reason{CauseExpiring, "it ends at " + clock(h.ends)}
	}
}

// rotateBeforeEnd notes that a lease will not be extended any more, and decides when to replace it (C2).
func (s *Session) rotateBeforeEnd(now time.Time, h *secretState, why reason) {
	h.renew = time.Time{}
	h.rotate, h.why = rotateAt(now, h.ends, h.answer.Lease.Duration, s.need(h)), why
}

// need is the longest time that a rotation of h may take.
func (s *Session) need(h *secretState) time.Duration {
	return need(h.secret.Change, s.task.AllocIndex, s.spec.StopTime())
}
