package driver

import (
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/drivers/docker/docklog"
	_ "github.com/hashicorp/nomad/drivers/shared/executor" // its init serves `executor`
	"github.com/hashicorp/nomad/plugins/base"
)

// ServeHelper serves the helper process that the wrapped drivers start our binary as, by its first
// argument, and reports whether it was one. raw_exec's executor is served by its package's init.
func ServeHelper(args []string) bool {
	if len(args) < 2 || args[1] != docklog.PluginName {
		return false
	}
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, JSONFormat: true, Name: docklog.PluginName})
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: base.Handshake,
		Plugins: map[string]plugin.Plugin{
			docklog.PluginName: docklog.NewPlugin(docklog.NewDockerLogger(log)),
		},
		GRPCServer: plugin.DefaultGRPCServer,
		Logger:     log,
	})
	return true
}
