package driver

import (
	"context"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// What each event does in each phase; an event that is not named is refused and changes nothing.
func TestTaskPhases(t *testing.T) {
	all := []taskEvent{waitEnded, reattached, interrupted, finishBegun, finishDone, finishAbandoned, restartBegun, restartDone, restartBroken, stopAsked, taskEnded, secretsGivenBack}
	for _, test := range []struct {
		in   taskPhase
		want map[taskEvent]taskPhase
	}{
		{phaseRunning, map[taskEvent]taskPhase{
			waitEnded: phaseDetached, interrupted: phaseInterrupted, finishBegun: phaseFinishing, restartBegun: phaseReplacing,
			stopAsked: phaseStopping, taskEnded: phaseEnded,
		}},
		{phaseDetached, map[taskEvent]taskPhase{reattached: phaseRunning, taskEnded: phaseEnded}},
		{phaseInterrupted, map[taskEvent]taskPhase{
			finishBegun: phaseFinishing, restartBegun: phaseReplacing, stopAsked: phaseCancelled, taskEnded: phaseEnded,
		}},
		{phaseFinishing, map[taskEvent]taskPhase{
			finishDone: phaseReplacing, finishAbandoned: phaseRunning, restartBroken: phaseRunning, stopAsked: phaseStopping, taskEnded: phaseEnded,
		}},
		{phaseReplacing, map[taskEvent]taskPhase{restartDone: phaseRunning, restartBroken: phaseInterrupted, stopAsked: phaseCancelled, taskEnded: phaseEnded}},
		{phaseCancelled, map[taskEvent]taskPhase{restartDone: phaseStopping, restartBroken: phaseStopping, stopAsked: phaseCancelled, taskEnded: phaseEnded}},
		{phaseStopping, map[taskEvent]taskPhase{waitEnded: phaseStoppingDetached, stopAsked: phaseStopping, taskEnded: phaseEnded}},
		{phaseStoppingDetached, map[taskEvent]taskPhase{reattached: phaseStopping, taskEnded: phaseEnded}},
		{phaseEnded, map[taskEvent]taskPhase{stopAsked: phaseEnded, secretsGivenBack: phaseReleased}},
		{phaseReleased, map[taskEvent]taskPhase{stopAsked: phaseReleased}},
	} {
		for _, e := range all {
			s := taskState{phase: test.in}
			from, ok := s.on(e)
			want, accepted := test.want[e]
			if !accepted {
				want = test.in
			}
			must.EqOp(t, test.in, from)
			must.EqOp(t, accepted, ok, must.Sprintf("phase %d, event %d", test.in, e))
			must.EqOp(t, want, s.now(), must.Sprintf("phase %d, event %d", test.in, e))
		}
	}
}

// What an earlier wait tells late, when another process is waited for, is neither the task's end nor a restart's.
func TestLateExits(t *testing.T) {
	var s taskState
	late, last := s.newWait(), s.newWait()
	must.False(t, s.detach(late))
	must.True(t, s.exited(late, &drivers.ExitResult{}))
	must.EqOp(t, phaseRunning, s.now())
	_, ok, err := s.restart(t.Context(), func() {})
	must.NoError(t, err)
	must.True(t, ok)
	must.True(t, s.exited(late, &drivers.ExitResult{}))
	notYet(t, s.exitsOfRestart())
	must.True(t, s.exited(last, &drivers.ExitResult{ExitCode: 1}))
	must.EqOp(t, 1, s.restarted().ExitCode)

	must.True(t, s.detach(last))
	must.False(t, s.exited(last, &drivers.ExitResult{}))
}

// An exit in the midst of a restart in place is the restart's; any other is the task's.
func TestExitsOfARestart(t *testing.T) {
	var s taskState
	must.False(t, s.exited(0, &drivers.ExitResult{}))
	ctx, cancel := context.WithCancel(t.Context())
	resumed, ok, err := s.restart(t.Context(), cancel)
	must.NoError(t, err)
	must.True(t, ok)
	must.False(t, resumed)
	must.True(t, s.exited(0, &drivers.ExitResult{ExitCode: 1}))
	must.EqOp(t, 1, await(t, s.exitsOfRestart()).ExitCode)
	must.True(t, s.exited(0, &drivers.ExitResult{ExitCode: 2}))
	must.EqOp(t, 2, s.restarted().ExitCode)
	must.EqOp(t, phaseRunning, s.now())

	_, ok, err = s.restart(t.Context(), cancel)
	must.NoError(t, err)
	must.True(t, ok)
	_, again, _ := s.restart(t.Context(), cancel)
	must.False(t, again, must.Sprint("one at a time"))
	from, err := s.stop(t.Context())
	must.NoError(t, err)
	must.EqOp(t, phaseReplacing, from)
	must.ErrorIs(t, ctx.Err(), context.Canceled)
	must.Nil(t, s.restarted())
	must.EqOp(t, phaseStopping, s.now(), must.Sprint("what has been asked for stays asked for"))
	n, now := s.begun()
	must.EqOp(t, 2, n)
	must.False(t, now)
}

// The first end is the task's, and what is to be done before anybody hears of it is done before.
func TestOneEnd(t *testing.T) {
	var s taskState
	heard := make(chan error, 1)
	go func() { heard <- s.await(t.Context(), taskPhase.over) }()
	must.True(t, s.end(&drivers.ExitResult{ExitCode: 1}, func() { notYet(t, heard) }))
	must.NoError(t, await(t, heard))
	must.False(t, s.end(&drivers.ExitResult{ExitCode: 2}, func() { t.Error("done twice") }))
	must.EqOp(t, 1, s.exitResult().ExitCode)
	_, ok, err := s.restart(t.Context(), func() {})
	must.NoError(t, err)
	must.False(t, ok)
}
