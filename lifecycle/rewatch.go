package lifecycle

import (
	"errors"
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
	return s.restore()
}
