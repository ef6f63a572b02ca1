package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// Nomad lets a task have a name that leads to a directory which is not its own: to its allocation's, or to
// that of all allocations, where another job's task of that name would be, too. Such a task gets no
// secrets, and the event says why (S5).
func TestTaskNamesThatLeadElsewhere(t *testing.T) {
	t.Parallel()
	l := newOwnLab(t, harness.AgentOptions{Name: "tasknames", Placement: harness.InPlace}, testTimeout)
	l.putColour("tasknames", "green")
	l.mayRead("tasknames", "secret/data/tasknames")
	for _, driver := range []string{"docker", "raw_exec"} {
		image := ""
		if driver == "docker" {
			image = `image = "${meta.image}"`
		}
		for i, name := range []string{".", ".."} {
			job := l.submit(fmt.Sprintf(`
job "tasknames-%s-%d" {
  group "g" {
    task %q {
      driver = %q
      %s
      config {
        %s
        command = "testapp"
        args    = ["sleep"]
        role    = "tasknames"
        secret "app" {
          path  = "secret/tasknames"
          files = true
        }
      }
    }
  }
}`, driver, i, name, driver, identityBlock, image))
			alloc, err := job.Failed(l.ctx)
			require.NoError(t, err)
			_, err = alloc.WaitEvent(l.ctx, name, fmt.Sprintf("a task named %q shares its directory with other tasks", name))
			require.NoError(t, err)
			for _, dir := range []string{"secrets", "../secrets"} {
				_, err := os.Stat(filepath.Join(alloc.Dir(dir), "app"))
				require.ErrorIs(t, err, os.ErrNotExist)
			}
		}
	}
}
