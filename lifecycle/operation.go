package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// operation is what an operator has asked of a session, until it is done. It belongs to the session's loop.
type operation struct {
	kind    Operation
	began   time.Time
	token   look                 // at the token in use
	secrets map[string]*operated // those that are not done, by name
	done    []Outcome
	answer  chan []Outcome // has room for one
}

// operated is one secret of an operation.
type operated struct {
	look  look
	again time.Time // when to look again, after a look that failed
	err   error     // of the last look
}

// look is a request that finds out whether something still is as it was.
type look int

const (
	lookDue look = iota
	lookUnderWay
	lookDone
)

// operationRetries is for how long what may succeed later is tried again before an operation calls it failed. The session
// goes on trying.
const operationRetries = 10 * time.Second

func (s *Session) beginOperation(now time.Time, op *operation, secret string) {
	op.began, op.secrets = now, map[string]*operated{}
	for i := range s.spec.Secrets {
		sec := &s.spec.Secrets[i]
		if secret != "" && secret != sec.Name {
			continue
		}
		h := s.secrets[sec.Name]
		switch {
		case h == nil:
			op.done = append(op.done, s.outcome(sec.Name, Skipped, "the task does not have it"))
		case op.kind == Refresh:
			op.secrets[sec.Name] = &operated{}
			s.retryNow(now, sec.Name, h)
		case h.answer.Kind == secrets.Static:
			op.done = append(op.done, s.outcome(sec.Name, Skipped, "a static secret: write its new value on the server"))
		case h.answer.Kind == secrets.Issued && now.Before(h.answer.At.Add(reissueAtLeast)): // C11
			op.done = append(op.done, s.outcome(sec.Name, Failed, fmt.Sprintf("its certificate was issued less than %v ago: ask again then", reissueAtLeast)))
		default:
			op.secrets[sec.Name] = &operated{look: lookDone}
			s.rotateNow(now, sec.Name, h)
		}
	}
	if op.kind == Refresh {
		s.policies.next = now
	} else {
		op.token = lookDone
	}
	s.operations = append(s.operations, op)
}

// retryNow tries what has failed without the pause that there is after a failure.
func (s *Session) retryNow(now time.Time, name string, h *secretState) {
	if c := s.changes[name]; c != nil && c.fails > 0 {
		c.fails, c.at = 0, now
	}
	if h.fails > 0 && !h.renew.IsZero() {
		h.renew = now
	}
	if s.tokens.lost() && s.tokens.identity.ours() {
		s.tokens.current.rotate = now
	}
}

// rotateNow has a credential replaced.
func (s *Session) rotateNow(now time.Time, name string, h *secretState) {
	s.retryNow(now, name, h)
	s.addChange(now, name, because(CauseOperator), nil, time.Time{})
	if !s.rotation.has(name) { // else what is new is being fetched
		s.changes[name].fresh = nil // what waits to be given to the task may be what has leaked
	}
}

// stepOperations goes on with what operators have asked for, and answers what is done.
func (s *Session) stepOperations(now time.Time) (next time.Time) {
	rest := s.operations[:0]
	for _, op := range s.operations {
		next = earliest(next, s.stepLooks(now, op))
		for _, name := range slices.Sorted(maps.Keys(op.secrets)) {
			o := op.secrets[name]
			if c := s.changes[name]; c != nil {
				c.urgent = true
			}
			if out, done := s.operationOutcome(now, op, name, o); done {
				op.done = append(op.done, out)
				delete(op.secrets, name)
			}
		}
		if len(op.secrets) == 0 {
			s.publish(now) // who has the answer sees it in the status, too
			op.answer <- op.done
			continue
		}
		if until := op.began.Add(operationRetries); now.Before(until) {
			next = earliest(next, until)
		}
		rest = append(rest, op)
	}
	clear(s.operations[len(rest):])
	s.operations = rest
	return next
}

// stepLooks sends the requests of an operation that can be sent: about the token first, since what it says of all that was
// made under it counts more.
func (s *Session) stepLooks(now time.Time, op *operation) (next time.Time) {
	if s.phase == phaseOver {
		return time.Time{}
	}
	if op.token == lookDue {
		if s.tokens.current == nil || s.tokens.lost() {
			op.token = lookDone
		} else {
			op.token = lookUnderWay
			s.lookAtToken(func() { op.token = lookDone })
		}
	}
	if op.token == lookUnderWay {
		return time.Time{} // its answer wakes the loop
	}
	for name, o := range op.secrets {
		h := s.secrets[name]
		switch {
		case o.look != lookDue || h == nil || s.rotation.has(name) || s.waitsForToken(h): // or its end wakes the loop
		case now.Before(o.again):
			next = earliest(next, o.again)
		default:
			s.lookAtSecret(name, h, o)
		}
	}
	return next
}

