package lifecycle

import (
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// retired is a lease that nothing of the task uses any more, or soon will not.
type retired struct {
	id    secrets.LeaseID
	token *tokenState
	at    time.Time // when to revoke it; zero: at the task's end
	ends  time.Time // when it ends by itself
}

// retireAt is when the lease of an old credential is revoked: at once when the process that used it
// has ended; a little after a process got the new one; and if it did not get it, the old one is
// left to its end, for only the task knows whether it uses it.
func retireAt(now time.Time, did, asked secrets.Mode, err error, ends time.Time) time.Time {
	switch {
	case did == secrets.Restart:
		return now
	case asked == secrets.Noop || err != nil:
		return ends
	}
	return earliest(now.Add(oldLeaseGrace), ends)
}

func (s *Session) retire(r retired) {
	s.retired = append(s.retired, r)
	if err := s.journal.Update(func(e *journal.Entry) {
		for i := range e.Leases {
			if e.Leases[i].ID == r.id {
				e.Leases[i].Use, e.Leases[i].RevokeAt = journal.LeaseRetired, r.at
			}
		}
	}); err != nil {
		s.logJournal("when a replaced lease is to be revoked", err)
	}
}

// stepRetired has leases revoked that are used no more. From then on their revocation is pending,
// whatever becomes of this process.
func (s *Session) stepRetired(now time.Time) (next time.Time) {
	if s.phase == phaseApplying {
		return time.Time{}
	}
	rest := s.retired[:0]
	for _, r := range s.retired {
		var err error
		switch {
		case !due(now, r.at):
			next = earliest(next, r.at)
			rest = append(rest, r)
			continue
		case due(now, r.ends):
			err = s.journal.ForgetLeases(r.id)
		default:
			err = s.k.revocations.EnqueueLeases(s.journal, r.id)
		}
		if err != nil {
			s.log.Error("a replaced lease is not revoked before the task's end: its revocation cannot be journalled", "error", err)
		}
	}
	s.retired = rest
	return next
}
