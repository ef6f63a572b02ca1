package lab

import (
	"os"
	"path/filepath"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// Vars are values of a job's variables, by name.
type Vars map[string]any

// JobFile is the text of e2e/jobs/<name>.nomad.hcl.
func (l *Lab) JobFile(name string) string {
	l.T.Helper()
	root, err := harness.RepoRoot()
	require.NoError(l.T, err)
	hcl, err := os.ReadFile(filepath.Join(root, "e2e", "jobs", name+".nomad.hcl"))
	require.NoError(l.T, err)
	return string(hcl)
}

func (v Vars) list() (list []harness.Var) {
	for name, value := range v {
		list = append(list, harness.Var{Name: name, Value: value})
	}
	return list
}

// SubmitFile submits the job of e2e/jobs/<name>.nomad.hcl.
func (l *Lab) SubmitFile(name string, vars Vars) *harness.Job {
	l.T.Helper()
	return l.Submit(l.JobFile(name), vars.list()...)
}

// RunFile submits a job file and waits until its first allocation runs.
func (l *Lab) RunFile(name string, vars Vars) *harness.Alloc {
	l.T.Helper()
	return l.Run(l.JobFile(name), vars.list()...)
}

// RunFileAsIs is RunFile on Nomad's own drivers, under Beside.
func (l *Lab) RunFileAsIs(name string, vars Vars) *harness.Alloc {
	l.T.Helper()
	job, err := l.Agent.SubmitAsIs(l.Ctx, l.JobFile(name), vars.list()...)
	require.NoError(l.T, err)
	l.Jobs = append(l.Jobs, job)
	alloc, err := job.Running(l.Ctx)
	require.NoError(l.T, err)
	return alloc
}
