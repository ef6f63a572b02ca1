package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What can be under way with a task, in the journal.
const (
	stepStarting step = "starting" // not all secrets are there
	stepWatching step = "watching" // the task has its secrets
	// stepActing: the task is being told of new secrets. What is journalled is the new; the task
	// may still have the old, and the leases of both live.
	stepActing step = "acting"
)

const (
	// requestTimeout bounds one request that makes nothing.
	requestTimeout = 20 * time.Second
	// mintTimeout bounds one that may make a credential, and is generous: one whose answer was not
	// waited for is made all the same.
	mintTimeout = time.Minute
)

// Session is the life of one task's secrets, from Open or Recover to End.
//
// Until Watch its fields belong to the caller of Open or Recover; then to the loop's goroutine alone
// (watch.go), but for those that say otherwise. Requests and Host calls run beside the loop, in
// goroutines that get what they need as arguments and hand back a function for the loop to run.
type Session struct {
	k         *Keeper
	task      Task
	spec      *secrets.Spec
	host      Host
	namespace string
	identity  *identity
	journal   *journal // has a lock of its own
	log       hclog.Logger

	set   atomic.Pointer[secrets.Set]  // for any goroutine
	shown atomic.Pointer[secrets.Spec] // spec, for any goroutine

	ctx     context.Context // ends with the session
	cancel  context.CancelFunc
	work    sync.WaitGroup // the loop, and all it started
	started sync.Once
	ended   sync.Once
	wake    chan struct{} // something that the loop is to look at has changed
	results chan func()   // what requests bring home

	held   map[string]*held // by secret
	login  *login           // the token in use
	former []*login         // tokens of ours with leases that the task may still use

	statics  map[string]*static // the watch over static secrets, by secret
	changes  map[string]*change // noticed, and not yet acted upon
	rotation *rotation          // under way
	retired  []retired          // leases replaced, and still to be revoked
	leftover []retired          // what an interrupted rotation replaced, until that is done
	outage   outage
	policies policies
	told     map[topic]string // what was last said of what would come again and again
	busy     bool             // a request about the token is under way
	follow   time.Time        // when to look whether somebody replaced the token
	// over: the task has ended, or its restart failed. Nothing is done any more but to wait for End.
	over bool
}

// held is one secret that the task has: what was answered, and what is known of its end.
type held struct {
	secret *secrets.Secret
	answer secrets.Answer
	under  *login // the token that it was read with: a lease ends with it

	// Of a lease or an issued secret:
	ends   time.Time // when the credential in hand ends, as things are; zero: never, or not known
	renew  time.Time // when to renew; zero: not to be renewed any more
	rotate time.Time // when to replace; zero: not known yet
	why    string    // the reason for rotate
	check  time.Time // when to look whether the server still knows the lease; zero: never
	fails  int       // renewals failed in a row

	renewing  bool               // a renewal is under way, or waits for its turn
	dropCheck context.CancelFunc // a check is; nil: none

	gone bool // the server does not know the lease any more; a change replaces it

	untold bool // the task has not had it yet: a change tells it

	digest string // of a static secret's content
}

