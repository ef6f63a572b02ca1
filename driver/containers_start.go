package driver

import (
	"context"
	"errors"
	"fmt"

	"github.com/docker/docker/client"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/steps"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// containerStart is the start of one container with secrets, while it is under way.
type containerStart struct {
	*containers
	t      *task
	what   delivery
	docker *client.Client

	hold    *launcher.Hold
	command launcher.TaskCommand
	handle  *drivers.TaskHandle
	id      string       // the container's
	network string       // the name of its network
	argv    []string     // what Docker would have run
	alive   func() error // of the process that waits
	who     launcher.Owner
	set     *secrets.Set // with which the program is to run
	started process
}

// errBoundBefore is of a container that has bound a file whose content was replaced while it was created.
var errBoundBefore = errors.New("a secret's file that is bound into the container was replaced while that was created")

func (c *containers) start(ctx context.Context, t *task, what delivery) (process, error) {
	started, err := c.startOne(ctx, t, what)
	if errors.Is(err, errBoundBefore) { // another one binds what there is now
		started, err = c.startOne(ctx, t, what)
	}
	return started, err
}

func (c *containers) startOne(ctx context.Context, t *task, what delivery) (process, error) {
	docker, err := c.engine.get(ctx, c.endpoint)
	if err != nil {
		return process{}, err
	}
	st := &containerStart{containers: c, t: t, what: what, docker: docker}
	defer func() {
		if st.hold != nil {
			st.hold.Remove()
		}
	}()
	err = steps.Run(ctx,
		steps.Step{Do: st.startHeld, Undo: st.discard},
		steps.Step{Do: st.readHandle},
		steps.Step{Do: st.keepAddress},
		steps.Step{Do: st.seeWhoWaits},
		steps.Step{Do: st.publishFiles},
		steps.Step{Do: st.release},
		steps.Step{Do: st.limitProcesses},
		steps.Step{Do: st.tellAddress},
	)
	if err != nil {
		c.engine.failed(docker)
		return process{}, err
	}
	crashpoint.Reached(crashpoint.Released, t.cfg.Name)
	return st.started, nil
}

// startHeld starts the container as a launcher, which waits in the task's channel.
func (st *containerStart) startHeld(ctx context.Context) error {
	channel, err := st.t.d.channelOf(st.t.cfg)
	if err != nil {
		return err
	}
	if err := channel.Make(); err != nil {
		return err
	}
	if st.hold, err = launcher.New(channel.Path()); err != nil {
		return err
	}
	if bindsSecrets(st.t.cfg) {
		if err := st.what.early(); err != nil {
			return err
		}
	}
	cfg, command, err := st.waitingConfig(ctx, st.t, channel, st.hold)
	if err != nil {
		return err
	}
	st.command = command
	login := st.t.session.RegistryLogin()
	handle, network, err := st.startInner(ctx, cfg)
	if err != nil {
		return retryableSaid(pullError(login, err))
	}
	crashpoint.Reached(crashpoint.InnerStarted, st.t.cfg.Name)
	st.handle, st.started = handle, process{network: network, channel: true}
	return nil
}

// discard undoes the container's start. Where it cannot, since the engine is away, the container is what is looked
// for from now on: it may have been released.
func (st *containerStart) discard() error {
	if !st.t.discardProcess() {
		st.t.state.updateProcess(func(p *process) { p.handle = st.handle })
	}
	return nil
}

func (st *containerStart) readHandle(context.Context) (err error) {
	// It goes to the agent with its config: the job's own, without what the image was pulled with.
	if err := st.handle.Config.EncodeConcreteDriverConfig(st.t.options); err != nil {
		return fmt.Errorf("write the wrapped driver's config: %w", err)
	}
	if st.started.handle, err = scrub(st.handle); err != nil {
		return err
	}
	st.id, err = containerID(st.handle)
	return err
}

// seeWhoWaits finds out which user the container's process runs as, and what it is to run: the image's word comes from
// the image that the container was made of.
func (st *containerStart) seeWhoWaits(ctx context.Context) error {
	inspected, err := st.docker.ContainerInspect(ctx, st.id)
	if err != nil {
		return fmt.Errorf("inspect the task's container: %w", err)
	}
	if st.argv, err = st.containers.argv(ctx, st.docker, inspected.Image, st.command); err != nil {
		return err
	}
	st.alive = launcher.Alive(inspected.State.Pid)
	if st.who, err = st.hold.WaitingOwner(ctx, inspected.State.Pid); err != nil { // it was there when the container was started
		return st.releaseError(ctx, st.docker, st.id, fmt.Errorf("%w: %w", launcher.ErrEnded, err))
	}
	st.started.image, st.started.owner = inspected.Image, st.who
	if inspected.HostConfig != nil {
		st.network = string(inspected.HostConfig.NetworkMode)
	}
	return nil
}

func (st *containerStart) publishFiles(ctx context.Context) (err error) {
	st.set, err = st.what.give(ctx, st.started.owner)
	if errors.Is(err, errBoundBefore) {
		st.t.holdLogs() // with this container the last writer would go, and Nomad's log collector stop
	}
	if err != nil {
		return err
	}
	crashpoint.Reached(crashpoint.FilesPublished, st.t.cfg.Name)
	return nil
}

// release hands over the command and the environment: the launcher becomes the task's program.
func (st *containerStart) release(ctx context.Context) error {
	payload := launcher.Payload{Argv: st.argv, Env: st.t.environ(st.set), Processes: processLimitsOf(st.t.options).user}
	if err := st.hold.Release(ctx, st.alive, st.who, payload); err != nil {
		return st.releaseError(ctx, st.docker, st.id, err)
	}
	return nil
}

func (st *containerStart) limitProcesses(ctx context.Context) error {
	return st.limitPids(ctx, st.docker, st.id, st.t.options)
}
