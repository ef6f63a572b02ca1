package driver

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// task is one task with secrets, over all the processes it has in its life. To Nomad it is one
// process; to the inner driver each of them is a task of its own, one after another, by one id.
type task struct {
	d       *Driver
	cfg     *drivers.TaskConfig // as Nomad gave it, less the tokens that the task did not ask for
	options map[string]any      // the wrapped driver's part of the job's config
	runner  runner
	files   *secrets.Publisher
	logs    *logPipes
	session session
	swap    gate

	ended chan struct{} // closed once result is final
	idle  chan struct{} // closed once the secrets are given back, too

	scripts sync.WaitGroup // change_scripts in the task, also those that took too long

	mu       sync.Mutex // guards what follows
	process  process
	stopping bool          // Nomad has asked for the end
	current  *replacement  // a restart in place is under way
	unseen   chan struct{} // not nil while it is not known whether the process runs; closed once it is
	result   *drivers.ExitResult
}

// session is the life of the task's secrets, as the task needs it: a *lifecycle.Session.
type session interface {
	Set() *secrets.Set
	Spec() *secrets.Spec
	Driver() json.RawMessage
	SetDriver(json.RawMessage) error
	Watch()
	Owe()
	End()
}

// process is what is known of the task's current process.
type process struct {
	id      string              // to the wrapped driver; empty: the task's own
	lost    []string            // by which the wrapped driver knew it before it lost sight of it
	handle  *drivers.TaskHandle // scrubbed
	network *drivers.DriverNetwork
	owner   owner  // of the process, and so of the task's files
	image   string // docker: the id that rotations stay with (C10)
}

// owner is a user and a group, as the host sees them.
type owner struct{ UID, GID int }

// replacement is one restart in place, while it is under way.
type replacement struct {
	cancel context.CancelFunc       // once it has begun
	exit   chan *drivers.ExitResult // the old process's end, then perhaps the new one's
	done   chan struct{}

	begun   bool // guarded by the task's mutex
	resumed bool // it was begun by an earlier process of the plugin, which ended in its midst
}

func newReplacement() *replacement {
	return &replacement{exit: make(chan *drivers.ExitResult, 2), done: make(chan struct{})}
}

// runner starts a task's process under a wrapped driver: what differs between docker and raw_exec.
type runner interface {
	// reap removes what an earlier start of the same task left behind. If there is a process it calls
	// found first.
	reap(ctx context.Context, cfg *drivers.TaskConfig, found func()) error

	// start runs the inner driver's StartTask so that the process sees the set, and returns once
	// it runs. publish writes the set's files, and is called before the task's program runs (S1).
	// On error nothing of it is left.
	start(ctx context.Context, t *task, set *secrets.Set, publish func(owner) error) (process, error)

	// outlived reports whether the process still runs although the wrapped driver's wait for it has
	// ended so. It waits until that can be told.
	outlived(ctx context.Context, p process, res *drivers.ExitResult) bool

	// launcherInside is where the task finds the launcher and its secrets directory.
	launcherInside(cfg *drivers.TaskConfig) (program, secretsDir string, err error)
}

// begin starts the first process and all that goes with it.
func (t *task) begin(ctx context.Context) error {
	set := t.session.Set()
	proc, err := t.runner.start(ctx, t, set, func(o owner) error { return t.files.Publish(set, o.UID, o.GID) })
	if err != nil {
		t.logs.release()
		return err
	}
	t.setProcess(proc)
	// Not before the process has them, too: were we the only ones, then with a crash of ours the last
	// writer would be gone, and Nomad would start the task again with nobody who reads its logs.
	t.holdLogs()
	if err := t.note(false); err != nil {
		t.discardProcess()
		t.logs.release()
		return err
	}
	crashpoint.Reached(crashpoint.HandleNoted, t.cfg.Name)
	t.watch()
	return nil
}

func (t *task) setProcess(p process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.process = p
}

func (t *task) currentProcess() process {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.process
}

// discardProcess undoes a start.
func (t *task) discardProcess() {
	_ = t.d.inner.StopTask(t.cfg.ID, 0, "SIGKILL")
	if err := t.d.inner.DestroyTask(t.cfg.ID, true); err != nil && !errors.Is(err, drivers.ErrTaskNotFound) {
		t.d.log.Error("a process that was started could not be removed", "task_id", t.cfg.ID, "error", err)
	}
}