func (k *Keeper) newSession(t Task, spec *secrets.Spec, h Host) *Session {
	s := &Session{
		k: k, task: t, spec: spec, host: h,
		log:     k.cfg.Log.With("alloc_id", t.AllocID, "task", t.Name),
		wake:    make(chan struct{}, 1),
		results: make(chan func()),
		held:    map[string]*held{},
		statics: map[string]*static{},
		changes: map[string]*change{},
		told:    map[topic]string{},
	}
	s.shown.Store(spec)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Set is what the task has now. It changes only from within the session's own Host calls.
func (s *Session) Set() *secrets.Set { return s.set.Load() }

// Spec is what the task asks for.
func (s *Session) Spec() *secrets.Spec { return s.shown.Load() }

// Driver is the driver's own notes, as last journalled.
func (s *Session) Driver() json.RawMessage { return s.journal.entry().Driver }

// SetDriver journals the driver's notes: it returns when they are on disk.
func (s *Session) SetDriver(notes json.RawMessage) error {
	return s.journal.update(func(e *entry) { e.Driver = notes })
}

// Watch begins to renew, poll and rotate. The task runs. Calls after the first do nothing.
func (s *Session) Watch() {
	s.started.Do(func() {
		if s.ctx.Err() == nil {
			s.work.Go(s.loop)
		}
	})
}

// stop ends the watch and joins it. A Host call that is under way gets a cancelled context, and is
// waited for: so stop must not be called from within one.
func (s *Session) stop() {
	s.cancel()
	s.started.Do(func() {}) // no Watch from now on; and one that is beginning has begun
	s.work.Wait()
	for _, st := range s.statics {
		st.poll.cancel()
	}
}

// End is called once the task's process is gone (or never came): it stops the watch, joins it, and
// has every lease revoked in the background (E1). Idempotent. Not to be called from a Host's method.
func (s *Session) End() {
	s.ended.Do(func() {
		s.stop()
		s.Owe()
		s.k.drop(s)
	})
}

// Owe is End as far as it waits for nothing: the watch is told to end, and from here on all revocations
// are owed, even if the plugin is killed. For who is about to tell Nomad that the task has ended, after
// which Nomad hands it to no recovery. What is still being minted then is revoked by whoever gets it.
// Idempotent; any goroutine may call it, a Host's method, too.
func (s *Session) Owe() {
	s.cancel()
	if err := s.k.debts.owe(s.journal); err != nil {
		// The journal is still where it was: the next start of the task, or a recovery, ends it.
		s.log.Error("end a task's secrets", "error", err)
	}
}

// answers is what the task has, but for those secrets that are to be replaced.
func (s *Session) answers(instead map[string]*held) map[string]secrets.Answer {
	all := make(map[string]secrets.Answer, len(s.held))
	for name, h := range s.held {
		all[name] = h.answer
	}
	for name, h := range instead {
		if h == nil { // it is to be left out
			delete(all, name)
			continue
		}
		all[name] = h.answer
	}
	return all
}

// journalHeld writes down what the task has, values first: an entry without its values could not be
// recovered from.
func (s *Session) journalHeld(now step) error {
	values := make(map[string]secrets.Value, len(s.held))
	for name, h := range s.held {
		b, err := h.answer.Fields.RevealJSON()
		if err != nil {
			return fmt.Errorf("journal secret %q: %w", name, err)
		}
		values[name] = secrets.NewValue(b)
	}
	if err := s.journal.saveValues(values); err != nil {
		return err
	}
	return s.journalEntry(now)
}

// journalEntry writes down how things stand, values aside.
func (s *Session) journalEntry(now step) error {
	return s.journal.update(func(e *entry) {
		e.Step = now
		e.TokenAccessor = s.login.tok.Accessor
		e.Secrets = make(map[string]heldSecret, len(s.held))
		for name, h := range s.held {
			e.Secrets[name] = h.journalled()
		}
		for i := range e.Leases {
			l := &e.Leases[i]
			for _, h := range s.held {
				if h.answer.Lease.ID == l.ID {
					l.Ends = h.ends
				}
			}
		}
		e.Pending = nil
		if s.rotation != nil && now == stepActing {
			e.Pending = s.rotation.names
		}
	})
}

// note journals what changed in how things stand. That it cannot be written is no reason to disturb
// a task that runs.
func (s *Session) note() {
	if err := s.journalEntry(s.nowAt()); err != nil && !errors.Is(err, errJournalClosed) {
		s.log.Error("journal", "error", err)
	}
}

// nowAt is the step that the session is at.
func (s *Session) nowAt() step {
	if s.rotation != nil && s.rotation.acting {
		return stepActing
	}
	return stepWatching
}

func (h *held) journalled() heldSecret {
	a := h.answer
	return heldSecret{
		Kind: a.Kind, Own: a.Own, LeaseID: a.Lease.ID, Duration: a.Lease.Duration, Renewable: a.Lease.Renewable,
		IssuedAt: a.At, ExpiresAt: h.ends, Ends: a.Ends, TokenAccessor: h.under.tok.Accessor,
		RenewAt: h.renew, RotateAt: h.rotate, Why: h.why, Untold: h.untold,
	}
}

// resume makes a session of what a journal says (C4): it asks the server nothing.
func (k *Keeper) resume(t Task, j *journal, h Host) (*Session, error) {
	e := j.entry()
	if e.Step == stepStarting {
		return nil, fmt.Errorf("%w: the task's start was not finished", ErrJournalUnreadable)
	}
	spec, err := secrets.Compile(e.Config)
	if err != nil {
		return nil, fmt.Errorf("%w: its job does not compile: %w", ErrJournalUnreadable, err)
	}
	values, err := j.loadValues()
	if err != nil {
		return nil, err
	}
	s := k.newSession(t, spec, h)
	s.journal, s.namespace = j, e.Namespace
	s.task.AllocIndex, s.task.UID = e.Task.AllocIndex, e.Task.UID
	if err := s.resumeLogin(e); err != nil {
		return nil, err
	}
	if s.policies, err = k.policiesOf(e.Config, s.identity); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrJournalUnreadable, err)
	}
	now := time.Now()
	s.policies.next = s.nextCheck(now)
	for name, hs := range e.Secrets {
		i := slices.IndexFunc(spec.Secrets, func(sec secrets.Secret) bool { return sec.Name == name })
		v, ok := values[name]
		if i < 0 || !ok {
			return nil, fmt.Errorf("%w: secret %q is not all there", ErrJournalUnreadable, name)
		}
		fields, err := secrets.FieldsFromJSON(v.Bytes())
		if err != nil {
			return nil, fmt.Errorf("%w: secret %q: %w", ErrJournalUnreadable, name, err)
		}
		s.held[name] = s.resumeHeld(now, &spec.Secrets[i], hs, fields)
	}
	set, err := secrets.Render(spec, s.answers(nil))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrJournalUnreadable, err)
	}
	s.set.Store(set)
	s.resumeRotation(now, e)
	return s, nil
}

