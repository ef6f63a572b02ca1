package lifecycle

import (
	"context"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Task says which task a session is for.
type Task = journal.Task

// Host is the task around a session: what a session must do to it when secrets change. The driver
// implements it. Calls come one at a time, but for Event and Live, which may come beside another.
type Host interface {
	// Publish makes the set's files what the task sees, as one set (S6).
	Publish(ctx context.Context, set *secrets.Set) error

	// Fits says why a set's files could not be published. It may be called beside the others.
	Fits(set *secrets.Set) error

	// EnvRoom is how many bytes a set's variables may take: with more of them the task's program could not be
	// started (S7). It may be called beside the others.
	EnvRoom() int

	// Restart stops the task's process and starts it in place with the set's env, and returns once
	// the new one runs. It returns ErrEnded if the task ended, or was stopped, instead; any other
	// error is the task's exit (C9), which the driver has reported by then. The old process may finish
	// what it is serving for the job's pre_stop_wait, but no longer than serving. If ctx ends meanwhile, so does the
	// call, and nothing has been done to the process but to tell it.
	Restart(ctx, serving context.Context, set *secrets.Set) error

	// Signal sends the task's process a signal.
	Signal(ctx context.Context, signal string) error

	// Script runs a command in the task, with the set's env where the driver can, and gives its
	// exit code.
	Script(ctx context.Context, set *secrets.Set, s secrets.Script) (exit int, err error)

	// Live gives a secret's live directory what was found of it. It must not block, and may come beside the others.
	Live(secret string, l Look)

	// NomadToken is Nomad's own token in the task's environment, where the task's secrets are read with that; empty:
	// they are not. It may be called beside the others.
	NomadToken() secrets.Value

	// Event tells the operator something, in one short sentence without secrets. Few are kept.
	Event(msg string)
}

// StopAllowance is the time that an in-place restart may take between the decision and the old
// process's end, beside the job's pre_stop_wait and stop_timeout.
const StopAllowance = 2 * time.Second
