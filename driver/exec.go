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

// exec runs a command in the task, with its current secrets.
func (t *task) exec(cmd []string, timeout time.Duration) (*drivers.ExecTaskResult, error) {
	return t.execWith(t.d.ctx, t.session.Set, cmd, timeout)
}

func (t *task) execWith(ctx context.Context, set func() *secrets.Set, cmd []string, timeout time.Duration) (res *drivers.ExecTaskResult, err error) {
	err = t.launch(ctx, set, cmd, func(held []string) (err error) {
		res, err = t.d.inner.ExecTask(t.innerID(), held, timeout)
		return err
	})
	return res, err
}

// execStreaming is `nomad alloc exec` in a container.
func (t *task) execStreaming(ctx context.Context, inner drivers.ExecTaskStreamingDriver, opts *drivers.ExecOptions) (res *drivers.ExitResult, err error) {
	err = t.launch(ctx, t.session.Set, opts.Command, func(held []string) (err error) {
		o := *opts
		o.Command = held
		res, err = inner.ExecTaskStreaming(ctx, t.innerID(), &o)
		return err
	})
	return res, err
}

// execStreamingRaw is `nomad alloc exec` beside a raw_exec task's process.
func (t *task) execStreamingRaw(ctx context.Context, inner drivers.ExecTaskStreamingRawDriver, cmd []string, tty bool, stream drivers.ExecTaskStream) error {
	return t.launch(ctx, t.session.Set, cmd, func(held []string) error {
		return inner.ExecTaskStreamingRaw(ctx, t.innerID(), held, tty, stream)
	})
}

// launch runs a command through the launcher in the running task: run starts the launcher there. A
// command that cannot be started is the launcher's exit code and words, as run sees them.
func (t *task) launch(ctx context.Context, set func() *secrets.Set, cmd []string, run func(held []string) error) error {
	if len(cmd) == 0 {
		return errors.New("there is no command to run")
	}
	if err := t.swap.wait(ctx); err != nil {
		return err
	}
	program, secretsDir, err := t.runner.launcherInside(t.cfg)
	if err != nil {
		return err
	}
	hold, err := launcher.New(t.cfg.TaskDir().SecretsDir)
	if err != nil {
		return err
	}
	defer hold.Remove()
	ctx, cancel := context.WithCancel(ctx)
	who := t.currentProcess().owner
	payload := launcher.Payload{Argv: cmd, Env: t.environ(set())}
	released := make(chan struct{})
	go func() {
		defer close(released)
		if err := hold.Release(ctx, nil, launcher.Owner{UID: who.UID, GID: who.GID}, payload); err != nil {
			t.d.log.Debug("a command in the task did not start", "task_id", t.cfg.ID, "error", err)
		}
	}()
	defer func() {
		cancel()
		<-released
	}()
	return run(append([]string{program}, hold.Args(secretsDir)...))
}
