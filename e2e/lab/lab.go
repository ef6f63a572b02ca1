package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// DefaultTimeout bounds one test's waits.
const DefaultTimeout = 3 * time.Minute

// Lab is a test's view of an agent of a cluster: its jobs are stopped when the test ends, and what happened to
// them is printed if it failed.
type Lab struct {
	*harness.Cluster
	T     testing.TB
	Ctx   context.Context // ends with the test, or when its time is up
	Agent *harness.Agent  // on which the jobs run: the cluster's own, or the test's
	Jobs  []*harness.Job  // submitted so far
}

// New is a lab on one of a cluster's agents.
func New(t testing.TB, cluster *harness.Cluster, agent *harness.Agent) *Lab {
	ctx, cancel := context.WithTimeout(t.Context(), DefaultTimeout)
	l := &Lab{Cluster: cluster, T: t, Ctx: ctx, Agent: agent}
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			var out strings.Builder
			agent.Dump(&out, l.Jobs...)
			t.Log(out.String())
		}
		l.StopJobs()
	})
	return l
}

// StopJobs has a context of its own: the test's has ended.
func (l *Lab) StopJobs() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, job := range l.Jobs {
		if err := job.Stop(ctx); err != nil {
			l.T.Errorf("stop job %s: %v", job.ID, err)
		}
	}
}

// Submit submits a job.
func (l *Lab) Submit(hcl string, vars ...harness.Var) *harness.Job {
	l.T.Helper()
	job, err := l.Agent.Submit(l.Ctx, hcl, vars...)
	require.NoError(l.T, err)
	l.Jobs = append(l.Jobs, job)
	return job
}

// Run submits a job and waits until its first allocation runs.
func (l *Lab) Run(hcl string, vars ...harness.Var) *harness.Alloc {
	l.T.Helper()
	alloc, err := l.Submit(hcl, vars...).Running(l.Ctx)
	require.NoError(l.T, err)
	return alloc
}

// Lines waits for n lines of a task's stdout that begin with prefix.
func (l *Lab) Lines(alloc *harness.Alloc, task, prefix string, n int) []string {
	l.T.Helper()
	lines, err := alloc.WaitLines(l.Ctx, task, prefix, n)
	require.NoError(l.T, err)
	return lines
}

// Until waits for a condition.
func (l *Lab) Until(what string, cond func() error) {
	l.T.Helper()
	require.NoError(l.T, harness.Until(l.Ctx, what, cond))
}

// Soon waits for a condition that must come within d.
func (l *Lab) Soon(what string, d time.Duration, cond func(ctx context.Context) error) {
	l.T.Helper()
	ctx, cancel := context.WithTimeout(l.Ctx, d)
	defer cancel()
	require.NoError(l.T, harness.Until(ctx, what, func() error { return cond(l.Ctx) }))
}

// FileLines waits until a file of the host has n lines, and returns them.
func (l *Lab) FileLines(path string, n int) (lines []string) {
	l.T.Helper()
	l.Until(fmt.Sprintf("%d lines in %s", n, path), func() error {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		lines = strings.Split(strings.TrimSpace(string(content)), "\n")
		if len(lines) < n {
			return fmt.Errorf("there are %d: %q", len(lines), content)
		}
		return nil
	})
	return lines
}

// NewOwn is a lab on an agent of the test's own, for as long as the test is known to take.
func NewOwn(t testing.TB, cluster *harness.Cluster, opts harness.AgentOptions, timeout time.Duration) *Lab {
	t.Helper()
	agent, err := cluster.NewAgent(t.Context(), opts)
	if agent != nil {
		t.Cleanup(func() { require.NoError(t, agent.Close()) })
	}
	require.NoError(t, err)
	l := New(t, cluster, agent)
	l.SetTimeout(timeout)
	return l
}

// SetTimeout bounds the test's waits by another time than DefaultTimeout.
func (l *Lab) SetTimeout(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(l.T.Context(), timeout)
	l.T.Cleanup(cancel)
	l.Ctx = ctx
}

// For is the lab for a subtest.
func (l *Lab) For(t *testing.T) *Lab {
	sub := *l
	sub.T, sub.Jobs = t, nil
	return &sub
}

// GroupAlloc waits for the allocation of one of a job's groups.
func (l *Lab) GroupAlloc(job *harness.Job, group string) (alloc *harness.Alloc) {
	l.T.Helper()
	l.Until("an allocation of "+job.ID, func() error {
		allocs, err := job.Allocs(l.Ctx)
		if err != nil {
			return err
		}
		for _, a := range allocs {
			info, err := a.Info(l.Ctx)
			if err != nil {
				return err
			}
			if info.TaskGroup == group {
				alloc = a
				return nil
			}
		}
		return errors.New("none yet")
	})
	return alloc
}

// FirstAlloc waits for a job's first allocation, whatever becomes of it.
func (l *Lab) FirstAlloc(job *harness.Job) *harness.Alloc {
	l.T.Helper()
	var first *harness.Alloc
	l.Until("an allocation of "+job.ID, func() error {
		all, err := job.Allocs(l.Ctx)
		if err == nil && len(all) == 0 {
			return errors.New("there is none")
		}
		if err == nil {
			first = all[len(all)-1] // the newest is first
		}
		return err
	})
	return first
}
