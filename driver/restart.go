package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// A task is its session's Host: what the session does to it when secrets change.
var _ lifecycle.Host = (*task)(nil)

// Publish makes the set's files what the task sees. It is what every change begins with, and waits until the
// task can be told of it: a signal that fails now would not be sent later.
func (t *task) Publish(ctx context.Context, set *secrets.Set) error {
	if err := t.state.await(ctx, taskPhase.attached); err != nil {
		return err
	}
	o := t.currentProcess().owner
	return t.files.Publish(t.withLinks(set), o.UID, o.GID)
}

// Fits says why a set's files have no room in the task's secrets directory.
func (t *task) Fits(set *secrets.Set) error {
	uid := -1 // a first container's user is seen when it waits at the launcher
	if p := t.currentProcess(); p.handle != nil {
		uid = p.owner.UID
	}
	return t.files.Fits(t.withLinks(set), uid)
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
func (t *task) Event(msg string) { t.d.events.emit(t.cfg, msg) }

// Restart replaces the task's process by one with the set's env (C8): stop, remove, start, all under
// one id, while WaitTask stays blocked and other calls wait. Before it the old process may finish (prestop.go).
func (t *task) Restart(parent, serving context.Context, set *secrets.Set) error {
	// Neither the end of the plugin nor of the session may leave the task without a process:
	// only StopTask ends a restart, through cancel.
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	defer cancel()
	begin, finishes := t.state.restart, t.mayFinish()
	if finishes {
		begin = t.state.finish
	}
	resumed, ok, err := begin(parent, cancel)
	if err != nil {
		return err
	}
	if !ok {
		return lifecycle.ErrEnded // StopTask is at it
	}
	return t.orBroken(func() error {
		if finishes {
			running, err := t.letFinish(ctx, parent, serving, resumed)
			if err != nil {
				return err
			}
			resumed = resumed || running
		}
		return t.replace(ctx, resumed, set)
	})
}

// restartCancelled brings a restart to its end that was interrupted and then cancelled: no process is started.
func (t *task) restartCancelled() error {
	ctx, cancel := context.WithCancel(t.d.ctx)
	cancel()
	return t.orBroken(func() error { return t.replace(ctx, true, t.session.Set()) })
}

// replace does a restart in place that has begun. resumed: the old process may have been asked to end already.
func (t *task) replace(ctx context.Context, resumed bool, set *secrets.Set) error {
	err := t.replaceProcess(ctx, resumed, set)
	if exit := t.state.restarted(); exit != nil && !errors.Is(err, errPluginEnds) { // the new process has ended already
		t.finish(exit)
	}
	return err
}

// orBroken does a restart in place that has begun. One that a panic ends is to be done again, as after a crash (C14), unless
// Nomad stops the task.
func (t *task) orBroken(do func() error) error {
	whole := false
	defer func() {
		if whole {
			return
		}
		if from, _ := t.state.on(restartBroken); from == phaseCancelled {
			t.finishLooked(&drivers.ExitResult{ExitCode: -1, Err: errors.New("stopped, in the midst of a restart for new secrets that failed because of an error in the plugin")})
		}
	}()
	err := do()
	whole = true
	return err
}

// errPluginEnds is of a restart in place that is left to the next process of the plugin, as after a crash.
var errPluginEnds = fmt.Errorf("the plugin ends: %w", lifecycle.ErrEnded)

// replaceProcess is the inside of replace. Where it returns an error the task has ended, or the plugin ends while it
// waits for the engine: the journal says then that the restart is to be done again.
func (t *task) replaceProcess(ctx context.Context, resumed bool, set *secrets.Set) error {
	before := t.currentProcess()
	waiting, stopWaiting := context.WithTimeout(ctx, engineAllowance)
	defer stopWaiting()
	defer context.AfterFunc(t.d.closing, stopWaiting)()
	t.noteRestart()
	crashpoint.Reached(crashpoint.SwapNoted, t.cfg.Name)
	t.holdLogsOver()

	old, byItself, saw := t.end(waiting, resumed)
	ended := time.Now()
	crashpoint.Reached(crashpoint.OldStopped, t.cfg.Name)
	switch {
	case t.d.ctx.Err() != nil:
		return errPluginEnds
	case saw != foundGone:
		return t.giveUp(old, fmt.Errorf("%w: %w", errUnconfirmed, old.Err))
	case byItself || t.isCancelled():
		t.finish(old)
		return lifecycle.ErrEnded
	}

	if err := t.withEngine(waiting, func() error { return t.clear(ctx, resumed) }); err != nil {
		return t.giveUp(old, fmt.Errorf("remove the old process: %w", err))
	}
	crashpoint.Reached(crashpoint.OldDestroyed, t.cfg.Name)
	// The old process may have been one that could make them its own.
	if err := errors.Join(taskdir.HardenPrivate(t.cfg.TaskDir().Dir), t.files.Harden()); err != nil {
		t.finish(&drivers.ExitResult{ExitCode: -1, Err: fmt.Errorf("restart for new secrets: %w", err)})
		return err
	}
	published := delivery{ // by the session, before it called us
		early: func() error { return nil },
		give:  func(ctx context.Context, _ owner) (*secrets.Set, error) { return set, t.ensureLive(ctx) },
	}
	var proc process
	again := false
	err := t.withEngine(waiting, func() (err error) {
		if again { // something of it may be left
			if err := t.clear(ctx, true); err != nil {
				return err
			}
		}
		again = true
		proc, err = t.runner.start(ctx, t, published)
		return err
	})
	switch {
	case errors.Is(err, errAddressChanged) && !t.isCancelled():
		t.finishLooked(&drivers.ExitResult{ExitCode: 1, Err: err})
		return lifecycle.ErrEnded
	case err != nil:
		return t.giveUp(old, err)
	}
	t.d.metrics.Restarted(time.Since(ended))
	t.setProcess(proc)
	t.watch()
	if err := t.writeRecord(false); err != nil {
		t.d.log.Error("the journal cannot be written; if the plugin restarts now, Nomad restarts the task", "task_id", t.cfg.ID, "error", err)
	}
	crashpoint.Reached(crashpoint.NewNoted, t.cfg.Name)
	if a, b := address(before.network), address(proc.network); a != b {
		t.Event(fmt.Sprintf("Secrets: the task's address is now %s, no longer %s; Nomad does not see this until it restarts the task itself", b, a))
	}
	return nil
}

// noteRestart journals that a restart in place is under way.
func (t *task) noteRestart() {
	if err := t.writeRecord(true); err != nil {
		t.d.log.Error("the journal cannot be written; a crash now makes Nomad restart the task", "task_id", t.cfg.ID, "error", err)
	}
}

// holdLogsOver holds the log pipes over the old process's end.
func (t *task) holdLogsOver() {
	if err := t.logs.hold(); err != nil {
		t.d.log.Warn("a log pipe has no reader; logs after this rotation will be lost", "task_id", t.cfg.ID, "error", err)
	}
}

var errUnconfirmed = errors.New("the process cannot be seen to have ended")

// giveUp ends a restart in place that failed. old is the old process's exit, as far as is known.
func (t *task) giveUp(old *drivers.ExitResult, err error) error {
	switch {
	case t.isCancelled():
		t.finishLooked(old)
		return lifecycle.ErrEnded
	case t.d.ctx.Err() != nil, t.d.closing.Err() != nil && (errors.Is(err, errUnconfirmed) || t.runner.away(t.d.ctx, err)): // the plugin ends, the restart does not
		return errPluginEnds
	}
	t.finishLooked(&drivers.ExitResult{ExitCode: -1, Err: fmt.Errorf("restart for new secrets: %w", err)})
	return err
}

// clear removes the old process; thorough: also one that no handle names.
func (t *task) clear(ctx context.Context, thorough bool) error {
	switch err := t.destroyProcess(true); {
	case err == nil, errors.Is(err, drivers.ErrTaskNotFound):
	case t.runner.away(ctx, err):
		return err
	default:
		t.d.log.Warn("the old process could not be removed", "task_id", t.cfg.ID, "error", err)
	}
	if !thorough {
		return nil
	}
	return t.runner.removeLeftovers(ctx, t.cfg, func() {})
}

// end stops the old process and waits until it is seen to have ended: for an engine that is away as long as waiting.
// byItself: it had ended before it was asked to, and not because it was told to finish, or by a restart that a crash of the
// plugin cut short.
func (t *task) end(waiting context.Context, resumed bool) (res *drivers.ExitResult, byItself bool, saw finding) {
	for {
		res, byItself = t.stopOnce(resumed)
		if saw = t.regain(waiting, res); saw != foundRunning {
			return res, byItself, saw
		}
		t.watch()
		t.d.log.Info("the engine was away in the midst of a restart in place, and the old process runs; it is stopped", "task_id", t.cfg.ID)
	}
}

// stopOnce stops the old process. Its exit may be only what the wrapped driver makes of an engine that is away.
func (t *task) stopOnce(resumed bool) (res *drivers.ExitResult, byItself bool) {
	exits := t.state.exitsOfRestart()
	select {
	case res := <-exits:
		return res, !resumed
	default:
	}
	spec := t.session.Spec()
	asked := time.Now()
	err := t.d.untilClosed(func() error { return t.d.inner.StopTask(t.innerID(), spec.StopTimeout, spec.StopSignal) })
	if err != nil && t.d.ctx.Err() == nil {
		t.d.log.Warn("the old process did not stop by its signal; it is killed", "task_id", t.cfg.ID, "error", err)
	}
	select {
	case res := <-exits:
		return res, !resumed && t.endedBefore(asked)
	case <-time.After(lifecycle.StopAllowance):
	case <-t.d.ctx.Done(): // it is left as it is
		return &drivers.ExitResult{Err: t.d.ctx.Err()}, false
	}
	if err := t.destroyProcess(true); err != nil {
		return &drivers.ExitResult{Err: fmt.Errorf("stop the old process: %w", err)}, false
	}
	select {
	case res := <-exits:
		return res, false
	case <-t.d.ctx.Done():
		return &drivers.ExitResult{Err: t.d.ctx.Err()}, false
	}
}

// endedBefore reports whether the process had ended by then. Its exit may be told us much later, when
// the machine is busy: the wrapped driver knows when it was.
func (t *task) endedBefore(then time.Time) bool {
	status, err := t.d.inner.InspectTask(t.innerID())
	return err == nil && !status.CompletedAt.IsZero() && status.CompletedAt.Before(then)
}

func (t *task) isCancelled() bool { return t.state.now() == phaseCancelled }
