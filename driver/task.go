package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// task is one task with secrets, over all the processes it has in its life. To Nomad it is one
// process; to the inner driver each of them is a task of its own, one after another, by one id.
type task struct {
	d       *Driver
	cfg     *drivers.TaskConfig // as Nomad gave it, less the tokens that the task did not ask for
	options map[string]any      // the wrapped driver's part of the job's config
	runner  runner
	files   *taskdir.Publisher
	logs    *logPipes
	session session
	nomad   nomadIdentity
	state   taskState
	lives   atomic.Pointer[[]*liveDir] // set once, before the task has a process

	finishBy time.Time // of the last restart in place: until when the old process might finish; the session's calls use it

	waiting slots          // for commands that wait at the launcher
	scripts sync.WaitGroup // change_scripts in the task, also those that took too long

	destroying   sync.Mutex  // held while what the task has left is removed
	unconfirmed  atomic.Bool // the task has ended by finishUnconfirmed
	destroyLater atomic.Bool // Nomad has asked for that while the engine was away
}

// session is the life of the task's secrets, as the task needs it: a *lifecycle.Session.
type session interface {
	Set() *secrets.Set
	Spec() *secrets.Spec
	Driver() json.RawMessage
	SetDriver(json.RawMessage) error
	Given(env map[string]string) (events []string)
	Deliver(context.Context) (*secrets.Set, error)
	Watch()
	EnqueueRevocations()
	End()
	Live(secret string) (secrets.Fields, time.Time)
	Reading(secret string) bool
	RegistryLogin() *secrets.RegistryLogin
	ImagePulled()
}

// process is what is known of the task's current process.
type process struct {
	id      string              // to the wrapped driver; empty: the task's own
	lost    []string            // by which the wrapped driver knew it before it was reattached to
	handle  *drivers.TaskHandle // scrubbed
	network *drivers.DriverNetwork
	owner   owner  // of the process, and so of the task's files
	image   string // docker: the id that rotations stay with (C10)
	channel bool   // docker: the container has the task's channel; one of an older plugin's has none
}

// delivery is what a process that is being started gets.
type delivery struct {
	// early publishes the files as root's, while there is nobody yet to read them: what a container binds by name is to be
	// there when that is created.
	early func() error
	// give publishes the files as the process's user's, and says with which set the program is to run. It is called
	// before that does (S1), when the user is known.
	give func(context.Context, owner) (*secrets.Set, error)
}

// owner is a user and a group, as the host sees them.
type owner = launcher.Owner

// runner starts a task's process under a wrapped driver: what differs between docker and raw_exec.
type runner interface {
	// removeLeftovers removes what an earlier start of the same task left behind. If there is a process it calls
	// found first.
	removeLeftovers(ctx context.Context, cfg *drivers.TaskConfig, found func()) error

	// start runs the inner driver's StartTask, and returns once the task's program runs with what it is to have.
	// On error nothing of it is left.
	start(ctx context.Context, t *task, what delivery) (process, error)

	// seek finds out whether a process that the wrapped driver does not wait for runs. It waits for an engine that is
	// away until ctx ends.
	seek(ctx context.Context, p process) finding

	// remove stops and removes a process that the wrapped driver need not know.
	remove(ctx context.Context, p process, timeout time.Duration, signal string) error

	// away reports whether something failed so since the engine is away, and may be done again.
	away(ctx context.Context, err error) bool

	// envRoom is what EnvRoom says of such a task.
	envRoom(t *task) int

	// endStrays ends what commands in a task that has ended have left.
	endStrays(cfg *drivers.TaskConfig) error

	// holdCommand prepares a command to be run in the task: a start that waits at the launcher, and the argv that
	// runs the launcher in the task.
	holdCommand(t *task) (hold *launcher.Hold, argv []string, err error)
}

// innerConfig is the config for one inner StartTask: the task's, with its own env and options.
func (t *task) innerConfig(env map[string]string, options map[string]any) (*drivers.TaskConfig, error) {
	cfg := t.cfg.Copy()
	cfg.Env = withEnv(withEnv(cfg.Env, t.nomadTokens()), env)
	for _, name := range t.nomad.hidden() {
		delete(cfg.Env, name)
	}
	if err := cfg.EncodeConcreteDriverConfig(options); err != nil {
		return nil, fmt.Errorf("write the wrapped driver's config: %w", err)
	}
	return cfg, nil
}

func (t *task) setProcess(p process) { t.state.setProcess(p) }

func (t *task) currentProcess() process { return t.state.currentProcess() }

// discardProcess undoes a start, and reports whether it could.
func (t *task) discardProcess() bool {
	_ = t.d.inner.StopTask(t.cfg.ID, 0, "SIGKILL")
	if err := t.d.inner.DestroyTask(t.cfg.ID, true); err != nil && !errors.Is(err, drivers.ErrTaskNotFound) {
		t.d.log.Error("a process that was started could not be removed", "task_id", t.cfg.ID, "error", err)
		return false
	}
	return true
}

// watch waits for the current process to end. Its end is the task's, unless a restart in place made it.
func (t *task) watch() {
	id, wait := t.innerID(), t.state.newWait()
	t.d.background.Go(func() {
		exits, err := t.d.inner.WaitTask(t.d.ctx, id)
		if err != nil {
			t.exited(wait, &drivers.ExitResult{ExitCode: -1, Err: err})
			return
		}
		select {
		case res, ok := <-exits:
			if ok && t.d.ctx.Err() == nil {
				t.waitEnded(wait, res)
			}
		case <-t.d.ctx.Done(): // the plugin ends, the task does not
		}
	})
}

func (t *task) exited(wait int, res *drivers.ExitResult) {
	if !t.state.exited(wait, res) {
		t.finish(res)
	}
}