// lookAtToken asks whether the server still knows the token in use.
func (s *Session) lookAtToken(looked func()) {
	l := s.tokens.current
	tok := l.tok
	s.do(func(ctx context.Context) func() {
		var got secrets.Token
		err := s.inForeground(ctx, func(ctx context.Context) (err error) {
			got, err = s.tokens.issuer.tokens.LookupToken(ctx, tok, s.namespace)
			return err
		})
		return func() {
			s.noteAnswer(s.tokens.issuer, err)
			if s.tokens.current == l && !l.lost {
				switch {
				case err == nil:
					l.seen(time.Now(), got.Expires, s.k.random())
				case secrets.KindOf(err) == secrets.Gone && !s.retryable(err):
					s.tokenLost(time.Now())
				}
			}
			looked()
		}
	})
}

// lookAtSecret asks whether a secret is still what the task has. Of what is neither leased nor static nobody can tell
// without making another.
func (s *Session) lookAtSecret(name string, h *secretState, o *operated) {
	looked := func(err error) {
		o.look, o.err = lookDone, err
		if err != nil && secrets.KindOf(err) != secrets.Gone && s.retryable(err) {
			o.look, o.again = lookDue, time.Now().Add(firstRetry)
		}
	}
	o.look = lookUnderWay
	switch st := s.statics[name]; {
	case h.answer.Kind == secrets.Leased && !h.lost:
		s.lookAtLease(name, h, looked)
	case h.answer.Kind == secrets.Static && st != nil && !st.busy:
		s.readStatic(name, st, h, s.foreground, looked)
	case h.answer.Kind == secrets.Static && st != nil:
		o.look = lookDue // the read under way may have been sent before the operator asked; its answer wakes the loop
	default:
		o.look = lookDone
	}
}

func (s *Session) lookAtLease(name string, h *secretState, looked func(error)) {
	if h.cancelCheck != nil { // this is one
		h.cancelCheck()
		h.cancelCheck = nil
	}
	tok, id := s.tokens.current.tok, h.answer.Lease.ID
	s.do(func(ctx context.Context) func() {
		at, left := time.Now(), time.Duration(0)
		err := s.inForeground(ctx, func(ctx context.Context) (err error) {
			at = time.Now()
			left, err = h.from.leases.LeaseTTL(ctx, tok, s.namespaceOf(h.secret.Request), id)
			return err
		})
		return func() {
			s.noteAnswer(s.tokens.issuer, err)
			if s.secrets[name] == h && !h.lost {
				s.leaseChecked(time.Now(), name, h, at, left, err)
			}
			looked(err)
		}
	})
}

// inForeground makes one request that an operator waits for: outside the request rate, one of a few at once.
func (s *Session) inForeground(ctx context.Context, request func(context.Context) error) error {
	release, err := s.foreground(ctx, s.tokens.issuer.name)
	if err != nil {
		return secrets.Errorf(secrets.Outage, "%w", err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return request(ctx)
}

// operationOutcome is what has become of a secret; done is false while something is under way.
func (s *Session) operationOutcome(now time.Time, op *operation, name string, o *operated) (out Outcome, done bool) {
	h, c := s.secrets[name], s.changes[name]
	late := !now.Before(op.began.Add(operationRetries))
	failed := s.errors[name]
	if failed != nil && failed.At.Before(op.began) {
		failed = nil
	}
	switch {
	case s.phase == phaseOver:
		return s.outcome(name, Failed, "the task has ended"), true
	case s.rotation.has(name):
		return out, false
	case h == nil:
		return s.outcome(name, Replaced, "left out: the policies no longer grant it"), true
	case s.waitsForToken(h):
		if !late {
			return out, false
		}
		return s.outcome(name, Failed, s.tokenProblem()), true
	case c != nil && c.fails > 0 && failed != nil && (late || !failed.retryable):
		return s.outcome(name, Failed, failed.Text+"; it is tried again"), true
	case c != nil:
		return out, false
	case o.err != nil && (late || o.look == lookDone) && secrets.KindOf(o.err) != secrets.Gone:
		return s.outcome(name, Failed, "it could not be looked at: "+secrets.OneLine(o.err.Error())), true
	case o.look != lookDone:
		return out, false
	case h.unapplied && failed != nil:
		return s.outcome(name, Failed, failed.Text), true
	case h.changed.Before(op.began):
		return s.outcome(name, Unchanged, s.unchangedDetail(h)), true
	}
	out = s.outcome(name, Replaced, h.changedBy+"; "+describeAction(h.secret.Change.Mode))
	switch {
	case h.answer.Kind != secrets.Leased || op.kind != Rotate:
	case h.oldUntil.IsZero():
		out.revoked = true
	default:
		out.Detail += "; the old credential lives until " + clock(h.oldUntil)
	}
	return out, true
}

func (s *Session) unchangedDetail(h *secretState) string {
	if end := s.endOf(h); !end.IsZero() {
		return "valid until " + clock(end)
	}
	return ""
}

func (s *Session) tokenProblem() string {
	if e := s.errors[""]; e != nil {
		return e.Text
	}
	return errTokenLost.Error()
}

// describeAction is how the task got what is new.
func describeAction(m secrets.Mode) string {
	switch m {
	case secrets.Restart:
		return "task restarted in place"
	case secrets.SendSignal:
		return "task signalled"
	case secrets.RunScript:
		return "change_script run"
	}
	return "task not disturbed (change_mode noop)"
}
