package lifecycle

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/contain"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
)

// A watch that has panicked begins anew by the journal, as in a new process of the plugin (C14). What has caused the panic
// may do so again: then it is tried less and less often.
const (
	firstRewatch = time.Second
	lastRewatch  = 10 * time.Minute
	// calm is how long a watch must have gone well for the next panic to count as a first one.
	calm = 30 * time.Minute
)

// keepWatching runs the loop until the session ends.
func (s *Session) keepWatching() {
	for n := 0; ; {
		began := time.Now()
		s.work.Add(1)
		s.loop()
		s.work.Done()
		s.work.Wait()
		s.answerWaiting()
		for s.ctx.Err() == nil {
			if time.Since(began) >= calm {
				n = 0
			}
			n++
			pause := limit.Backoff(firstRewatch, lastRewatch, n, s.k.random())
			if n == 1 {
				s.host.Event(eventWatchFailed(time.Now().Add(pause)))
			}
			wait(s.ctx, pause)
			err := s.rewatch()
			if err == nil {
				break
			}
			s.log.Error("the watch over a task's secrets cannot begin anew", "error", err)
			if errors.Is(err, ErrJournalUnreadable) {
				s.host.Event(eventWatchEnded())
				return
			}
		}
		if s.ctx.Err() != nil {
			return
		}
	}
}

// rewatch forgets all that the watch that ended knew, and reads it anew from the journal.
func (s *Session) rewatch() (err error) {
	defer func() {
		if p := contain.Of(recover()); p != nil {
			s.log.Error("an error in this plugin; please report it", "error", p, "stack", p.Stack)
			err = p
		}
	}()
	if s.ctx.Err() != nil {
		return nil
	}
	for name := range s.statics {
		s.forget(name)
	}
	pulled := s.pull.over.Load()
	if err := s.restore(); err != nil {
		return err
	}
	if !s.runs.Load() {
		s.phase = phaseLaunching
	}
	s.pull.over.Store(pulled)
	return nil
}

// answerWaiting tells those who wait for the loop that it has ended.
func (s *Session) answerWaiting() {
	if d := s.delivery; d != nil {
		s.finishDelivery(d, errNotWatched)
	}
	why := whyUnwatched
	if s.ctx.Err() != nil {
		why = whyOver
	}
	for _, op := range s.operations {
		for _, name := range slices.Sorted(maps.Keys(op.secrets)) {
			op.done = append(op.done, s.outcome(name, Failed, why))
		}
		op.answer <- op.done
	}
	s.operations = nil
}
