package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// firstLogin gets a token, if one of the providers is asked with tokens.
func (s *Session) firstLogin(ctx context.Context) error {
	if s.tokens.issuer == nil {
		return nil
	}
	err := s.retryUntil(ctx, "a token", func() error {
		release, err := s.foreground(ctx, s.tokens.issuer.name)
		if err != nil {
			return err
		}
		defer release()
		l, err := s.logIn(ctx)
		if err == nil {
			s.tokens.use(l)
		}
		return err
	})
	if err != nil {
		if s.policies.config.ByOperator && len(s.spec.Secrets) == 0 && len(s.spec.Files) == 0 && onlyGrants(err) {
			err = fmt.Errorf("%w: %w", ErrNothingGranted, err)
		}
		return err
	}
	s.tokens.current.check = s.nextCheck(s.tokens.current.since)
	s.host.Event(eventReading(s.tokens.identity))
	return nil
}

// keepToken keeps a token of ours good while a start waits longer than that lives: it is renewed, or replaced, where that
// is due. What was read with one that has ended is fetched again before the program runs (Deliver).
func (s *Session) keepToken(ctx context.Context) error {
	l, now := s.tokens.current, time.Now()
	if l == nil || !s.tokens.identity.ours() {
		return nil
	}
	ended := due(now.Add(nearlyEnded), l.ends)
	if !ended && !due(now, l.renew) {
		return nil
	}
	release, err := s.foreground(ctx, s.tokens.issuer.name)
	if err != nil {
		return secrets.Errorf(secrets.Outage, "%w", err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if ended {
		fresh, err := s.logIn(ctx)
		if err != nil {
			return err
		}
		fresh.check = s.nextCheck(fresh.since)
		s.tokens.use(fresh)
		s.tokens.retire(l)
		return nil
	}
	got, err := s.tokens.issuer.tokens.RenewToken(ctx, l.tok, s.namespace)
	s.logRequest("token renewal", now, err)
	if err != nil { // it lives yet
		l.fails++
		l.renew = retryRenewal(now, l.ends, l.fails, s.k.random())
		return nil
	}
	got.Server = s.tokens.server()
	l.granted(now, got, s.k.random())
	s.tokens.publish()
	return s.journal.SaveToken(s.tokens.identity.source, l.tok)
}

// fetchDeclared gets every secret that the job declares.
func (s *Session) fetchDeclared(ctx context.Context) error {
	var wanted []*secrets.Secret
	for i := range s.spec.Secrets {
		if sec := &s.spec.Secrets[i]; !sec.Granted {
			wanted = append(wanted, sec)
		}
	}
	keys := newKeyring()
	return s.retryUntil(ctx, "its secrets", func() error {
		if err := s.keepToken(ctx); err != nil {
			return err
		}
		got, failed := s.fetch(ctx, s.tokens.current, wanted, keys, s.foreground)
		refuseAnswers(got, failed)
		for name, h := range got {
			s.secrets[name] = h
		}
		asked := wanted
		wanted = nil
		var first error
		for _, sec := range asked { // in their order, so that the same error comes first each time
			err := failed[sec.Name]
			switch {
			case err == nil:
			case secrets.KindOf(err) == secrets.NotFound && !sec.Required:
				s.host.Event(eventSkipped(sec))
			default:
				wanted = append(wanted, sec)
				if first == nil || s.retryable(first) && !s.retryable(err) {
					first = err
				}
			}
		}
		return first
	})
}

// refuseAnswers removes from what a start got what checkAnswer refuses. A lease among it is journalled already, and
// revoked with all else of the start.
func refuseAnswers(got map[string]*secretState, failed map[string]error) {
	for name, h := range got {
		if err := checkAnswer(h); err != nil {
			delete(got, name)
			failed[name] = err
		}
	}
}

// checkAnswer refuses what only the server's answer shows to be wrong with a secret that the job declares. Its errors are
// of kind Invalid, which fails the start for good.
func checkAnswer(h *secretState) error {
	if h.answer.Kind == secrets.Issued {
		// Issued again as often as a short lifetime takes, a certificate would cost the server, and so other tasks, more
		// than one task may (C11). Counted by two clocks.
		return secrets.CheckLifetime(h.secret.Name, h.secret.Request.Path, h.ends.Sub(h.answer.At), clockSlack)
	}
	return nil
}

// retryUntil repeats what waiting helps, until it succeeds or ctx ends. The
// error then is the server's last, not ctx's. what is what the start wants to have, for an event that says that it waits.
func (s *Session) retryUntil(ctx context.Context, what string, attempt func() error) error {
	failed, done := s.waiting.attempt(ctx, what)
	defer done()
	var last error
	for n := 1; ; n++ {
		err := attempt()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			if last == nil || s.retryable(err) && !errors.Is(err, ctx.Err()) {
				last = err
			}
			return gaveUp(ctx, last)
		case !s.retryable(err):
			return err
		}
		if last == nil {
			s.log.Warn("waiting for the secrets server", "error", err)
		}
		last = err
		s.noteError("", err)
		s.publish(time.Now())
		failed(err, s.tokens.identity.retryableUntil(s.tokens.current, err))
		pause := min(backoff(n, s.k.random()), backoff(4, s.k.random())) // somebody waits, and not for long
		if secrets.KindOf(err) == secrets.Refused {
			pause = backoff(1, s.k.random()) // within the few seconds that a standby may lag
		}
		wait(ctx, pause)
	}
}

// gaveUp is the error of what was tried until ctx ended; last is why it did not succeed. Where ctx was cancelled for a
// reason of its own, that is named, too.
func gaveUp(ctx context.Context, last error) error {
	if why := context.Cause(ctx); !errors.Is(why, ctx.Err()) {
		return secrets.Errorf(secrets.Outage, "gave up waiting, since %w; before that: %w", why, last)
	}
	return secrets.Errorf(secrets.Outage, "gave up waiting: %w", last)
}

// retryable reports whether the same request may succeed later, with nobody changing anything.
func (s *Session) retryable(err error) bool {
	return s.tokens.identity.retryable(s.tokens.current, err)
}

// retryable is for what was asked with a token, of an identity; both are nil where there is none.
func (id *identity) retryable(l *tokenState, err error) bool {
	switch secrets.KindOf(err) {
	case secrets.Outage:
		return true
	case secrets.Refused: // a standby may not have heard of the token yet (S2)
		return l != nil && id.source == journal.FromIdentity && time.Since(l.since) < standbyLag
	}
	return false
}

// turn waits for the turn of a request to a provider; release is called when the request is over.
type turn func(ctx context.Context, provider string) (release func(), err error)

func (s *Session) foreground(ctx context.Context, provider string) (func(), error) {
	return s.k.limit.Foreground(ctx, s.tenant().At(provider), limit.ForStart)
}

// background is a turn within the request rate.
func (s *Session) background(u limit.Priority, due time.Time) turn {
	return func(ctx context.Context, provider string) (func(), error) {
		return func() {}, s.k.limit.Background(ctx, s.tenant().At(provider), u, due)
	}
}

// liveTurn is the same for what somebody reads in a live directory just now.
func (s *Session) liveTurn(due time.Time) turn {
	return func(ctx context.Context, provider string) (func(), error) {
		return func() {}, s.k.limit.Live(ctx, s.tenant().At(provider), due)
	}
}

// fetch reads secrets, all at once. One that fails does not stop the others: a request that is cut
// off may have made a credential that nobody then knows of. It touches nothing of the loop's.
func (s *Session) fetch(ctx context.Context, l *tokenState, wanted []*secrets.Secret, keys *keyring, t turn) (got map[string]*secretState, failed map[string]error) {
	f := s.starting
	if f == nil {
		f = s.k.memory.open()
		defer f.close()
	}
	got, failed = map[string]*secretState{}, map[string]error{}
	var mu sync.Mutex // guards both
	var all sync.WaitGroup
	for _, sec := range wanted {
		all.Go(func() {
			h, err := s.fetchOne(ctx, l, sec, keys, t, f)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[sec.Name] = err
			} else {
				got[sec.Name] = h
			}
		})
	}
	all.Wait()
	return got, failed
}

