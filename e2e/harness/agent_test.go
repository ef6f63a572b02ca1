package harness_test

import (
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// A Nomad agent that is stopped or killed and started again on its data finds its tasks.
func TestAgentRestart(t *testing.T) {
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{Name: "restarted", Placement: harness.InPlace})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := lab.New(t, shared, agent)
	alloc := l.RunFile("sleep", lab.Vars{"name": "survivor"})
	l.Lines(alloc, "web", "start ", 1)
	before, err := alloc.Container(l.Ctx, "web")
	require.NoError(t, err)

	agent.Kill()
	require.NoError(t, agent.Start(l.Ctx))
	require.NoError(t, agent.Restart(l.Ctx))
	after, err := alloc.Container(l.Ctx, "web")
	require.NoError(t, err)
	require.Equal(t, before.ID, after.ID)
	restarts, err := alloc.Restarts(l.Ctx, "web")
	require.NoError(t, err)
	require.Zero(t, restarts)
}
