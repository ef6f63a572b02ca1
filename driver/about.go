package driver

import (
	"context"
	"fmt"
	"path/filepath"
	"sort"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// Version is what PluginInfo and the node attribute driver.<name>.secrets report. It stays above
// the 0.1.0 of Nomad's built-in drivers, because Nomad prefers the higher one of two plugins of
// the same name.
const Version = "0.2.0"

// wrapped is one of Nomad's drivers, as this plugin knows it.
type wrapped struct {
	name string // the inner driver's own name, in its fingerprint's attributes and its errors
	open func(context.Context, hclog.Logger) drivers.DriverPlugin
}

var (
	wrappedDocker  = wrapped{name: "docker", open: docker.NewDockerDriver}
	wrappedRawExec = wrapped{name: "raw_exec", open: rawexec.NewRawExecDriver}
)

// served is every name this binary can be installed under (DESIGN 2). The name in plugin_dir says
// what it wraps, and is the driver's name in jobs.
var served = map[string]wrapped{
	"docker":           wrappedDocker,
	"docker-secrets":   wrappedDocker,
	"raw_exec":         wrappedRawExec,
	"raw_exec-secrets": wrappedRawExec,
}

// beside reports whether a driver of this name stands beside the built-in, not in its place.
func beside(name string) bool { return served[name].name != name }

// Names are the file names this binary can be installed under.
func Names() []string {
	names := make([]string, 0, len(served))
	for name := range served {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Plugin is a driver to be served, and closed when Nomad has ended it.
type Plugin interface {
	drivers.DriverPlugin
	Close()
}

// New makes the driver that a plugin file of this path serves.
func New(ctx context.Context, path string, log hclog.Logger) (Plugin, error) {
	name := filepath.Base(path)
	w, ok := served[name]
	if !ok {
		return nil, fmt.Errorf("a plugin file named %q does not say what to wrap: name it one of %s", name, strings.Join(Names(), ", "))
	}
	d := newDriver(ctx, name, w, log)
	if w.name == wrappedDocker.name {
		return &Docker{Driver: d}, nil
	}
	return &RawExec{Driver: d}, nil
}

// PluginInfo is the inner driver's under our name and version.
func (d *Driver) PluginInfo() (*base.PluginInfoResponse, error) {
	info, err := d.inner.PluginInfo()
	if err != nil {
		return nil, err
	}
	ours := *info
	ours.Name = d.name
	ours.PluginVersion = Version
	return &ours, nil
}
