//go:build long

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
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
	l := newKeptLab(t, agent, shared.Vault, 8*time.Minute)
	require.NoError(t, l.vault.EnableKV2(l.ctx, "secret"))
	require.NoError(t, l.vault.PutKV2(l.ctx, "secret", "outage-start", map[string]any{"colour": "green"}))
	require.NoError(t, l.vault.Policy(l.ctx, "outage-start", `path "secret/data/outage-start" { capabilities = ["read"] }`))
	require.NoError(t, l.vault.WorkloadRole(l.ctx, agent.AuthPath, "outage-start", harness.WorkloadRole{Policies: []string{"outage-start"}, TTL: time.Hour}))

	proxy.Refuse()
	job, at := l.submit(startJob("long-start", "1h", "")), time.Now()
	l.pass(4 * time.Minute)
	require.NoError(t, proxy.Accept())
	alloc, err := job.Running(l.ctx)
	require.NoError(t, err)
	l.lines(alloc, keptApp, `file secrets/kv/colour "green"`, 1)
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
	l := newKeptLab(t, agent, vault, 14*time.Minute)
	ours := l.keep(agent.AuthPath, keptJob{name: "long-ours", driver: "raw_exec", count: 1, ttl: 30 * time.Minute})
	l.readOften()

	// Submitted as it is: the harness turns raw_exec into ours.
	parsed, err := agent.Client().Jobs().ParseHCL(`
job "long-builtin" {
  group "g" {
    task "app" {
      driver = "raw_exec"
      vault {
        role = "long-ours"
      }
      env {
        DB_ADDR = "${meta.db_addr}"
      }
      template {
        data        = <<EOT
{{ with secret "database/creds/long-ours" }}DB_USER={{ .Data.username }}
DB_PASSWORD={{ .Data.password }}{{ end }}
{{ with secret "kv-long/app" }}COLOUR={{ .Data.colour }}{{ end }}
EOT
        destination = "secrets/db.env"
        env         = true
      }
      config {
        command = "testapp"
        args    = ["-every=500ms", "dblogin"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`, true)
	require.NoError(t, err)
	_, _, err = agent.Client().Jobs().Register(parsed, nil)
	require.NoError(t, err)
	var builtin string
	l.until("the built-in's task to run", func() error {
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

	since := l.mark()
	vault.Stop()
	l.pass(7 * time.Minute)
	require.NoError(t, vault.Start(l.ctx))
	l.said(ours, time.Time{}, "secrets server reachable again")
	l.undisturbed(ours)
	mine, err := vault.Requests(since, "database/creds/", "auth/")
	require.NoError(t, err)

	events, err := ours[0].alloc.Events(l.ctx, keptApp)
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
func (l *keptLab) readOften() {
	l.t.Helper()
	v := l.vault.Client()
	require.NoError(l.t, v.Sys().MountWithContext(l.ctx, "kv-long", &api.MountInput{Type: "kv"}))
	_, err := v.Logical().WriteWithContext(l.ctx, "kv-long/app", map[string]any{"colour": "green", "ttl": "1m"})
	require.NoError(l.t, err)
	policy, err := v.Sys().GetPolicyWithContext(l.ctx, "long-ours")
	require.NoError(l.t, err)
	require.NoError(l.t, l.vault.Policy(l.ctx, "long-ours", policy+"\npath \"kv-long/app\" { capabilities = [\"read\"] }"))
}

// pass lets time pass.
func (l *keptLab) pass(d time.Duration) {
	end := time.Now().Add(d)
	l.until(d.String()+" to pass", func() error {
		if left := time.Until(end); left > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
}
