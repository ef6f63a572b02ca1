package lifecycle

import (
	"context"
	"errors"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/contain"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// loop keeps a task's secrets alive until the session ends. It does what is due, learns when to look
// again, and sleeps until then or until something happens.
func (s *Session) loop() {
	defer s.contain()
	s.subscribe()
	s.resumeRotation()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		now := time.Now()
		if next := s.step(now); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		s.publish(now)
		select {
		case <-s.watch.Done():
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
	if s.phase == phaseOver {
		s.stepOperations(now)
		return time.Time{}
	}
	if s.phase == phaseLaunching && s.runs.Load() {
		s.phase = phaseWatching
	}
	s.stepPull(now)
	s.stepBack(now)
	next = s.stepToken(now)
	for name, h := range s.secrets {
		next = earliest(next, s.stepSecret(now, name, h))
	}
	for name, st := range s.statics {
		next = earliest(next, s.stepStatic(now, name, st))
	}
	if s.phase == phaseLaunching { // changes gather: Deliver takes what is there of them, and after Watch the rest is applied
		next = earliest(next, s.stepLive(now), s.stepDelivery(now), s.stepRetired(now), s.stepOldTokens(now))
	} else {
		next = earliest(next, s.stepEnded(now), s.stepLive(now), s.stepPolicies(now), s.stepChanges(now), s.stepRetired(now), s.stepOldTokens(now), s.stepOperations(now))
	}
	return next
}

// do runs a request beside the loop. What it returns is run by the loop, unless the watch has
// ended by then.
func (s *Session) do(request func(ctx context.Context) (done func())) {
	s.work.Go(func() {
		defer s.contain()
		s.deliver(request(s.watch))
	})
}

// contain is deferred by each goroutine of the watch. A panic ends the watch over this task and nothing else (C14): the
// task runs on, what it has is journalled, and the watch begins anew (rewatch.go).
func (s *Session) contain() {
	p := contain.Of(recover())
	if p == nil {
		return
	}
	s.failed.Store(true)
	s.unwatch()
	s.log.Error("the watch over a task's secrets ended because of an error in this plugin, and begins anew; please report it", "error", p, "stack", p.Stack)
}

func (s *Session) deliver(done func()) {
	select {
	case s.results <- done:
	case <-s.watch.Done():
	}
}

// ask sends one request within the request rate, when it is its turn.
func (s *Session) ask(u limit.Priority, due time.Time, request func(ctx context.Context) error, done func(err error)) {
	s.askWhile(s.watch, u, due, request, done)
}

// askWhile is ask for what is not wanted any more once ctx ends: then nothing is done of it.
func (s *Session) askWhile(ctx context.Context, u limit.Priority, due time.Time, request func(ctx context.Context) error, done func(err error)) {
	s.work.Add(1) // which the loop, that runs, keeps above zero
	s.k.limit.Queue(ctx, s.tenant().At(s.tokens.issuer.name), u, due, func(err error) {
		defer s.work.Done()
		defer s.contain()
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
				s.noteAnswer(s.tokens.issuer, err)
				done(err)
			}
		})
	})
}

// outage is what is known of a provider's being away.
type outage struct {
	fails    int
	reported bool
	from, to time.Time // of the one that is, or was last; to is zero while it is
	answered time.Time // when the session last had an answer
}

// covers reports whether the provider was away at a moment.
func (o *outage) covers(at time.Time) bool {
	return !o.from.IsZero() && !at.Before(o.from) && (o.to.IsZero() || !at.After(o.to))
}

// lately reports whether the provider answers again since less than shortLife.
func (o *outage) lately(now time.Time) bool { return !o.to.IsZero() && now.Sub(o.to) < shortLife }

