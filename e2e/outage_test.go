package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// outageRate is the request_rate of these tests' agent, low enough to be noticed.
const outageRate = 5

// C3: in an outage of any kind tasks run on: nothing is restarted, nothing issued, and an event says so
// at its start, with how long the credentials live, and at its end. After it requests come within the
// rate, and renewals go on. C4: a restart of the agent costs nothing either.
func TestOutages(t *testing.T) {
	vault, err := shared.NewVault(t.Context(), "vault-outage")
	require.NoError(t, err)
	proxy, err := harness.NewFaultProxy(nil, vault.Addr)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "outage", Placement: placement, Vault: vault,
		Secrets: map[string]any{"address": proxy.Addr, "request_rate": outageRate, "lease_check_interval": "5s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newOutageLab(t, agent, vault, 9*time.Minute)

	// A server that hangs is noticed when a request of the task's has had no answer for 20 s, and a job of 16 tasks has more of
	// them than places: 45 s at the most. A lease has a third of its life left at the least, and none is to end before.
	const ttl = 150 * time.Second
	raw := l.Start(agent.AuthPath, lab.OutageJob{Name: "outage-raw", Driver: "raw_exec", Count: 16, TTL: ttl})
	docker := l.Start(agent.AuthPath, lab.OutageJob{Name: "outage-docker", Driver: "docker", Count: 3, TTL: ttl})
	tasks := append(raw, docker...)
	rawTokens := l.TokensOf(raw[0].Job)
	tokens := append(l.TokensOf(docker[0].Job), rawTokens...)
	require.Len(t, tokens, len(tasks))

	outages := []struct {
		name       string
		begin, end func() error
	}{
		{"stopped", nothing(vault.Stop), func() error { return vault.Start(l.Ctx) }},
		{"sealed", func() error { return vault.Seal(l.Ctx) }, func() error { return vault.Unseal(l.Ctx) }},
		{"412", fault(proxy, harness.Fault{Status: 412}), nothing(proxy.Heal)},
		{"429", fault(proxy, harness.Fault{Status: 429}), nothing(proxy.Heal)},
		{"500", fault(proxy, harness.Fault{Status: 500}), nothing(proxy.Heal)},
	}
	var after harness.Mark // the last outage
	for _, o := range outages {
		since, at := l.Mark(), time.Now()
		require.NoError(t, o.begin(), o.name)
		l.AwaitEvent(tasks, at, "server unreachable; credentials stay valid until ")
		back := time.Now()
		require.NoError(t, o.end(), o.name)
		after = l.Mark()
		l.AwaitEvent(tasks, back, "server reachable again")
		l.Undisturbed(tasks)
		require.Empty(t, l.Issued(since), o.name)
		t.Logf("%s: noticed after %v, over after %v", o.name, back.Sub(at).Round(100*time.Millisecond), time.Since(back).Round(100*time.Millisecond))
	}

	// One plugin process's requests never were more than the rate.
	background, err := vault.Requests(0, "sys/leases/lookup", "sys/leases/renew")
	require.NoError(t, err)
	background = slices.DeleteFunc(background, func(r harness.Request) bool { return !slices.Contains(rawTokens, r.Accessor) })
	t.Logf("%d renewals and checks by raw_exec's plugin, %d in the busiest second", len(background), busiest(background))
	require.LessOrEqual(t, busiest(background), outageRate+2) // the server's clock is not the plugin's

	// The server accepts and never answers: each attempt takes its time-out. A lease that ends
	// meanwhile is replaced afterwards.
	short := l.Start(agent.AuthPath, lab.OutageJob{Name: "outage-short", Driver: "raw_exec", Count: 1, TTL: 20 * time.Second})
	since, at := l.Mark(), time.Now()
	require.NoError(t, vault.Pause())
	l.AwaitEvent(tasks, at, "server unreachable; credentials stay valid until ")
	told := time.Since(at)
	l.AwaitEvent(short, at, "the credential in hand ended at ")
	back := time.Now()
	require.NoError(t, vault.Resume())
	l.AwaitEvent(tasks, back, "server reachable again")
	l.Recovered(short[0], 2)
	l.Undisturbed(tasks)
	issued := l.Issued(since)
	require.Len(t, issued, 1)
	require.Equal(t, "database/creds/outage-short", issued[0].Path)
	t.Logf("hanging: noticed after %v", told.Round(100*time.Millisecond))

	// C4, with 20 tasks.
	since = l.Mark()
	require.NoError(t, agent.Restart(l.Ctx))
	l.AwaitRequests(since, "sys/leases/", tokens)
	l.AwaitRequests(after, "sys/leases/renew", tokens)
	for _, task := range append(tasks, short...) {
		l.NotRestarted(task.Alloc, lab.App)
	}
	l.Undisturbed(tasks)
	require.Empty(t, l.Issued(since))
	l.OneLeaseEach(raw[0].Job)
	l.OneLeaseEach(docker[0].Job)
	l.OneLeaseEach(short[0].Job)
}

func nothing(f func()) func() error { return func() error { f(); return nil } }

func fault(p *harness.FaultProxy, f harness.Fault) func() error {
	return nothing(func() { p.Break(f) })
}

// busiest is the largest number of requests in any second.
func busiest(requests []harness.Request) int {
	most := 0
	for i, first := range requests {
		n := 0
		for _, r := range requests[i:] {
			if r.Time.Sub(first.Time) < time.Second {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}
