package driver

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/hashicorp/nomad/client/taskenv"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
)

// containers runs tasks under docker. What is given to Docker's API stays on its disk, so a
// container with secrets starts as a launcher, which takes the command and the environment from a
// FIFO in the task's channel and becomes the task's program (L1).
type containers struct {
	endpoint    dockerEndpoint
	engine      *startClient                                   // of all starts
	files       func(launcher.Channel) (launcher.Files, error) // makes those of a new container
	exposeToken bool
	pidsLimit   int64 // the operator's, for all containers; 0: none
}

func (d *Driver) newContainers(exposeToken bool) *containers {
	d.mu.Lock()
	endpoint, pidsLimit := d.opts.docker, d.opts.pidsLimit
	d.mu.Unlock()
	return &containers{
		endpoint:    endpoint,
		engine:      &d.engine,
		files:       launcherFile.FilesFor,
		exposeToken: exposeToken,
		pidsLimit:   pidsLimit,
	}
}

// launcherFile puts the launcher on the host's disk, for all drivers of the process.
var launcherFile launcher.Installer

// containerName is the inner driver's (createContainerConfig).
func containerName(cfg *drivers.TaskConfig) string {
	return fmt.Sprintf("%s-%s", strings.ReplaceAll(cfg.Name, "/", "_"), cfg.AllocID)
}

// removeLeftovers removes the container of an earlier start: the inner driver would adopt it, old environment
// and all (docs/nomad.md).
func (c *containers) removeLeftovers(ctx context.Context, cfg *drivers.TaskConfig, found func()) (err error) {
	docker, err := c.engine.get(ctx, c.endpoint)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			c.engine.failed(docker)
		}
	}()
	name := containerName(cfg)
	left, err := docker.ContainerInspect(ctx, name)
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case err == nil && left.State != nil && left.State.Running:
		found()
	}
	// The process that collects its logs is not told of our end, and does not end with its container.
	// It is known by what it has open, as long as the container is there.
	loggers, err := loggersOf(cfg)
	if err != nil {
		return err
	}
	err = docker.ContainerRemove(ctx, name, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", name, err)
	}
	return killAll(ctx, loggers)
}

// waitingConfig is the task's config with the launcher in the place of its command.
func (c *containers) waitingConfig(ctx context.Context, t *task, channel launcher.Channel, hold *launcher.Hold) (*drivers.TaskConfig, launcher.TaskCommand, error) {
	command, err := taskCommand(t.options)
	if err != nil {
		return nil, command, err
	}
	files, err := c.files(channel)
	if err != nil {
		return nil, command, err
	}
	// The wrapped driver's selinuxlabel is only for what it binds itself, and may not be set: a container
	// without secrets needs none.
	use := []string{files.Launcher, channel.Path(), t.cfg.TaskDir().SecretsDir}
	inside := secretsDirInside(t.cfg)
	options := processLimitsOf(t.options).forLauncher(t.options, c.pidsLimit)
	shown := append(append([]string{}, command.Entrypoint...), command.Command)
	options["entrypoint"] = append([]string{launcher.ContainerPath}, hold.Args(launcher.ContainerChannel, append(shown, command.Args...)...)...)
	delete(options, "command")
	delete(options, "args")
	if image := t.currentProcess().image; image != "" { // a rotation never changes the image (C10)
		options["image"], options["force_pull"], options["load"] = image, false, ""
	} else if login := t.session.RegistryLogin(); login != nil {
		options["auth"] = registryAuth(login)
	}
	cfg, err := t.innerConfig(nil, options)
	if err != nil {
		return nil, command, err
	}
	for _, name := range append([]string{vaultTokenEnv}, t.nomad.variables...) {
		delete(cfg.Env, name) // an exposed token takes the secrets' way, too
	}
	cfg.Mounts = append(cfg.Mounts,
		&drivers.MountConfig{HostPath: files.Launcher, TaskPath: launcher.ContainerPath, Readonly: true},
		&drivers.MountConfig{HostPath: channel.Path(), TaskPath: launcher.ContainerChannel, Readonly: true})
	covers, err := c.coverTokens(t, inside, files.Empty)
	if err != nil {
		return nil, command, err
	}
	for _, m := range covers {
		cfg.Mounts = append(cfg.Mounts, m)
		use = append(use, m.HostPath)
	}
	live, err := t.liveMounts(ctx)
	if err != nil {
		return nil, command, err
	}
	cfg.Mounts = append(cfg.Mounts, live...)
	for _, path := range use {
		if err := launcher.LetIn(path); err != nil {
			return nil, command, err
		}
	}
	return cfg, command, nil
}

