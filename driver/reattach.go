package driver

import (
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
func (t *task) waitEnded(res *drivers.ExitResult) {
	if _, ok := t.state.on(waitEnded); !ok {
		t.exited(res)
		return
	}
	ctx, cancel := context.WithTimeout(t.d.ctx, engineAllowance)
	defer cancel()
	switch t.regain(ctx, res) {
	case foundRunning:
		t.Event("Secrets: the Docker engine was away; the task ran on, and keeps its secrets")
		t.state.on(reattached)
		t.watch()
	case foundGone:
		t.exited(res)
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
	if told(res) {
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

// told reports whether the exit is one that the engine has told, and not that of a wait that failed.
func told(res *drivers.ExitResult) bool {
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
	p.lost = append(slices.Clone(p.lost), t.innerID())
	p.id = fmt.Sprintf("%s/%d", cfg.ID, len(p.lost))
	cfg.ID = p.id
	handle := &drivers.TaskHandle{
		Version: p.handle.Version, Config: cfg, State: drivers.TaskStateRunning, DriverState: p.handle.DriverState,
	}
	err := t.d.recoverInner(handle, t.logs)
	if err != nil {
		return err
	}
	if p.handle, err = scrub(handle); err != nil { // it has another log collector
		return err
	}
	t.setProcess(p)
	if err := t.writeRecord(t.state.now().between()); err != nil {
		t.d.log.Error("the journal cannot be written", "task_id", t.cfg.ID, "error", err)
	}
	return nil
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
