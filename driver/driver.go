package driver

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/metrics"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/pull"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/statedir"
)

// Driver is what both served drivers have in common: the inner driver, and around it the tasks
// that have secrets. A task without secrets is the inner driver's alone: it is in no table here.
type Driver struct {
	name    string
	wrapped *wrapped
	inner   drivers.DriverPlugin
	ctx     context.Context // ends with the plugin
	cancel  context.CancelFunc
	closing context.Context // ends when Close begins
	close   context.CancelFunc
	log     hclog.Logger
	events  *events
	tasks   *tasks
	live    *liveDirs
	metrics *metrics.Metrics
	pulls   pull.Turns // of tasks without secrets, too
	engine  startClient

	unwatched unwatched

	started time.Time
	agent   agent
	kept    atomic.Pointer[kept] // as keep has last left it; for whoever must not wait for that

	swept      sync.Once // channels that were left have been removed
	begun      sync.Once
	background sync.WaitGroup // what was begun, joined by Close

	mu     sync.Mutex // guards what follows
	opts   options
	keeper *lifecycle.Keeper // made at first use, for SetConfig must have no side effects
}

func newDriver(ctx context.Context, name string, w *wrapped, log hclog.Logger) *Driver {
	ctx, cancel := context.WithCancel(ctx)
	closing, closeDown := context.WithCancel(ctx)
	inner := w.open(ctx, log)
	opts, err := parseOptions(name, nil)
	if err != nil {
		panic(err) // our own defaults
	}
	d := &Driver{
		started: time.Now(), name: name, wrapped: w, inner: inner, ctx: ctx, cancel: cancel, closing: closing, close: closeDown, log: log.Named(name), opts: opts,
		events: newEvents(ctx, log, inner), tasks: newTasks(),
		metrics: metrics.New(log.Named(name)),
	}
	d.live = newLiveDirs(d)
	return d
}

// SetConfig checks our block and gives the inner driver its own. It has no other effect: the
// binary runs three times when an agent starts, and two of them only ask.
func (d *Driver) SetConfig(c *base.Config) error {
	opts, err := parseOptions(d.name, c.PluginConfig)
	if err != nil {
		return err
	}
	inner := *c
	if d.wrapped.config != nil {
		if inner.PluginConfig, err = d.wrapped.config(c.PluginConfig, beside(d.name)); err != nil {
			return fmt.Errorf("plugin %q: %w", d.name, err)
		}
	}
	if err := d.inner.SetConfig(&inner); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opts = opts
	return nil
}

// keep is the keeper of all tasks' secrets, made when it is first needed. Each time it is asked for, the
// state directory is made sure of: what the keeper writes must be in memory.
func (d *Driver) keep() (*lifecycle.Keeper, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k, err := d.keepLocked()
	d.keptNow(k, err)
	return k, err
}

func (d *Driver) keepLocked() (*lifecycle.Keeper, error) {
	state, err := statedir.Open(d.opts.stateDir)
	if err != nil {
		return nil, err
	}
	if d.keeper != nil {
		return d.keeper, nil
	}
	cfg := d.opts.lifecycle
	cfg.Log, cfg.Meter = d.log, d.metrics
	if cfg.Providers, err = openProviders(d.opts); err != nil {
		return nil, err
	}
	if cfg.StateDir, err = d.openJournal(state); err != nil {
		return nil, fmt.Errorf("%w: %w", statedir.ErrUnusable, err)
	}
	keeper, err := lifecycle.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", statedir.ErrUnusable, err)
	}
	d.keeper = keeper
	return keeper, nil
}

// openJournal is the driver's own directory for journals. What an older version of this plugin left elsewhere in
// the state directory is moved there first.
func (d *Driver) openJournal(state *statedir.Dir) (string, error) {
	unlock, err := state.Lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := state.Journal(d.name)
	return dir, journal.TakeOver(filepath.Join(d.opts.stateDir, d.name), dir, d.log)
}

// closeAllowance is how long Close waits for restarts in place: go-plugin kills a plugin that is there 2 s after it was asked
// to end.
const closeAllowance = 1500 * time.Millisecond

