package driver

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Commands in a running task start as the launcher, under either driver: what the inner drivers keep
// of the environment is that of the task's process, which a signal or a noop leaves as it was (L1).

// execAgain is how long after a command that failed, because of a restart in place, it runs again.
const execAgain = time.Second

// exec runs a command in the task, with its current secrets. Nomad's script checks, and change_scripts of its
// templates, come here, and must not fail because credentials rotate (C8): one that a restart in place has
// ended or held up runs until it succeeds, or its time is over. The program may need a while, too: so one that begins
// soon after a restart has as much of its time as if it had begun at the restart's end.
func (t *task) exec(cmd []string, timeout time.Duration) (*drivers.ExecTaskResult, error) {
	ctx, cancel := context.WithTimeout(t.d.ctx, timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	before, now := t.state.begun()
	again := repeatUntil(deadline, timeout, now, t.state.lastRestart())
	for {
		res, err := t.execWith(ctx, t.session.Set, cmd, time.Until(deadline))
		failed := err != nil || res.ExitResult != nil && !res.ExitResult.Successful()
		if failed && t.restartedSince(ctx, before) {
			again = deadline
		}
		if !failed || !time.Now().Before(again) {
			return res, err
		}
		select {
		case <-time.After(execAgain):
		case <-ctx.Done():
			return res, err
		}
	}
}

// repeatUntil is until when a command that fails runs again: now says that a restart in place is under way as it begins, last
// is when the last one was done.
func repeatUntil(deadline time.Time, timeout time.Duration, now bool, last time.Time) time.Time {
	if now {
		return deadline
	}
	return last.Add(timeout)
}

// restartedSince reports whether a restart in place has begun since there were n of them. The end of a process that may
// finish, which has ended a command, too, is known a little later.
func (t *task) restartedSince(ctx context.Context, n int) bool {
	if t.state.now() == phaseFinishing {
		ctx, cancel := context.WithTimeout(ctx, execAgain)
		defer cancel()
		_ = t.state.await(ctx, func(p taskPhase) bool { return p != phaseFinishing })
	}
	now, _ := t.state.begun()
	return now != n
}

// execWith runs a command in the task. One that cannot be started is an error, as with raw_exec: what the
// launcher says of it on stderr is not what Nomad shows of a check.
func (t *task) execWith(ctx context.Context, set func() *secrets.Set, cmd []string, timeout time.Duration) (res *drivers.ExecTaskResult, err error) {
	notStarted, err := t.launch(ctx, set, cmd, func(argv []string) (err error) {
		res, err = t.d.inner.ExecTask(t.innerID(), argv, timeout)
		return err
	})
	if err == nil && notStarted != nil {
		return nil, notStarted
	}
	return res, err
}

// execStreaming is `nomad alloc exec` in a container.
func (t *task) execStreaming(ctx context.Context, inner drivers.ExecTaskStreamingDriver, opts *drivers.ExecOptions) (res *drivers.ExitResult, err error) {
	_, err = t.launch(ctx, t.session.Set, opts.Command, func(argv []string) (err error) {
		o := *opts
		o.Command = argv
		res, err = inner.ExecTaskStreaming(ctx, t.innerID(), &o)
		return err
	})
	return res, err
}

// execStreamingRaw is `nomad alloc exec` beside a raw_exec task's process.
func (t *task) execStreamingRaw(ctx context.Context, inner drivers.ExecTaskStreamingRawDriver, cmd []string, tty bool, stream drivers.ExecTaskStream) error {
	_, err := t.launch(ctx, t.session.Set, cmd, func(argv []string) error {
		return inner.ExecTaskStreamingRaw(ctx, t.innerID(), argv, tty, stream)
	})
	return err
}

// launch runs a command through the launcher in the running task: run starts the launcher there. A
// command that cannot be started is the launcher's exit code and words, as run sees them, and notStarted.
func (t *task) launch(ctx context.Context, set func() *secrets.Set, cmd []string, run func(argv []string) error) (notStarted, err error) {
	if len(cmd) == 0 {
		return nil, errors.New("there is no command to run")
	}
	if err := t.state.await(ctx, taskPhase.settled); err != nil {
		return nil, err
	}
	if err := t.waiting.take(ctx); err != nil {
		return nil, err
	}
	hold, argv, err := t.runner.holdCommand(t)
	if err != nil {
		t.waiting.give()
		return nil, err
	}
	defer hold.Remove()
	ctx, cancel := context.WithCancel(ctx)
	who := t.currentProcess().owner
	payload := launcher.Payload{Argv: cmd, Env: t.environ(set()), Processes: processLimitsOf(t.options).user}
	released := make(chan error, 1)
	go func() {
		defer t.waiting.give()
		released <- hold.Release(ctx, nil, who, payload)
	}()
	err = run(argv)
	cancel()
	rerr := <-released
	if _, ok := errors.AsType[*launcher.ExecError](rerr); ok {
		return rerr, err
	}
	if rerr != nil {
		t.d.log.Debug("a command in the task did not start", "task_id", t.cfg.ID, "error", rerr)
		if limit := processLimitsOf(t.options).container; limit > 0 && limit < launcherPids {
			notStarted = errFewPids(errors.New("the command did not start"), limit)
		}
	}
	return notStarted, err
}
