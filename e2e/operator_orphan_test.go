package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/control"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/stretchr/testify/require"
)

// An agent that was killed and has lost its client's state starts plugins of its own, beside those that live on with their tasks: status
// tells them apart, and all answer. What is to be done is what status says: the orphans are ended.
func TestOrphanedPlugin(t *testing.T) {
	t.Parallel()
	l := &operatorLab{Lab: newOwnLab(t, harness.AgentOptions{Name: "orphan", Placement: placement}, lab.DefaultTimeout)}
	l.PutColour("orphan", "red")
	l.Allow("orphan", "secret/data/orphan")
	old := l.RunAll(lab.Job{
		ID: "orphan", Driver: "raw_exec", Role: "orphan", Run: []string{"testapp", "sleep"},
		Config: "secret \"colour\" {\n path = \"secret/orphan\"\n env = { COLOUR = \"colour\" }\n change_mode = \"noop\"\n }",
	})[0]
	l.Lines(old, lab.App, "start ", 1)
	node, err := l.Agent.Node(l.Ctx)
	require.NoError(t, err)
	orphans := l.Plugins()

	l.Agent.Kill()
	require.NoError(t, os.RemoveAll(filepath.Join(l.Agent.DataDir(), "client")))
	require.NoError(t, l.Agent.Start(l.Ctx))
	_, _, err = l.Agent.Client().Nodes().Purge(node.ID, nil) // the server need not wait for its heartbeats: the task is lost
	require.NoError(t, err)

	var fresh *control.Report // the new plugin for raw_exec, which has the task that took the lost one's place
	l.Until("the new plugins beside the old ones", func() error {
		fresh = nil
		all, _ := l.status()
		if len(all) != 4 {
			return fmt.Errorf("there are %d", len(all))
		}
		for _, p := range all {
			orphan := p.PID == orphans[p.Driver]
			if orphan == p.AgentGone.IsZero() {
				return fmt.Errorf("process %d of %s, agent gone: %s", p.PID, p.Driver, p.AgentGone)
			}
			if p.Driver == "raw_exec" && !orphan && len(p.Tasks) == 1 && p.Tasks[0].State == lifecycle.TaskWatched {
				fresh = &p
			}
			if p.Driver == "raw_exec" && orphan && (len(p.Tasks) != 1 || p.Tasks[0].Alloc != old.ID) {
				return fmt.Errorf("the orphan has %+v", p.Tasks)
			}
		}
		if fresh == nil {
			return fmt.Errorf("no new task in %+v", all)
		}
		return nil
	})
	require.NotEqual(t, old.ID, fresh.Tasks[0].Alloc)
	stdout, _, status := l.command("status")
	require.Equal(t, 1, status)
	require.Contains(t, stdout, fmt.Sprintf("raw_exec (process %d): no agent is connected to it", orphans["raw_exec"]))
	require.NotContains(t, stdout, fmt.Sprintf("process %d)", fresh.PID))
	require.Contains(t, stdout, fmt.Sprintf("Process %d serves raw_exec for this node's agent, which will not take this one over. End this one once its tasks have ended (kill %d).",
		fresh.PID, orphans["raw_exec"]))

	// Both answer, each for its own task.
	for alloc := range map[string]bool{old.ID: true, fresh.Tasks[0].Alloc: true} {
		stdout, stderr, status := l.command("refresh", "-alloc", alloc)
		require.Zero(t, status, "%s%s", stdout, stderr)
		require.Regexp(t, `orphan/app +`+alloc[:8]+` +colour +unchanged`, stdout)
	}

	for _, pid := range orphans {
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	l.Until("the orphans to be gone", func() error {
		all, status := l.status()
		if len(all) != 2 || status != 0 {
			return fmt.Errorf("exit status %d: %+v", status, all)
		}
		return nil
	})
}
