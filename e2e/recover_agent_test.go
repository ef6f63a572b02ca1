package e2e

import (
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Neither a restart of the agent nor the death of agent or plugin does anything to a running task, and
// its secrets are looked after as before (C4).
func TestRecovery(t *testing.T) {
	t.Parallel()
	l := newOwnLab(t, harness.AgentOptions{Name: "recovery", Placement: harness.InPlace}, 5*time.Minute)
	var tasks []*lab.Survivor
	for _, r := range []lab.RecoveryTask{{Driver: "docker", Token: "identity"}, {Driver: "raw_exec", Token: "identity"}, {Driver: "docker", Token: "vault"}, {Driver: "raw_exec", Token: "vault"}} {
		tasks = append(tasks, r.Start(l, "recovery"))
	}
	for _, d := range []struct {
		name, colour string
		strike       func(l *lab.Lab)
	}{
		{"agent-restarted", "blue", func(l *lab.Lab) { require.NoError(l.T, l.Agent.Restart(l.Ctx)) }},
		{"agent-killed", "red", func(l *lab.Lab) {
			l.Agent.Kill()
			require.NoError(l.T, l.Agent.Start(l.Ctx))
		}},
		{"plugins-killed", "white", (*lab.Lab).KillPlugins},
	} {
		ok := t.Run(d.name, func(t *testing.T) {
			l := l.For(t)
			mark, err := l.Agent.Vault().Mark()
			require.NoError(t, err)
			plugins := l.Plugins()
			d.strike(l)
			for _, s := range tasks {
				s.Untouched(l)
			}
			logins, err := l.Agent.Vault().Requests(mark, "auth/"+l.Agent.AuthPath+"/login")
			require.NoError(t, err)
			require.Empty(t, logins, "somebody has logged in anew")
			for _, s := range tasks {
				l.PutColour(s.Name, d.colour)
			}
			for _, s := range tasks {
				s.AwaitRotation(l, d.colour)
			}
			if d.name == "agent-killed" {
				require.Equal(t, plugins, l.Plugins(), "the plugins outlive the agent, and work for the next")
			}
		})
		require.True(t, ok)
	}
	for _, s := range tasks {
		s.Stop(l)
	}
	l.JournalEmpty()
}
