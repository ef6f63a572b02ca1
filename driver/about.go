package driver

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/nomadversion"
)

// Version is what PluginInfo and the node attribute driver.<name>.secrets report. It stays above
// the 0.1.0 of Nomad's built-in drivers, because Nomad prefers the higher one of two plugins of
// the same name. A release sets its own (.ci/release).
var Version = "0.2.0"

// Commit is the commit that a release was built of; "" in other builds.
var Commit string

// wrapped is one of Nomad's drivers, and all that is different about it. Another one (exec, java, podman) would be one
// more of these; nothing else in this package asks which driver it is.
type wrapped struct {
	// name is the inner driver's own, in its fingerprint's attributes and its errors.
	name string
	open func(context.Context, hclog.Logger) drivers.DriverPlugin
	// taskSchema is the inner driver's, which no instance is needed for.
	taskSchema func() (*hclspec.Spec, error)
	// serve gives a driver exactly the optional methods of the inner one.
	serve func(*Driver) Plugin
	// inContainer: its tasks have a file system of their own.
	inContainer bool
	// ofEngine: they are containers of a Docker engine, which the operator's commands ask, too.
	ofEngine bool
	// optIn: no job can use the driver unless its config has enabled = true.
	optIn bool
	// runner starts the tasks that have secrets. A token is exposed where the job asks for that.
	runner func(d *Driver, exposeToken bool) runner

	// options are the plugin options of newer versions of the inner driver that are enforced here.
	options map[string]*hclspec.Spec
	// config is the inner driver's config, in the built-in's place or beside it; nil: as it is.
	config func(raw []byte, beside bool) ([]byte, error)
	// besideWarning is what the operator has to see to then; "": nothing.
	besideWarning string

	// check refuses what Nomad's client refuses for the built-in, and does not ask a plugin about; nil: nothing.
	check func(*drivers.TaskConfig) error
	// pullTurn waits until a start may pull its image, and gives what is to be called when it has; nil: none is pulled.
	pullTurn func(*Driver, *drivers.TaskConfig) (release func(), err error)
	// guardDirs makes safe what the inner driver makes in the allocation's directory, and names the files that it opens
	// in the task's as root.
	guardDirs func(*drivers.TaskConfig) (rootsFiles []string, err error)
	// releaseLogs releases the pins of the log FIFOs at a task's end, once no helper comes to open them any more.
	releaseLogs func(*Driver, *guard.Pins)
	// guardStart makes the rest of a start safe, and gives what is to be called when the inner driver has
	// started the task; nil: there is no more.
	guardStart func(*Driver, *drivers.TaskConfig, guardOptions) (release func(), err error)
}

// served is every name this binary can be installed under. The name in plugin_dir says
// what it wraps, and is the driver's name in jobs.
var served = map[string]*wrapped{
	"docker":           &wrappedDocker,
	"docker-secrets":   &wrappedDocker,
	"raw_exec":         &wrappedRawExec,
	"raw_exec-secrets": &wrappedRawExec,
}

// beside reports whether a driver of this name stands beside the built-in, not in its place.
func beside(name string) bool { return served[name].name != name }

// Names are the file names this binary can be installed under.
func Names() []string { return slices.Sorted(maps.Keys(served)) }

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
		return nil, fmt.Errorf("a plugin file named %q does not say what to wrap: name it one of %s, and its plugin block likewise", name, strings.Join(Names(), ", "))
	}
	return w.serve(newDriver(ctx, name, w, log)), nil
}

// PluginInfo is the inner driver's under our name and version, whose build metadata says which Nomad the
// wrapped driver is from.
func (d *Driver) PluginInfo() (*base.PluginInfoResponse, error) {
	info, err := d.inner.PluginInfo()
	if err != nil {
		return nil, err
	}
	ours := *info
	ours.Name = d.name
	ours.PluginVersion = Version
	if from := nomadversion.Wrapped(); from != "" {
		ours.PluginVersion += "+nomad." + from
	}
	return &ours, nil
}
