package docs

import (
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/agentconf"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
)

// The complete configurations are read as the doctor reads an agent's, and the plugins take their blocks: with the options of the wrapped drivers.
func TestInstalledConfigurations(t *testing.T) {
	list, err := filepath.Glob("install/*.hcl")
	must.NoError(t, err)
	must.SliceLen(t, 3, list)
	for _, path := range list {
		t.Run(filepath.Base(path), func(t *testing.T) {
			config, err := agentconf.Load(path)
			must.NoError(t, err)
			must.Eq(t, "/opt/nomad/plugins", config.PluginDir)
			withSecrets := 0
			for _, p := range config.Plugins {
				_, err := driver.ReadSettings(t.Context(), p.Name, p.Config)
				must.NoError(t, err, must.Sprint(p.Name))
				if _, ok := p.Block("secrets"); ok {
					withSecrets++
				}
			}
			must.Positive(t, withSecrets)
		})
	}
}