// noteAnswer takes note of whether the server answered (C3). A single failure is no outage: the next
// attempt comes within a second or two, and only then is there something to report. But one that was
// waited for in vain has taken longer than two that fail at once. An outage elsewhere (a database) says nothing of the
// server.
func (s *Session) noteAnswer(p *provider, err error) {
	s.k.heard(p.name, err)
	o := s.outageOf(p)
	switch {
	case secrets.IsElsewhere(err):
		return
	case secrets.KindOf(err) == secrets.Outage:
		o.fails++
		if o.from.IsZero() || !o.to.IsZero() {
			o.from, o.to = time.Now(), time.Time{}
		}
		surely := o.fails > 1 || errors.Is(err, context.DeadlineExceeded)
		if surely && !o.reported {
			o.reported = true
			s.host.Event(eventOutage(p.name, time.Now(), s.validUntil(p)))
		}
		return
	}
	if o.reported {
		s.host.Event(eventOutageOver(p.name))
	}
	o.fails, o.reported, o.answered = 0, false, time.Now()
	if !o.from.IsZero() && o.to.IsZero() {
		o.to = time.Now()
	}
}

// slowAnswer is how old the last answer is at the least where polls in vain mean an outage: a server that takes longer than
// a poll waits (10 s) for some answers, and gives others, is slow.
const slowAnswer = 15 * time.Second

// notePolled takes note of what a poll of the provider found out. That one path had no answer twice in a row is enough:
// its polls are seconds apart at the least, while many paths are polled at one time.
func (s *Session) notePolled(p *provider, of *polled) {
	o := s.outageOf(p)
	switch {
	case of.failures == 0:
		s.noteAnswer(p, nil)
	case secrets.IsElsewhere(of.err):
	case of.failures > 1 && time.Since(o.answered) >= slowAnswer: // else it is slow, for it has answered others
		o.fails = max(o.fails, 1)
		s.noteAnswer(p, of.err)
	}
}

// noteFetch is noteAnswer for secrets that were fetched together, once a provider: those that failed did so together.
func (s *Session) noteFetch(got map[string]*secretState, failed map[string]error) {
	answers := map[*provider]error{}
	for name, err := range failed {
		answers[s.secrets[name].from] = err
	}
	for _, h := range got {
		answers[h.from] = nil
	}
	for p, err := range answers {
		s.noteAnswer(p, err)
	}
}

func (s *Session) outageOf(p *provider) *outage {
	o := s.outages[p.name]
	if o == nil {
		o = &outage{}
		s.outages[p.name] = o
	}
	return o
}

// validUntil is when the first of the current credentials of a provider ends, if nothing can be renewed.
func (s *Session) validUntil(p *provider) time.Time {
	var first time.Time
	for _, h := range s.secrets {
		if h.from != p {
			continue
		}
		first = earliest(first, h.ends)
		if h.answer.Kind == secrets.Leased {
			first = earliest(first, h.token.ends)
		}
	}
	return first
}

// eventKey is what an event is about that would otherwise come with every attempt. It is emitted when its
// text differs from the last; what succeeds deletes the key, so that the next failure is emitted again.
//
// A token that replaces the task's (reloadToken) deletes all keys: what the old token was refused, the new one may be allowed. So an event that is to
// come once an outage, however many tokens the task has meanwhile, needs a flag of its own, as outage.reported is; and
// one that a recovery is not to repeat, a field in the journal: no key outlives the plugin.
type eventKey string

const (
	keyLogin        eventKey = "login"
	keyTokenRenewal eventKey = "token renewal"
	keyChecks       eventKey = "checks"
	keyPolicies     eventKey = "policies"
	keyCut          eventKey = "policies cut"
)

func keySecret(name string) eventKey  { return eventKey("secret " + name) }
func keyRenewal(name string) eventKey { return eventKey("renewal " + name) }

// keyLifetime is about how long a secret's certificates live.
func keyLifetime(name string) eventKey { return eventKey("lifetime " + name) }

// emitFirst is emitOnce for what is said with another text each time, such as a request's number.
func (s *Session) emitFirst(t eventKey, msg string) {
	if s.lastEvents[t] == "" {
		s.emitOnce(t, msg)
	}
}

func (s *Session) emitOnce(t eventKey, msg string) {
	if s.lastEvents[t] != msg {
		s.lastEvents[t] = msg
		s.host.Event(msg)
	}
}
