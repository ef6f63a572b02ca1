package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// outageRate is the request_rate of these tests' agent, low enough to be noticed.
const outageRate = 5

// C3: in an outage of any kind tasks run on: nothing is restarted, nothing minted, and an event says so
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
	l := newKeptLab(t, agent, vault, 6*time.Minute)

	raw := l.keep(agent.AuthPath, keptJob{name: "outage-raw", driver: "raw_exec", count: 16, ttl: 90 * time.Second})
	docker := l.keep(agent.AuthPath, keptJob{name: "outage-docker", driver: "docker", count: 3, ttl: 90 * time.Second})
	tasks := append(raw, docker...)
	rawTokens := l.tokensOf(raw[0].job)
	tokens := append(l.tokensOf(docker[0].job), rawTokens...)
	require.Len(t, tokens, len(tasks))

	outages := []struct {
		name       string
		begin, end func() error
	}{
		{"stopped", nothing(vault.Stop), func() error { return vault.Start(l.ctx) }},
		{"sealed", func() error { return vault.Seal(l.ctx) }, func() error { return vault.Unseal(l.ctx) }},
		{"412", fault(proxy, harness.Fault{Status: 412}), nothing(proxy.Heal)},
		{"429", fault(proxy, harness.Fault{Status: 429}), nothing(proxy.Heal)},
		{"500", fault(proxy, harness.Fault{Status: 500}), nothing(proxy.Heal)},
	}
	var after harness.Mark // the last outage
	for _, o := range outages {
		since, at := l.mark(), time.Now()
		require.NoError(t, o.begin(), o.name)
		l.said(tasks, at, "secrets server unreachable; credentials stay valid until ")
		back := time.Now()
		require.NoError(t, o.end(), o.name)
		after = l.mark()
		l.said(tasks, back, "secrets server reachable again")
		l.undisturbed(tasks)
		require.Empty(t, l.minted(since), o.name)
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
	short := l.keep(agent.AuthPath, keptJob{name: "outage-short", driver: "raw_exec", count: 1, ttl: 20 * time.Second})
	since, at := l.mark(), time.Now()
	require.NoError(t, vault.Pause())
	l.said(tasks, at, "secrets server unreachable; credentials stay valid until ")
	back := time.Now()
	require.NoError(t, vault.Resume())
	l.said(tasks, back, "secrets server reachable again")
	l.healed(short[0], 2)
	l.undisturbed(tasks)
	minted := l.minted(since)
	require.Len(t, minted, 1)
	require.Equal(t, "database/creds/outage-short", minted[0].Path)
	t.Logf("hanging: noticed after %v", back.Sub(at).Round(100*time.Millisecond))

	// C4, with 20 tasks.
	since = l.mark()
	require.NoError(t, agent.Restart(l.ctx))
	l.askedFor(since, "sys/leases/", tokens)
	l.askedFor(after, "sys/leases/renew", tokens)
	for _, task := range append(tasks, short...) {
		l.runsOn(task)
	}
	l.undisturbed(tasks)
	require.Empty(t, l.minted(since))
	l.oneLeaseEach(raw[0].job)
	l.oneLeaseEach(docker[0].job)
	l.oneLeaseEach(short[0].job)
}

func nothing(f func()) func() error { return func() error { f(); return nil } }

func fault(p *harness.FaultProxy, f harness.Fault) func() error {
	return nothing(func() { p.Break(f) })
}

func (l *keptLab) mark() harness.Mark {
	l.t.Helper()
	mark, err := l.vault.Mark()
	require.NoError(l.t, err, fmt.Sprintf("the audit log of %s", l.vault.Addr))
	return mark
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
