package lifecycle

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// resume makes a session of what a journal says (C4): it asks the server nothing.
func (k *Keeper) resume(t Task, j *journal.Journal, h Host) (*Session, error) {
	e := j.Entry()
	t.AllocIndex, t.UID = e.Task.AllocIndex, e.Task.UID
	if t.JobID == "" {
		t.Namespace, t.JobID = e.Task.Namespace, e.Task.JobID
	}
	s := k.newSession(t, nil, h)
	s.journal, s.namespace = j, e.Namespace
	if err := s.restore(); err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

// restore has the session go on from where its journal says that things stand.
func (s *Session) restore() error {
	k, e := s.k, s.journal.Entry()
	if e.Step == journal.StepStarting {
		return fmt.Errorf("%w: the task's start was not finished", ErrJournalUnreadable)
	}
	spec, err := k.providers.compile(e.Config)
	if err != nil {
		return fmt.Errorf("%w: its job does not compile: %w", ErrJournalUnreadable, err)
	}
	values, err := k.valuesOf(s.journal)
	if err != nil {
		return err
	}
	s.empty(spec)
	if s.tokens.issuer, err = k.providers.issuerFor(spec, e.Config); err != nil {
		return fmt.Errorf("%w: %w", ErrJournalUnreadable, err)
	}
	if s.tokens.issuer != nil {
		if err := s.resumeTokens(e); err != nil {
			return err
		}
		if s.policies, err = k.policiesOf(e.Config, s.tokens.identity); err != nil {
			return fmt.Errorf("%w: %w", ErrJournalUnreadable, err)
		}
	}
	s.phase = phaseWatching
	s.pull.over.Store(true) // for the task runs
	now := time.Now()
	s.policies.next = s.nextCheck(now)
	for name, hs := range e.Secrets {
		i := slices.IndexFunc(spec.Secrets, func(sec secrets.Secret) bool { return sec.Name == name })
		if sc := e.Config.Secrets[name]; i < 0 && sc != nil && sc.Discovered {
			continue // an older plugin took it; its lease is revoked as one that nothing uses
		}
		fields, ok := values[name]
		if i < 0 || !ok {
			return fmt.Errorf("%w: secret %q is not all there", ErrJournalUnreadable, name)
		}
		if s.secrets[name], err = s.resumeSecret(now, &spec.Secrets[i], hs, fields); err != nil {
			return fmt.Errorf("%w: secret %q: %w", ErrJournalUnreadable, name, err)
		}
	}
	s.ownEnv = e.OwnEnv
	// What the task has it keeps, whatever room there is now.
	fitted, err := secrets.Fit(spec, s.answers(nil), secrets.Around{Env: s.ownEnv, Has: s.has, EnvRoom: math.MaxInt})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournalUnreadable, err)
	}
	for name, why := range fitted.Left {
		s.log.Warn("a secret that the policies grant does not fit any more", "secret", name, "reason", why)
		delete(s.secrets, name)
	}
	s.set.Store(fitted.Set)
	s.openLive(now, resumedLook(e))
	k.room.found(s, values)
	s.resumeRecord(now, recorded(e, spec))
	s.publish(now)
	s.failed.Store(false)
	return nil
}

func (s *Session) resumeSecret(now time.Time, sec *secrets.Secret, hs journal.Secret, f secrets.Fields) (*secretState, error) {
	from, err := s.k.providers.named(hs.Provider)
	if err != nil {
		return nil, err
	}
	h := &secretState{
		secret: sec, from: from,
		answer: secrets.Answer{
			Kind: hs.Kind, Own: hs.Own, Fields: f, Ends: hs.Ends, At: hs.IssuedAt,
			Lease: secrets.Lease{ID: hs.LeaseID, Duration: hs.Duration, Renewable: hs.Renewable},
		},
		ends: hs.ExpiresAt, renew: hs.RenewAt, rotate: hs.RotateAt, why: resumedReason(hs.Cause, hs.Why), undelivered: hs.Undelivered,
		digest: s.k.digest(f), changed: hs.ChangedAt, changedBy: hs.ChangedBy,
	}
	if from.tokens != nil {
		h.token = s.tokens.of(hs.TokenID)
	}
	if hs.Kind == secrets.Leased {
		// Soon, for much may have happened while nobody looked; but not all tasks at once.
		h.check = checkAt(now, min(s.k.cfg.LeaseCheckInterval, 10*time.Second), s.k.random())
	}
	return h, nil
}

// resumeTokens restores the session's tokens from the journal.
func (s *Session) resumeTokens(e journal.Entry) error {
	if e.TokenProvider != s.tokens.issuer.name {
		return fmt.Errorf("%w: its tokens are of provider %q, and its secrets are not", ErrJournalUnreadable, e.TokenProvider)
	}
	id := &identity{source: e.TokenSource, role: e.Role, mount: s.k.cfg.JWTMount}
	s.tokens.identity = id
	if id.source == journal.FromNodeFile { // the operator may have changed what it is for
		if err := s.k.mayReadAsNode(s.tokens.issuer, s.spec, s.namespace); err != nil {
			return fmt.Errorf("%w: %w", ErrJournalUnreadable, err)
		}
	}
	if err := s.k.files.harden(s.task.Dir); err != nil {
		s.log.Warn("the task's private directory cannot be closed to other users", "error", err)
	}
	now := time.Now()
	for _, t := range s.journal.Tokens() {
		l := &tokenState{tok: t.Token, since: t.SavedAt}
		if t.Source == journal.FromIdentity {
			l.granted(t.SavedAt, t.Token, s.k.random())
		}
		if t.Token.ID == e.TokenID {
			s.tokens.use(l)
		} else if t.Source == journal.FromIdentity {
			s.tokens.retire(l)
		}
	}
	switch id.source {
	case journal.FromIdentity:
		id.file = cmp.Or(s.spec.IdentityFile, s.k.cfg.JWTFile)
	case journal.FromVaultBlock:
		id.file = vaultTokenFile // if there is one, the loop reloads it
	}
	if s.tokens.current == nil {
		return fmt.Errorf("%w: the token is missing", ErrJournalUnreadable)
	}
	s.tokens.current.check = now
	return nil
}
