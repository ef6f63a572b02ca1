package driver

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// taskPhase is where a task stands. It belongs to the task's taskState.
type taskPhase int

const (
	phaseRunning          taskPhase = iota // the process runs, as far as is known
	phaseDetached                          // the wrapped driver's wait for it has ended; whether it is still running is being found out
	phaseInterrupted                       // an earlier process of the plugin ended in the midst of a restart in place, which is to be done again
	phaseFinishing                         // a restart in place has begun, and the old process may finish what it is serving: calls go on to it
	phaseReplacing                         // a restart in place is under way
	phaseCancelled                         // the same, but Nomad has asked for the end: no process is started any more
	phaseStopping                          // Nomad has asked for the end
	phaseStoppingDetached                  // the same, but the wrapped driver's wait has ended as in phaseDetached
	phaseEnded                             // the result is final
	phaseReleased                          // and the secrets are given back
)

// taskEvent is what moves a task from one phase to another.
type taskEvent int

const (
	waitEnded        taskEvent = iota // the wrapped driver's wait for the process
	reattached                        // the process is still running, and the wrapped driver waits for it again
	interrupted                       // recovery finds a restart in place that was cut short
	finishBegun                       // a restart in place that lets the old process finish
	finishDone                        // its time is over, or it has ended
	finishAbandoned                   // the watch over the task has ended
	restartBegun                      //
	restartDone                       // the new process runs
	restartBroken                     // by a panic
	stopAsked                         // by Nomad
	taskEnded                         //
	secretsGivenBack                  //
)

// transitions are all there are. An event that a phase does not name is refused in that phase.
var transitions = map[taskPhase]map[taskEvent]taskPhase{
	phaseRunning: {
		waitEnded: phaseDetached, interrupted: phaseInterrupted, finishBegun: phaseFinishing, restartBegun: phaseReplacing,
		stopAsked: phaseStopping, taskEnded: phaseEnded,
	},
	phaseDetached:         {reattached: phaseRunning, taskEnded: phaseEnded},
	phaseInterrupted:      {finishBegun: phaseFinishing, restartBegun: phaseReplacing, stopAsked: phaseCancelled, taskEnded: phaseEnded},
	phaseFinishing:        {finishDone: phaseReplacing, finishAbandoned: phaseRunning, restartBroken: phaseRunning, stopAsked: phaseStopping, taskEnded: phaseEnded},
	phaseReplacing:        {restartDone: phaseRunning, restartBroken: phaseInterrupted, stopAsked: phaseCancelled, taskEnded: phaseEnded},
	phaseCancelled:        {restartDone: phaseStopping, restartBroken: phaseStopping, stopAsked: phaseCancelled, taskEnded: phaseEnded},
	phaseStopping:         {waitEnded: phaseStoppingDetached, stopAsked: phaseStopping, taskEnded: phaseEnded},
	phaseStoppingDetached: {reattached: phaseStopping, taskEnded: phaseEnded},
	phaseEnded:            {stopAsked: phaseEnded, secretsGivenBack: phaseReleased},
	phaseReleased:         {stopAsked: phaseReleased},
}

// detached reports whether it is not known whether the process runs.
func (p taskPhase) detached() bool { return p == phaseDetached || p == phaseStoppingDetached }

// attached is the opposite of detached.
func (p taskPhase) attached() bool { return !p.detached() }

// between reports whether the task is between two processes.
func (p taskPhase) between() bool {
	return p == phaseInterrupted || p == phaseReplacing || p == phaseCancelled
}

// restarting reports whether an exit is that of a restart in place.
func (p taskPhase) restarting() bool { return p == phaseFinishing || p.between() }

// settled is the opposite of between.
func (p taskPhase) settled() bool { return !p.between() }

// over reports whether the task has ended.
func (p taskPhase) over() bool { return p == phaseEnded || p == phaseReleased }

// taskState is the one owner of where a task stands, and of what depends on it. The zero value is a running task's.
type taskState struct {
	mu       sync.Mutex // guards all
	phase    taskPhase
	changed  chan struct{} // closed when the phase changes; nil if nobody waits for that
	process  process       // the current one, or the last
	result   *drivers.ExitResult
	restarts int       // in place, begun so far
	last     time.Time // when the last of them was done; zero: none was
	waits    int       // for a process, begun so far

	// Of a restart in place:
	exits  chan *drivers.ExitResult // the old process's, then perhaps the new one's
	cancel context.CancelFunc
}

// on takes an event in. from is the phase before it; ok is false if that refuses it.
func (s *taskState) on(e taskEvent) (from taskPhase, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.onLocked(e)
}

