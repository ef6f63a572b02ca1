package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// The docker driver takes the end of its engine for the end of every container: its wait fails. With
// live-restore they run on, and a task whose secrets are revoked is worse off than one that has none.
// So before its end is believed it is looked for, and reattached to if it is still running (C12).
//
// There is none to be found where systemd holds the engine's socket (docker.socket): then the docker
// driver's questions wait for the next engine, and one of them is to stop the container, to be sure.

const (
	// engineAllowance is how long an engine may be away. Then Nomad is told, and does as it sees fit; the
	// task's secrets are given back once its process is seen to be gone.
	engineAllowance = 2 * time.Minute
	engineRetry     = 500 * time.Millisecond
)

// waitEnded takes in that the wrapped driver's wait for the process has ended.
func (t *task) waitEnded(wait int, res *drivers.ExitResult) {
	if !t.state.detach(wait) {
		t.exited(wait, res)
		return
	}
	ctx, cancel := context.WithTimeout(t.d.ctx, engineAllowance)
	defer cancel()
	switch t.regain(ctx, res) {
	case foundRunning:
		if _, ok := t.state.on(reattached); !ok { // it was removed meanwhile, by the names that it had then
			if err := t.destroyProcess(true); err != nil && !errors.Is(err, drivers.ErrTaskNotFound) {
				t.d.log.Error("a process that was reattached to while it was removed could not be removed", "task_id", t.cfg.ID, "error", err)
			}
			return
		}
		t.Event("Secrets: the Docker engine was away; the task ran on, and keeps its secrets")
		t.watch()
	case foundGone:
		t.exited(wait, res)
	case unconfirmed:
		if t.d.ctx.Err() != nil { // the plugin ends, the task does not
			t.state.on(reattached)
			return
		}
		t.finishUnconfirmed(res)
	}
}

// regain finds out what has become of the process after the wrapped driver's wait for it ended so, and
// reattaches to it if it runs. It waits for an engine that is away until ctx ends: then it is unconfirmed.
func (t *task) regain(ctx context.Context, res *drivers.ExitResult) finding {
	if ofProcess(res) {
		return foundGone
	}
	for {
		if saw := t.runner.seek(ctx, t.currentProcess()); saw != foundRunning {
			return saw
		}
		err := t.reattach()
		if err == nil {
			return foundRunning
		}
		t.d.log.Warn("a process that is still running cannot be reattached to", "task_id", t.cfg.ID, "error", err)
		if !pause(ctx) {
			return unconfirmed
		}
	}
}

// ofProcess reports whether the exit is the process's own, and not that of a wait that failed.
func ofProcess(res *drivers.ExitResult) bool {
	if errors.Is(res.Err, drivers.ErrTaskNotFound) { // recovery could not reattach to it
		return false
	}
	return res.Err == nil || res.ExitCode != 0 || res.OOMKilled
}

// pause is the time between two questions to an engine; false if ctx ends.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(engineRetry):
		return true
	case <-ctx.Done():
		return false
	}
}

// reattach has the wrapped driver wait for the process anew. The wrapped driver does not forget the process that it
// has lost until that is destroyed, so the process is given another name.
func (t *task) reattach() error {
	p := t.currentProcess()
	cfg := t.cfg.Copy()
	cfg.ID = fmt.Sprintf("%s/%d", t.cfg.ID, len(p.lost)+1)
	handle := &drivers.TaskHandle{
		Version: p.handle.Version, Config: cfg, State: drivers.TaskStateRunning, DriverState: p.handle.DriverState,
	}
	err := t.d.recoverInner(handle, t.logs)
	if err != nil {
		return err
	}
	scrubbed, err := scrub(handle) // it has another log collector
	if err != nil {
		return err
	}
	t.state.updateProcess(func(now *process) {
		now.lost = append(slices.Clone(now.lost), t.nameOf(*now))
		now.id, now.handle = cfg.ID, scrubbed
	})
	if err := t.writeRecord(t.state.now().between()); err != nil {
		t.d.log.Error("the journal cannot be written", "task_id", t.cfg.ID, "error", err)
	}
	return nil
}

// innerID is the wrapped driver's name for the current process.
func (t *task) innerID() string { return t.nameOf(t.currentProcess()) }

func (t *task) nameOf(p process) string { return cmp.Or(p.id, t.cfg.ID) }

// destroyProcess has the wrapped driver forget the current process, by all its names. After an error it may
// be called again.
func (t *task) destroyProcess(force bool) error {
	p := t.currentProcess()
	notFound := t.d.inner.DestroyTask(t.nameOf(p), force)
	if notFound != nil && !errors.Is(notFound, drivers.ErrTaskNotFound) {
		return notFound
	}
	for _, id := range p.lost {
		if err := t.d.inner.DestroyTask(id, true); err != nil && !errors.Is(err, drivers.ErrTaskNotFound) {
			return err
		}
	}
	gone := append(slices.Clone(p.lost), t.nameOf(p))
	t.state.updateProcess(func(now *process) { // which may have been reattached to meanwhile, by another name
		if slices.Contains(gone, t.nameOf(*now)) {
			now.id = ""
		}
		now.lost = slices.DeleteFunc(slices.Clone(now.lost), func(id string) bool { return slices.Contains(gone, id) })
	})
	return notFound
}
