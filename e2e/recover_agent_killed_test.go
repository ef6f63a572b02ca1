package e2e

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/stretchr/testify/require"
)

// E2, C4: kill -9 of the whole agent, its plugins too, in the midst of a rotation, as when the machine
// runs out of memory. The agent that is started after it finds each task, or restarts the one that had
// no process: one process a task, with credentials that work, and one lease. Alone: while there is no agent
// nothing is renewed, and it must be back before the leases end.
func TestAgentKilledInMidRotation(t *testing.T) {
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "midkill", Placement: placement, LogLevel: "info",
		Secrets: map[string]any{"lease_check_interval": "5s", "request_rate": 100},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	installCrashtest(t, agent)
	for driver, point := range map[string]crashpoint.Point{
		"raw_exec": crashpoint.OldDestroyed, // there is no process
		"docker":   crashpoint.InnerStarted, // there is one that the journal does not name
	} {
		m := newCrashMatrix(t, agent, driver, "midk"+driver[:1])
		m.start(slowLease, 1)
		m.start(fastLease, 1)
		m.agentToo(point)
		m.finish()
	}
}

// agentToo kills the plugin when the first task comes to a point, and with it the agent.
func (m *crashMatrix) agentToo(p crashpoint.Point) {
	m.kill("rotation, the agent too", p, hadNoProcess(p), strike{provoke: func() {
		m.Until("the plugin to die", func() error {
			if hit, _ := filepath.Glob(filepath.Join(m.dir, "hit", "*")); len(hit) == 0 {
				return errors.New("the point was not reached")
			}
			return nil
		})
		m.Agent.Kill()
		_ = m.Agent.KillPlugin("docker") // one of them is dead already, and Nomad may have started another
		_ = m.Agent.KillPlugin("raw_exec")
		require.NoError(m.T, m.Agent.Start(m.Ctx))
	}})
}