func (s *Session) resumeHeld(now time.Time, sec *secrets.Secret, hs heldSecret, f secrets.Fields) *held {
	h := &held{
		secret: sec,
		answer: secrets.Answer{
			Kind: hs.Kind, Own: hs.Own, Fields: f, Ends: hs.Ends, At: hs.IssuedAt,
			Lease: secrets.Lease{ID: hs.LeaseID, Duration: hs.Duration, Renewable: hs.Renewable},
		},
		ends: hs.ExpiresAt, renew: hs.RenewAt, rotate: hs.RotateAt, why: hs.Why, untold: hs.Untold,
		under: s.loginOf(hs.TokenAccessor), digest: s.k.digest(f),
	}
	if hs.Kind == secrets.Leased {
		// Soon, for much may have happened while nobody looked; but not all tasks at once.
		h.check = checkAt(now, min(s.k.cfg.LeaseCheckInterval, 10*time.Second), s.k.random())
	}
	return h
}

// resumeLogin takes up the session's tokens.
func (s *Session) resumeLogin(e entry) error {
	id := &identity{source: e.TokenSource, role: e.Role, mount: s.k.cfg.JWTMount}
	s.identity = id
	if err := s.k.files.harden(s.task.Dir); err != nil {
		s.log.Warn("close the task's private directory", "error", err)
	}
	now := time.Now()
	for _, t := range s.journal.allTokens() {
		l := &login{tok: t.Token, since: t.SavedAt}
		if t.Source == fromIdentity {
			l.granted(t.SavedAt, t.Token, s.k.random())
		}
		if t.Token.Accessor == e.TokenAccessor {
			s.login = l
		} else if t.Source == fromIdentity {
			s.former = append(s.former, l)
		}
	}
	switch id.source {
	case fromIdentity:
		id.file = firstOf(s.spec.IdentityFile, s.k.cfg.JWTFile)
	case fromVaultBlock:
		id.file = vaultTokenFile // if there is one, the loop takes up what is in it
	}
	if s.login == nil {
		return fmt.Errorf("%w: the token is missing", ErrJournalUnreadable)
	}
	s.login.check = now
	tok := s.login.tok
	id.current.Store(&tok)
	return nil
}
