package driver

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// RecoverTask reattaches to a running task by the journal: Nomad's handle is that of the first
// process (C4). A task without a journal has no secrets, or was the built-in driver's. An error
// makes Nomad destroy the task and start it anew.
func (d *Driver) RecoverTask(handle *drivers.TaskHandle) error {
	if handle == nil || handle.Config == nil {
		return errors.New("there is no task in the handle")
	}
	d.events.hold(handle.Config.ID)
	err := d.recoverTask(handle)
	if err != nil { // nobody will wait for it
		d.events.release(handle.Config.ID)
	}
	return secrets.ShortError(err)
}

func (d *Driver) recoverTask(handle *drivers.TaskHandle) error {
	if d.tasks.get(handle.Config.ID) != nil {
		return nil
	}
	keeper, err := d.keep()
	if err != nil {
		return d.recoverUnwatched(nil, handle, err)
	}
	t := &task{d: d, cfg: handle.Config}
	t.session, err = keeper.Recover(lifecycleTask(d.name, handle.Config), t)
	switch {
	case errors.Is(err, lifecycle.ErrNoJournal):
		return d.recoverPlain(handle)
	case err != nil:
		return d.recoverUnwatched(keeper, handle, err)
	}
	crashpoint.Reached(crashpoint.JournalRead, handle.Config.Name)
	if err := t.resume(); err != nil {
		// There is no process, or not surely the one whose secrets these are. Its remains go
		// first, for they may use them.
		var left error
		if t.runner != nil {
			left = t.runner.removeLeftovers(d.ctx, t.cfg, func() {})
			err = errors.Join(err, left)
		}
		if left == nil {
			t.session.End()
			t.removeLive()
		} else { // they may use them yet (C12)
			d.live.drop(t.liveDirs()) // which a sweep removes, or the task's next start
			d.background.Go(func() {
				if t.awaitGone() {
					t.session.End()
				}
			})
		}
		if t.logs != nil {
			t.logs.release()
		}
		if t.files != nil {
			err = errors.Join(err, t.files.Close())
		}
		return fmt.Errorf("reattach to the task: %w", err)
	}
	crashpoint.Reached(crashpoint.InnerRecovered, handle.Config.Name)
	d.tasks.add(t)
	t.watch()
	t.session.Watch()
	crashpoint.Reached(crashpoint.Recovered, handle.Config.Name)
	return nil
}

// resume finds the task's process by the journal.
func (t *task) resume() error {
	if err := t.openLive(); err != nil { // first: whatever fails after it, they can be removed
		t.d.log.Error("the task's live directories are not served", "task_id", t.cfg.ID, "error", err)
	}
	n, cfg, options, err := decodeRecord(t.session.Driver())
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	t.cfg, t.options, t.logs = cfg, options, newLogPipes(cfg)
	t.runner = t.d.wrapped.runner(t.d, t.session.Spec().ExposeToken)
	t.restoreToken()
	t.restoreNomadIdentity()
	if len(n.HandleState) == 0 {
		return errors.New("the plugin ended while the task was being started")
	}
	if err := taskdir.HardenPrivate(cfg.TaskDir().Dir); err != nil { // what is read there is looked at all the same
		t.d.log.Error("the task's private directory is not root's alone", "task_id", t.cfg.ID, "error", err)
	}
	if t.files, err = taskdir.OpenPublisher(cfg.TaskDir().SecretsDir); err != nil {
		return err
	}
	handle := &drivers.TaskHandle{
		Version: n.HandleVersion, Config: cfg, State: drivers.TaskStateRunning, DriverState: n.HandleState,
	}
	t.setProcess(process{handle: handle, network: n.Network, owner: n.Owner, image: n.Image, channel: n.Channel})
	if c, ok := t.runner.(*containers); ok {
		if err := c.recoverPids(t.d.ctx, t.currentProcess(), options); err != nil {
			t.d.log.Warn("the container may have more processes than its job allows", "task_id", t.cfg.ID, "error", err)
		}
	}
	t.recoverLive(n.Owner)
	t.holdLogs()
	if n.Replacing {
		t.finishBy = n.FinishBy
		return t.resumeRestart(handle)
	}
	return t.d.recoverInner(handle, t.logs)
}

