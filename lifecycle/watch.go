package lifecycle

import (
	"context"
	"errors"
	"time"

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
// waited for in vain has taken longer than two that fail at once. An outage elsewhere tells nothing of the
// server: whether it is well, the requests that are its own affair show.
func (s *Session) heard(err error) {
	switch {
	case secrets.IsElsewhere(err):
		return
	case secrets.KindOf(err) == secrets.Outage:
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

// sayFirst is sayOnce for what is said in other words each time, such as a request's number.
func (s *Session) sayFirst(t topic, msg string) {
	if s.told[t] == "" {
		s.sayOnce(t, msg)
	}
}

func (s *Session) sayOnce(t topic, msg string) {
	if s.told[t] != msg {
		s.told[t] = msg
		s.host.Event(msg)
	}
}
