package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// begin gets all that the task needs (S1): a token, then every secret at once. Whatever the server
// makes is in the journal before the next step. It waits out an outage until Config.StartTimeout.
func (s *Session) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.k.cfg.StartTimeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)() // Close does not wait for an outage

	err := s.patiently(ctx, func() error {
		release, err := s.k.limit.foreground(ctx)
		if err != nil {
			return err
		}
		defer release()
		s.login, err = s.logIn(ctx)
		return err
	})
	if err != nil {
		return err
	}
	s.login.check = s.nextCheck(s.login.since)
	tok := s.login.tok
	s.identity.current.Store(&tok)
	s.host.Event(sayReading(s.identity))

	if s.policies.from != nil {
		if err := s.patiently(ctx, func() error { return s.discover(ctx) }); err != nil {
			return err
		}
	}
	wanted := make([]*secrets.Secret, len(s.spec.Secrets))
	for i := range s.spec.Secrets {
		wanted[i] = &s.spec.Secrets[i]
	}
	err = s.patiently(ctx, func() error {
		got, failed := s.fetch(ctx, s.login, wanted, s.foreground)
		for name, h := range got {
			s.held[name] = h
		}
		wanted = wanted[:0]
		var first error
		for i := range s.spec.Secrets { // in their order, so that the same error comes first each time
			sec := &s.spec.Secrets[i]
			err := failed[sec.Name]
			switch {
			case err == nil:
			case secrets.KindOf(err) == secrets.NotFound && !sec.Required:
				s.host.Event(sayLeftOut(sec))
			default:
				wanted = append(wanted, sec)
				if first == nil || s.waitable(first) && !s.waitable(err) {
					first = err
				}
			}
		}
		return first
	})
	if err != nil {
		return err
	}
	set, err := secrets.Render(s.spec, s.answers(nil))
	if err != nil {
		return err
	}
	s.set.Store(set)
	for _, h := range s.held {
		s.schedule(time.Now(), h)
	}
	if err := s.journalHeld(stepWatching); err != nil {
		return err
	}
	crashpoint.Reached(crashpoint.SecretsJournalled, s.task.Name)
	return nil
}

// patiently repeats what fails for a reason that waiting mends, until it does not or ctx ends. The
// error then is the server's last, not ctx's.
func (s *Session) patiently(ctx context.Context, attempt func() error) error {
	var last error
	for n := 1; ; n++ {
		err := attempt()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			if last == nil || s.waitable(err) && !errors.Is(err, ctx.Err()) {
				last = err
			}
			return secrets.Errorf(secrets.Outage, "gave up waiting: %w", last)
		case !s.waitable(err):
			return err
		}
		if last == nil {
			s.log.Warn("waiting for the secrets server", "error", err)
		}
		last = err
		pause := min(retryIn(n, s.k.random()), retryIn(4, s.k.random())) // somebody waits, and not for long
		if secrets.KindOf(err) == secrets.Refused {
			pause = retryIn(1, s.k.random()) // within the few seconds that a standby may lag
		}
		wait(ctx, pause)
	}
}

// waitable reports whether the same request may succeed later, with nobody changing anything.
func (s *Session) waitable(err error) bool {
	switch secrets.KindOf(err) {
	case secrets.Outage:
		return true
	case secrets.Refused: // a standby may not have heard of the token yet (S2)
		return s.login != nil && s.identity.source == fromIdentity && time.Since(s.login.since) < standbyLag
	}
	return false
}

// turn waits for a request's turn; release is called when the request is over.
type turn func(ctx context.Context) (release func(), err error)

func (s *Session) foreground(ctx context.Context) (func(), error) { return s.k.limit.foreground(ctx) }

// background is a turn within the request rate.
func (s *Session) background(u urgency, due time.Time) turn {
	return func(ctx context.Context) (func(), error) {
		return func() {}, s.k.limit.background(ctx, u, due)
	}
}

// fetch reads secrets, all at once. One that fails does not stop the others: a request that is cut
// off may have made a credential that nobody then knows of. It touches nothing of the loop's.
func (s *Session) fetch(ctx context.Context, l *login, wanted []*secrets.Secret, t turn) (got map[string]*held, failed map[string]error) {
	got, failed = map[string]*held{}, map[string]error{}
	var mu sync.Mutex // guards both
	var all sync.WaitGroup
	for _, sec := range wanted {
		all.Go(func() {
			h, err := s.fetchOne(ctx, l, sec, t)
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

func (s *Session) fetchOne(ctx context.Context, l *login, sec *secrets.Secret, t turn) (*held, error) {
	release, err := t(ctx)
	if err != nil {
		return nil, secrets.Errorf(secrets.Outage, "secret %q: %w", sec.Name, err)
	}
	defer release()
	req := sec.Request
	if req.Namespace == "" {
		req.Namespace = s.namespace
	}
	at := time.Now()
	rctx, cancel := context.WithTimeout(ctx, mintTimeout)
	defer cancel()
	a, err := s.k.cfg.Provider.Read(rctx, l.tok, req)
	if err != nil {
		return nil, fmt.Errorf("secret %q: %w", sec.Name, err)
	}
	crashpoint.Reached(crashpoint.SecretAnswered, s.task.Name)
	if a.At.IsZero() {
		a.At = at
	}
	h := &held{secret: sec, answer: a, under: l}
	switch a.Kind {
	case secrets.Static:
		h.digest = s.k.digest(a.Fields)
	case secrets.Leased:
		if a.Lease.Duration > 0 {
			h.ends = a.At.Add(a.Lease.Duration)
		}
		if err := s.journal.addLease(heldLease{ID: a.Lease.ID, TokenAccessor: l.tok.Accessor, Ends: h.ends}); err != nil {
			// What is not written down would outlive us: better no credential than a leaked one.
			cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
			defer cancel()
			return nil, errors.Join(fmt.Errorf("secret %q: %w", sec.Name, err),
				s.k.cfg.Provider.Revoke(cctx, l.tok, req.Namespace, a.Lease.ID))
		}
		crashpoint.Reached(crashpoint.LeaseJournalled, s.task.Name)
	case secrets.Issued:
		h.ends = a.Ends
	}
	return h, nil
}

// schedule decides when a secret just fetched is to be renewed, replaced and looked after.
func (s *Session) schedule(now time.Time, h *held) {
	switch h.answer.Kind {
	case secrets.Leased:
		l := h.answer.Lease
		h.check = checkAt(h.answer.At, s.k.cfg.LeaseCheckInterval, s.k.random())
		if l.Renewable && l.Duration > 0 {
			h.renew = renewAt(h.answer.At, l.Duration, s.k.random())
		} else if l.Duration > 0 {
			s.lastOf(now, h, "its lease cannot be renewed")
		}
	case secrets.Issued:
		h.rotate = issuedAt(h.answer.At, h.ends, s.need(h), s.k.random())
		h.why = "it ends at " + clock(h.ends)
	}
}

// lastOf notes that a lease will not be extended any more, and decides when to replace it (C2).
func (s *Session) lastOf(now time.Time, h *held, why string) {
	h.renew = time.Time{}
	h.rotate, h.why = rotateAt(now, h.ends, h.answer.Lease.Duration, s.need(h)), why
}

// need is the longest time that a rotation of h may take.
func (s *Session) need(h *held) time.Duration {
	return need(h.secret.Change, s.task.AllocIndex, s.spec.StopTimeout)
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