// resumeRestart recovers a task in the midst of a restart in place. The session restarts it again as soon
// as it watches; until then calls wait, and an exit is the restart's.
//
// If nobody has had the log pipes open for writing since, for there was no process, then Nomad's log
// collector has stopped, and only a restart by Nomad brings the logs back (docs/nomad.md). Where the operator has them not
// collected, there are none to bring back.
func (t *task) resumeRestart(handle *drivers.TaskHandle) error {
	t.state.on(interrupted)
	gone := t.d.recoverInner(handle, t.logs) != nil
	if !t.d.guardOptions().noLogs && !t.logs.collected() {
		return errors.New("the plugin ended while the task had no process")
	}
	if gone { // what runs, if anything, is the new process, which no handle names
		err := t.runner.removeLeftovers(t.d.ctx, t.cfg, func() {})
		if err != nil && !t.runner.away(t.d.ctx, err) {
			return err
		} // the restart waits for an engine that is away, and looks again
	}
	return nil
}

// holdLogs holds the log pipes as far as they can be held yet.
func (t *task) holdLogs() {
	if err := t.logs.hold(); err != nil {
		t.d.log.Debug("a log pipe has no reader yet", "task_id", t.cfg.ID, "error", err)
	}
}

// restoreToken gives a task that has Nomad's token in its environment the current one, for its next
// process: the journal has none.
func (t *task) restoreToken() {
	if _, ok := t.cfg.Env[vaultTokenEnv]; !ok {
		return
	}
	token, err := taskdir.ReadPrivate(t.cfg.TaskDir().Dir, "private/vault_token")
	if err != nil {
		t.d.log.Warn("Nomad's token for the task cannot be read", "task_id", t.cfg.ID, "error", err)
		delete(t.cfg.Env, vaultTokenEnv)
		return
	}
	t.cfg.Env[vaultTokenEnv] = token.Text()
}

// recoverPlain recovers a task of which there is no journal. It has no secrets; or it has ended and they are
// given back; or the journal is elsewhere, and nobody watches its secrets.
func (d *Driver) recoverPlain(handle *drivers.TaskHandle) error {
	if err := d.recoverPlainly(handle); err != nil || !startedByUs(handle) || !d.innerRuns(handle.Config.ID) {
		return err
	}
	d.mu.Lock()
	stateDir := d.opts.stateDir
	d.mu.Unlock()
	d.log.Error("there is no journal of a task with secrets; they are not watched until it restarts", "task_id", handle.Config.ID, "state_dir", stateDir)
	d.events.emit(handle.Config, "Secrets: not watched, since there is no journal of the task under "+stateDir+
		" (was state_dir changed?); restart the task to have them renewed")
	return nil
}

// recoverUnwatched leaves a running task to the inner driver: better a task whose secrets nobody
// renews, and an event that says so, than one that is killed.
func (d *Driver) recoverUnwatched(keeper *lifecycle.Keeper, handle *drivers.TaskHandle, cause error) error {
	if err := d.recoverPlainly(handle); err != nil || !startedByUs(handle) {
		return err
	}
	d.unwatched.add(keeper, lifecycleTask(d.name, handle.Config))
	d.log.Error("the task's journal cannot be used; its secrets are not watched until it restarts", "task_id", handle.Config.ID, "error", cause)
	d.events.emit(handle.Config, "Secrets: not watched any more, since the journal cannot be used; restart the task to have them renewed")
	return nil
}

// recoverPlainly has the inner driver reattach to the process that the handle names. That of a task with secrets need
// not be the last one: if it is gone, what is left of the last one would be nobody's, and goes, too.
func (d *Driver) recoverPlainly(handle *drivers.TaskHandle) error {
	err := d.recoverOnly(handle)
	if err == nil || !startedByUs(handle) {
		return err
	}
	return errors.Join(err, d.wrapped.runner(d, false).removeLeftovers(d.ctx, handle.Config, func() {}))
}

// startedByUs reports whether a handle is of a task that was started with secrets: it is scrubbed then. Every
// other has an environment, for Nomad gives each task one.
func startedByUs(handle *drivers.TaskHandle) bool { return len(handle.Config.Env) == 0 }

// innerRuns reports whether a task of the inner driver has a process.
func (d *Driver) innerRuns(taskID string) bool {
	status, err := d.inner.InspectTask(taskID)
	if err != nil || status.State != drivers.TaskStateRunning {
		return false
	}
	// raw_exec calls a task that it has just recovered running, until its executor has answered.
	pid, err := strconv.Atoi(status.DriverAttributes["pid"])
	return err != nil || !gone(pid)
}
