package lifecycle

import (
	"errors"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// state is what is journalled of a session: what the task has, or, with changes that are being applied, what it is to
// have. It is a value: to build one changes nothing of the session.
type state struct {
	step     journal.Step
	secrets  map[string]*secretState
	applying []*change // by name
}

// state is how things stand.
func (s *Session) state() state {
	var batch []*change
	if s.phase == phaseApplying {
		batch = s.rotation.batch
	}
	return state{step: s.phase.step(), secrets: s.secrets, applying: s.applying(batch)}
}

// applying are the changes of which it is not known whether the task has them: those of a rotation that is being
// applied, and those of an interrupted one that wait for another attempt.
func (s *Session) applying(batch []*change) []*change {
	all := slices.Clone(batch)
	for _, c := range s.changes {
		if c.interrupted && !slices.Contains(all, c) {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, byName)
	return all
}

// replaced are the leases that the task may use until a change is applied, and no longer.
func (c *change) replaced() []retired {
	all := slices.Clone(c.replaces)
	if c.old != nil && c.old.answer.Kind == secrets.Leased {
		all = append(all, retired{id: c.old.answer.Lease.ID, token: c.old.token, ends: c.old.ends})
	}
	return all
}

func (st state) record() *journal.Rotation {
	if len(st.applying) == 0 {
		return nil
	}
	r := &journal.Rotation{}
	for _, c := range st.applying {
		r.Changes = append(r.Changes, journal.Change{Name: c.name, Apply: c.change, Cause: string(c.why.cause), Why: c.why.text, Added: c.added, Dropped: c.drop})
	}
	return r
}

// journalState writes a state down, values first: an entry without its values could not be recovered from.
func (s *Session) journalState(st state) error {
	values := make(map[string]secrets.Fields, len(st.secrets))
	for name, h := range st.secrets {
		values[name] = h.answer.Fields
	}
	describe := func(e *journal.Entry) { s.describe(e, st) }
	return s.k.room.save(s, values, func() error { return s.journal.Save(values, describe) })
}

// journalSecrets writes down what the task has.
func (s *Session) journalSecrets() error { return s.journalState(s.state()) }

// note journals what changed in how things stand, values aside. That it cannot be written is no reason to disturb a task
// that runs.
func (s *Session) note() {
	err := s.journal.Update(func(e *journal.Entry) { s.describe(e, s.state()) })
	if err != nil && !errors.Is(err, journal.ErrClosed) {
		s.logJournal("what changed", err)
	}
}

// describe puts a state into an entry.
func (s *Session) describe(e *journal.Entry, st state) {
	e.Step = st.step
	e.Task.Namespace, e.Task.JobID = s.task.Namespace, s.task.JobID // what an older version wrote has neither
	e.TokenID = s.tokens.current.id()
	e.Secrets = make(map[string]journal.Secret, len(st.secrets))
	for name, h := range st.secrets {
		j := h.journalled()
		j.LookedAt = s.live.lookedAt(name)
		e.Secrets[name] = j
	}
	for i := range e.Leases {
		s.describeLease(&e.Leases[i], st)
	}
	e.SetRotation(st.record())
}

// describeLease says what a lease is to the task. One that none of it knows stays as it was: it was just fetched.
func (s *Session) describeLease(l *journal.Lease, st state) {
	is := func(r retired) bool { return r.id == l.ID }
	for name, h := range st.secrets {
		if h.answer.Lease.ID == l.ID {
			l.Use, l.Secret, l.Ends = journal.LeaseUsed, name, h.ends
			return
		}
	}
	for _, c := range st.applying {
		if slices.ContainsFunc(c.replaced(), is) {
			l.Use, l.Secret = journal.LeaseReplaced, c.name
			return
		}
	}
	if i := slices.IndexFunc(s.retired, is); i >= 0 {
		l.Use, l.RevokeAt = journal.LeaseRetired, s.retired[i].at
	}
}

// resumeRecord goes on where a crash came between (E2), by what the journal says. A rotation whose new secrets are on
// record is brought to its end by the loop: that it was applied is not known, and to apply it twice does less harm than
// not at all.
func (s *Session) resumeRecord(now time.Time, e journal.Entry) {
	replaced := map[string][]retired{}
	for _, l := range e.Leases {
		r := retired{id: l.ID, token: s.tokens.of(l.TokenID), at: l.RevokeAt, ends: l.Ends}
		switch l.Use {
		case journal.LeaseReplaced:
			replaced[l.Secret] = append(replaced[l.Secret], r)
			continue
		case journal.LeaseUsed:
			if s.usesLease(l.ID) {
				continue
			}
			r.at = now // the secret was left out
		case journal.LeaseFetched:
			r.at = now
		}
		s.retired = append(s.retired, r)
	}
	if e.Rotation != nil {
		r := &rotation{began: now}
		for _, rc := range e.Rotation.Changes {
			h := s.secrets[rc.Name]
			r.batch = append(r.batch, &change{
				name: rc.Name, change: rc.Apply, why: resumedReason(rc.Cause, rc.Why), fresh: h, at: now, latest: now,
				added: rc.Added, drop: h == nil, interrupted: true, replaces: replaced[rc.Name],
			})
			r.mode = strongest(r.mode, rc.Apply.Mode)
			delete(replaced, rc.Name)
		}
		s.rotation, s.phase = r, phaseApplying
	}
	for _, rest := range replaced { // of no change on record: the task may use them to its end
		s.retired = append(s.retired, rest...)
	}
	for name, h := range s.secrets {
		if h.undelivered && !s.rotation.has(name) {
			s.addChange(now, name, because(CauseGranted), h, now)
			s.changes[name].added = true
		}
	}
}

func (s *Session) usesLease(id secrets.LeaseID) bool {
	for _, h := range s.secrets {
		if h.answer.Lease.ID == id {
			return true
		}
	}
	return false
}

// resumeRotation has what recovery found on record applied, before anything else: the task may have no process until
// then.
func (s *Session) resumeRotation() {
	if r := s.rotation; s.phase == phaseApplying {
		set := s.set.Load()
		s.startApply(r, set)
	}
}

// recorded is an entry with the records that this version writes. A version before wrote neither what a lease is to the
// task nor what a rotation does; it went by these rules instead.
func recorded(e journal.Entry, spec *secrets.Spec) journal.Entry {
	applying := e.Step == journal.StepApplying
	strong, mode := "", secrets.Noop // the strongest change: the others go with it
	if applying && e.Rotation == nil && len(e.Applying) > 0 {
		e.Rotation = &journal.Rotation{}
		for _, name := range e.Applying {
			c := journal.Change{Name: name, Dropped: true} // what it was has not been written
			i := slices.IndexFunc(spec.Secrets, func(sec secrets.Secret) bool { return sec.Name == name })
			if _, has := e.Secrets[name]; has && i >= 0 {
				c.Apply, c.Dropped = spec.Secrets[i].Change, false
			}
			if strong == "" || c.Apply.Mode > mode {
				strong, mode = name, c.Apply.Mode
			}
			e.Rotation.Changes = append(e.Rotation.Changes, c)
		}
	}
	e.Leases = slices.Clone(e.Leases)
	for i := range e.Leases {
		l := &e.Leases[i]
		if l.Use != "" {
			continue
		}
		for name, sec := range e.Secrets {
			if sec.LeaseID == l.ID {
				l.Use, l.Secret = journal.LeaseUsed, name
			}
		}
		switch {
		case l.Use != "":
		case !l.RevokeAt.IsZero():
			l.Use = journal.LeaseRetired
		case strong != "": // of which secret was not written
			l.Use, l.Secret = journal.LeaseReplaced, strong
		case applying:
			l.Use = journal.LeaseRetired
		default:
			l.Use = journal.LeaseFetched
		}
	}
	return e
}
