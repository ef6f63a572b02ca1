package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// What the tests of the wrapped drivers' behaviour have in common.

// newOwnLab is a lab on an agent of the test's own, for as long as the test is known to take.
func newOwnLab(t *testing.T, opts harness.AgentOptions, timeout time.Duration) *lab {
	t.Helper()
	agent, err := shared.NewAgent(t.Context(), opts)
	if agent != nil {
		t.Cleanup(func() { require.NoError(t, agent.Close()) })
	}
	require.NoError(t, err)
	l := newLabOn(t, agent)
	l.within(timeout)
	return l
}

// within bounds the test's waits by another time than testTimeout.
func (l *lab) within(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(l.t.Context(), timeout)
	l.t.Cleanup(cancel)
	l.ctx = ctx
}

// mayRead makes a Vault role for the lab's agent, with a policy of the same name.
func (l *lab) mayRead(name string, paths ...string) {
	l.t.Helper()
	var policy strings.Builder
	for _, path := range paths {
		fmt.Fprintf(&policy, "path %q { capabilities = [\"read\"] }\n", path)
	}
	fmt.Fprintln(&policy, `path "sys/leases/revoke" { capabilities = ["update"] }`)
	v := l.agent.Vault()
	require.NoError(l.t, v.Policy(l.ctx, name, policy.String()))
	require.NoError(l.t, v.WorkloadRole(l.ctx, l.agent.AuthPath, name, harness.WorkloadRole{
		Policies: []string{name}, TTL: time.Hour,
	}))
}

// putColour writes secret/<name>, whose one field is colour.
func (l *lab) putColour(name, colour string) {
	l.t.Helper()
	v := l.agent.Vault()
	require.NoError(l.t, v.EnableKV2(l.ctx, "secret"))
	require.NoError(l.t, v.PutKV2(l.ctx, "secret", name, map[string]any{"colour": colour}))
}

// notRestarted: Nomad has started the task once, and has it running.
func (l *lab) notRestarted(alloc *harness.Alloc, task string) {
	l.t.Helper()
	state, err := alloc.State(l.ctx, task)
	require.NoError(l.t, err)
	require.Equal(l.t, "running", state.State, "task %s", task)
	require.Zero(l.t, state.Restarts, "Nomad has restarted task %s", task)
}

// body is the whole of a task's process, so that another one is told from it: the container, and the
// process with the time it began, since pids come again.
type body struct {
	container string
	pid       int
	began     string
}

// bodyOf is the process that a task has now. A raw_exec task is testapp with a pidfile "pid" in its
// task directory.
func (l *lab) bodyOf(alloc *harness.Alloc, task, driver string) body {
	l.t.Helper()
	var b body
	if driver == "docker" {
		inspect, err := alloc.Container(l.ctx, task)
		require.NoError(l.t, err)
		b.container, b.pid = inspect.ID, inspect.State.Pid
	} else {
		l.until("the pid file of task "+task, func() error {
			content, err := os.ReadFile(alloc.Dir(task, "pid"))
			if err != nil {
				return err
			}
			_, err = fmt.Sscan(string(content), &b.pid)
			return err
		})
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.pid))
	require.NoError(l.t, err, "the process of task %s", task)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	b.began = fields[19]
	return b
}
