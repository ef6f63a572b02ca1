package lifecycle

import (
	"context"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Task says which task a session is for.
type Task struct {
	Driver     string // the name this plugin serves: "docker", "raw_exec-secrets", …
	AllocID    string
	Name       string
	ID         string // Nomad's id of this start of the task
	AllocIndex int
	Dir        string // the task directory on the host
	// UID is of the job's `user` on the host, whom Nomad gives the identity's JWT; 0 if there is none.
	UID int
}

// Host is the task around a session: what a session must do to it when secrets change. The driver
// implements it. Calls come one at a time, but for Event, which may come beside another.
type Host interface {
	// Publish makes the set's files what the task sees, as one set (S6).
	Publish(ctx context.Context, set *secrets.Set) error

	// Restart stops the task's process and starts it in place with the set's env, and returns once
	// the new one runs. It returns ErrEnded if the task ended, or was stopped, instead; any other
	// error is the task's exit (C9), which the driver has reported by then.
	Restart(ctx context.Context, set *secrets.Set) error

	// Signal sends the task's process a signal.
	Signal(ctx context.Context, signal string) error

	// Script runs a command in the task, with the set's env where the driver can, and gives its
	// exit code.
	Script(ctx context.Context, set *secrets.Set, s secrets.Script) (exit int, err error)

	// Event tells the operator something, in one short sentence without secrets. Few are kept.
	Event(msg string)
}

// StopAllowance is the time that an in-place restart may take between the decision and the old
// process's end, beside the job's stop_timeout.
const StopAllowance = 2 * time.Second
