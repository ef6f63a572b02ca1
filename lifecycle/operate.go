package lifecycle

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Operation is what an operator can ask of tasks that run.
type Operation string

// The operations.
const (
	// Refresh looks at everything now: tokens and leases are looked up, static secrets read, and what has failed is
	// tried again. What has changed, or was revoked, is replaced.
	Refresh Operation = "refresh"
	// Rotate replaces every credential, as after a leak. A static secret is not made here, and is left as it is.
	Rotate Operation = "rotate"
)

// Selection says which secrets an operation is for. What is empty selects all.
type Selection struct {
	Alloc  string `json:"alloc,omitempty"` // the beginning of an allocation's id
	Task   string `json:"task,omitempty"`
	Secret string `json:"secret,omitempty"`
}

func (sel Selection) has(t Task) bool {
	return strings.HasPrefix(t.AllocID, sel.Alloc) && (sel.Task == "" || sel.Task == t.Name)
}

// Result is what an operation came to for one secret.
type Result string

// The results.
const (
	Unchanged  Result = "unchanged"
	Replaced   Result = "replaced"    // the task has what is new
	Skipped    Result = "skipped"     // there is nothing to be done to it
	NotRevoked Result = "not revoked" // the task has what is new, and the old credential lives on
	Failed     Result = "failed"
)

// OK reports whether a result is as the operator wants it.
func (r Result) OK() bool { return r != Failed && r != NotRevoked }

// Outcome is what was done to one secret of one task.
type Outcome struct {
	Namespace string `json:"namespace,omitempty"`
	Job       string `json:"job,omitempty"`
	Alloc     string `json:"alloc_id"`
	Task      string `json:"task"`
	Secret    string `json:"secret"`
	Result    Result `json:"result"`
	Detail    string `json:"detail,omitempty"`

	revoked bool // what it replaced is to be revoked by now
}

// revokedWithin is how long an operation waits for the revocation of what it has replaced.
const revokedWithin = 10 * time.Second

// Operate does what an operator asks for to all secrets that are selected, and returns when it is done, or ctx ends. What
// each task goes through then is what it would otherwise, its splay and stagger included; only that its requests are not
// within the request rate.
func (k *Keeper) Operate(ctx context.Context, op Operation, sel Selection) []Outcome {
	var all []Outcome
	var mu sync.Mutex // guards all
	var work sync.WaitGroup
	for _, s := range k.all() {
		if !sel.has(s.task) {
			continue
		}
		work.Go(func() {
			since := time.Now()
			done := s.operate(ctx, op, sel.Secret)
			s.awaitRevoked(ctx, since, done)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, done...)
		})
	}
	work.Wait()
	slices.SortFunc(all, func(a, b Outcome) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Job, b.Job), cmp.Compare(a.Alloc, b.Alloc),
			cmp.Compare(a.Task, b.Task), cmp.Compare(a.Secret, b.Secret))
	})
	return all
}

// operate has the session's loop do it.
func (s *Session) operate(ctx context.Context, kind Operation, secret string) []Outcome {
	if !s.runs.Load() {
		return s.sameForAll(secret, Skipped, "the task is starting: what it gets is current")
	}
	if s.failed.Load() {
		return s.sameForAll(secret, Failed, whyUnwatched)
	}
	op := &operation{kind: kind, answer: make(chan []Outcome, 1)}
	select {
	case s.results <- func() { s.beginOperation(time.Now(), op, secret) }:
	case <-s.ctx.Done():
		return s.sameForAll(secret, Failed, whyOver)
	case <-ctx.Done():
		return s.sameForAll(secret, Failed, "not begun: "+ctx.Err().Error())
	}
	select {
	case done := <-op.answer:
		return done
	case <-s.ctx.Done():
		return s.sameForAll(secret, Failed, whyOver)
	case <-ctx.Done():
		return s.sameForAll(secret, Failed, "not waited for to its end: "+ctx.Err().Error())
	}
}

const (
	whyOver      = "the task has ended, or the plugin has"
	whyUnwatched = "the task is not watched just now, because of an error in this plugin (the agent's log has it)"
)

// sameForAll is one outcome for all secrets of the task that are selected.
func (s *Session) sameForAll(secret string, r Result, detail string) (all []Outcome) {
	for _, sec := range s.Spec().Secrets {
		if secret == "" || secret == sec.Name {
			all = append(all, s.outcome(sec.Name, r, detail))
		}
	}
	return all
}

func (s *Session) outcome(secret string, r Result, detail string) Outcome {
	return Outcome{
		Namespace: s.task.Namespace, Job: s.task.JobID, Alloc: s.task.AllocID, Task: s.task.Name,
		Secret: secret, Result: r, Detail: detail,
	}
}

// awaitRevoked waits until what was replaced is revoked, and says where it is not.
func (s *Session) awaitRevoked(ctx context.Context, since time.Time, done []Outcome) {
	if !slices.ContainsFunc(done, func(o Outcome) bool { return o.revoked }) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, revokedWithin)
	defer cancel()
	err := s.k.revocations.Await(ctx, s.task.Key(), since)
	if err == nil {
		return
	}
	why := "the old credential is not revoked yet; that is tried until it is"
	if secrets.KindOf(err) == secrets.Refused {
		why = "the old credential is not revoked, and lives to its end: " + secrets.OneLine(err.Error())
	}
	for i := range done {
		if done[i].revoked {
			done[i].Result, done[i].Detail = NotRevoked, done[i].Detail+"; "+why
		}
	}
}
