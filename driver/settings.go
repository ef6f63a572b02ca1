package driver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/nomadvar"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// Settings is what the agent's configuration says of one plugin, for the operator's commands.
type Settings struct {
	Vault    vault.Config
	JWTMount string
	JWTRole  string
	StateDir string
	// TokenFile is where the node's own token is; empty: there is none.
	TokenFile string
	// Nomad is the TLS configuration for Nomad Variables.
	Nomad nomadvar.Config
	// Metrics is where Prometheus is answered; empty: it is not.
	Metrics string
	// Wraps is the name of the wrapped driver, and InPlace whether the plugin has the built-in's name.
	Wraps   string
	InPlace bool
	// OfEngine: its tasks are containers of a Docker engine, which Engine connects to.
	OfEngine bool
	// OptIn: no job can use the driver unless its config has enabled = true.
	OptIn bool

	docker dockerEndpoint
}

// ReadSettings reads the `config` of a plugin block as Nomad and the plugin do, and refuses what they would. The name is the block's.
func ReadSettings(ctx context.Context, name string, config map[string]any) (Settings, error) {
	w, ok := served[name]
	if !ok {
		return Settings{}, fmt.Errorf("no driver of this program is named %q; there are %s", name, strings.Join(Names(), ", "))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := newDriver(ctx, name, w, hclog.NewNullLogger())
	defer d.Close()
	schema, err := d.ConfigSchema()
	if err != nil {
		return Settings{}, err
	}
	spec, diags := hclspecutils.Convert(schema)
	if diags.HasErrors() {
		return Settings{}, diags
	}
	if config == nil {
		config = map[string]any{}
	}
	value, _, errs := hclutils.ParseHclInterface(config, spec, nil)
	if len(errs) > 0 {
		return Settings{}, errors.Join(errs...)
	}
	var coder drivers.TaskConfig // only for its way over the plugin boundary
	if err := coder.EncodeDriverConfig(value); err != nil {
		return Settings{}, err
	}
	var decoded map[string]any
	if err := coder.DecodeDriverConfig(&decoded); err != nil {
		return Settings{}, err
	}
	var raw []byte
	if err := base.MsgPackEncode(&raw, decoded); err != nil {
		return Settings{}, err
	}
	o, err := parseOptions(name, raw)
	if err != nil {
		return Settings{}, err
	}
	return Settings{
		Vault: o.vault, JWTMount: o.lifecycle.JWTMount, JWTRole: o.lifecycle.JWTRole,
		StateDir: o.stateDir, TokenFile: o.lifecycle.TokenFile, Nomad: o.nomad, Metrics: o.metrics.Address, Wraps: w.name, InPlace: !beside(name),
		OfEngine: w.ofEngine, OptIn: w.optIn, docker: o.docker,
	}, nil
}

// Engine is the Docker engine of a plugin.
type Engine struct{ docker *client.Client }

// Engine connects to the engine that the plugin uses. It is to be closed.
func (s Settings) Engine() (*Engine, error) {
	docker, err := s.docker.client()
	if err != nil {
		return nil, err
	}
	return &Engine{docker}, nil
}

// Close gives the connection back.
func (e *Engine) Close() error { return e.docker.Close() }

// Version is the engine's.
func (e *Engine) Version(ctx context.Context) (string, error) {
	v, err := e.docker.ServerVersion(ctx)
	return v.Version, err
}

// DataDir is where the engine keeps containers and images.
func (e *Engine) DataDir(ctx context.Context) (string, error) {
	info, err := e.docker.Info(ctx)
	return filepath.Clean(info.DockerRootDir), err
}

// Inspect gives what the engine tells of each container, running or not, as it comes. The name is as Nomad makes it:
// task and allocation, with a dash between.
func (e *Engine) Inspect(ctx context.Context, visit func(name string, answer []byte)) error {
	all, err := e.docker.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range all {
		found, raw, err := e.docker.ContainerInspectWithRaw(ctx, c.ID, false)
		switch {
		case errdefs.IsNotFound(err): // removed since
		case err != nil:
			errs = append(errs, err)
		default:
			visit(strings.TrimPrefix(found.Name, "/"), raw)
		}
	}
	return errors.Join(errs...)
}
