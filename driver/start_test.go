package driver

import (
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A task with secrets has a directory that is its own, whatever its name.
func TestSharedTaskDirsAreRefused(t *testing.T) {
	for name, own := range map[string]bool{
		".": false, "..": false,
		"web": true, "...": true, "..a": true, "a..": true, " ": true, "%2E%2E": true, "\u00e9": true,
	} {
		cfg := &drivers.TaskConfig{Name: name, AllocDir: "/allocs/a"}
		err := refuseSharedDir(cfg)
		if !own {
			must.EqOp(t, secrets.Invalid, secrets.KindOf(err), must.Sprintf("%q", name))
			continue
		}
		must.NoError(t, err)
		must.EqOp(t, cfg.AllocDir, filepath.Dir(cfg.TaskDir().Dir), must.Sprintf("%q", name))
	}
}
