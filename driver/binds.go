package driver

import (
	"path/filepath"
	"slices"

	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
)

// bindsSecrets reports whether a container binds something in the task's secrets directory by its name, which is then to be
// there before the container is.
func bindsSecrets(cfg *drivers.TaskConfig) bool {
	var job docker.TaskConfig
	if cfg.DecodeDriverConfig(&job) != nil {
		return false // it is refused
	}
	dir := cfg.TaskDir()
	within := func(b guard.Bind, err error) bool {
		if err != nil { // it is refused
			return false
		}
		rel, err := filepath.Rel(dir.SecretsDir, b.Source)
		return err == nil && rel != "." && filepath.IsLocal(rel)
	}
	for _, spec := range job.Volumes {
		if within(guard.Volume(dir.Dir, spec, "")) {
			return true
		}
	}
	return slices.ContainsFunc(slices.Concat(job.Mounts, job.MountsList), func(m docker.DockerMount) bool {
		return m.Type == "bind" && within(guard.Mount(dir.Dir, m.Source, m.Target, m.ReadOnly, ""))
	})
}