func (s *taskState) onLocked(e taskEvent) (from taskPhase, ok bool) {
	from = s.phase
	to, ok := transitions[from][e]
	if !ok {
		return from, false
	}
	if !from.restarting() && to.restarting() {
		s.exits = make(chan *drivers.ExitResult, 2) // room for both: an exit waits for nobody
	}
	if !from.between() && to.between() {
		s.restarts++
	}
	if e == restartDone {
		s.last = time.Now()
	}
	s.phase = to
	if to != from && s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return from, true
}

// onceAttached takes an event in at a moment when it is known whether the process runs. If it is not refused, then is
// called, with the state locked and the phase before.
func (s *taskState) onceAttached(ctx context.Context, e taskEvent, then func(from taskPhase)) error {
	for {
		s.mu.Lock()
		if s.phase.attached() {
			if from, ok := s.onLocked(e); ok {
				then(from)
			}
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		if err := s.await(ctx, taskPhase.attached); err != nil {
			return err
		}
	}
}

// await returns once the phase is one of those.
func (s *taskState) await(ctx context.Context, those func(taskPhase) bool) error {
	for {
		s.mu.Lock()
		if those(s.phase) {
			s.mu.Unlock()
			return nil
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *taskState) now() taskPhase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase
}

// begun is how many restarts in place there have been, and whether one is under way.
func (s *taskState) begun() (n int, now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restarts, s.phase.between()
}

// lastRestart is when the last restart in place was done; zero: this process of the plugin has made none.
func (s *taskState) lastRestart() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// restart begins a restart in place, unless the task ends; cancel is how Nomad's stop ends it. resumed: an earlier
// process of the plugin had begun it.
func (s *taskState) restart(ctx context.Context, cancel context.CancelFunc) (resumed, ok bool, err error) {
	return s.begin(ctx, restartBegun, cancel)
}

// finish begins one in which the old process may finish first: it ends with finishDone.
func (s *taskState) finish(ctx context.Context, cancel context.CancelFunc) (resumed, ok bool, err error) {
	return s.begin(ctx, finishBegun, cancel)
}

func (s *taskState) begin(ctx context.Context, e taskEvent, cancel context.CancelFunc) (resumed, ok bool, err error) {
	err = s.onceAttached(ctx, e, func(from taskPhase) {
		resumed, ok = from == phaseInterrupted, true
		s.cancel = cancel
		if e == finishBegun && len(s.exits) > 0 { // it has ended since recovery
			s.onLocked(finishDone)
		}
	})
	return resumed, ok, err
}

// stop takes Nomad's request for the end in: a restart in place starts no process any more. from is the phase before.
func (s *taskState) stop(ctx context.Context) (from taskPhase, err error) {
	err = s.onceAttached(ctx, stopAsked, func(was taskPhase) {
		from = was
		if s.cancel != nil {
			s.cancel()
		}
	})
	return from, err
}

// exited takes in an exit that a wait has told, if it is a restart's. One of an earlier wait than the last is nobody's: another
// process is waited for by now.
func (s *taskState) exited(wait int, res *drivers.ExitResult) (taken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait != s.waits {
		return true
	}
	if !s.phase.restarting() {
		return false
	}
	s.exits <- res
	if s.phase == phaseFinishing { // there is nothing left that calls could go to
		s.onLocked(finishDone)
	}
	return true
}

// detach takes in that a wait has ended, if it is the last and not a restart's: whether the process runs is to be found out.
func (s *taskState) detach(wait int) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait == s.waits {
		_, ok = s.onLocked(waitEnded)
	}
	return ok
}

// newWait begins a wait for the current process. What those before it tell, or have told, is of no interest any more.
func (s *taskState) newWait() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		select {
		case <-s.exits:
			continue
		default:
		}
		s.waits++
		return s.waits
	}
}

// exitsOfRestart are the exits of the processes of the restart in place that is under way.
func (s *taskState) exitsOfRestart() <-chan *drivers.ExitResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exits
}

// restarted ends a restart in place. exit is the new process's, if that has ended already.
func (s *taskState) restarted() (exit *drivers.ExitResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel = nil
	s.onLocked(restartDone) // refused if the task has ended
	select {
	case exit = <-s.exits:
	default:
	}
	return exit
}

// end makes res the task's end, unless it has one. What is to be done before anybody hears of it is done by before.
func (s *taskState) end(res *drivers.ExitResult, before func()) (ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase.over() {
		return false
	}
	s.result = res
	before()
	s.onLocked(taskEnded)
	return true
}

// exitResult is the task's, nil until it has ended.
func (s *taskState) exitResult() *drivers.ExitResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.result == nil {
		return nil
	}
	return s.result.Copy()
}

func (s *taskState) setProcess(p process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process = p
}

// updateProcess changes the current process as it is by then: what was read of it before may be old.
func (s *taskState) updateProcess(change func(*process)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.process)
}

func (s *taskState) currentProcess() process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}
