package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// finding is what can be told of a process.
type finding int

const (
	unconfirmed  finding = iota // nothing: the engine does not answer
	foundRunning                //
	foundGone                   //
)

// lookTimeout bounds one question to an engine that may not answer.
const lookTimeout = 2 * time.Second

// withEngine does what needs the engine, and does it again for as long as that is away and ctx lasts.
func (t *task) withEngine(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil || !t.runner.away(ctx, err) || !pause(ctx) {
			return err
		}
		t.d.log.Warn("the engine is away; it is waited for", "task_id", t.cfg.ID, "error", err)
	}
}

// finishLooked is finish after a failure that may have left a process: one that is not seen to be gone keeps its
// secrets.
func (t *task) finishLooked(res *drivers.ExitResult) {
	ctx, cancel := context.WithTimeout(t.d.ctx, lookTimeout)
	defer cancel()
	if t.runner.seek(ctx, t.currentProcess()) == foundGone {
		t.finish(res)
		return
	}
	t.finishUnconfirmed(res)
}

// finishUnconfirmed makes res the task's end for Nomad, while its process may still run: no lease is revoked before that is
// seen to be gone (C12), and the journal keeps them all until then. If the plugin ends first, what removes the
// process has them revoked: the next start of the task, which removes what is left of it first.
func (t *task) finishUnconfirmed(res *drivers.ExitResult) {
	if !t.endWith(res, func() { t.unconfirmed.Store(true) }) {
		return
	}
	t.Event("Secrets: the Docker engine is away, and the task's container may still run; it is stopped, and its leases are revoked, when the engine is back")
	t.d.background.Go(func() {
		if !t.awaitGone() {
			return
		}
		t.session.End()
		t.state.on(secretsGivenBack)
		if !t.destroyLater.Load() {
			return
		}
		if err := t.destroy(true); err != nil {
			t.d.log.Warn("what a task left could not be removed", "task_id", t.cfg.ID, "error", err)
		}
	})
}

// lookAgain reports whether a task that has ended unconfirmed can be destroyed by now. If not, that is done later.
func (t *task) lookAgain() bool {
	t.destroyLater.Store(true)
	ctx, cancel := context.WithTimeout(t.d.ctx, lookTimeout)
	defer cancel()
	return t.state.now() == phaseReleased || t.runner.seek(ctx, t.currentProcess()) != unconfirmed
}

// awaitGone ends the process of a task that has ended, as soon as the engine answers, and waits until it is seen to be
// gone; false if the plugin ends first.
func (t *task) awaitGone() bool {
	p, spec := t.currentProcess(), t.session.Spec()
	for {
		switch t.runner.seek(t.d.ctx, p) {
		case foundGone:
			return true
		case foundRunning:
			if err := t.runner.remove(t.d.ctx, p, spec.StopTimeout, spec.StopSignal); err != nil {
				t.d.log.Warn("the process of a task that has ended cannot be removed yet", "task_id", t.cfg.ID, "error", err)
			}
		case unconfirmed:
		}
		if !pause(t.d.ctx) {
			return false
		}
	}
}

// seek asks for the container until the engine answers, or ctx ends.
func (c *containers) seek(ctx context.Context, p process) finding {
	if p.handle == nil {
		return foundGone // there never was one
	}
	id, err := containerID(p.handle)
	if err != nil {
		return foundGone
	}
	for {
		saw := unconfirmed
		_ = c.ask(func(docker *client.Client) error {
			found, err := docker.ContainerInspect(ctx, id)
			switch {
			case err == nil && found.State != nil && found.State.Running:
				saw = foundRunning
			case err == nil || errdefs.IsNotFound(err):
				saw = foundGone
			}
			return err
		})
		if saw != unconfirmed || !pause(ctx) {
			return saw
		}
	}
}

// remove stops the container as its job says, and removes it.
func (c *containers) remove(ctx context.Context, p process, timeout time.Duration, signal string) error {
	id, err := containerID(p.handle)
	if err != nil {
		return err
	}
	return c.ask(func(docker *client.Client) error {
		seconds := int(timeout.Seconds())
		err := docker.ContainerStop(ctx, id, container.StopOptions{Signal: signal, Timeout: &seconds})
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsNotModified(err) {
			return fmt.Errorf("stop container %s: %w", id, err)
		}
		err = docker.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove container %s: %w", id, err)
		}
		return nil
	})
}

// away is known by the words of the Docker client, which the docker driver's errors have lost the type of, or by a
// question of our own: an engine that is about to end answers with errors of other kinds.
func (c *containers) away(ctx context.Context, err error) bool {
	if connectionLost(err) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return c.ask(func(docker *client.Client) error {
		_, err := docker.Ping(ctx)
		return err
	}) != nil
}

func (c *containers) ask(question func(*client.Client) error) error {
	docker, err := c.endpoint.client() // not the starts': the engine may be another since
	if err != nil {
		return err
	}
	return errors.Join(question(docker), docker.Close())
}

// A process under raw_exec ends with the executor that waits for it, and there is no engine.

func (p *processes) seek(context.Context, process) finding { return foundGone }

func (p *processes) remove(context.Context, process, time.Duration, string) error { return nil }

func (p *processes) away(context.Context, error) bool { return false }

// destroyEarlier removes what is left of earlier starts of a task, which ended while nobody could see their processes.
func (d *Driver) destroyEarlier(cfg *drivers.TaskConfig) error {
	for _, t := range d.tasks.in(cfg.TaskDir().Dir) {
		if !t.state.now().over() {
			continue
		}
		if err := t.destroy(true); err != nil {
			return err
		}
	}
	return nil
}
