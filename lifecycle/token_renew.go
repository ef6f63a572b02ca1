package lifecycle

import (
	"context"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// stepToken keeps the session's token good: it renews one of ours, replaces it when it can be
// renewed no more, and reloads one that somebody else replaces.
func (s *Session) stepToken(now time.Time) (next time.Time) {
	if s.tokens.current == nil { // no provider of the task's has tokens
		return time.Time{}
	}
	isDue, next := s.tokens.reloadDue(now)
	if isDue {
		s.reloadToken(now)
	}
	step, at := s.tokens.step(now, s.longestNeed)
	switch l := s.tokens.current; step {
	case tokenReplace:
		s.logInAgain()
	case tokenRenew:
		s.renewToken()
	case tokenCheck:
		l.check = s.nextCheck(now)
		if !l.checking && !s.leasesProve(l) {
			l.checking = true
			s.askToken(limit.Poll, func() {})
		}
		at = earliest(at, l.check)
	}
	return earliest(next, at)
}

// leasesProve reports whether the checks of leases (C6) check the token, too: they fail with it.
func (s *Session) leasesProve(l *tokenState) bool {
	for _, h := range s.secrets {
		if h.token == l && !h.lost && !h.check.IsZero() {
			return true
		}
	}
	return false
}

func (s *Session) longestNeed() time.Duration {
	longest := time.Duration(0)
	for _, h := range s.secrets {
		longest = max(longest, s.need(h))
	}
	return longest
}

// reloadToken begins to use a token that Nomad, or the operator, has put in the old one's place. Leases
// may have ended with the old: they are checked soon.
func (s *Session) reloadToken(now time.Time) {
	tok, err := s.readToken()
	if err != nil || tok.Value.Text() == s.tokens.current.tok.Value.Text() {
		return // a file that is away for a moment is no news
	}
	if err := s.journal.ReplaceToken(s.tokens.identity.source, s.tokens.current.tok.ID, tok); err != nil {
		s.logJournal("a reloaded token", err)
	}
	s.tokens.use(&tokenState{tok: tok, since: now, check: now})
	for _, h := range s.secrets {
		if h.token == nil {
			continue
		}
		h.token = s.tokens.current
		if !h.check.IsZero() && !h.lost {
			h.check = between(now, 0, 2*time.Second, s.k.random())
		}
	}
	s.lastEvents = map[eventKey]string{} // what the old might not do, the new may
}

// renewToken extends a token of ours.
func (s *Session) renewToken() {
	s.tokens.busy = true
	l := s.tokens.current
	tok := l.tok
	var at time.Time
	var got secrets.Token
	s.ask(limit.Renew, l.ends, func(ctx context.Context) (err error) {
		at = time.Now()
		got, err = s.tokens.issuer.tokens.RenewToken(ctx, tok, s.namespace)
		return err
	}, func(err error) {
		s.tokens.busy = false
		now := time.Now()
		if !at.IsZero() { // else it was not sent
			s.logRequest("token renewal", at, err)
			s.k.cfg.Meter.Renewed(resultOf(err))
		}
		if err != nil {
			s.noteError("", err)
		}
		switch {
		case err == nil:
			crashpoint.Reached(crashpoint.TokenRenewed, s.task.Name)
			got.Server = s.tokens.server() // as it has just shown
			l.granted(at, got, s.k.random())
			l.check = s.nextCheck(at)
			s.tokens.publish()
			if err := s.journal.SaveToken(s.tokens.identity.source, l.tok); err != nil {
				s.logJournal("a renewed token", err)
			}
		case s.retryable(err):
			l.fails++
			l.unanswered = unanswered(err)
			l.renew = s.retryAt(now, l.ends, s.tokens.issuer, l.fails, err)
		case secrets.KindOf(err) == secrets.Gone:
			s.tokenLost(now)
		case secrets.KindOf(err) == secrets.Refused:
			l.fails++
			l.renew = retryRenewal(now, l.ends, l.fails, s.k.random())
			s.askToken(limit.Rotate, func() {
				l.endRenewals() // it may not be renewed: it is replaced
				s.emitOnce(keyTokenRenewal, eventTokenRenewalRefused())
			})
		default:
			l.endRenewals()
		}
	})
}

// askToken asks whether the server still knows the token in use, after something was refused. If it
// does, a policy is what is missing, and known is called.
func (s *Session) askToken(u limit.Priority, known func()) {
	l := s.tokens.current
	tok := l.tok
	var got secrets.Token
	s.ask(u, time.Now(), func(ctx context.Context) (err error) {
		got, err = s.tokens.issuer.tokens.LookupToken(ctx, tok, s.namespace)
		return err
	}, func(err error) {
		l.checking = false
		if s.tokens.current != l || l.lost {
			return
		}
		switch {
		case err == nil:
			l.seen(time.Now(), got.Expires, s.k.random())
			known()
		case s.retryable(err): // asked again when the next thing is refused
		case secrets.KindOf(err) == secrets.Gone:
			s.tokenLost(time.Now())
		default:
			known() // it may not even look itself up, but it is known
		}
	})
}

// errTokenLost is what an operator is told while a new token is waited for.
var errTokenLost = secrets.Errorf(secrets.Gone, "the task's token has ended; a new one is waited for")

// tokenLost is for a token that the server does not know any more, and with it all leases
// made under it.
func (s *Session) tokenLost(now time.Time) {
	l := s.tokens.current
	s.tokens.lose(now)
	s.noteError("", errTokenLost)
	s.host.Event(eventTokenLost(s.tokens.identity))
	for name, h := range s.secrets {
		if h.token == l && h.answer.Kind == secrets.Leased {
			s.secretLost(now, name, h, because(CauseTokenEnded))
		}
	}
}

// logInAgain gets a new token of ours. The leases made under the old one end with it, and so are
// replaced before that (C2).
func (s *Session) logInAgain() {
	s.tokens.busy = true
	old := s.tokens.current
	s.do(func(ctx context.Context) func() {
		var l *tokenState
		err := s.k.limit.Background(ctx, s.tenant().At(s.tokens.issuer.name), limit.Renew, old.ends)
		if err == nil {
			rctx, cancel := context.WithTimeout(ctx, requestTimeout)
			l, err = s.logIn(rctx)
			cancel()
		}
		return func() {
			s.tokens.busy = false
			s.noteAnswer(s.tokens.issuer, err)
			s.loggedInAgain(time.Now(), old, l, err)
		}
	})
}

func (s *Session) loggedInAgain(now time.Time, old, l *tokenState, err error) {
	if err != nil {
		s.noteError("", err)
		old.fails++
		old.unanswered = unanswered(err)
		old.rotate = s.retryAt(now, old.ends, s.tokens.issuer, old.fails, err)
		if secrets.KindOf(err) != secrets.Outage {
			old.rotate = now.Add(slowBackoff(old.fails, s.k.random()))
			s.emitOnce(keyLogin, eventLoginRefused(err))
		}
		return
	}
	crashpoint.Reached(crashpoint.LoggedInAgain, s.task.Name)
	l.check = s.nextCheck(now)
	s.tokens.use(l) // each secret follows by itself (followToken)
	delete(s.lastEvents, keyLogin)
	if old.lost && (old.tok.Server == "" || old.tok.Server == s.tokens.server()) {
		s.forgetToken(old)
	} else { // of a token of another server's, this one says nothing
		s.tokens.retire(old)
	}
	s.note()
}

// followToken has a secret go with the token in use, if it was read with another: that may have been replaced before
// the secret's answer came. A lease ends with its token, and so is replaced before that.
func (s *Session) followToken(now time.Time, name string, h *secretState) {
	switch {
	case h.token == s.tokens.current || h.token == nil: // or of a provider without tokens
	case h.answer.Kind != secrets.Leased:
		h.token = s.tokens.current
	case !s.tokens.identity.ours(): // its owner knows whether the old one has ended
		h.token = s.tokens.current
		h.check = earliest(h.check, between(now, 0, 2*time.Second, s.k.random()))
	default:
		s.replaceBefore(now, name, because(CauseTokenMaximum), earliest(h.token.ends, h.ends))
	}
}

// endsWithToken reports whether a lease can live no longer than the token that it was made under: one of a batch
// token, which cannot be renewed. It is replaced when the token is.
func (s *Session) endsWithToken(h *secretState) bool {
	l := h.token
	return l.tok.Batch && !l.ends.IsZero() && !h.ends.Before(l.ends.Add(-clockSlack))
}

// stepOldTokens revokes tokens of ours once the task uses nothing that was made under them. While something may be
// on its way that was, none is.
func (s *Session) stepOldTokens(now time.Time) (next time.Time) {
	if s.phase.rotating() || s.policies.busy || s.delivery.fetching() {
		return time.Time{}
	}
	ended, unused, next := s.tokens.takeUnused(now, s.usesToken)
	for _, l := range ended {
		s.forgetToken(l)
	}
	for _, l := range unused {
		if err := s.k.revocations.EnqueueToken(s.journal, l.tok.ID); err != nil {
			s.log.Error("an old token is not revoked before the task's end: its revocation cannot be journalled", "error", err)
		}
	}
	return next
}

func (s *Session) usesToken(l *tokenState) bool {
	for _, h := range s.secrets {
		if h.token == l && !h.lost {
			return true
		}
	}
	has := func(r retired) bool { return r.token == l }
	for _, c := range s.changes {
		if slices.ContainsFunc(c.replaces, has) {
			return true
		}
	}
	return slices.ContainsFunc(s.retired, has)
}

func (s *Session) forgetToken(l *tokenState) {
	if !s.tokens.forgettable(l) {
		return
	}
	if err := s.journal.ForgetToken(l.tok.ID); err != nil {
		s.logJournal("that an old token has ended", err)
	}
}
