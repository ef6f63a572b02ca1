package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Nomad lets a task have a name that leads to a directory which is not its own: to its allocation's, or to
// that of all allocations, where another job's task of that name would be, too. Such a task gets no
// secrets, and the event says why (S5).
func TestTaskNamesThatLeadElsewhere(t *testing.T) {
	t.Parallel()
	l := newOwnLab(t, harness.AgentOptions{Name: "tasknames", Placement: harness.InPlace}, lab.DefaultTimeout)
	l.PutColour("tasknames", "green")
	l.AllowLeased("tasknames", "secret/data/tasknames")
	for _, driver := range []string{"docker", "raw_exec"} {
		for i, name := range []string{".", ".."} {
			job := l.SubmitFile("task-name", lab.Vars{"name": fmt.Sprintf("tasknames-%s-%d", driver, i), "driver": driver, "task": name})
			alloc, err := job.Failed(l.Ctx)
			require.NoError(t, err)
			_, err = alloc.WaitEvent(l.Ctx, name, fmt.Sprintf("a task named %q shares its directory with other tasks", name))
			require.NoError(t, err)
			for _, dir := range []string{"secrets", "../secrets"} {
				_, err := os.Stat(filepath.Join(alloc.Dir(dir), "app"))
				require.ErrorIs(t, err, os.ErrNotExist)
			}
		}
	}
}
