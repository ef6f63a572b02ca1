package lifecycle

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A server that comes and goes may answer for moments only. So while something ends soon, it is asked often enough that one request falls into such a
// moment; and when it answers anything, all that waits to be tried again is tried at once, for all tasks; what keeps credentials alive goes
// first, as ever (package limit).

const (
	// backEvery is how far apart that is at the least: a server that answers every other request is not asked the more.
	backEvery = time.Second
	// backEveryRevocation is the same for pending revocations, which are outside the request rate.
	backEveryRevocation = 10 * time.Second
	// shortLife is what a lease or a token must have left at the least not to be renewed when the server is back, and not to be probed for
	// while it is away.
	shortLife = time.Minute
	// probeEvery is how often a server that is away is asked at the least, by all tasks together, while something of theirs ends soon.
	probeEvery = 200 * time.Millisecond
	// probeShare: that takes at most one in so many of the requests that the rate allows.
	probeShare = 4
)

// answering is which providers' servers are away, as far as is known.
type answering struct {
	mu      sync.Mutex
	away    map[string]bool // by provider
	pulled  map[string]time.Time
	revoked time.Time            // when revocations were last tried again so
	probes  map[string]time.Time // by provider: the last attempt that was brought forward to see whether the server is back
}

// probe is when to try again what would be tried at a moment: sooner, if until then nobody else asks the provider. Attempts brought
// forward so are no closer together than every.
func (a *answering) probe(now time.Time, provider string, at time.Time, every time.Duration) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := now.Add(every)
	if last := a.probes[provider]; last.After(now) {
		next = last.Add(every)
	}
	if !next.Before(at) {
		return at
	}
	if a.probes == nil {
		a.probes = map[string]time.Time{}
	}
	a.probes[provider] = next
	return next
}

// retryAt is when to try again to keep alive what ends at a moment, after n attempts of which the last failed with err.
func (s *Session) retryAt(now, end time.Time, p *provider, n int, err error) time.Time {
	at := retryRenewal(now, end, n, s.k.random())
	if left := end.Sub(now); !unanswered(err) || left >= shortLife || left <= -shortLife {
		return at
	}
	return s.k.answering.probe(now, p.name, at, s.k.probeEvery())
}

// probeEvery is how far apart attempts are that are brought forward.
func (k *Keeper) probeEvery() time.Duration {
	if k.cfg.RequestRate <= 0 {
		return probeEvery
	}
	return max(probeEvery, time.Duration(probeShare*float64(time.Second)/k.cfg.RequestRate))
}

// heard takes a request's outcome in, and reports whether what waits is to be tried again, and revocations as well.
func (a *answering) heard(now time.Time, provider string, err error) (again, revocations bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case unanswered(err):
		if a.away == nil {
			a.away, a.pulled = map[string]bool{}, map[string]time.Time{}
		}
		a.away[provider] = true
		return false, false
	case !answered(err) || !a.away[provider] || now.Sub(a.pulled[provider]) < backEvery:
		return false, false
	}
	delete(a.away, provider)
	a.pulled[provider] = now
	if revocations = now.Sub(a.revoked) >= backEveryRevocation; revocations {
		a.revoked = now
	}
	return true, revocations
}

// unanswered reports whether a request had no answer of the server's own, so that one to anybody is a reason to ask again. That a database
// behind it is away is an answer, and so is a 429: that may be of who has asked alone (C11), and asks for fewer requests.
func unanswered(err error) bool {
	return secrets.KindOf(err) == secrets.Outage && !secrets.IsElsewhere(err) && !secrets.IsLimited(err)
}

// answered reports whether it had one by which what waits may be tried again: a 429 is none. What is of no kind tells nothing.
func answered(err error) bool {
	return err == nil || secrets.IsElsewhere(err) || secrets.KindOf(err) != 0 && secrets.KindOf(err) != secrets.Outage
}

// heard is told of each request's outcome, whoever sent it.
func (k *Keeper) heard(provider string, err error) {
	again, revocations := k.answering.heard(time.Now(), provider, err)
	if !again {
		return
	}
	k.mu.Lock()
	for _, s := range k.sessions {
		s.back.add(provider)
		s.wakeUp()
	}
	pending := k.revocations
	k.mu.Unlock()
	if revocations && pending != nil {
		pending.Retry()
	}
}

// pollRead is the read of a poll.
func (k *Keeper) pollRead(ctx context.Context, tok secrets.Token, req secrets.Request) (secrets.Answer, error) {
	a, err := k.providers.read(ctx, tok, req)
	k.heard(req.Provider, err)
	return a, err
}

// returned are the providers that a session has yet to hear of that they answer again.
type returned struct {
	mu    sync.Mutex
	names []string
}

func (r *returned) add(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.names, name) { // a session that is over takes none
		r.names = append(r.names, name)
	}
}

func (r *returned) take() (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	names, r.names = r.names, nil
	return names
}

// mayNotLast reports whether what was granted for d and ends at a moment may not live through another outage like the last one, and has some
// of its life behind it: it is renewed while that can be done.
func mayNotLast(now, ends time.Time, d time.Duration) bool {
	left := ends.Sub(now)
	return left < shortLife && left < d*3/4
}

// stepBack brings forward what waits to be tried again at a provider that answers again.
func (s *Session) stepBack(now time.Time) {
	for _, name := range s.back.take() {
		for _, h := range s.secrets {
			if h.from.name == name && !h.renew.IsZero() && (h.unanswered || mayNotLast(now, h.ends, h.answer.Lease.Duration)) {
				h.renew = earliest(h.renew, now)
			}
			if h.from.name == name && s.outageOf(h.from).fails > 0 && !h.check.IsZero() {
				h.check = earliest(h.check, s.nextCheck(now))
			}
		}
		for secret, c := range s.changes {
			if h := s.secrets[secret]; c.unanswered && h != nil && h.from.name == name {
				c.at = earliest(c.at, now)
			}
		}
		for secret, st := range s.statics {
			if h := s.secrets[secret]; st.unanswered && h != nil && h.from.name == name && !st.retry.IsZero() {
				st.retry = earliest(st.retry, now)
			}
		}
		if l := s.tokens.current; l != nil && s.tokens.issuer.name == name {
			switch {
			case l.unanswered && !l.rotate.IsZero():
				l.rotate = earliest(l.rotate, now)
			case !l.renew.IsZero() && (l.unanswered || mayNotLast(now, l.ends, l.tok.TTL)):
				l.renew = earliest(l.renew, now)
			}
		}
	}
}