// watch waits for the current process to end. Its end is the task's, unless a swap made it.
func (t *task) watch() {
	id := t.innerID()
	go func() {
		exits, err := t.d.inner.WaitTask(t.d.ctx, id)
		if err != nil {
			t.exited(&drivers.ExitResult{ExitCode: -1, Err: err})
			return
		}
		select {
		case res, ok := <-exits:
			if ok && t.d.ctx.Err() == nil {
				t.gone(res)
			}
		case <-t.d.ctx.Done(): // the plugin ends, the task does not
		}
	}()
}

func (t *task) exited(res *drivers.ExitResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != nil {
		t.current.exit <- res
		return
	}
	t.finishLocked(res)
}

// finishLocked makes res the task's end. That its leases are to be revoked is on record before anybody
// hears of it: Nomad, once it knows, hands the task to no recovery, even if its DestroyTask finds us dead
// (E2). The rest is outside of the lock, since it joins the session, which may be waiting for it.
func (t *task) finishLocked(res *drivers.ExitResult) {
	if t.result != nil {
		return
	}
	t.result = res
	crashpoint.Reached(crashpoint.ExitSeen, t.cfg.Name)
	t.session.Owe()
	t.logs.release()
	close(t.ended)
	go func() {
		defer close(t.idle)
		t.session.End()
	}()
}

func (t *task) finish(res *drivers.ExitResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.finishLocked(res)
}

func (t *task) isEnded() bool {
	select {
	case <-t.ended:
		return true
	default:
		return false
	}
}

func (t *task) wait(ctx context.Context) <-chan *drivers.ExitResult {
	out := make(chan *drivers.ExitResult, 1)
	go func() {
		defer close(out)
		select {
		case <-t.ended:
			t.mu.Lock()
			defer t.mu.Unlock()
			out <- t.result.Copy()
		case <-ctx.Done():
			out <- &drivers.ExitResult{Err: ctx.Err()}
		case <-t.d.ctx.Done():
		}
	}()
	return out
}

// stop stops whatever process the task has. A swap under way is ended: it starts no new process
// that has not begun, and one that has begun is stopped.
func (t *task) stop(timeout time.Duration, signal string) error {
	if err := t.lockInSight(t.d.ctx); err != nil {
		return err
	}
	t.stopping = true
	sw := t.current
	waits := sw != nil && !sw.begun
	if sw != nil && sw.begun {
		sw.cancel()
	}
	t.mu.Unlock()
	crashpoint.Reached(crashpoint.StopAsked, t.cfg.Name)
	err := t.d.inner.StopTask(t.innerID(), timeout, signal)
	if sw == nil {
		return err
	}
	if waits { // for the session, which need not come to it; stopping as we are, nothing is started
		_ = t.Restart(t.d.ctx, t.session.Set())
	}
	<-sw.done
	if t.isEnded() {
		return nil
	}
	return t.d.inner.StopTask(t.innerID(), timeout, signal)
}

// destroy removes the task's process, files and secrets.
func (t *task) destroy(force bool) error {
	t.mu.Lock()
	sw := t.current
	t.mu.Unlock()
	if sw != nil {
		if !force {
			return errors.New("the task is running: stop it first, or force its removal")
		}
		if err := t.stop(0, "SIGKILL"); err != nil && !errors.Is(err, drivers.ErrTaskNotFound) {
			return err
		}
	}
	if err := t.destroyProcess(force); err != nil && !(t.isEnded() && errors.Is(err, drivers.ErrTaskNotFound)) {
		return err
	}
	t.finish(&drivers.ExitResult{ExitCode: -1, Err: errors.New("the task was destroyed")})
	<-t.idle
	if err := t.removeFiles(); err != nil {
		t.d.log.Warn("a task's secret files could not be removed", "task_id", t.cfg.ID, "error", err)
	}
	t.d.tasks.remove(t.cfg.ID)
	crashpoint.Reached(crashpoint.Destroyed, t.cfg.Name)
	return nil
}

// removeFiles takes away what the task had in its secrets directory.
func (t *task) removeFiles() error {
	return errors.Join(t.files.Remove(), t.files.Close())
}

// inspect is the inner driver's word on the current process, or ours where there is none any more.
func (t *task) inspect() (*drivers.TaskStatus, error) {
	status, err := t.d.inner.InspectTask(t.innerID())
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.result == nil {
		return status, err
	}
	if err != nil {
		status = &drivers.TaskStatus{ID: t.cfg.ID, Name: t.cfg.Name, State: drivers.TaskStateExited}
	}
	status.ExitResult = t.result.Copy()
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
