package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A task is its session's Host: what the session does to it when secrets change.
var _ lifecycle.Host = (*task)(nil)

// Publish makes the set's files what the task sees. It is what every change begins with, and waits until the
// task can be told of it: a signal that fails now would not be sent later.
func (t *task) Publish(ctx context.Context, set *secrets.Set) error {
	if err := t.lockInSight(ctx); err != nil {
		return err
	}
	t.mu.Unlock()
	o := t.currentProcess().owner
	return t.files.Publish(set, o.UID, o.GID)
}

// Signal sends the task's process a signal.
func (t *task) Signal(_ context.Context, signal string) error {
	return t.d.inner.SignalTask(t.innerID(), signal)
}

// Script runs a job's change_script in the task.
func (t *task) Script(ctx context.Context, set *secrets.Set, s secrets.Script) (int, error) {
	return t.awaitScript(ctx, s.Timeout, func() (*drivers.ExecTaskResult, error) {
		current := func() *secrets.Set { return set }
		return t.execWith(ctx, current, append([]string{s.Command}, s.Args...), s.Timeout)
	})
}

// awaitScript waits for a script no longer than ctx. The wrapped drivers' own timeouts do not bound
// it: docker's knows of none once the script runs, and raw_exec's kills the script and then waits for
// whoever still has its output. Without this, one script that hangs would be the task's last rotation.
// One that is not waited for is joined when the task ends, which ends it; in a container it runs until
// then.
func (t *task) awaitScript(ctx context.Context, timeout time.Duration, run func() (*drivers.ExecTaskResult, error)) (int, error) {
	type outcome struct {
		exit int
		err  error
	}
	done := make(chan outcome, 1)
	t.scripts.Go(func() {
		var o outcome
		res, err := run()
		if o.err = err; err == nil && res.ExitResult != nil {
			o.exit, o.err = res.ExitResult.ExitCode, res.ExitResult.Err
		}
		done <- o
	})
	var o outcome
	select {
	case o = <-done:
		if o.exit == 0 && o.err == nil {
			return 0, nil
		}
	case <-ctx.Done():
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) { // raw_exec has then killed it, perhaps
		return 0, fmt.Errorf("not done after %v", timeout)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return o.exit, o.err
}

// Event tells the operator something.
func (t *task) Event(msg string) { t.d.events.say(t.cfg, msg) }

// Restart swaps the task's process for one with the set's env (C8): stop, remove, start, all under
// one id, while WaitTask stays blocked and other calls wait at the gate.
func (t *task) Restart(parent context.Context, set *secrets.Set) error {
	// Neither the end of the plugin nor of the session may leave the task without a process:
	// only StopTask ends a swap, through cancel.
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	defer cancel()

	if err := t.lockInSight(parent); err != nil {
		return err
	}
	sw := t.current
	switch {
	case sw != nil && sw.begun, sw == nil && (t.stopping || t.result != nil):
		t.mu.Unlock()
		return lifecycle.ErrEnded // StopTask is at it
	case sw == nil:
		sw = newReplacement()
		t.current = sw
		t.swap.close()
	}
	sw.begun, sw.cancel = true, cancel
	t.mu.Unlock()

	err := t.replace(ctx, sw, set)

	t.mu.Lock()
	t.current = nil
	select {
	case res := <-sw.exit: // the new process has ended already
		t.finishLocked(res)
	default:
	}
	t.mu.Unlock()
	t.swap.open()
	close(sw.done)
	return err
}

// replace is the inside of a swap. Where it returns an error the task has ended.
func (t *task) replace(ctx context.Context, sw *replacement, set *secrets.Set) error {
	before := t.currentProcess()
	if err := t.note(true); err != nil {
		t.d.log.Error("the journal cannot be written; a crash now makes Nomad restart the task", "task_id", t.cfg.ID, "error", err)
	}
	crashpoint.Reached(crashpoint.SwapNoted, t.cfg.Name)
	if err := t.logs.hold(); err != nil {
		t.d.log.Warn("a log pipe has no reader; logs after this rotation will be lost", "task_id", t.cfg.ID, "error", err)
	}

	old, byItself, err := t.end(sw)
	crashpoint.Reached(crashpoint.OldStopped, t.cfg.Name)
	switch {
	case err != nil:
		t.finish(&drivers.ExitResult{ExitCode: -1, Err: err})
		return err
	case byItself || t.isStopping():
		t.finish(old)
		return lifecycle.ErrEnded
	case before.network.Advertise():
		// Nomad reads a task's address once, and here it advertises it: only a start of its own
		// makes it read the new one (DESIGN 9).
		t.finish(&drivers.ExitResult{ExitCode: 1, Err: errors.New("ended for new secrets: Nomad must restart it, since its address may change")})
		return lifecycle.ErrEnded
	}

	if err := t.destroyProcess(true); err != nil && !errors.Is(err, drivers.ErrTaskNotFound) {
		t.d.log.Warn("the old process could not be removed", "task_id", t.cfg.ID, "error", err)
	}
	crashpoint.Reached(crashpoint.OldDestroyed, t.cfg.Name)
	published := func(owner) error { return nil } // by the session, before it called us
	proc, err := t.runner.start(ctx, t, set, published)
	if err != nil {
		if t.isStopping() {
			t.finish(old)
			return lifecycle.ErrEnded
		}
		t.finish(&drivers.ExitResult{ExitCode: -1, Err: fmt.Errorf("restart for new secrets: %w", err)})
		return err
	}
	t.setProcess(proc)
	t.watch()
	if err := t.note(false); err != nil {
		t.d.log.Error("the journal cannot be written; if the plugin restarts now, Nomad restarts the task", "task_id", t.cfg.ID, "error", err)
	}
	crashpoint.Reached(crashpoint.NewNoted, t.cfg.Name)
	if a, b := address(before.network), address(proc.network); a != b {
		t.Event(fmt.Sprintf("Secrets: the task's address is now %s, no longer %s; Nomad does not see this until it restarts the task itself", b, a))
	}
	return nil
}

// end stops the old process and waits for its end. byItself: it had ended before it was asked to, and
// not by a swap that a crash of the plugin cut short.
func (t *task) end(sw *replacement) (res *drivers.ExitResult, byItself bool, err error) {
	select {
	case res := <-sw.exit:
		return res, !sw.resumed, nil
	default:
	}
	spec := t.session.Spec()
	asked := time.Now()
	if err := t.d.inner.StopTask(t.innerID(), spec.StopTimeout, spec.StopSignal); err != nil {
		t.d.log.Warn("the old process did not stop by its signal; it is killed", "task_id", t.cfg.ID, "error", err)
	}
	select {
	case res := <-sw.exit:
		return res, !sw.resumed && t.endedBefore(asked), nil
	case <-time.After(lifecycle.StopAllowance):
	}
	if err := t.destroyProcess(true); err != nil {
		return nil, false, fmt.Errorf("stop the old process: %w", err)
	}
	select {
	case res := <-sw.exit:
		return res, false, nil
	case <-t.d.ctx.Done():
		return nil, false, t.d.ctx.Err()
	}
}

// endedBefore reports whether the process had ended by then. Its exit may be told us much later, when
// the machine is busy: the wrapped driver knows when it was.
func (t *task) endedBefore(then time.Time) bool {
	status, err := t.d.inner.InspectTask(t.innerID())
	return err == nil && !status.CompletedAt.IsZero() && status.CompletedAt.Before(then)
}

func (t *task) isStopping() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stopping
}

func address(n *drivers.DriverNetwork) string {
	if n == nil {
		return ""
	}
	return strings.TrimSpace(n.IP)
}
