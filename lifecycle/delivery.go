package lifecycle

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Between the fetch of a task's secrets and its program lies what the wrapped driver does, which may pull an image for
// minutes. Meanwhile the loop renews and polls as ever, and changes gather. When the program is about to run, Deliver
// gives it what is good then: what has ended all the same is fetched again, and what has changed is taken (S9).

const (
	// deliverTimeout bounds the wait for a server that is to replace what has ended. It is less than a container's
	// launcher waits for its command; a start that fails so is tried again, with the image there.
	deliverTimeout = 45 * time.Second
	// nearlyEnded is how soon a credential ends that is of no use to a program that begins now.
	nearlyEnded = 2 * time.Second
)

// errNotWatched is of a start whose session has ended, since the plugin ends, or whose watch failed.
var errNotWatched = secrets.Errorf(secrets.Outage, "the watch over the task's secrets has ended while the task was started")

// delivery is a start that waits for what its program is to begin with. But for what Deliver sets, its fields are the
// loop's.
type delivery struct {
	ctx    context.Context
	failed func(err error, until time.Time) // tells what is waited for
	result chan<- error

	busy    bool            // a fetch is under way
	next    time.Time       // of the next attempt; zero: at once
	fails   int             // attempts
	last    error           // of the last that failed
	given   map[string]bool // secrets whose replacement is not waited for any more
	fetched map[string]*secretState
}

func (d *delivery) fetching() bool { return d != nil && d.busy }

// Deliver gives what the task's program is to begin with, when it is about to run: what was fetched at the start, or what
// has come in its place. Where nothing has ended it asks no server and waits for none; else it waits for as long as a
// launcher does, and then returns an error of kind secrets.Outage. It is to be called between Open and Watch, any number
// of times.
func (s *Session) Deliver(ctx context.Context) (*secrets.Set, error) {
	ctx, cancel := context.WithTimeout(limit.For(ctx, s.tenant()), min(deliverTimeout, s.k.cfg.StartTimeout))
	defer cancel()
	defer context.AfterFunc(ctx, s.wakeUp)()
	failed, done := s.waiting.attempt(ctx, "new credentials in the place of those that have ended")
	defer done()
	result := make(chan error, 1)
	d := &delivery{ctx: ctx, failed: failed, result: result, given: map[string]bool{}, fetched: map[string]*secretState{}}
	select {
	case s.results <- func() { s.delivery = d }:
	case <-s.ctx.Done():
		return nil, errNotWatched
	case <-ctx.Done(): // the watch begins anew
		return nil, errNotWatched
	}
	select {
	case err := <-result:
		if err != nil {
			return nil, err
		}
		return s.Set(), nil
	case <-s.ctx.Done():
		return nil, errNotWatched
	}
}

// stepDelivery goes on with a start that waits.
func (s *Session) stepDelivery(now time.Time) (next time.Time) {
	d := s.delivery
	if d == nil || d.busy {
		return time.Time{} // the answer wakes the loop
	}
	ended := s.endedSecrets(now, d)
	waits := slices.ContainsFunc(ended, func(name string) bool {
		h := s.secrets[name]
		return s.waitsForToken(h) || h.from.tokens != nil && s.tokens.ended(now)
	})
	switch {
	case len(ended) == 0:
		s.finishDelivery(d, s.giveCurrent(now, d))
	case d.ctx.Err() != nil:
		if d.last == nil {
			d.last = errors.New("there is no new token yet")
		}
		s.finishDelivery(d, gaveUp(d.ctx, d.last))
	case waits: // the new token wakes the loop
	case now.Before(d.next):
		return d.next
	default:
		s.fetchEnded(d, ended)
	}
	return time.Time{}
}

// fresh is what a delivery is to give the program of a secret in the place of what the task has; nil: nothing.
func (s *Session) fresh(d *delivery, name string) *secretState {
	if h := d.fetched[name]; h != nil {
		return h
	}
	if c := s.changes[name]; c != nil && !c.drop {
		return c.fresh
	}
	return nil
}

