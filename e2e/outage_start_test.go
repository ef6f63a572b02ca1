package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// S2: what waiting helps at a start is waited for within start_timeout; then Nomad tries again, within
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
	l := newOutageLab(t, agent, shared.Vault, 150*time.Second)
	require.NoError(t, l.Server.EnableKV2(l.Ctx, "secret"))
	require.NoError(t, l.Server.PutKV2(l.Ctx, "secret", "outage-start", map[string]any{"colour": "green"}))
	require.NoError(t, l.Server.Policy(l.Ctx, "outage-start", `path "secret/data/outage-start" { capabilities = ["read"] }`))
	require.NoError(t, l.Server.WorkloadRole(l.Ctx, agent.AuthPath, "outage-start", harness.WorkloadRole{Policies: []string{"outage-start"}, TTL: time.Hour, Strict: true}))

	// A standby that has not heard of the token yet answers 403 for a moment after the login.
	proxy.Break(harness.Fault{Status: 403, Path: "/secret/", Times: 3})
	lagging := l.RunFile("outage-start", lab.Vars{"name": "start-standby", "ttl": "1h"})
	l.Lines(lagging, lab.App, `file secrets/kv/colour "green"`, 1)
	l.NoFailures(lagging)
	proxy.Heal()

	// A short outage is waited out, and Nomad hears nothing of it.
	since := time.Now()
	proxy.Refuse()
	job := l.SubmitFile("outage-start", lab.Vars{"name": "start-short", "ttl": "1h"})
	l.Until("the start to have begun", func() error {
		if time.Since(since) < 2*time.Second {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	require.NoError(t, proxy.Accept())
	short, err := job.Running(l.Ctx)
	require.NoError(t, err)
	l.NoFailures(short)

	// A longer one is an error that Nomad may retry: with the default restart block, the job comes up
	// by itself. What it says names the secret's server, not the job.
	proxy.Refuse()
	job = l.SubmitFile("outage-start", lab.Vars{"name": "start-long", "ttl": "1h"})
	var long *harness.Alloc
	l.Until("the first start to fail", func() error {
		allocs, err := job.Allocs(l.Ctx)
		if err != nil || len(allocs) == 0 {
			return fmt.Errorf("no allocation yet: %w", err)
		}
		long = allocs[0]
		events, err := long.Events(l.Ctx, lab.App)
		if err == nil && !strings.Contains(strings.Join(events, "\n"), "gave up waiting") {
			err = fmt.Errorf("events: %q", events)
		}
		return err
	})
	require.NoError(t, proxy.Accept())
	_, err = job.Running(l.Ctx)
	require.NoError(t, err)
	l.Lines(long, lab.App, `file secrets/kv/colour "green"`, 1)

	// Nomad's servers are away for longer than the task's JWT lives. A start that comes meanwhile is
	// tried again until Nomad has renewed it.
	alloc := l.RunFile("outage-start", lab.Vars{"name": "start-jwt", "ttl": "15s", "attempts": 30})
	l.Lines(alloc, lab.App, "file ", 1)
	jwt := alloc.Dir(lab.App, "private", "vault.jwt")
	agent.StopServer()
	info, err := os.Stat(jwt)
	require.NoError(t, err)
	l.Until("the JWT to expire", func() error {
		if left := time.Until(info.ModTime().Add(16 * time.Second)); left > 0 {
			return fmt.Errorf("in %v", left)
		}
		return nil
	})
	killTask(l, alloc)
	l.Until("a start to be refused", func() error {
		b, err := os.ReadFile(agent.LogPath)
		if err == nil && !strings.Contains(string(b), "JWT expired at") {
			err = fmt.Errorf("the agent's log has no such error")
		}
		return err
	})
	require.NoError(t, agent.StartServer(l.Ctx))
	l.Lines(alloc, lab.App, "start ", 2)
}

// killTask ends a raw_exec task's process, as a crash does.
func killTask(l *lab.OutageLab, alloc *harness.Alloc) {
	l.T.Helper()
	starts, err := alloc.Lines(lab.App, "start ")
	require.NoError(l.T, err)
	var pid int
	_, err = fmt.Sscanf(starts[len(starts)-1], "pid=%d", &pid)
	require.NoError(l.T, err)
	process, err := os.FindProcess(pid)
	require.NoError(l.T, err)
	require.NoError(l.T, process.Kill())
}
