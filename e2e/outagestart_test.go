package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// startJob is a job with one static secret, and an identity that lives for ttl. HCL of a restart block
// may be empty: Nomad's default.
func startJob(name, ttl, restart string) string {
	return fmt.Sprintf(`
job %[1]q {
  group "g" {
    %[3]s
    task "app" {
      driver = "raw_exec"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = %[2]q
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        command = "testapp"
        args    = ["sighup", "secrets/kv/colour"]
        role    = "outage-start"
        secret "kv" {
          path  = "secret/outage-start"
          files = true
        }
      }
    }
  }
}`, name, ttl, restart)
}

// S2: what waiting mends at a start is waited for within start_timeout; then Nomad tries again, within
// the job's restart block.
func TestOutagesAtStart(t *testing.T) {
	t.Parallel()
	proxy, err := harness.NewFaultProxy(nil, shared.Vault.Addr)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "outage-start", Placement: placement,
		Secrets: map[string]any{"address": proxy.Addr, "start_timeout": "5s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newKeptLab(t, agent, shared.Vault, 150*time.Second)
	require.NoError(t, l.vault.EnableKV2(l.ctx, "secret"))
	require.NoError(t, l.vault.PutKV2(l.ctx, "secret", "outage-start", map[string]any{"colour": "green"}))
	require.NoError(t, l.vault.Policy(l.ctx, "outage-start", `path "secret/data/outage-start" { capabilities = ["read"] }`))
	require.NoError(t, l.vault.WorkloadRole(l.ctx, agent.AuthPath, "outage-start", harness.WorkloadRole{Policies: []string{"outage-start"}, TTL: time.Hour, Strict: true}))

	// A standby that has not heard of the token yet answers 403 for a moment after the login.
	proxy.Break(harness.Fault{Status: 403, Path: "/secret/", Times: 3})
	lagging := l.run(startJob("start-standby", "1h", ""))
	l.lines(lagging, keptApp, `file secrets/kv/colour "green"`, 1)
	l.noFailures(lagging)
	proxy.Heal()

	// A short outage is waited out, and Nomad hears nothing of it.
	since := time.Now()
	proxy.Refuse()
	job := l.submit(startJob("start-short", "1h", ""))
	l.until("the start to have begun", func() error {
		if time.Since(since) < 2*time.Second {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	require.NoError(t, proxy.Accept())
	short, err := job.Running(l.ctx)
	require.NoError(t, err)
	l.noFailures(short)

	// A longer one is an error that Nomad may retry: with the default restart block, the job comes up
	// by itself. What it says names the secret's server, not the job.
	proxy.Refuse()
	job = l.submit(startJob("start-long", "1h", ""))
	var long *harness.Alloc
	l.until("the first start to fail", func() error {
		allocs, err := job.Allocs(l.ctx)
		if err != nil || len(allocs) == 0 {
			return fmt.Errorf("no allocation yet: %w", err)
		}
		long = allocs[0]
		events, err := long.Events(l.ctx, keptApp)
		if err == nil && !strings.Contains(strings.Join(events, "\n"), "gave up waiting") {
			err = fmt.Errorf("events: %q", events)
		}
		return err
	})
	require.NoError(t, proxy.Accept())
	_, err = job.Running(l.ctx)
	require.NoError(t, err)
	l.lines(long, keptApp, `file secrets/kv/colour "green"`, 1)

	// Nomad's servers are away for longer than the task's JWT lives. A start that comes meanwhile is
	// tried again until Nomad has renewed it.
	alloc := l.run(startJob("start-jwt", "15s", `restart {
      attempts = 30
      delay    = "1s"
      interval = "10m"
      mode     = "fail"
    }`))
	l.lines(alloc, keptApp, "file ", 1)
	jwt := alloc.Dir(keptApp, "private", "vault.jwt")
	agent.StopServer()
	info, err := os.Stat(jwt)
	require.NoError(t, err)
	l.until("the JWT to expire", func() error {
		if left := time.Until(info.ModTime().Add(16 * time.Second)); left > 0 {
			return fmt.Errorf("in %v", left)
		}
		return nil
	})
	l.killTask(alloc)
	l.until("a start to be refused", func() error {
		b, err := os.ReadFile(agent.LogPath)
		if err == nil && !strings.Contains(string(b), "JWT expired at") {
			err = fmt.Errorf("the agent's log has no such error")
		}
		return err
	})
	require.NoError(t, agent.StartServer(l.ctx))
	l.lines(alloc, keptApp, "start ", 2)
}

// noFailures: a task was started once.
func (l *keptLab) noFailures(alloc *harness.Alloc) {
	l.t.Helper()
	state, err := alloc.State(l.ctx, keptApp)
	require.NoError(l.t, err)
	require.Zero(l.t, state.Restarts)
	for _, e := range state.Events {
		require.NotEqual(l.t, "Driver Failure", e.Type, e.DisplayMessage)
	}
}

// killTask ends a raw_exec task's process, as a crash does.
func (l *keptLab) killTask(alloc *harness.Alloc) {
	l.t.Helper()
	starts, err := alloc.Lines(keptApp, "start ")
	require.NoError(l.t, err)
	var pid int
	_, err = fmt.Sscanf(starts[len(starts)-1], "pid=%d", &pid)
	require.NoError(l.t, err)
	process, err := os.FindProcess(pid)
	require.NoError(l.t, err)
	require.NoError(l.t, process.Kill())
}
