package driver

import (
	"fmt"
	"strings"

	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/pull"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A task's image may be pulled with a secret of the task (registry_auth). The credentials are in the config of that one
// start under the wrapped driver, as its own `auth`, and nowhere else: neither in the handle nor in the journal. A restart in
// place pulls nothing (C10).

// checkRegistryAuth refuses what the job says of the pull, where its other words are known. Nothing has been asked of
// any server.
func checkRegistryAuth(spec *secrets.Spec, inContainer bool, cfg *drivers.TaskConfig) error {
	r := spec.RegistryAuth
	if r == nil {
		return nil
	}
	const place = "registry_auth: "
	if !inContainer {
		return secrets.Errorf(secrets.Invalid, place+"this driver pulls no image; take it out")
	}
	var job struct {
		Image string         `codec:"image"`
		Auth  map[string]any `codec:"auth"`
	}
	if err := cfg.DecodeDriverConfig(&job); err != nil {
		return fmt.Errorf("read the task's config: %w", err)
	}
	if job.Auth != nil {
		return secrets.Errorf(secrets.Invalid, place+"the job has an auth block, too; take one of them out")
	}
	if r.ServerAddress == "" {
		return nil
	}
	if err := pull.CheckServer(job.Image, r.ServerAddress); err != nil {
		return secrets.Errorf(secrets.Invalid, place+"%w", err)
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

// takePullTurn waits until nobody pulls the task's image with other credentials than its own.
func takePullTurn(d *Driver, cfg *drivers.TaskConfig) (release func(), err error) {
	var job docker.TaskConfig
	if cfg.DecodeDriverConfig(&job) != nil {
		return func() {}, nil //nolint:nilerr // the wrapped driver says what is wrong
	}
	with := pull.CredentialsOf(job.Auth.Username, job.Auth.Password, job.Auth.ServerAddr)
	return d.pulls.Take(d.closing, pull.Name(job.Image), with, func() bool {
		if !job.ForcePull && !pull.Always(job.Image) && d.hasImage(job.Image) {
			return false
		}
		d.log.Info("the image is being pulled with other credentials; the start waits for its turn", "task_id", cfg.ID, "image", job.Image)
		return true
	})
}

// hasImage reports whether the node has an image.
func (d *Driver) hasImage(name string) bool {
	d.mu.Lock()
	endpoint := d.opts.docker
	d.mu.Unlock()
	client, err := endpoint.client()
	if err != nil {
		return false
	}
	defer client.Close()
	_, err = client.ImageInspect(d.ctx, pull.Name(name))
	return err == nil
}
