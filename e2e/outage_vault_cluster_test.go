package e2e

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// A Vault of three nodes, whose leader is killed under load, and then again: nothing is lost, nothing
// restarted, nothing fetched anew (C3). Then it is restored from a snapshot that is older than the tasks'
// tokens and leases: all is made anew (C6).
func TestVaultCluster(t *testing.T) {
	vault, err := shared.NewVaultCluster(t.Context(), "vault-cluster", 3)
	require.NoError(t, err)
	t.Cleanup(vault.Proxy.Close)
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "cluster", Placement: placement, Vault: vault.Vault, Secrets: map[string]any{"lease_check_interval": "4s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newOutageLab(t, agent, vault.Vault, 4*time.Minute)

	// A task that is there before the snapshot only sets all up.
	first := lab.OutageJob{Name: "cluster-raw", Driver: "raw_exec", Count: 6, TTL: 40 * time.Second}
	l.Start(agent.AuthPath, lab.OutageJob{Name: "cluster-docker", Driver: "docker", Count: 1, TTL: 40 * time.Second})
	var snapshot bytes.Buffer
	leader, err := vault.Leader(l.Ctx)
	require.NoError(t, err)
	l.Prepare(agent.AuthPath, &first)
	require.NoError(t, leader.Client().Sys().RaftSnapshotWithContext(l.Ctx, &snapshot))
	raw := l.Start(agent.AuthPath, first)
	tokens := l.TokensOf(raw[0].Job)
	require.Len(t, tokens, 6)

	since := l.Mark()
	load, stop := context.WithCancel(l.Ctx)
	defer stop()
	done := make(chan int)
	go func() { done <- writeOn(load, vault) }()
	for range 2 {
		leader, err := vault.Leader(l.Ctx)
		require.NoError(t, err)
		leader.Kill()
		at := time.Now()
		l.Until("another leader", func() error { _, err := vault.Leader(l.Ctx); return err })
		t.Logf("another leader after %v", time.Since(at).Round(100*time.Millisecond))
		mark := l.Mark()
		l.AwaitRequests(mark, "sys/leases/renew", tokens)
		require.NoError(t, leader.Start(l.Ctx))
	}
	stop()
	t.Logf("%d writes meanwhile", <-done)
	l.Undisturbed(l.Tasks)
	require.Empty(t, l.Issued(since))

	leader, err = vault.Leader(l.Ctx)
	require.NoError(t, err)
	require.NoError(t, leader.Client().Sys().RaftSnapshotRestoreWithContext(l.Ctx, &snapshot, false))
	for _, task := range raw {
		l.Recovered(task, 2)
		l.AwaitEvent([]*lab.OutageTask{task}, time.Time{}, "the task's token has ended; logging in again")
	}
	l.OneLeaseEach(raw[0].Job)
}

// writeOn writes to the server until ctx ends, and counts what came through.
func writeOn(ctx context.Context, vault *harness.VaultCluster) (n int) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		<-tick.C
		if vault.PutKV2(ctx, "secret", fmt.Sprintf("load-%d", i%100), map[string]any{"n": i}) == nil {
			n++
		}
	}
	return n
}
