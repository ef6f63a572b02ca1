package live

import (
	"os"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// TestNomadJobsWithVolumes runs the example jobs as they are, but for the driver's name, which here is the test's own, and the
// network, which this engine has none of.
func TestNomadJobsWithVolumes(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	put(t, "app-1", "username", "of-the-volume")
	mustDocker(t, "tag", busyboxImage, "secrets-demo/busybox:1")
	agent, err := lab.NewAgent(t.Context(), harness.AgentOptions{
		Name: "volumes", Placement: harness.InPlace, DockerHCL: `endpoint = "` + lab.engine.Host + `"`,
	})
	must.NoError(t, err)
	defer func() { must.NoError(t, agent.Close()) }()
	for _, name := range []string{"volume-driver", "mount"} {
		t.Run(name, func(t *testing.T) {
			hcl, err := os.ReadFile("../../jobs/volumes/" + name + ".nomad.hcl")
			must.NoError(t, err)
			text := strings.NewReplacer(`= "secrets"`, `= "`+d.name+`"`, "config {\n", "config {\n        network_mode = \"none\"\n").Replace(string(hcl))
			text = strings.Replace(text, "driver_config {\n        network_mode = \"none\"\n", "driver_config {\n", 1)
			job, err := agent.SubmitAsIs(t.Context(), text)
			must.NoError(t, err)
			alloc, err := job.Running(t.Context())
			must.NoError(t, err)
			lines, err := alloc.WaitLines(t.Context(), "app", "user: ", 1)
			must.NoError(t, err)
			must.Eq(t, []string{"of-the-volume"}, lines)
			must.NoError(t, job.Stop(t.Context()))
		})
	}
	must.NoError(t, harness.Until(t.Context(), "the volumes to be unused", func() error {
		for _, m := range mountsBelow(t, d.path("run")) {
			if m != d.path("run/shared") {
				return os.ErrExist
			}
		}
		return nil
	}))
}