// endedSecrets are those that are of no use any more, and not fetched again yet.
func (s *Session) endedSecrets(now time.Time, d *delivery) (ended []string) {
	for name, h := range s.secrets {
		if fresh := s.fresh(d, name); fresh != nil {
			h = fresh
		}
		if !d.given[name] && !h.secret.PullOnly && (h.lost || due(now.Add(nearlyEnded), s.endOf(h))) {
			ended = append(ended, name)
		}
	}
	slices.Sort(ended)
	return ended
}

func (s *Session) fetchEnded(d *delivery, ended []string) {
	d.busy = true
	var wanted []*secrets.Secret
	keys := newKeyring()
	for _, name := range ended {
		h := s.secrets[name]
		wanted = append(wanted, h.secret)
		keys.reuse(h)
	}
	l := s.tokens.current
	s.do(func(context.Context) func() {
		got, failed := s.fetch(d.ctx, l, wanted, keys, s.foreground)
		return func() {
			d.busy = false
			s.endedFetched(time.Now(), d, l, got, failed)
		}
	})
}

// endedFetched takes in what was fetched with a token in the place of what has ended. A token that has ended meanwhile was refused for that.
func (s *Session) endedFetched(now time.Time, d *delivery, l *tokenState, got map[string]*secretState, failed map[string]error) {
	another := l != nil && (l != s.tokens.current || s.tokens.ended(now))
	refuseAnswers(got, failed)
	for name, h := range got {
		if old := s.fresh(d, name); old != nil && old != s.secrets[name] { // it has ended, too
			s.discard(now, old)
		}
		d.fetched[name] = h
	}
	d.last = nil
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		err := failed[name]
		switch sec := s.secrets[name].secret; {
		case sec.Granted, secrets.KindOf(err) == secrets.NotFound && !sec.Required:
			d.given[name] = true // it keeps no task from starting: the change that waits replaces it
		case !s.retryable(err) && !(another && secrets.KindOf(err) == secrets.Refused):
			s.finishDelivery(d, err)
			return
		case d.last == nil:
			d.last = err
		}
	}
	if d.last != nil {
		d.fails++
		pause := min(backoff(d.fails, s.k.random()), backoff(4, s.k.random())) // somebody waits, and not for long
		d.next = now.Add(pause)
		d.failed(d.last, time.Time{})
	}
}

// giveCurrent makes the task's what was fetched in the place of what has ended, and what polls have found since the start.
func (s *Session) giveCurrent(now time.Time, d *delivery) error {
	fresh := map[string]*secretState{}
	for name := range s.secrets {
		if h := s.fresh(d, name); h != nil {
			fresh[name] = h
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	b := secrets.NewBudget()
	defer b.Close()
	set, err := s.render(b, fresh)
	if err != nil && len(fresh) > len(d.fetched) { // a change that cannot be given: it is reported when it is due
		fresh = d.fetched
		set, err = s.render(b, fresh)
	}
	if err != nil {
		return err
	}
	next := maps.Clone(s.secrets)
	for name, h := range fresh {
		if old := s.secrets[name]; old != h {
			s.schedule(now, h)
			if old.answer.Kind == secrets.Leased {
				s.retired = append(s.retired, retired{id: old.answer.Lease.ID, token: old.token, at: now, ends: old.ends})
			}
		}
		h.undelivered = false
		next[name] = h
	}
	if err := s.journalState(state{step: s.phase.step(), secrets: next}); err != nil {
		return err
	}
	s.secrets = next
	for name, h := range fresh {
		delete(s.changes, name)
		s.followKind(name, h)
		s.liveSet(name, h.answer.Fields, h.answer.At)
	}
	s.set.Store(set)
	if ended := slices.Sorted(maps.Keys(d.fetched)); len(ended) > 0 {
		s.log.Info("secrets ended before the task's program ran, and were replaced", "secrets", ended)
		s.host.Event(eventReplacedBeforeRun(ended))
	}
	return nil
}

func (s *Session) finishDelivery(d *delivery, err error) {
	s.delivery = nil
	d.result <- err
}
