package driver

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/docker/docker/client"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/pull"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A task's image may be pulled with a secret of the task (registry_auth). The credentials are in the config of that one
// start under the wrapped driver, as its own `auth`, and nowhere else: neither in the handle nor in the journal. A restart in
// place pulls nothing (C10).

// checkRegistryAuth refuses what the job says of the pull, where the rest of its configuration is known. Nothing has been asked of
// any server.
func checkRegistryAuth(spec *secrets.Spec, inContainer bool, cfg *drivers.TaskConfig) error {
	r := spec.RegistryAuth
	if r == nil {
		return nil
	}
	const place = "registry_auth"
	if !inContainer {
		return secrets.Problemf(place, "this driver pulls no image; take it out")
	}
	var job struct {
		Image string         `codec:"image"`
		Auth  map[string]any `codec:"auth"`
	}
	if err := cfg.DecodeDriverConfig(&job); err != nil {
		return fmt.Errorf("read the task's config: %w", err)
	}
	if job.Auth != nil {
		return secrets.Problemf(place, "the job has an auth block, too; take one of them out")
	}
	if r.ServerAddress == "" {
		return nil
	}
	if err := pull.CheckServer(job.Image, r.ServerAddress); err != nil {
		return secrets.Problemf(place, "%v", err)
	}
	return nil
}

// registryAuth is the wrapped driver's `auth` for a pull.
func registryAuth(login *secrets.RegistryLogin) map[string]any {
	return map[string]any{"username": login.Username.Text(), "password": login.Password.Text()}
}

// pullFailed is how the wrapped driver's errors about a pull begin: they are of no kind of their own.
const pullFailed = "Failed to pull "

// pullError names the secret that a failed pull was made with. The registry's reason is in the error; it is recoverable,
// for somebody may correct the secret.
func pullError(login *secrets.RegistryLogin, err error) error {
	if login == nil || !strings.HasPrefix(err.Error(), pullFailed) {
		return err
	}
	return fmt.Errorf("registry_auth: with the credentials of secret %q: %w", login.Secret, err)
}

// takePullTurn waits until nobody pulls the task's image with other credentials than its own: as long as its own pull may take,
// for another may be stuck.
func takePullTurn(d *Driver, cfg *drivers.TaskConfig) (release func(), err error) {
	var job docker.TaskConfig
	if cfg.DecodeDriverConfig(&job) != nil {
		return func() {}, nil //nolint:nilerr // the wrapped driver says what is wrong
	}
	if job.LoadImage != "" { // it is loaded from a file, or there already
		return func() {}, nil
	}
	d.mu.Lock()
	longest := pullTimeout(job.ImagePullTimeout, d.opts.imagePullTimeout)
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(d.closing, longest)
	defer cancel()
	began := time.Now()
	release, err = d.pulls.Take(ctx, pull.Pull{
		Image: pull.Name(job.Image),
		With:  pull.CredentialsOf(job.Auth.Username, job.Auth.Password, job.Auth.ServerAddr),
		Needed: func() bool {
			if !job.ForcePull && !pull.Always(job.Image) && d.hasImage(job.Image) {
				return false
			}
			d.log.Info("the image is being pulled with other credentials; the start waits for its turn", "task_id", cfg.ID, "image", job.Image)
			return true
		},
		Over: func(ctx context.Context) bool { return d.hasContainer(ctx, containerName(cfg), began) },
	})
	if err != nil && d.closing.Err() == nil {
		err = structs.NewRecoverableError(fmt.Errorf("image %s: another task has been pulling it with other credentials for %v, and this start waits no longer", job.Image, longest), true)
	}
	return release, err
}

// defaultPullTimeout is the wrapped driver's.
const defaultPullTimeout = 5 * time.Minute

// pullTimeout is how long a pull may take, as the job or the operator has it. What is wrong with that the wrapped driver says.
func pullTimeout(job, operator string) time.Duration {
	timeout, err := time.ParseDuration(cmp.Or(job, operator))
	if err != nil {
		return defaultPullTimeout
	}
	return timeout
}

// hasImage reports whether the node has an image.
func (d *Driver) hasImage(name string) bool {
	return d.askEngine(func(engine *client.Client) bool {
		_, err := engine.ImageInspect(d.ctx, pull.Name(name))
		return err == nil
	})
}

// hasContainer reports whether a container was made since, as the wrapped driver does when it has the image.
func (d *Driver) hasContainer(ctx context.Context, name string, since time.Time) bool {
	return d.askEngine(func(engine *client.Client) bool {
		found, err := engine.ContainerInspect(ctx, name)
		if err != nil {
			return false
		}
		made, err := time.Parse(time.RFC3339Nano, found.Created)
		return err == nil && made.After(since)
	})
}

// askEngine asks the Docker engine something; if it is away the answer is no.
func (d *Driver) askEngine(is func(*client.Client) bool) bool {
	d.mu.Lock()
	endpoint := d.opts.docker
	d.mu.Unlock()
	engine, err := endpoint.client()
	if err != nil {
		return false
	}
	defer engine.Close()
	return is(engine)
}
