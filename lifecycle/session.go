package lifecycle

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	// requestTimeout bounds one request that makes nothing.
	requestTimeout = 20 * time.Second
	// fetchTimeout bounds one that may make a credential, and is generous: one whose answer was not
	// waited for is made all the same.
	fetchTimeout = time.Minute
)

// Session is the life of one task's secrets, from Open or Recover to End.
//
// Until the loop begins its fields belong to Open or the caller of Recover; then to the loop's goroutine alone
// (watch.go), but for those that say otherwise. Requests and Host calls run beside the loop, in
// goroutines that get what they need as arguments and hand back a function for the loop to run.
type Session struct {
	k         *Keeper
	task      Task
	spec      *secrets.Spec
	host      Host
	namespace string           // of the requests with tokens that name none
	tokens    tokens           // of the one provider that the task needs some of
	journal   *journal.Journal // has a lock of its own
	log       hclog.Logger

	phase    phase
	starting *fetched // what the start has fetched; nil: it is over
	waiting  *waiting // tells what the start waits for

	set       atomic.Pointer[secrets.Set]  // for any goroutine
	shown     atomic.Pointer[secrets.Spec] // spec, for any goroutine
	published atomic.Pointer[snapshot]     // for any goroutine
	failed    atomic.Bool                  // it ended because of an error in this plugin

	ctx     context.Context // ends with the session
	cancel  context.CancelFunc
	watch   context.Context // ends with the watch over the task: with the session, or before, by a panic (rewatch.go)
	unwatch context.CancelFunc
	work    sync.WaitGroup // the loop, and all it started
	watcher sync.WaitGroup // what keeps the loop going
	started sync.Once
	runs    atomic.Bool // the task's program does: what changes is applied to it
	ended   sync.Once
	wake    chan struct{} // something that the loop is to look at has changed
	results chan func()   // what requests bring home
	back    returned      // providers that answer again; has a lock of its own

	secrets map[string]*secretState // by secret

	statics    map[string]*static // the watch over static secrets, by secret
	changes    map[string]*change // noticed, and not yet applied
	rotation   *rotation          // under way
	delivery   *delivery          // a start waits for what is good now; nil: none does
	retired    []retired          // leases replaced, and still to be revoked
	outages    map[string]*outage // by provider
	policies   policies
	live       liveDirs            // has a lock of its own
	pull       pull                // for any goroutine
	ownEnv     []string            // variables that the job itself sets
	lastEvents map[eventKey]string // by key, so that none is repeated

	endedReportedAt time.Time // when an event last said that credentials have ended

	errors     map[string]*LastError // by secret, and of the task as a whole by an empty name
	operations []*operation          // what an operator has asked for and is not done
}

// phase is where a session stands with its task. It belongs to the loop, as the session's other fields; that the
// session has ended is its context's end, which any goroutine may cause.
type phase int

const (
	phaseStarting  phase = iota // not all secrets are there
	phaseLaunching              // they are, and are kept alive; the task's program does not run yet
	phaseWatching               // the task has its secrets
	phaseFetching               // a rotation fetches new ones
	phaseApplying               // the new ones are journalled, and being applied to the task
	phaseOver                   // the task has ended, or its restart failed: nothing is done any more but to wait for End
)

// rotating reports whether a rotation is under way: what it replaces is not to change under it.
func (p phase) rotating() bool { return p == phaseFetching || p == phaseApplying }

// step is how the journal names a phase: a rotation that only fetches leaves nothing to resume.
func (p phase) step() journal.Step {
	switch p {
	case phaseStarting:
		return journal.StepStarting
	case phaseApplying:
		return journal.StepApplying
	default:
		return journal.StepWatching
	}
}

// secretState is one secret that the task has: what was answered, and what is known of its end.
type secretState struct {
	secret *secrets.Secret
	from   *provider
	answer secrets.Answer
	token  *tokenState // the token that it was read with: a lease ends with it; nil: its provider has no tokens

	// Of a lease or an issued secret:
	ends   time.Time // when the credential ends, as things are; zero: never, or not known
	renew  time.Time // when to renew; zero: not to be renewed any more
	rotate time.Time // when to replace; zero: not known yet
	why    reason    // for rotate
	check  time.Time // when to look whether the server still knows the lease; zero: never
	fails  int       // renewals failed in a row
	// planned is when it was to be renewed or replaced, however often that has been tried since.
	planned time.Time

	renewing    bool               // a renewal is under way, or waits for its turn
	unanswered  bool               // the last renewal had no answer; renew is when to try again
	cancelCheck context.CancelFunc // a check is; nil: none

	lost bool // the server does not know the lease any more; a change replaces it

	endReported bool // an event has said that it has ended

	undelivered bool // the task has not had it yet: a change delivers it

	changed   time.Time // when it was last given to the task, after its start; zero: never
	changedBy string    // why
	unapplied bool      // what was to be done to the task then has failed
	oldUntil  time.Time // until when what it has replaced may live on; zero: it is revoked by then

	digest string // of a static secret's content
}

