package lifecycle

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Status is how all that a keeper keeps stands at one moment.
type Status struct {
	Tasks       []TaskStatus
	Revocations []RevocationStatus
}

// TaskState is where a task stands with its secrets.
type TaskState string

// The states of a task.
const (
	TaskStarting   TaskState = "starting" // not all secrets are there, or the task's process is not
	TaskWatched    TaskState = "watched"
	TaskRotating   TaskState = "rotating"
	TaskWithoutKey TaskState = "no token" // its token has ended; a new one is waited for
	TaskUnwatched  TaskState = "unwatched"
	TaskEnded      TaskState = "ended"
)

// TaskStatus is how a task's secrets stand.
type TaskStatus struct {
	Namespace    string         `json:"namespace,omitempty"`
	Job          string         `json:"job,omitempty"`
	Alloc        string         `json:"alloc_id"`
	Task         string         `json:"task"`
	State        TaskState      `json:"state"`
	Identity     string         `json:"identity,omitempty"` // whose token it reads with
	TokenExpires time.Time      `json:"token_expires,omitzero"`
	LastError    *LastError     `json:"last_error,omitempty"` // of its token, or its start
	Outages      []OutageStatus `json:"outages,omitempty"`
	Secrets      []SecretStatus `json:"secrets"` // by name
}

// SecretState is where a secret stands.
type SecretState string

// The states of a secret.
const (
	SecretStarting SecretState = "starting" // the task's start is fetching it
	SecretReady    SecretState = "ready"
	SecretChanging SecretState = "changing" // a change of it is known, and applied at NextRotation
	SecretRotating SecretState = "rotating"
	SecretFailing  SecretState = "failing" // it could not be renewed, fetched or applied, and is tried again
	SecretLost     SecretState = "lost"    // the server does not know the lease any more; it is replaced
	SecretEnded    SecretState = "ended"   // its credential has ended
	SecretMissing  SecretState = "missing" // the task does not have it, and runs without
)

// OK reports whether nothing is wrong with a secret in that state.
func (s SecretState) OK() bool {
	return s != SecretFailing && s != SecretLost && s != SecretEnded
}

// SecretStatus is how one secret of a task stands.
type SecretStatus struct {
	Name       string      `json:"name"`
	Provider   string      `json:"provider"`
	Path       string      `json:"path"`
	Kind       string      `json:"kind,omitempty"` // static, leased, issued or opaque
	ChangeMode string      `json:"change_mode"`
	State      SecretState `json:"state"`
	Fetched    time.Time   `json:"fetched,omitzero"`
	// NextRenewal is of the lease, or of the token that it ends with, if that comes first. NextRotation is when it is to be replaced. Expires is when the credential ends, as
	// things are. Each is zero where there is none, or it is not known.
	NextRenewal  time.Time  `json:"next_renewal,omitzero"`
	NextRotation time.Time  `json:"next_rotation,omitzero"`
	Expires      time.Time  `json:"expires,omitzero"`
	Changed      time.Time  `json:"last_change,omitzero"` // zero: it is as it was at the task's start
	Cause        string     `json:"last_change_cause,omitempty"`
	LastError    *LastError `json:"last_error,omitempty"`
}

// LastError is what last went wrong. It may be over.
type LastError struct {
	At   time.Time `json:"at,omitzero"`
	Text string    `json:"error"`

	retryable bool
}

// OutageStatus is a provider that is away.
type OutageStatus struct {
	Provider   string    `json:"provider"`
	Since      time.Time `json:"since"`
	ValidUntil time.Time `json:"valid_until,omitzero"` // when the first credential in hand ends
}

// RevocationStatus is a revocation that is not done yet.
type RevocationStatus struct {
	Namespace string    `json:"namespace,omitempty"`
	Job       string    `json:"job,omitempty"`
	Alloc     string    `json:"alloc_id,omitempty"`
	Task      string    `json:"task,omitempty"`
	Leases    int       `json:"leases"`
	Tokens    int       `json:"tokens"`
	Since     time.Time `json:"since"`
	Attempts  int       `json:"attempts"`
	LastError string    `json:"last_error,omitempty"`
}

// Status is how things stand. It waits for no server, for no task and for no session: each session publishes its own
// after each step.
func (k *Keeper) Status() Status {
	now := time.Now()
	st := Status{Tasks: []TaskStatus{}, Revocations: []RevocationStatus{}}
	for _, s := range k.all() {
		st.Tasks = append(st.Tasks, s.Status(now))
	}
	slices.SortFunc(st.Tasks, func(a, b TaskStatus) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Job, b.Job), cmp.Compare(a.Alloc, b.Alloc), cmp.Compare(a.Task, b.Task))
	})
	for _, r := range k.revocations.Status() {
		of := RevocationStatus{
			Namespace: r.Task.Namespace, Job: r.Task.JobID, Alloc: r.Task.AllocID, Task: r.Task.Name,
			Leases: r.Leases, Tokens: r.Tokens, Since: r.Since, Attempts: r.Attempts,
		}
		if r.Err != nil {
			of.LastError = secrets.OneLine(r.Err.Error())
		}
		st.Revocations = append(st.Revocations, of)
	}
	return st
}