func (s *Session) fetchOne(ctx context.Context, l *tokenState, sec *secrets.Secret, keys *keyring, t turn, f *fetched) (*secretState, error) {
	req := sec.Request
	var key secrets.Value
	if sec.CSR != nil { // before its turn, which others wait for
		var err error
		if key, err = keys.of(ctx, sec); err == nil {
			req.Params, err = sec.CSR.Params(req.Params, key)
		}
		if err != nil {
			return nil, fmt.Errorf("secret %q: %w", sec.Name, err)
		}
	}
	release, err := t(ctx, sec.Request.Provider)
	if err != nil {
		return nil, secrets.Errorf(secrets.Outage, "secret %q: %w", sec.Name, err)
	}
	defer release()
	if err := f.gaveUp(); err != nil {
		return nil, err
	}
	p, err := s.k.providers.named(sec.Request.Provider)
	if err != nil {
		return nil, fmt.Errorf("secret %q: %w", sec.Name, err)
	}
	req.Namespace, req.Task = s.namespaceOf(req), s.asker()
	var tok secrets.Token
	if p.tokens == nil {
		l = nil
	} else {
		tok = l.tok
	}
	at := time.Now()
	rctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	a, err := p.Read(rctx, tok, req)
	s.logRequest("fetch", at, err, "secret", sec.Name)
	if err != nil {
		return nil, fmt.Errorf("secret %q: %w", sec.Name, err)
	}
	crashpoint.Reached(crashpoint.SecretAnswered, s.task.Name)
	if sec.CSR != nil {
		a.Fields = sec.CSR.Complete(a.Fields, key)
	}
	if a.At.IsZero() {
		a.At = at
	}
	if a.Kind == secrets.Leased && p.leases == nil {
		return nil, secrets.Errorf(secrets.Invalid, "secret %q: provider %q has lent it, and has no way to renew or revoke a lease", sec.Name, p.name)
	}
	if err := f.add(a.Fields.Size()); err != nil {
		err = fmt.Errorf("secret %q: %w", sec.Name, err)
		if !sec.Granted {
			f.giveUp(err)
		}
		if a.Kind == secrets.Leased {
			err = errors.Join(err, s.revokeNow(ctx, p, l, req.Namespace, a.Lease.ID))
		}
		return nil, err
	}
	h := &secretState{secret: sec, from: p, answer: a, token: l}
	switch a.Kind {
	case secrets.Static:
		h.digest = s.k.digest(a.Fields)
	case secrets.Leased:
		if a.Lease.Duration > 0 {
			h.ends = a.At.Add(a.Lease.Duration)
		}
		if s.journal.HasLease(p.name, a.Lease.ID) {
			return nil, &secrets.Error{Kind: secrets.Outage, Elsewhere: true, Err: fmt.Errorf("secret %q: a cache before the server gave the lease that the task has already", sec.Name)}
		}
		if err := s.journal.AddLease(journal.Lease{
			Provider: p.name, ID: a.Lease.ID, TokenID: l.tok.ID, Ends: h.ends, Use: journal.LeaseFetched, Secret: sec.Name,
		}); err != nil {
			// What is not written down would outlive us: better no credential than a leaked one.
			return nil, errors.Join(fmt.Errorf("secret %q: %w", sec.Name, err), s.revokeNow(ctx, p, l, req.Namespace, a.Lease.ID))
		}
		crashpoint.Reached(crashpoint.LeaseJournalled, s.task.Name)
	case secrets.Issued:
		h.ends = a.Ends
	}
	return h, nil
}

// revokeNow ends a lease that nothing was written down of.
func (s *Session) revokeNow(ctx context.Context, p *provider, l *tokenState, namespace string, id secrets.LeaseID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	return p.leases.Revoke(ctx, l.tok, namespace, id)
}

// wait sleeps, or less if ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
