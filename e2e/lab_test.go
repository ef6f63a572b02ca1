package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// placement is how the shared cluster has the plugin installed.
const placement = harness.InPlace

// testTimeout bounds one test's waits.
const testTimeout = 3 * time.Minute

// lab is a test's view of an agent: its jobs are stopped when the test ends, and what happened to
// them is printed if it failed.
type lab struct {
	*harness.Cluster
	t     testing.TB
	ctx   context.Context
	agent *harness.Agent
	jobs  []*harness.Job
}

// newLab is a lab on the shared cluster's agent.
func newLab(t testing.TB) *lab {
	t.Helper()
	return newLabOn(t, shared.Agent)
}

// newLabOn is a lab on an agent of the test's own.
func newLabOn(t testing.TB, agent *harness.Agent) *lab {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	l := &lab{Cluster: shared, t: t, ctx: ctx, agent: agent}
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			var out strings.Builder
			agent.Dump(&out, l.jobs...)
			t.Log(out.String())
		}
		l.stopJobs()
	})
	return l
}

// stopJobs has a context of its own: the test's has ended.
func (l *lab) stopJobs() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, job := range l.jobs {
		if err := job.Stop(ctx); err != nil {
			l.t.Errorf("stop job %s: %v", job.ID, err)
		}
	}
}

// submit submits a job.
func (l *lab) submit(hcl string, vars ...harness.Var) *harness.Job {
	l.t.Helper()
	job, err := l.agent.Submit(l.ctx, hcl, vars...)
	require.NoError(l.t, err)
	l.jobs = append(l.jobs, job)
	return job
}

// run submits a job and waits until its first allocation runs.
func (l *lab) run(hcl string, vars ...harness.Var) *harness.Alloc {
	l.t.Helper()
	alloc, err := l.submit(hcl, vars...).Running(l.ctx)
	require.NoError(l.t, err)
	return alloc
}

// lines waits for n lines of a task's stdout that begin with prefix.
func (l *lab) lines(alloc *harness.Alloc, task, prefix string, n int) []string {
	l.t.Helper()
	lines, err := alloc.WaitLines(l.ctx, task, prefix, n)
	require.NoError(l.t, err)
	return lines
}

// until waits for a condition.
func (l *lab) until(what string, cond func() error) {
	l.t.Helper()
	require.NoError(l.t, harness.Until(l.ctx, what, cond))
}
