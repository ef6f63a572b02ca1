//go:build long

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// S2 in full: the server is away for 4 minutes when the task starts, at the operator's defaults and
// with the default restart block. The task comes up by itself.
func TestLongOutageAtStart(t *testing.T) {
	t.Parallel()
	proxy, err := harness.NewFaultProxy(nil, shared.Vault.Addr)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "long-start", Placement: placement, Secrets: map[string]any{"address": proxy.Addr},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newOutageLab(t, agent, shared.Vault, 8*time.Minute)
	require.NoError(t, l.Server.EnableKV2(l.Ctx, "secret"))
	require.NoError(t, l.Server.PutKV2(l.Ctx, "secret", "outage-start", map[string]any{"colour": "green"}))
	require.NoError(t, l.Server.Policy(l.Ctx, "outage-start", `path "secret/data/outage-start" { capabilities = ["read"] }`))
	require.NoError(t, l.Server.WorkloadRole(l.Ctx, agent.AuthPath, "outage-start", harness.WorkloadRole{Policies: []string{"outage-start"}, TTL: time.Hour}))

	proxy.Refuse()
	job, at := l.SubmitFile("outage-start", lab.Vars{"name": "long-start", "ttl": "1h"}), time.Now()
	pass(l.Lab, 4*time.Minute)
	require.NoError(t, proxy.Accept())
	alloc, err := job.Running(l.Ctx)
	require.NoError(t, err)
	l.Lines(alloc, lab.App, `file secrets/kv/colour "green"`, 1)
	t.Logf("up %v after it was submitted", time.Since(at).Round(time.Second))
}

// C3 in full: the server is away for 7 minutes under running tasks, one of ours and one of Nomad's own
// driver with vault and template. The template also has a secret that it is to read again every minute, as
// ours polls: it gives up after five. What each does is printed.
func TestLongOutageBesideTheBuiltIn(t *testing.T) {
	t.Parallel()
	vault, err := shared.NewVault(t.Context(), "vault-long")
	require.NoError(t, err)
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{Name: "long", Placement: harness.Beside, Vault: vault})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newOutageLab(t, agent, vault, 14*time.Minute)
	ours := l.Start(agent.AuthPath, lab.OutageJob{Name: "long-ours", Driver: "raw_exec", Count: 1, TTL: 30 * time.Minute})
	readOften(l)

	// Submitted as it is: the harness turns raw_exec into ours.
	parsed, err := agent.Client().Jobs().ParseHCL(l.JobFile("long-builtin"), true)
	require.NoError(t, err)
	_, _, err = agent.Client().Jobs().Register(parsed, nil)
	require.NoError(t, err)
	var builtin string
	l.Until("the built-in's task to run", func() error {
		stubs, _, err := agent.Client().Jobs().Allocations("long-builtin", true, nil)
		if err != nil || len(stubs) == 0 {
			return fmt.Errorf("no allocation yet: %w", err)
		}
		builtin = stubs[0].ID
		if state := stubs[0].TaskStates["app"]; state == nil || state.State != "running" {
			return fmt.Errorf("it is %+v", state)
		}
		return nil
	})

	since := l.Mark()
	vault.Stop()
	pass(l.Lab, 7*time.Minute)
	require.NoError(t, vault.Start(l.Ctx))
	l.AwaitEvent(ours, time.Time{}, "server reachable again")
	l.Undisturbed(ours)
	mine, err := vault.Requests(since, "database/creds/", "auth/")
	require.NoError(t, err)

	events, err := ours[0].Alloc.Events(l.Ctx, lab.App)
	require.NoError(t, err)
	t.Logf("ours: 0 restarts; its events:\n%s", strings.Join(events, "\n"))
	info, _, err := agent.Client().Allocations().Info(builtin, nil)
	require.NoError(t, err)
	var said []string
	for _, e := range info.TaskStates["app"].Events {
		said = append(said, e.Type+": "+e.DisplayMessage)
	}
	t.Logf("the built-in: task %s, failed %v, %d restarts; its events:\n%s", info.TaskStates["app"].State,
		info.TaskStates["app"].Failed, info.TaskStates["app"].Restarts, strings.Join(said, "\n"))
	for _, r := range mine {
		t.Logf("Vault was asked %s %s by %s", r.Operation, r.Path, r.Accessor)
	}
	_, _, err = agent.Client().Jobs().Deregister("long-builtin", true, nil)
	require.NoError(t, err)
}

// readOften adds a secret to the policy of long-ours, of which KV v1 says that it is good for a minute.
func readOften(l *lab.OutageLab) {
	l.T.Helper()
	v := l.Server.Client()
	require.NoError(l.T, v.Sys().MountWithContext(l.Ctx, "kv-long", &api.MountInput{Type: "kv"}))
	_, err := v.Logical().WriteWithContext(l.Ctx, "kv-long/app", map[string]any{"colour": "green", "ttl": "1m"})
	require.NoError(l.T, err)
	policy, err := v.Sys().GetPolicyWithContext(l.Ctx, "long-ours")
	require.NoError(l.T, err)
	require.NoError(l.T, l.Server.Policy(l.Ctx, "long-ours", policy+"\npath \"kv-long/app\" { capabilities = [\"read\"] }"))
}

// pass lets time pass.
func pass(l *lab.Lab, d time.Duration) {
	end := time.Now().Add(d)
	l.Until(d.String()+" to pass", func() error {
		if left := time.Until(end); left > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
}