// coverTokens covers the files of Nomad's tokens in the container's secrets directory that the task did not ask for.
// empty is the container's own empty file.
func (c *containers) coverTokens(t *task, inside, empty string) (mounts []*drivers.MountConfig, err error) {
	if c.exposeToken {
		return nil, nil
	}
	names := []string{vaultTokenFile}
	if t.nomad.inSecrets() {
		names = append(names, nomadTokenFile)
	}
	for _, name := range names {
		// Docker follows what is there, and would cover that.
		if there, err := t.files.OnlyNomads(name); err != nil {
			return nil, err
		} else if !there {
			continue
		}
		mounts = append(mounts, &drivers.MountConfig{HostPath: empty, TaskPath: path.Join(inside, name), Readonly: true})
	}
	return mounts, nil
}

// argv is what Docker would have run: the image's word comes from the image that the container was
// made of, whatever its name means by now.
func (c *containers) argv(ctx context.Context, docker *client.Client, image string, command launcher.TaskCommand) ([]string, error) {
	of, err := c.engine.image(ctx, docker, image)
	if err != nil {
		return nil, err
	}
	return launcher.Command(of, command)
}

// releaseError adds to a waiting container's failure what Docker knows of it.
func (c *containers) releaseError(ctx context.Context, docker *client.Client, id string, err error) error {
	var failed *launcher.ExecError
	if errors.As(err, &failed) {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	inspected, inspectErr := docker.ContainerInspect(ctx, id)
	if inspectErr == nil && inspected.State != nil && !inspected.State.Running {
		if inspected.HostConfig != nil && inspected.HostConfig.PidsLimit != nil {
			err = errFewPids(err, *inspected.HostConfig.PidsLimit)
		}
		return fmt.Errorf("container %s ended (exit code %d) before its program ran: %w", id, inspected.State.ExitCode, err)
	}
	return fmt.Errorf("start the program in container %s: %w", id, err)
}

// holdCommand makes a command wait in the channel that the container has, or where the launcher of an older plugin
// looks for it.
func (c *containers) holdCommand(t *task) (*launcher.Hold, []string, error) {
	inside := launcher.ContainerChannel
	var hold *launcher.Hold
	if t.currentProcess().channel {
		channel, err := t.d.channelOf(t.cfg)
		if err != nil {
			return nil, nil, err
		}
		if hold, err = launcher.New(channel.Path()); err != nil {
			return nil, nil, err
		}
	} else {
		// A container's root may have changed it since.
		if err := t.files.Harden(); err != nil {
			return nil, nil, err
		}
		var err error
		if hold, err = launcher.NewInSecrets(t.cfg.TaskDir().SecretsDir); err != nil {
			return nil, nil, err
		}
		inside = secretsDirInside(t.cfg)
	}
	return hold, append([]string{launcher.ContainerPath}, hold.Args(inside)...), nil
}

// containerID reads the docker driver's own handle.
func containerID(handle *drivers.TaskHandle) (string, error) {
	var state struct{ ContainerID string }
	if err := handle.GetDriverState(&state); err != nil {
		return "", fmt.Errorf("read the docker driver's handle: %w", err)
	}
	return state.ContainerID, nil
}

// secretsDirInside is the task's secrets directory as its container sees it.
func secretsDirInside(cfg *drivers.TaskConfig) string {
	if dir := cfg.Env[taskenv.SecretsDir]; dir != "" {
		return dir
	}
	return "/secrets"
}
