package driver

import (
	"context"
	"time"

	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
)

// wrappedDocker is Nomad's docker driver.
var wrappedDocker = wrapped{
	name:          "docker",
	open:          docker.NewDockerDriver,
	taskSchema:    new(docker.Driver).TaskConfigSchema,
	serve:         func(d *Driver) Plugin { return &Docker{Driver: d} },
	inContainer:   true,
	ofEngine:      true,
	runner:        func(d *Driver, exposeToken bool) runner { return d.newContainers(exposeToken) },
	options:       map[string]*hclspec.Spec{"allowed_modes": allowedModesBlock},
	config:        dockerConfig,
	besideWarning: "the built-in docker driver removes containers that it does not know, ours too: set gc { dangling_containers { enabled = false } } in its plugin block",
	guardDirs: func(cfg *drivers.TaskConfig) (rootsFiles []string, err error) {
		if cfg.DNS != nil {
			rootsFiles = []string{"resolv.conf"}
		}
		return rootsFiles, guard.RemoveForeign(cfg.AllocDir, "hosts")
	},
	pullTurn:    takePullTurn,
	releaseLogs: (*Driver).releaseLater,
	guardStart:  guardContainerStart,
}

// logLinger is how long after a task's end the docker driver's logger may still open its FIFOs: it is a process of its
// own, which does so once it has been told to start.
const logLinger = 30 * time.Second

// releaseLater releases pins once no logger comes for them any more.
func (d *Driver) releaseLater(pins *guard.Pins) {
	d.background.Go(func() {
		defer pins.Release()
		select {
		case <-time.After(logLinger):
		case <-d.ctx.Done():
		}
	})
}

// Nomad finds a driver's optional abilities by type assertions on the served value, so there is one served type a
// driver, with exactly the optional methods of the inner one.

// Docker serves the docker driver.
type Docker struct{ *Driver }

var (
	_ drivers.DriverPlugin            = (*Docker)(nil)
	_ drivers.DriverNetworkManager    = (*Docker)(nil)
	_ drivers.ExecTaskStreamingDriver = (*Docker)(nil)
)

// CreateNetwork makes a group's network: it has no secrets in it, and is the inner driver's.
func (d *Docker) CreateNetwork(allocID string, req *drivers.NetworkCreateRequest) (*drivers.NetworkIsolationSpec, bool, error) {
	return d.inner.(drivers.DriverNetworkManager).CreateNetwork(allocID, req)
}

// DestroyNetwork undoes CreateNetwork.
func (d *Docker) DestroyNetwork(allocID string, spec *drivers.NetworkIsolationSpec) error {
	return d.inner.(drivers.DriverNetworkManager).DestroyNetwork(allocID, spec)
}

// ExecTaskStreaming runs a command in a task's container, with its secrets in the environment.
func (d *Docker) ExecTaskStreaming(ctx context.Context, taskID string, opts *drivers.ExecOptions) (*drivers.ExitResult, error) {
	inner := d.inner.(drivers.ExecTaskStreamingDriver)
	t := d.tasks.get(taskID)
	if t == nil {
		return inner.ExecTaskStreaming(ctx, taskID, opts)
	}
	return t.execStreaming(ctx, inner, opts)
}

// leastImageDelay is how long an image stays, at the least, that no task uses any more. A restart in place uses it again: the
// wrapped driver has removed the container by then, and is to find the image.
const leastImageDelay = "3m"

// dockerConfig is the inner docker driver's config: no image goes at once, and beside the built-in its container reconciler is
// off. Each docker driver instance removes running Nomad containers that it does not track, so beside the built-in, ours would
// remove the built-in's (docs/nomad.md).
func dockerConfig(raw []byte, beside bool) ([]byte, error) {
	cfg := map[string]any{}
	if len(raw) > 0 {
		if err := base.MsgPackDecode(raw, &cfg); err != nil {
			return nil, err
		}
	}
	gc, _ := cfg["gc"].(map[string]any)
	switch {
	case gc == nil && !beside: // the schema gives each operator's one
		return raw, nil
	case gc == nil:
		gc = map[string]any{"image": true, "image_delay": leastImageDelay, "container": true}
		cfg["gc"] = gc
	}
	if beside {
		gc["dangling_containers"] = map[string]any{"enabled": false, "period": "5m", "creation_grace": "5m"}
	}
	delay, _ := gc["image_delay"].(string)
	if given, err := time.ParseDuration(delay); err == nil && given < mustDuration(leastImageDelay) { // another error is the wrapped driver's
		gc["image_delay"] = leastImageDelay
	}
	var out []byte
	if err := base.MsgPackEncode(&out, cfg); err != nil {
		return nil, err
	}
	return out, nil
}
