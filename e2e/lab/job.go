package lab

import (
	"fmt"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// IdentityBlock gives a task an identity, with which the plugin logs in to Vault.
const IdentityBlock = harness.IdentityBlock

// Job is a harness.OneTask with an identity.
type Job struct {
	ID, Driver, Role string
	Run              []string // command and arguments
	Config           string   // what else is in config: the secrets
	Count            int      // 0: 1
	Image            string   // docker: if not the usual one
	Task             string   // what else is in task
}

// HCL is the job's file: made here, since tables of tests say what is in its blocks.
func (j Job) HCL() string {
	return harness.OneTask{
		ID: j.ID, Driver: j.Driver, Count: max(j.Count, 1), Run: j.Run, Image: j.Image,
		Config: fmt.Sprintf("role = %q\n%s", j.Role, j.Config), Task: IdentityBlock + j.Task,
	}.HCL()
}

// RunAll submits jobs together and gives each one's first allocation.
func (l *Lab) RunAll(specs ...Job) []*harness.Alloc {
	l.T.Helper()
	jobs := make([]*harness.Job, len(specs))
	for i, spec := range specs {
		jobs[i] = l.Submit(spec.HCL())
	}
	allocs := make([]*harness.Alloc, len(jobs))
	for i, job := range jobs {
		var err error
		allocs[i], err = job.Running(l.Ctx)
		require.NoError(l.T, err)
	}
	return allocs
}
