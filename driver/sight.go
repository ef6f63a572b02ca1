package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// The docker driver takes the end of its engine for the end of every container: its wait fails. With
// live-restore they run on, and a task whose secrets are taken back is worse off than one that has none.
// So a process that was lost sight of is looked for, and taken up again, before its end is believed.
//
// There is none to be found where systemd holds the engine's socket (docker.socket): then the docker
// driver's questions wait for the next engine, and one of them is to stop the container, to be sure.

const (
	// engineAllowance is how long an engine may be away. Then Nomad is told, and does as it sees fit.
	engineAllowance = 2 * time.Minute
	engineRetry     = 500 * time.Millisecond
)

// gone is told that the wrapped driver's wait for the process has ended.
func (t *task) gone(res *drivers.ExitResult) {
	t.mu.Lock()
	if t.current != nil {
		t.mu.Unlock()
		t.exited(res)
		return
	}
	unseen := make(chan struct{})
	t.unseen = unseen
	t.mu.Unlock()

	switch {
	case t.seenAgain(res):
		t.watch()
	case t.d.ctx.Err() == nil:
		t.exited(res)
	}
	t.mu.Lock()
	if t.unseen == unseen { // else it was lost once more
		t.unseen = nil
	}
	t.mu.Unlock()
	close(unseen)
}

// seenAgain takes the process up again, and reports whether it could.
func (t *task) seenAgain(res *drivers.ExitResult) bool {
	ctx, cancel := context.WithTimeout(t.d.ctx, engineAllowance)
	defer cancel()
	for t.runner.outlived(ctx, t.currentProcess(), res) {
		err := t.takeUp()
		if err == nil {
			t.Event("the Docker engine was away; the task ran on")
			return true
		}
		t.d.log.Warn("a process that runs cannot be taken up", "task_id", t.cfg.ID, "error", err)
		select {
		case <-time.After(engineRetry):
		case <-ctx.Done():
		}
	}
	return false
}

// takeUp has the wrapped driver wait for the process anew. What it has lost sight of it does not
// forget until that is destroyed, so it is given another name.
func (t *task) takeUp() error {
	p := t.currentProcess()
	cfg := t.cfg.Copy()
	p.lost = append(slices.Clone(p.lost), t.innerID())
	p.id = fmt.Sprintf("%s/%d", cfg.ID, len(p.lost))
	cfg.ID = p.id
	handle := &drivers.TaskHandle{
		Version: p.handle.Version, Config: cfg, State: drivers.TaskStateRunning, DriverState: p.handle.DriverState,
	}
	err := t.d.inner.RecoverTask(handle)
	if err != nil {
		return err
	}
	if p.handle, err = scrub(handle); err != nil { // it has another log collector
		return err
	}
	t.setProcess(p)
	if err := t.note(false); err != nil {
		t.d.log.Error("the journal cannot be written", "task_id", t.cfg.ID, "error", err)
	}
	return nil
}

// lockInSight locks the task's mutex at a moment when it is known whether the process runs.
func (t *task) lockInSight(ctx context.Context) error {
	for {
		t.mu.Lock()
		unseen := t.unseen
		if unseen == nil {
			return nil
		}
		t.mu.Unlock()
		select {
		case <-unseen:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// innerID is the wrapped driver's name for the current process.
func (t *task) innerID() string {
	if id := t.currentProcess().id; id != "" {
		return id
	}
	return t.cfg.ID
}

// destroyProcess has the wrapped driver forget the current process, by all its names. After an error it may
// be called again.
func (t *task) destroyProcess(force bool) error {
	notFound := t.d.inner.DestroyTask(t.innerID(), force)
	if notFound != nil && !errors.Is(notFound, drivers.ErrTaskNotFound) {
		return notFound
	}
	p := t.currentProcess()
	for _, id := range p.lost {
		if err := t.d.inner.DestroyTask(id, true); err != nil && !errors.Is(err, drivers.ErrTaskNotFound) {
			return err
		}
	}
	p.id, p.lost = "", nil
	t.setProcess(p)
	return notFound
}

// outlived waits for an engine that is away.
func (c *containers) outlived(ctx context.Context, p process, res *drivers.ExitResult) bool {
	if res.Err == nil || res.ExitCode != 0 || res.OOMKilled {
		return false // the engine has told its end
	}
	id, err := containerID(p.handle)
	if err != nil {
		return false
	}
	docker, err := c.docker()
	if err != nil {
		return false
	}
	defer docker.Close()
	for {
		found, err := docker.ContainerInspect(ctx, id)
		switch {
		case err == nil:
			return found.State != nil && found.State.Running
		case errdefs.IsNotFound(err):
			return false
		}
		select {
		case <-time.After(engineRetry):
		case <-ctx.Done():
			return false
		}
	}
}

// outlived is no question of raw_exec: a process does not outlive the executor that waits for it.
func (p *processes) outlived(context.Context, process, *drivers.ExitResult) bool { return false }