// finish makes res the task's end, unless it has ended. That its leases are to be revoked is on record before anybody
// hears of it: Nomad, once it knows, hands the task to no recovery, even if its DestroyTask finds us dead (E2). The
// session is joined after, since it may be waiting for who called.
func (t *task) finish(res *drivers.ExitResult) {
	if !t.endWith(res, t.session.EnqueueRevocations) {
		return
	}
	t.d.background.Go(func() {
		t.session.End()
		t.state.on(secretsGivenBack)
	})
}

// endWith makes res the task's end, unless it has ended. First is done before anybody hears of it.
func (t *task) endWith(res *drivers.ExitResult, first func()) (ended bool) {
	if res.Err != nil { // Nomad makes an event of it
		res = res.Copy()
		res.Err = secrets.ShortError(res.Err)
	}
	return t.state.end(res, func() {
		crashpoint.Reached(crashpoint.ExitSeen, t.cfg.Name)
		first()
		t.logs.release()
	})
}

func (t *task) wait(ctx context.Context) <-chan *drivers.ExitResult {
	out := make(chan *drivers.ExitResult, 1)
	t.d.background.Go(func() {
		defer close(out)
		either, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(t.d.ctx, cancel)()
		switch {
		case t.state.await(either, taskPhase.over) == nil:
			out <- t.state.exitResult()
		case ctx.Err() != nil:
			out <- &drivers.ExitResult{Err: ctx.Err()}
		} // else the plugin ends, and the task does not
	})
	return out
}

// stop stops whatever process the task has. A restart in place that is under way is ended: it starts no new process
// that has not begun, and one that has begun is stopped.
func (t *task) stop(timeout time.Duration, signal string) error {
	from, err := t.state.stop(t.d.ctx)
	if err != nil {
		return err
	}
	crashpoint.Reached(crashpoint.StopAsked, t.cfg.Name)
	err = t.d.inner.StopTask(t.innerID(), timeout, signal)
	if !from.between() {
		return err
	}
	if from == phaseInterrupted { // the session, which would have resumed it, is refused from now on
		_ = t.restartCancelled()
	}
	_ = t.state.await(context.Background(), taskPhase.settled) // which the restart sees to
	if t.state.now().over() {
		return nil
	}
	return t.d.inner.StopTask(t.innerID(), timeout, signal)
}

// destroy removes the task's process, files and secrets.
func (t *task) destroy(force bool) error {
	if t.state.now().restarting() {
		if !force {
			return errors.New("the task is running: stop it first, or force its removal")
		}
		if err := t.stop(0, "SIGKILL"); err != nil && !errors.Is(err, drivers.ErrTaskNotFound) {
			return err
		}
	}
	removed := t.innerID()
	if err := t.destroyProcess(force); err != nil && !(t.state.now().over() && errors.Is(err, drivers.ErrTaskNotFound)) {
		t.destroyLater.Store(true) // by whoever sees the process gone, if the task has ended unconfirmed
		return err
	}
	t.finish(&drivers.ExitResult{ExitCode: -1, Err: errors.New("the task was destroyed")})
	if t.innerID() != removed { // it was reattached to meanwhile, and is not from now on
		if err := t.destroyProcess(force); err != nil && !errors.Is(err, drivers.ErrTaskNotFound) {
			return err
		}
	}
	if t.unconfirmed.Load() && !t.lookAgain() {
		return errUnconfirmed
	}
	if err := t.state.await(t.d.ctx, func(p taskPhase) bool { return p == phaseReleased }); err != nil {
		return err // the plugin ends
	}
	if err := t.runner.endStrays(t.cfg); err != nil {
		t.d.log.Warn("what commands in a task have left could not be ended", "task_id", t.cfg.ID, "error", err)
	}
	_ = t.d.untilClosed(func() error { t.scripts.Wait(); return nil }) // their process has ended with the task's
	t.destroying.Lock()
	defer t.destroying.Unlock()
	if t.d.tasks.get(t.cfg.ID) != t {
		return nil // another has done it, and the directories may be a later start's by now
	}
	if err := t.removeFiles(); err != nil {
		t.d.log.Warn("a task's secret files could not be removed", "task_id", t.cfg.ID, "error", err)
	}
	t.d.tasks.remove(t.cfg.ID)
	crashpoint.Reached(crashpoint.Destroyed, t.cfg.Name)
	return nil
}

// removeFiles takes away what the task had in its secrets directory, and its channel.
func (t *task) removeFiles() error {
	t.d.removeChannel(t.cfg)
	t.removeLive()
	return errors.Join(t.files.Remove(), t.files.Close())
}

// inspect is the inner driver's word on the current process, or ours where there is none any more.
func (t *task) inspect() (*drivers.TaskStatus, error) {
	status, err := t.d.inner.InspectTask(t.innerID())
	result := t.state.exitResult()
	if result == nil {
		return status, err
	}
	if err != nil {
		status = &drivers.TaskStatus{ID: t.cfg.ID, Name: t.cfg.Name, State: drivers.TaskStateExited}
	}
	status.ExitResult = result
	return status, nil
}

// tasks is the table of tasks with secrets, by Nomad's id.
type tasks struct {
	mu   sync.RWMutex
	byID map[string]*task
}

func newTasks() *tasks { return &tasks{byID: map[string]*task{}} }

func (ts *tasks) get(id string) *task {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return ts.byID[id]
}

// in are the tasks that have the directory.
func (ts *tasks) in(dir string) (found []*task) {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	for _, t := range ts.byID {
		if t.cfg.TaskDir().Dir == dir {
			found = append(found, t)
		}
	}
	return found
}

func (ts *tasks) add(t *task) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.byID[t.cfg.ID] = t
}

func (ts *tasks) remove(id string) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.byID, id)
}
