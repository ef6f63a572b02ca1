package lifecycle

import (
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// retired is a lease that nothing of the task uses any more, or soon will not.
type retired struct {
	id    secrets.LeaseID
	under *login
	at    time.Time // when to revoke it; zero: at the task's end
	ends  time.Time // when it ends by itself
}

// retireAt is when the lease of an old credential is revoked: at once when the process that used it
// is gone; a little after a process was told of the new one; and if it was not told, the old one is
// left to its end, for only the task knows whether it uses it.
func retireAt(now time.Time, did, asked secrets.Mode, err error, ends time.Time) time.Time {
	switch {
	case did == secrets.Restart:
		return now
	case asked == secrets.Noop || err != nil:
		return ends
	}
	return earliest(now.Add(quietGrace), ends)
}

func (s *Session) retire(r retired) {
	s.retired = append(s.retired, r)
	if err := s.journal.update(func(e *entry) {
		for i := range e.Leases {
			if e.Leases[i].ID == r.id {
				e.Leases[i].RevokeAt = r.at
			}
		}
	}); err != nil {
		s.log.Error("journal", "error", err)
	}
}

// stepRetired has leases revoked that are used no more. From then on they are a debt, which is paid
// whatever becomes of this process.
func (s *Session) stepRetired(now time.Time) (next time.Time) {
	if s.rotation != nil && s.rotation.acting {
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
			err = s.journal.forgetLeases(r.id)
		default:
			err = s.k.debts.oweLeases(s.journal, r.id)
		}
		if err != nil {
			s.log.Error("revoke an old lease", "error", err) // its id is in the journal until End
		}
	}
	s.retired = rest
	return next
}
