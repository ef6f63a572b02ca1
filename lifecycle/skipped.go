package lifecycle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// ungranted is a secret that the policies grant and the task does not have.
type ungranted struct {
	secrets.Skipped
	reason string    // what distinguishes it from the same secret left out for another reason
	next   time.Time // when it is worth to be fetched again
}

func failedGrant(sec *secrets.Secret, err error) ungranted {
	why := strings.TrimPrefix(err.Error(), fmt.Sprintf("secret %q: ", sec.Name))
	switch secrets.KindOf(err) {
	case secrets.NotFound:
		why = "not found"
	case secrets.Outage:
		why = "no answer: " + why
	}
	return ungranted{Skipped: secrets.Skipped{Path: sec.Request.Path, Why: why}, reason: secrets.KindOf(err).String()}
}

// fitted takes away again what does not fit of what was just fetched.
func (s *Session) fitted(now time.Time, f secrets.Fitted) {
	for name, why := range f.Left {
		s.unfit(now, s.secrets[name], why)
		delete(s.secrets, name)
	}
	s.policies.unset = f.Unset
}

// unfit gives back a secret that does not fit.
func (s *Session) unfit(now time.Time, h *secretState, why string) {
	u := ungranted{Skipped: secrets.Skipped{Path: h.secret.Request.Path, Why: why}, reason: why}
	if h.answer.Kind != secrets.Static {
		u.next = now.Add(refetchAfter)
	}
	s.policies.unfit[h.secret.Name] = u
	s.discard(now, h)
}

// discard gives back what was fetched and the task does not get.
func (s *Session) discard(now time.Time, h *secretState) {
	if h.answer.Kind == secrets.Leased {
		s.retire(retired{id: h.answer.Lease.ID, token: h.token, at: now, ends: h.ends})
	}
}

// dropLargestGrant leaves out the largest of what the policies grant, since all of it cannot be journalled.
func (s *Session) dropLargestGrant(now time.Time, err error) bool {
	if secrets.KindOf(err) != secrets.Outage && !secrets.IsLimit(err) {
		return false
	}
	var largest *secretState
	for _, h := range s.secrets {
		if h.secret.Granted && (largest == nil || h.answer.Fields.Size() > largest.answer.Fields.Size()) {
			largest = h
		}
	}
	if largest == nil {
		return false
	}
	s.unfit(now, largest, err.Error())
	delete(s.secrets, largest.secret.Name)
	return true
}

// emitSkipped names in one event all that is granted and not delivered, when that has changed: hundreds of
// paths may be, and few events are kept.
func (s *Session) emitSkipped() {
	p := &s.policies
	var all []secrets.Skipped
	var key strings.Builder
	for _, of := range []map[string]ungranted{p.unfit, p.failed} {
		for _, name := range slices.Sorted(maps.Keys(of)) {
			all = append(all, of[name].Skipped)
			fmt.Fprintf(&key, "%s\n%s\n", of[name].Path, of[name].reason)
		}
	}
	for _, l := range slices.Concat(p.unset, p.left) {
		all = append(all, l)
		fmt.Fprintf(&key, "%s\n%s\n", l.Path, l.Why)
	}
	if key.String() == p.skippedKey {
		return
	}
	p.skippedKey = key.String()
	if len(all) > 0 {
		s.host.Event(eventGrantsSkipped(all))
	}
}
