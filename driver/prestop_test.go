package driver

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// finishingTask is a task that may finish for a long time before it is restarted in place, and is told with SIGUSR1.
func finishingTask(t *testing.T, r *fakeRunner, wait time.Duration) *task {
	tk := fakeTask(t, r)
	tk.session.(*fakeSession).spec = &secrets.Spec{StopTimeout: time.Second, PreStopSignal: "SIGUSR1", PreStopWait: wait}
	return tk
}

func restartWhile(serving context.Context, tk *task) <-chan error {
	done := make(chan error, 1)
	go func() { done <- tk.Restart(context.Background(), serving, &secrets.Set{}) }()
	return done
}

// The process is told, has the time, and is then replaced.
func TestPreStop(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	tk := finishingTask(t, r, 50*time.Millisecond)
	exits := tk.wait(t.Context())
	began := time.Now()
	must.NoError(t, await(t, restart(tk)))
	must.GreaterEq(t, 50*time.Millisecond, time.Since(began))
	must.Eq(t, "SIGUSR1", await(t, r.inner.signals))
	must.Eq(t, 1, r.starts)
	notYet(t, r.inner.signals)
	notYet(t, exits)
	r.inner.end(tk.cfg.ID, 7)
	must.Eq(t, 7, await(t, exits).ExitCode, must.Sprint("the new process's end is the task's"))
}

// Without a time the process is told and stopped; without a signal it just has the time.
func TestPreStopInPart(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	tk := finishingTask(t, r, 0)
	must.NoError(t, await(t, restart(tk)))
	must.Eq(t, "SIGUSR1", await(t, r.inner.signals))

	r = &fakeRunner{inner: newFakeInner()}
	tk = finishingTask(t, r, 50*time.Millisecond)
	tk.session.(*fakeSession).spec.PreStopSignal = ""
	began := time.Now()
	must.NoError(t, await(t, restart(tk)))
	must.GreaterEq(t, 50*time.Millisecond, time.Since(began))
	notYet(t, r.inner.signals)
}

// C8: while the process finishes, calls go on to it.
func TestCallsWhileFinishing(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	tk := finishingTask(t, r, time.Hour)
	serving, over := context.WithCancel(t.Context())
	done := restartWhile(serving, tk)
	must.Eq(t, "SIGUSR1", await(t, r.inner.signals))
	must.NoError(t, tk.d.SignalTask(tk.cfg.ID, "SIGHUP"))
	must.Eq(t, "SIGHUP", await(t, r.inner.signals))
	status, err := tk.d.InspectTask(tk.cfg.ID)
	must.NoError(t, err)
	must.Eq(t, drivers.TaskStateRunning, status.State)
	stats, err := tk.stats(t.Context(), time.Second)
	must.NoError(t, err)
	must.NotNil(t, await(t, stats))
	_, err = tk.execWith(t.Context(), tk.session.Set, []string{"true"}, time.Second)
	must.ErrorContains(t, err, "not in this test", must.Sprint("it did not wait"))
	notYet(t, done)
	must.Zero(t, r.starts)
	must.Error(t, tk.destroy(false), must.Sprint("the task runs"))

	over() // what it has ends: the rest of the time is not waited for
	must.NoError(t, await(t, done))
	must.NotNil(t, await(t, stats))
}

// C8: a process that ends by itself while it finishes is replaced at once, and its end is not the task's.
func TestEndsWhileFinishing(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner(), arrived: make(chan struct{}, 1), hold: make(chan struct{})}
	tk := finishingTask(t, r, time.Hour)
	exits := tk.wait(t.Context())
	done := restart(tk)
	must.Eq(t, "SIGUSR1", await(t, r.inner.signals))
	r.inner.end(tk.cfg.ID, 3)
	await(t, r.arrived)
	must.EqOp(t, phaseReplacing, tk.state.now(), must.Sprint("calls wait"))
	close(r.hold)
	must.NoError(t, await(t, done))
	notYet(t, exits)
	must.Eq(t, 1, r.starts)
	must.False(t, tk.session.(*fakeSession).isPending())
}

// C8: but one that had ended before it was told has exited, though that is known only now.
func TestEndedBeforeItWasTold(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	r.inner.late = make(chan struct{})
	tk := finishingTask(t, r, time.Hour)
	r.inner.end(tk.cfg.ID, 3)
	done := restart(tk)
	await(t, r.inner.signals)
	close(r.inner.late)
	must.ErrorIs(t, await(t, done), lifecycle.ErrEnded)
	must.Eq(t, 3, await(t, tk.wait(t.Context())).ExitCode)
	must.Zero(t, r.starts)
}

// C8: StopTask, and a removal by force, end the process at once, however long it might finish.
func TestStopWinsOverFinishing(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*task) error
		exit []int
	}{
		{"stop", func(tk *task) error { return tk.stop(time.Second, "") }, []int{143}},
		{"destroy", func(tk *task) error { return tk.destroy(true) }, []int{143, -1}}, // whichever is told first
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &fakeRunner{inner: newFakeInner()}
			tk := finishingTask(t, r, time.Hour)
			exits := tk.wait(t.Context())
			done := restart(tk)
			await(t, r.inner.signals)
			must.NoError(t, test.end(tk))
			must.ErrorIs(t, await(t, done), lifecycle.ErrEnded)
			must.SliceContains(t, test.exit, await(t, exits).ExitCode)
			must.Zero(t, r.starts)
		})
	}
}

