package driver

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/hashicorp/nomad/client/taskenv"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// containers runs tasks under docker. What is given to Docker's API stays on its disk, so a
// container with secrets starts as a launcher, which takes the command and the environment from a
// FIFO in the task's secrets directory and becomes the task's program (L1).
type containers struct {
	inner       drivers.DriverPlugin
	docker      func() (*client.Client, error)
	launcher    func() (string, error) // its path on the host
	exposeToken bool
}

func (d *Driver) newContainers(exposeToken bool) (*containers, error) {
	d.mu.Lock()
	endpoint := d.opts.docker
	d.mu.Unlock()
	return &containers{
		inner:       d.inner,
		docker:      func() (*client.Client, error) { return endpoint.client() },
		launcher:    launcherFile.Install,
		exposeToken: exposeToken,
	}, nil
}

// launcherFile is the launcher on the host's disk, one for all drivers of the process.
var launcherFile launcher.Installer

// client is a Docker client like the inner driver's.
func (e dockerEndpoint) client() (*client.Client, error) {
	opts := []client.Opt{client.WithAPIVersionNegotiation()}
	switch {
	case e.host == "":
		opts = append(opts, client.FromEnv)
	case e.cert+e.key+e.ca != "":
		opts = append(opts, client.WithHost(e.host), client.WithTLSClientConfig(e.ca, e.cert, e.key))
	default:
		opts = append(opts, client.WithHost(e.host))
	}
	return client.NewClientWithOpts(opts...)
}

// reap removes the container of an earlier start: the inner driver would adopt it, old environment
// and all (DESIGN 9).
func (c *containers) reap(ctx context.Context, cfg *drivers.TaskConfig, found func()) error {
	docker, err := c.docker()
	if err != nil {
		return err
	}
	defer docker.Close()
	// The name is the inner driver's (createContainerConfig).
	name := fmt.Sprintf("%s-%s", strings.ReplaceAll(cfg.Name, "/", "_"), cfg.AllocID)
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

func (c *containers) start(ctx context.Context, t *task, set *secrets.Set, publish func(owner) error) (_ process, err error) {
	hold, err := launcher.New(t.cfg.TaskDir().SecretsDir)
	if err != nil {
		return process{}, err
	}
	defer hold.Remove()
	cfg, command, err := c.heldConfig(t, hold)
	if err != nil {
		return process{}, err
	}
	handle, network, err := c.inner.StartTask(cfg)
	if err != nil {
		return process{}, err
	}
	crashpoint.Reached(crashpoint.InnerStarted, t.cfg.Name)
	defer func() {
		if err != nil {
			t.discardProcess()
		}
	}()
	started := process{network: network}
	if started.handle, err = scrub(handle); err != nil {
		return process{}, err
	}

	docker, err := c.docker()
	if err != nil {
		return process{}, err
	}
	defer docker.Close()
	id, err := containerID(handle)
	if err != nil {
		return process{}, err
	}
	held, err := docker.ContainerInspect(ctx, id)
	if err != nil {
		return process{}, fmt.Errorf("inspect the task's container: %w", err)
	}
	argv, err := c.argv(ctx, docker, held.Image, command)
	if err != nil {
		return process{}, err
	}
	uid, gid, err := launcher.OwnerOf(held.State.Pid)
	if err != nil { // it was there when the container was started
		return process{}, c.releaseError(ctx, docker, id, launcher.ErrEnded)
	}
	started.image, started.owner = held.Image, owner{UID: uid, GID: gid}
	if err := publish(started.owner); err != nil {
		return process{}, err
	}
	crashpoint.Reached(crashpoint.FilesPublished, t.cfg.Name)
	err = hold.Release(ctx, launcher.Alive(held.State.Pid), launcher.Owner{UID: uid, GID: gid},
		launcher.Payload{Argv: argv, Env: t.environ(set)})
	if err != nil {
		return process{}, c.releaseError(ctx, docker, id, err)
	}
	crashpoint.Reached(crashpoint.Released, t.cfg.Name)
	return started, nil
}

// heldConfig is the task's config with the launcher in the place of its command.
func (c *containers) heldConfig(t *task, hold *launcher.Hold) (*drivers.TaskConfig, launcher.TaskCommand, error) {
	command, err := taskCommand(t.options)
	if err != nil {
		return nil, command, err
	}
	hostPath, err := c.launcher()
	if err != nil {
		return nil, command, err
	}
	// The wrapped driver's selinuxlabel is only for what it binds itself, and may not be set: a container
	// without secrets needs none.
	use := []string{hostPath, t.cfg.TaskDir().SecretsDir}
	inside := secretsDirInside(t.cfg)
	options := map[string]any{}
	for key, value := range t.options {
		options[key] = value
	}
	shown := append(append([]string{}, command.Entrypoint...), command.Command)
	options["entrypoint"] = append([]string{launcher.ContainerPath}, hold.Args(inside, append(shown, command.Args...)...)...)
	delete(options, "command")
	delete(options, "args")
	if image := t.currentProcess().image; image != "" { // a rotation never changes the image (C10)
		options["image"], options["force_pull"], options["load"] = image, false, ""
	}
	cfg, err := t.innerConfig(nil, options)
	if err != nil {
		return nil, command, err
	}
	delete(cfg.Env, vaultTokenEnv) // an exposed token takes the secrets' way, too
	cfg.Mounts = append(cfg.Mounts, &drivers.MountConfig{HostPath: hostPath, TaskPath: launcher.ContainerPath, Readonly: true})
	if !c.exposeToken && secretsFileExists(t.cfg, vaultTokenFile) {
		cover, err := coverFile(filepath.Dir(hostPath))
		if err != nil {
			return nil, command, err
		}
		cfg.Mounts = append(cfg.Mounts, &drivers.MountConfig{HostPath: cover, TaskPath: path.Join(inside, vaultTokenFile), Readonly: true})
		use = append(use, cover)
	}
	for _, path := range use {
		if err := launcher.LetIn(path); err != nil {
			return nil, command, err
		}
	}
	return cfg, command, nil
}

// argv is what Docker would have run: the image's word comes from the image that the container was
// made of, whatever its name means by now.
func (c *containers) argv(ctx context.Context, docker *client.Client, image string, command launcher.TaskCommand) ([]string, error) {
	inspected, err := docker.ImageInspect(ctx, image)
	if err != nil {
		return nil, fmt.Errorf("inspect the task's image: %w", err)
	}
	var of launcher.ImageConfig
	if inspected.Config != nil {
		of = launcher.ImageConfig{Entrypoint: inspected.Config.Entrypoint, Cmd: inspected.Config.Cmd}
	}
	return launcher.Command(of, command)
}

// releaseError adds to a held container's failure what Docker knows of it.
func (c *containers) releaseError(ctx context.Context, docker *client.Client, id string, err error) error {
	var failed *launcher.ExecError
	if errors.As(err, &failed) {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	held, inspectErr := docker.ContainerInspect(ctx, id)
	if inspectErr == nil && held.State != nil && !held.State.Running {
		return fmt.Errorf("container %s ended (exit code %d) before its program ran: %w", id, held.State.ExitCode, err)
	}
	return fmt.Errorf("start the program in container %s: %w", id, err)
}

// launcherInside is where a container finds the launcher and its secrets.
func (c *containers) launcherInside(cfg *drivers.TaskConfig) (program, secretsDir string, err error) {
	return launcher.ContainerPath, secretsDirInside(cfg), nil
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
