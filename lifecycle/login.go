package lifecycle

import (
	"context"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// followEvery is how often the file of a token that somebody else keeps is read again. It is a local
// read; watching with inotify would cost an instance a task, of which a host has few.
const followEvery = 3 * time.Second

// stepLogin keeps the session's token good: it renews one of ours, replaces it when it can be
// renewed no more, and follows one that somebody else replaces.
func (s *Session) stepLogin(now time.Time) (next time.Time) {
	if s.identity.follows() {
		if s.follow.IsZero() || due(now, s.follow) {
			s.followToken(now)
			s.follow = now.Add(followEvery)
		}
		next = s.follow
	}
	l := s.login
	if l.renew.IsZero() && l.rotate.IsZero() && !l.ends.IsZero() && s.identity.source == fromIdentity {
		l.rotate = rotateAt(now, l.ends, l.asked, s.longestNeed())
	}
	if s.busy {
		return next // the answer wakes the loop
	}
	switch {
	case due(now, l.rotate):
		s.loginAgain()
		return next
	case due(now, l.renew):
		s.renewToken()
		return next
	case due(now, l.check):
		l.check = s.nextCheck(now)
		if !l.checking && !s.leasesProve(l) {
			l.checking = true
			s.askToken(toLook, func() {})
		}
	}
	return earliest(next, l.rotate, l.renew, l.check)
}

// leasesProve reports whether the checks of leases (C6) tell of the token, too: they fail with it.
func (s *Session) leasesProve(l *login) bool {
	for _, h := range s.held {
		if h.under == l && !h.gone && !h.check.IsZero() {
			return true
		}
	}
	return false
}

func (s *Session) longestNeed() time.Duration {
	longest := time.Duration(0)
	for _, h := range s.held {
		longest = max(longest, s.need(h))
	}
	return longest
}

// followToken takes up a token that Nomad, or the operator, has put in the old one's place. Leases
// may have ended with the old: they are looked after soon.
func (s *Session) followToken(now time.Time) {
	tok, err := s.readToken()
	if err != nil || tok.Value.Text() == s.login.tok.Value.Text() {
		return // a file that is away for a moment is no news
	}
	if err := s.journal.saveToken(s.identity.source, tok); err != nil {
		s.log.Error("journal", "error", err)
	}
	s.login = &login{tok: tok, since: now, check: now}
	s.identity.current.Store(&tok)
	for _, h := range s.held {
		h.under = s.login
		if !h.check.IsZero() && !h.gone {
			h.check = between(now, 0, 2*time.Second, s.k.random())
		}
	}
	s.told = map[topic]string{} // what the old might not do, the new may
}

// renewToken extends a token of ours.
func (s *Session) renewToken() {
	s.busy = true
	l := s.login
	tok := l.tok
	var at time.Time
	var got secrets.Token
	s.ask(toKeep, l.ends, func(ctx context.Context) (err error) {
		at = time.Now()
		got, err = s.k.cfg.Provider.RenewToken(ctx, tok, s.namespace)
		return err
	}, func(err error) {
		s.busy = false
		now := time.Now()
		switch {
		case err == nil:
			crashpoint.Reached(crashpoint.TokenRenewed, s.task.Name)
			l.granted(at, got, s.k.random())
			l.check = s.nextCheck(at)
			s.keepToken(l)
		case s.waitable(err):
			l.fails++
			l.renew = retryRenewal(now, l.ends, l.fails, s.k.random())
		case secrets.KindOf(err) == secrets.Gone:
			s.tokenDied(now)
		case secrets.KindOf(err) == secrets.Refused:
			l.fails++
			l.renew = retryRenewal(now, l.ends, l.fails, s.k.random())
			s.askToken(toAct, func() {
				l.renew = time.Time{} // it may not be renewed: it is replaced
				s.sayOnce(aboutTokenRenewal, sayTokenRenewalRefused())
			})
		default:
			l.renew = time.Time{}
		}
	})
}

// keepToken makes what was granted known, to recovery and to other goroutines.
func (s *Session) keepToken(l *login) {
	tok := l.tok
	s.identity.current.Store(&tok)
	if err := s.journal.saveToken(s.identity.source, tok); err != nil {
		s.log.Error("journal", "error", err)
	}
}

// askToken asks whether the server still knows the token in use, after something was refused. If it
// does, a policy is what is missing, and known is called.
func (s *Session) askToken(u urgency, known func()) {
	l := s.login
	tok := l.tok
	var got secrets.Token
	s.ask(u, time.Now(), func(ctx context.Context) (err error) {
		got, err = s.k.cfg.Provider.LookupToken(ctx, tok, s.namespace)
		return err
	}, func(err error) {
		l.checking = false
		if s.login != l || l.dead {
			return
		}
		switch {
		case err == nil:
			l.ends = got.Expires
			known()
		case s.waitable(err): // asked again when the next thing is refused
		case secrets.KindOf(err) == secrets.Gone:
			s.tokenDied(time.Now())
		default:
			known() // it may not even look itself up, but it is known
		}
	})
}

// tokenDied is for a token that the server does not know any more, and with it went all leases
// under it. A token of ours is replaced at once, somebody else's when he has done so.
func (s *Session) tokenDied(now time.Time) {
	l := s.login
	l.dead = true
	l.renew, l.check = time.Time{}, time.Time{}
	s.identity.current.Store(nil)
	s.host.Event(sayTokenDead(s.identity))
	if s.identity.source == fromIdentity {
		l.rotate = now
	}
	for name, h := range s.held {
		if h.under == l && h.answer.Kind == secrets.Leased {
			s.gone(now, name, h, "the token it was made under has ended")
		}
	}
}

// loginAgain gets a new token of ours. The leases made under the old one end with it, and so are
// replaced before that (DESIGN 5).
func (s *Session) loginAgain() {
	s.busy = true
	old := s.login
	s.do(func(ctx context.Context) func() {
		var l *login
		err := s.k.limit.background(ctx, toKeep, old.ends)
		if err == nil {
			rctx, cancel := context.WithTimeout(ctx, requestTimeout)
			l, err = s.logIn(rctx)
			cancel()
		}
		return func() {
			s.busy = false
			s.heard(err)
			s.loggedIn(time.Now(), old, l, err)
		}
	})
}

func (s *Session) loggedIn(now time.Time, old, l *login, err error) {
	if err != nil {
		old.fails++
		old.rotate = retryRenewal(now, old.ends, old.fails, s.k.random())
		if secrets.KindOf(err) != secrets.Outage {
			old.rotate = now.Add(slowly(old.fails, s.k.random()))
			s.sayOnce(aboutLogin, sayLoginRefused(err))
		}
		return
	}
	crashpoint.Reached(crashpoint.LoggedInAgain, s.task.Name)
	l.check = s.nextCheck(now)
	s.login = l
	delete(s.told, aboutLogin)
	tok := l.tok
	s.identity.current.Store(&tok)
	for name, h := range s.held {
		switch {
		case h.under != old:
		case h.answer.Kind != secrets.Leased:
			h.under = l
		case !h.gone:
			s.addChange(now, name, "the token it was made under reached its maximum", nil, earliest(old.ends, h.ends))
		}
	}
	if old.dead {
		s.forgetToken(old)
	} else {
		s.former = append(s.former, old)
	}
	s.note()
}

// stepFormer revokes tokens of ours once the task uses nothing that was made under them.
func (s *Session) stepFormer(now time.Time) (next time.Time) {
	if s.rotation != nil {
		return time.Time{}
	}
	rest := s.former[:0]
	for _, l := range s.former {
		switch {
		case due(now, l.ends):
			s.forgetToken(l)
		case s.uses(l):
			next = earliest(next, l.ends)
			rest = append(rest, l)
		default:
			if err := s.k.debts.oweToken(s.journal, l.tok.Accessor); err != nil {
				s.log.Error("revoke an old token", "error", err)
			}
		}
	}
	s.former = rest
	return next
}

func (s *Session) uses(l *login) bool {
	for _, h := range s.held {
		if h.under == l && !h.gone {
			return true
		}
	}
	for _, r := range s.retired {
		if r.under == l {
			return true
		}
	}
	return false
}

func (s *Session) forgetToken(l *login) {
	if l.tok.Accessor == s.login.tok.Accessor {
		return // batch tokens have none, and the place is the new one's
	}
	if err := s.journal.forgetToken(l.tok.Accessor); err != nil {
		s.log.Error("journal", "error", err)
	}
}

// loginOf finds the token that a journalled lease was made under.
func (s *Session) loginOf(accessor string) *login {
	for _, l := range s.former {
		if l.tok.Accessor == accessor {
			return l
		}
	}
	return s.login
}