func (k *Keeper) newSession(t Task, spec *secrets.Spec, h Host) *Session {
	s := &Session{
		k: k, task: t, host: h,
		log:        k.cfg.Log.With("alloc_id", t.AllocID, "task", t.Name),
		wake:       make(chan struct{}, 1),
		results:    make(chan func()),
		lastEvents: map[eventKey]string{},
		errors:     map[string]*LastError{},
	}
	s.ctx, s.cancel = context.WithCancel(limit.For(context.Background(), s.tenant()))
	s.empty(spec)
	if spec != nil { // else it is resumed
		s.publish(time.Now())
	}
	return s
}

// empty makes a session one that knows nothing of its task but what that asks for.
func (s *Session) empty(spec *secrets.Spec) {
	s.spec = spec
	s.shown.Store(spec)
	if s.unwatch != nil {
		s.unwatch()
	}
	s.watch, s.unwatch = context.WithCancel(s.ctx)
	s.secrets, s.statics, s.changes, s.outages = map[string]*secretState{}, map[string]*static{}, map[string]*change{}, map[string]*outage{}
	s.rotation, s.retired, s.phase = nil, nil, phaseStarting
	s.tokens.current, s.tokens.old, s.tokens.busy = nil, nil, false
}

// Set is what the task has now. It changes only from within the session's own Host calls.
func (s *Session) Set() *secrets.Set { return s.set.Load() }

// Spec is what the task asks for.
func (s *Session) Spec() *secrets.Spec { return s.shown.Load() }

// Driver is the driver's own notes, as last journalled.
func (s *Session) Driver() json.RawMessage { return s.journal.Entry().Driver }

// SetDriver journals the driver's notes: it returns when they are on disk.
func (s *Session) SetDriver(notes json.RawMessage) error {
	return s.journal.Update(func(e *journal.Entry) { e.Driver = notes })
}

// tenant is whose requests the session's are (C11).
func (s *Session) tenant() limit.Tenant {
	return limit.TenantOf(s.task.Namespace, s.task.JobID, s.task.AllocID)
}

// Watch begins to rotate, and after Recover to renew and poll, too. The task runs. Calls after the first do nothing.
func (s *Session) Watch() {
	s.runs.Store(true)
	s.keepAlive()
	s.wakeUp()
}

// keepAlive begins to renew and to poll.
func (s *Session) keepAlive() {
	s.started.Do(func() {
		if s.ctx.Err() == nil {
			s.watcher.Go(s.keepWatching)
		}
	})
}

// stop ends the watch and joins it. A Host call that is under way gets a cancelled context, and is
// waited for: so stop must not be called from within one.
func (s *Session) stop() {
	s.cancel()
	s.started.Do(func() {}) // no Watch from now on; and one that is beginning has begun
	s.watcher.Wait()
	s.work.Wait()
	for _, st := range s.statics {
		st.poll.Cancel()
	}
}

// End is called once the task's process is gone (or never came): it stops the watch, joins it, and
// has every lease revoked in the background (E1). Idempotent. Not to be called from a Host's method.
func (s *Session) End() {
	s.ended.Do(func() {
		s.stop()
		s.EnqueueRevocations()
		s.k.drop(s)
	})
}

// EnqueueRevocations is the part of End that waits for nothing: the watch is cancelled, and from its return on all
// revocations are pending, even if the plugin is killed. Call it before Nomad learns that the task has ended, after
// which Nomad hands it to no recovery. What is still being fetched then is revoked when its answer comes.
// Idempotent; any goroutine may call it, a Host's method, too.
func (s *Session) EnqueueRevocations() {
	s.cancel()
	if err := s.k.revocations.Enqueue(s.journal); err != nil {
		// The journal is still where it was: the next start of the task, or a recovery, ends it.
		s.log.Error("the task's leases are not revoked yet: the next start or the next plugin process does it", "error", err)
	}
}

// answers is what the task has, but for those secrets that are to be replaced.
func (s *Session) answers(instead map[string]*secretState) map[string]secrets.Answer {
	all := make(map[string]secrets.Answer, len(s.secrets))
	for name, h := range s.secrets {
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

func (h *secretState) journalled() journal.Secret {
	a := h.answer
	return journal.Secret{
		Provider: h.from.name, Kind: a.Kind, Own: a.Own, LeaseID: a.Lease.ID, Duration: a.Lease.Duration, Renewable: a.Lease.Renewable,
		IssuedAt: a.At, ExpiresAt: h.ends, Ends: a.Ends, TokenID: h.token.id(),
		RenewAt: h.renew, RotateAt: h.rotate, Cause: string(h.why.cause), Why: h.why.text, Undelivered: h.undelivered,
		ChangedAt: h.changed, ChangedBy: h.changedBy,
	}
}