// Close ends the watch over all tasks and joins all that was begun, within go-plugin's 2 s. A restart in place that is under way is
// brought to its end first, unless it waits for the engine, or takes longer than closeAllowance: then it is left as after a crash. The tasks
// run on: the next process of this plugin recovers them by the journal. What is not joined are calls into the wrapped driver
// that take longer; they end with the process.
func (d *Driver) Close() {
	deadline := time.AfterFunc(closeAllowance, d.cancel)
	defer deadline.Stop()
	d.mu.Lock()
	keeper := d.keeper
	d.mu.Unlock()
	d.close()
	if keeper != nil {
		keeper.Close()
	}
	d.cancel()
	d.background.Wait()
	d.live.close()
	d.engine.close()
	d.events.join()
}

// untilClosed makes a call into the wrapped driver that may take long, and does not wait for it any longer once the plugin ends.
func (d *Driver) untilClosed(call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-d.ctx.Done():
		return d.ctx.Err()
	}
}

// Capabilities are the inner driver's.
func (d *Driver) Capabilities() (*drivers.Capabilities, error) { return d.inner.Capabilities() }

// TaskEvents are the inner driver's and ours.
func (d *Driver) TaskEvents(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	return d.events.subscribe(ctx)
}

// WaitTask answers when the task ends, which a restart by rotation is not (C8).
func (d *Driver) WaitTask(ctx context.Context, taskID string) (<-chan *drivers.ExitResult, error) {
	d.events.release(taskID)
	if t := d.tasks.get(taskID); t != nil {
		return t.wait(ctx), nil
	}
	return d.inner.WaitTask(ctx, taskID)
}

// StopTask stops the task's process. It wins over a rotation, at once (C8).
func (d *Driver) StopTask(taskID string, timeout time.Duration, signal string) error {
	if t := d.tasks.get(taskID); t != nil {
		return t.stop(timeout, signal)
	}
	return d.inner.StopTask(taskID, timeout, signal)
}

// DestroyTask removes what is left of a stopped task.
func (d *Driver) DestroyTask(taskID string, force bool) error {
	if t := d.tasks.get(taskID); t != nil {
		return t.destroy(force)
	}
	err := d.inner.DestroyTask(taskID, force)
	if err == nil {
		d.unwatched.end(taskID, d.log)
	}
	return err
}

// InspectTask says how the task does. The inner driver's answer would name only its current
// process; once ended, the result is the task's.
func (d *Driver) InspectTask(taskID string) (*drivers.TaskStatus, error) {
	if err := d.awaitSwap(d.ctx, taskID); err != nil {
		return nil, err
	}
	if t := d.tasks.get(taskID); t != nil {
		return t.inspect()
	}
	return d.inner.InspectTask(taskID)
}

// TaskStats streams the usage of the task, over all its processes.
func (d *Driver) TaskStats(ctx context.Context, taskID string, interval time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	if t := d.tasks.get(taskID); t != nil {
		return t.stats(ctx, interval)
	}
	return d.inner.TaskStats(ctx, taskID, interval)
}

// SignalTask signals the task's process.
func (d *Driver) SignalTask(taskID string, signal string) error {
	if err := d.awaitSwap(d.ctx, taskID); err != nil {
		return err
	}
	if t := d.tasks.get(taskID); t != nil {
		return t.Signal(d.ctx, signal)
	}
	return d.inner.SignalTask(taskID, signal)
}

// ExecTask runs a command in the task, with its current secrets in the environment.
func (d *Driver) ExecTask(taskID string, cmd []string, timeout time.Duration) (*drivers.ExecTaskResult, error) {
	if t := d.tasks.get(taskID); t != nil {
		return t.exec(cmd, timeout)
	}
	return d.inner.ExecTask(taskID, cmd, timeout)
}

// awaitSwap waits while a task is between two processes: the inner driver would answer "not found",
// which Nomad takes for dead (C8). It is nil at once for a task without secrets.
func (d *Driver) awaitSwap(ctx context.Context, taskID string) error {
	if t := d.tasks.get(taskID); t != nil {
		return t.state.await(ctx, taskPhase.settled)
	}
	return nil
}
