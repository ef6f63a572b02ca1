package driver

import (
	"context"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

// Before the stop of a restart in place the job may have the old process signalled (pre_stop_signal), and give it time to
// finish what it is serving (pre_stop_wait). It is the task's process all the while, and calls go on to it. Its end in
// that time is not the task's: the new process is started at once.

// mayFinish reports whether the next restart in place lets the old process finish. After a crash of the plugin in the
// midst of one, the process has what is left of the time, if it is still there.
func (t *task) mayFinish() bool {
	spec := t.session.Spec()
	if spec.PreStopSignal == "" && spec.PreStopWait == 0 {
		return false
	}
	return t.state.now() != phaseInterrupted || time.Now().Before(t.finishBy) && t.d.innerRuns(t.innerID())
}

// letFinish signals to the old process that it will be stopped, and waits for its end, no longer than the job says, and no
// longer than serving. running: it was so then, so that its end is of the restart. After an error there is no restart:
// Nomad stops the task, or parent, which is the watch over it, has ended.
func (t *task) letFinish(ctx, parent, serving context.Context, resumed bool) (running bool, err error) {
	asked := time.Now()
	spec := t.session.Spec()
	if !resumed {
		t.finishBy = asked.Add(spec.PreStopWait)
	}
	if limit, ok := serving.Deadline(); ok && limit.Before(t.finishBy) {
		t.finishBy = limit
	}
	t.noteRestart() // now, since its end from now on is no exit, also to a later process of the plugin
	t.holdLogsOver()
	if spec.PreStopSignal != "" && t.state.now() == phaseFinishing {
		if err := t.d.inner.SignalTask(t.innerID(), spec.PreStopSignal); err != nil {
			t.d.log.Warn("pre_stop_signal could not be sent", "task_id", t.cfg.ID, "signal", spec.PreStopSignal, "error", err)
		}
	}
	wait, done := context.WithDeadline(serving, t.finishBy)
	defer done()
	defer context.AfterFunc(ctx, done)()
	_ = t.state.await(wait, func(p taskPhase) bool { return p != phaseFinishing })

	if parent.Err() != nil {
		if _, ok := t.state.on(finishAbandoned); ok { // the next process of the plugin goes on with it, by the journal
			t.state.restarted()
			return false, parent.Err()
		}
	}
	t.state.on(finishDone) // refused if its end did so before
	if !t.state.now().between() {
		t.state.restarted()
		return false, lifecycle.ErrEnded
	}
	t.finishBy = time.Now()
	return !t.endedBefore(asked), nil
}
