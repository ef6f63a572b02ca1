package driver

import (
	"errors"
	"fmt"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// RecoverTask takes a running task up again, by the journal: Nomad's handle is that of the first
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
	return err
}

func (d *Driver) recoverTask(handle *drivers.TaskHandle) error {
	if d.tasks.get(handle.Config.ID) != nil {
		return nil
	}
	keeper, err := d.keep()
	if err != nil {
		return d.recoverUnwatched(handle, err)
	}
	t := &task{d: d, cfg: handle.Config, ended: make(chan struct{}), idle: make(chan struct{})}
	t.session, err = keeper.Recover(lifecycleTask(d.name, handle.Config), t)
	switch {
	case errors.Is(err, lifecycle.ErrNoJournal):
		return d.recoverPlain(handle)
	case err != nil:
		return d.recoverUnwatched(handle, err)
	}
	crashpoint.Reached(crashpoint.JournalRead, handle.Config.Name)
	if err := t.resume(); err != nil {
		// There is no process, or not surely the one whose secrets these are. Its remains go
		// first, for they may use them.
		if t.runner != nil {
			err = errors.Join(err, t.runner.reap(d.ctx, t.cfg, func() {}))
		}
		t.session.End()
		if t.logs != nil {
			t.logs.release()
		}
		if t.files != nil {
			err = errors.Join(err, t.files.Close())
		}
		return fmt.Errorf("take the task up again: %w", err)
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
	n, cfg, options, err := decodeNotes(t.session.Driver())
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	t.cfg, t.options, t.logs = cfg, options, newLogPipes(cfg)
	if t.runner, err = t.d.newRunner(t.session.Spec().ExposeToken); err != nil {
		return err
	}
	t.restoreToken()
	if len(n.HandleState) == 0 {
		return errors.New("the plugin ended while the task was being started")
	}
	if t.files, err = secrets.OpenPublisher(cfg.TaskDir().SecretsDir); err != nil {
		return err
	}
	handle := &drivers.TaskHandle{
		Version: n.HandleVersion, Config: cfg, State: drivers.TaskStateRunning, DriverState: n.HandleState,
	}
	t.setProcess(process{handle: handle, network: n.Network, owner: n.Owner, image: n.Image})
	t.holdLogs()
	if n.Replacing {
		return t.resumeSwap(handle)
	}
	return t.d.inner.RecoverTask(handle)
}

// resumeSwap takes up a task in the midst of a restart in place. The session restarts it again as soon
// as it watches; until then calls wait, and an exit is the swap's.
//
// If nobody has had the log pipes open for writing since, for there was no process, then Nomad's log
// collector has stopped, and only a restart by Nomad brings the logs back (DESIGN 9).
func (t *task) resumeSwap(handle *drivers.TaskHandle) error {
	t.current = newReplacement()
	t.current.resumed = true
	t.swap.close()
	gone := t.d.inner.RecoverTask(handle) != nil
	if !t.logs.collected() {
		return errors.New("the plugin ended while the task had no process")
	}
	if gone { // what runs, if anything, is the new process, which no handle names
		return t.runner.reap(t.d.ctx, t.cfg, func() {})
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
	token, err := secrets.ReadPrivate(t.cfg.TaskDir().Dir, "private/vault_token")
	if err != nil {
		t.d.log.Warn("Nomad's token for the task cannot be read", "task_id", t.cfg.ID, "error", err)
		delete(t.cfg.Env, vaultTokenEnv)
		return
	}
	t.cfg.Env[vaultTokenEnv] = token.Text()
}

// recoverPlain takes up a task of which there is no journal. If it had secrets nevertheless, which a
// scrubbed handle tells, it has ended and they are given back. The process that ended last need not be
// the handle's: what is left of it would be nobody's.
func (d *Driver) recoverPlain(handle *drivers.TaskHandle) error {
	err := d.inner.RecoverTask(handle)
	if err == nil || len(handle.Config.Env) > 0 {
		return err
	}
	r, runnerErr := d.newRunner(false)
	if runnerErr == nil {
		runnerErr = r.reap(d.ctx, handle.Config, func() {})
	}
	return errors.Join(err, runnerErr)
}

// recoverUnwatched leaves a running task to the inner driver: better a task whose secrets nobody
// renews, and an event that says so, than one that is killed.
func (d *Driver) recoverUnwatched(handle *drivers.TaskHandle, cause error) error {
	if err := d.inner.RecoverTask(handle); err != nil {
		return err
	}
	d.log.Error("the task's journal cannot be used; its secrets are not watched until it restarts", "task_id", handle.Config.ID, "error", cause)
	d.events.say(handle.Config, "Secrets: not watched any more, since the journal cannot be used; restart the task to have them renewed")
	return nil
}
