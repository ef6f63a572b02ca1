package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// C3: a server that has no time for anybody is an outage that passes; one that takes seconds over each
// answer is none. Running tasks notice neither: nothing is restarted, nothing minted. Where answers are
// slow, leases are renewed, and tasks start.
func TestBusyAndSlowServer(t *testing.T) {
	t.Parallel()
	proxy, err := harness.NewFaultProxy(nil, shared.Vault.Addr)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "slow", Placement: placement, Secrets: map[string]any{"address": proxy.Addr, "lease_check_interval": "4s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newKeptLab(t, agent, shared.Vault, 2*time.Minute)
	raw := l.keep(agent.AuthPath, keptJob{name: "slow-raw", driver: "raw_exec", count: 2, ttl: 30 * time.Second})
	docker := l.keep(agent.AuthPath, keptJob{name: "slow-docker", driver: "docker", count: 1, ttl: 30 * time.Second})
	tasks := append(slices.Clone(raw), docker...)
	tokens := append(l.tokensOf(raw[0].job), l.tokensOf(docker[0].job)...)

	at := time.Now()
	proxy.Break(harness.Fault{Status: 503})
	l.said(tasks, at, "secrets server unreachable; credentials stay valid until ")
	back := time.Now()
	proxy.Heal()
	l.said(tasks, back, "secrets server reachable again")

	slow, since := time.Now(), l.mark()
	proxy.Break(harness.Fault{Delay: 6 * time.Second})
	late := l.keep(agent.AuthPath, keptJob{name: "slow-late", driver: "raw_exec", count: 1, ttl: 5 * time.Minute})
	l.askedFor(since, "sys/leases/renew", tokens)
	for _, task := range tasks {
		told, err := task.events(l.ctx, slow, "unreachable")
		require.NoError(t, err)
		require.Empty(t, told)
	}
	l.noFailures(late[0].alloc)
	l.undisturbed(tasks)
	l.oneLeaseEach(raw[0].job)
	l.oneLeaseEach(docker[0].job)
	require.Len(t, append(l.tokensOf(raw[0].job), l.tokensOf(docker[0].job)...), len(tokens)) // nobody has logged in anew
}