// all are the sessions there are.
func (k *Keeper) all() []*Session {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.sessions))
}

// Status is what the session has last published. Any goroutine may call it.
func (s *Session) Status(now time.Time) TaskStatus {
	st := s.published.Load().status
	switch {
	case s.failed.Load():
		st.State = TaskUnwatched
	case s.ctx.Err() != nil:
		st.State = TaskEnded
	}
	if slices.ContainsFunc(st.Secrets, func(sec SecretStatus) bool { return sec.endedBy(now) }) {
		st.Secrets = slices.Clone(st.Secrets) // a loop that is busy has not seen it yet
		for i := range st.Secrets {
			if st.Secrets[i].endedBy(now) {
				st.Secrets[i].State = SecretEnded
			}
		}
	}
	return st
}

func (sec SecretStatus) endedBy(now time.Time) bool {
	return sec.State.OK() && sec.State != SecretRotating && due(now, sec.Expires)
}

// snapshot is how a session stands, for other goroutines. It is never changed.
type snapshot struct {
	status TaskStatus
	gauges []SecretGauge
}

// publish makes how the session stands known to other goroutines. Its owner calls it.
func (s *Session) publish(now time.Time) {
	st := TaskStatus{
		Namespace: s.task.Namespace, Job: s.task.JobID, Alloc: s.task.AllocID, Task: s.task.Name,
		State: s.taskState(), LastError: s.errors[""], Secrets: make([]SecretStatus, len(s.spec.Secrets)),
	}
	if s.tokens.identity != nil {
		st.Identity = s.tokens.identity.describe()
	}
	if t := s.tokens.current; t != nil {
		st.TokenExpires = t.ends
	}
	for name, o := range s.outages {
		if o.reported {
			st.Outages = append(st.Outages, OutageStatus{Provider: name, Since: o.from, ValidUntil: s.validUntil(s.k.providers[name])})
		}
	}
	slices.SortFunc(st.Outages, func(a, b OutageStatus) int { return cmp.Compare(a.Provider, b.Provider) })
	for i := range s.spec.Secrets {
		st.Secrets[i] = s.secretStatus(now, &s.spec.Secrets[i])
	}
	s.published.Store(&snapshot{st, s.gaugesNow(now)})
}

func (s *Session) taskState() TaskState {
	switch {
	case s.phase == phaseStarting || !s.runs.Load():
		return TaskStarting
	case s.phase == phaseOver:
		return TaskEnded
	case s.phase.rotating():
		return TaskRotating
	case s.tokens.lost():
		return TaskWithoutKey
	}
	return TaskWatched
}

func (s *Session) secretStatus(now time.Time, sec *secrets.Secret) SecretStatus {
	st := SecretStatus{
		Name: sec.Name, Provider: sec.Request.Provider, Path: sec.Request.Path, ChangeMode: sec.Change.Mode.String(),
		State: SecretMissing, LastError: s.errors[sec.Name],
	}
	h, c := s.secrets[sec.Name], s.changes[sec.Name]
	if h == nil {
		if u, left := s.policies.failed[sec.Name]; left {
			st.LastError = &LastError{Text: secrets.Shorten(secrets.OneLine(u.Why))}
		}
		if s.phase == phaseStarting {
			st.State = SecretStarting
		}
		return st
	}
	st.Kind, st.Fetched = kindName(h.answer.Kind), h.answer.At
	st.NextRenewal, st.NextRotation, st.Expires = h.renew, h.rotate, s.endOf(h)
	st.Changed, st.Cause = h.changed, h.changedBy
	if t := h.token; st.Expires.Before(h.ends) || h.ends.IsZero() && !st.Expires.IsZero() { // it ends with its token, whose renewal comes first
		st.NextRenewal, st.NextRotation = earliest(st.NextRenewal, t.renew), earliest(st.NextRotation, t.rotate)
	}
	if c != nil {
		st.NextRotation = c.at
	}
	static := s.statics[sec.Name]
	switch {
	case s.rotation.has(sec.Name):
		st.State = SecretRotating
	case h.lost:
		st.State = SecretLost
	case due(now, st.Expires):
		st.State = SecretEnded
	case h.unapplied, h.fails > 0, c != nil && c.fails > 0, static != nil && static.fails > 0:
		st.State = SecretFailing
	case c != nil:
		st.State = SecretChanging
	default:
		st.State = SecretReady
	}
	return st
}

func kindName(k secrets.Kind) string {
	switch k {
	case secrets.Static:
		return "static"
	case secrets.Leased:
		return "leased"
	case secrets.Issued:
		return "issued"
	}
	return "opaque"
}

// noteError keeps what went wrong with a secret, or with the task as a whole where name is empty.
func (s *Session) noteError(name string, err error) {
	s.errors[name] = &LastError{At: time.Now(), Text: secrets.Shorten(secrets.OneLine(err.Error())), retryable: s.retryable(err)}
}
