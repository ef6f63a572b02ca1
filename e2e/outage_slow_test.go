package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// C3: a server that has no time for anybody is an outage that passes; one that takes seconds over each
// answer is none. Running tasks notice neither: nothing is restarted, nothing fetched anew. Where answers are
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
	l := newOutageLab(t, agent, shared.Vault, 2*time.Minute)
	raw := l.Start(agent.AuthPath, lab.OutageJob{Name: "slow-raw", Driver: "raw_exec", Count: 2, TTL: 30 * time.Second})
	docker := l.Start(agent.AuthPath, lab.OutageJob{Name: "slow-docker", Driver: "docker", Count: 1, TTL: 30 * time.Second})
	tasks := append(slices.Clone(raw), docker...)
	tokens := append(l.TokensOf(raw[0].Job), l.TokensOf(docker[0].Job)...)

	at := time.Now()
	proxy.Break(harness.Fault{Status: 503})
	l.AwaitEvent(tasks, at, "server unreachable; credentials stay valid until ")
	back := time.Now()
	proxy.Heal()
	l.AwaitEvent(tasks, back, "server reachable again")

	slow, since := time.Now(), l.Mark()
	proxy.Break(harness.Fault{Delay: 6 * time.Second})
	late := l.Start(agent.AuthPath, lab.OutageJob{Name: "slow-late", Driver: "raw_exec", Count: 1, TTL: 5 * time.Minute})
	l.AwaitRequests(since, "sys/leases/renew", tokens)
	for _, task := range tasks {
		told, err := task.EventsSince(l.Ctx, slow, "unreachable")
		require.NoError(t, err)
		require.Empty(t, told)
	}
	l.NoFailures(late[0].Alloc)
	l.Undisturbed(tasks)
	l.OneLeaseEach(raw[0].Job)
	l.OneLeaseEach(docker[0].Job)
	require.Len(t, append(l.TokensOf(raw[0].Job), l.TokensOf(docker[0].Job)...), len(tokens)) // nobody has logged in anew
}