// E2: the end of the watch, as with the plugin's, leaves the process as it is. The journal has what a later process of
// the plugin needs: it goes on with the time that is left.
func TestFinishingIsResumed(t *testing.T) {
	interruptedAt := func(t *testing.T, wait time.Duration) (*fakeRunner, *task) {
		r := &fakeRunner{inner: newFakeInner()}
		tk := finishingTask(t, r, wait)
		watch, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- tk.Restart(watch, watch, &secrets.Set{}) }()
		await(t, r.inner.signals)
		end()
		must.ErrorIs(t, await(t, done), context.Canceled)
		must.EqOp(t, phaseRunning, tk.state.now())
		must.NotNil(t, r.inner.get(tk.cfg.ID))
		must.Zero(t, len(r.inner.stopped))

		n, cfg, _, err := decodeRecord(tk.session.Driver())
		must.NoError(t, err)
		must.True(t, n.Replacing)
		must.False(t, n.FinishBy.IsZero())
		tk.finishBy = n.FinishBy
		handle := drivers.NewTaskHandle(1)
		handle.Config = cfg
		must.NoError(t, tk.resumeRestart(handle))
		return r, tk
	}
	t.Run("in the time that is left", func(t *testing.T) {
		r, tk := interruptedAt(t, time.Hour)
		by := tk.finishBy
		exits := tk.wait(t.Context())
		done := restart(tk)
		must.Eq(t, "SIGUSR1", await(t, r.inner.signals))
		must.NoError(t, tk.d.SignalTask(tk.cfg.ID, "SIGHUP"), must.Sprint("calls go on"))
		n, _, _, err := decodeRecord(tk.session.Driver())
		must.NoError(t, err)
		must.True(t, by.Equal(n.FinishBy), must.Sprint("the time does not begin anew"))
		r.inner.end(tk.cfg.ID, 0)
		must.NoError(t, await(t, done))
		must.Eq(t, 1, r.starts)
		notYet(t, exits)
	})
	t.Run("after it", func(t *testing.T) {
		r, tk := interruptedAt(t, time.Hour)
		tk.finishBy = time.Now()
		must.NoError(t, await(t, restart(tk)))
		must.Eq(t, 1, r.starts)
		notYet(t, r.inner.signals)
	})
	t.Run("it has ended meanwhile", func(t *testing.T) {
		r, tk := interruptedAt(t, time.Hour)
		exits := tk.wait(t.Context())
		r.inner.end(tk.cfg.ID, 0)
		must.NoError(t, await(t, restart(tk)))
		must.Eq(t, 1, r.starts)
		notYet(t, r.inner.signals)
		notYet(t, exits)
	})
	t.Run("StopTask comes first", func(t *testing.T) {
		r, tk := interruptedAt(t, time.Hour)
		must.NoError(t, tk.stop(0, "SIGTERM"))
		must.Error(t, await(t, restart(tk)))
		must.Zero(t, r.starts)
	})
}

// A restart in place that was done leaves no time behind for the next.
func TestFinishingTwice(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	tk := finishingTask(t, r, time.Hour)
	for range 2 {
		done := restart(tk)
		must.Eq(t, "SIGUSR1", await(t, r.inner.signals))
		r.inner.end(tk.cfg.ID, 0)
		must.NoError(t, await(t, done))
	}
	n, _, _, err := decodeRecord(tk.session.Driver())
	must.NoError(t, err)
	must.False(t, n.Replacing)
	must.True(t, n.FinishBy.IsZero())
	must.Eq(t, 2, r.starts)
}

// The process may not finish longer than what it has is valid.
func TestFinishingIsCutShort(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	tk := finishingTask(t, r, time.Hour)
	serving, cancel := context.WithDeadline(t.Context(), time.Now().Add(50*time.Millisecond))
	defer cancel()
	must.NoError(t, await(t, restartWhile(serving, tk)))
	must.Eq(t, 1, r.starts)

	ended, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	must.NoError(t, await(t, restartWhile(ended, tk)))
	must.Eq(t, 2, r.starts)
	must.Len(t, 2, []string{await(t, r.inner.signals), await(t, r.inner.signals)}, must.Sprint("it is told all the same"))
}

// A command that the end of a finishing process has ended is known to be that restart's, and runs again; one that failed
// while the process runs on has just failed.
func TestCommandEndsWithAFinishingProcess(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	tk := finishingTask(t, r, time.Hour)
	before, _ := tk.state.begun()
	done := restart(tk)
	must.Eq(t, "SIGUSR1", await(t, r.inner.signals))
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	must.False(t, tk.restartedSince(short, before))
	disturbed := make(chan bool, 1)
	go func() { disturbed <- tk.restartedSince(t.Context(), before) }()
	r.inner.end(tk.cfg.ID, 0)
	must.True(t, await(t, disturbed))
	must.NoError(t, await(t, done))
}
