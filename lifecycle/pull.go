package lifecycle

import (
	"sync/atomic"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// pull is what the pull of the task's image has of its secrets. A secret that only the pull makes use of is the task's
// no longer than that takes: it is not followed, and its lease is revoked once the image is there, and not before.
type pull struct {
	login atomic.Pointer[secrets.RegistryLogin] // nil: none, or the image is there
	over  atomic.Bool                           // the image is there
}

// RegistryLogin is what the task's image is to be pulled with; nil: nothing of its secrets, or the image is there. Any
// goroutine may call it.
func (s *Session) RegistryLogin() *secrets.RegistryLogin { return s.pull.login.Load() }

// ImagePulled is called once the task's image is there: what only its pull made use of is given back, from Watch on.
// Idempotent; any goroutine may call it.
func (s *Session) ImagePulled() {
	s.pull.login.Store(nil)
	s.pull.over.Store(true)
	s.wakeUp()
}

// stepPull takes from the task what only the pull of its image made use of, once that is over.
func (s *Session) stepPull(now time.Time) {
	if !s.pull.over.Load() || s.phase.rotating() { // whose end wakes the loop
		return
	}
	given := false
	for name, h := range s.secrets {
		if !h.secret.PullOnly {
			continue
		}
		given = true
		if h.cancelCheck != nil {
			h.cancelCheck()
		}
		delete(s.secrets, name)
		delete(s.changes, name)
		if h.answer.Kind == secrets.Leased {
			s.retired = append(s.retired, retired{id: h.answer.Lease.ID, token: h.token, at: now, ends: h.ends})
		}
	}
	if !given {
		return
	}
	if err := s.journalSecrets(); err != nil {
		s.logJournal("that the image is pulled", err) // a recovery takes it from the task, too
	}
}
