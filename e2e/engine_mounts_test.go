package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// mountsJob is made here: its secrets differ.
const mountsJob = `
job "%s" {
  group "g" {
    task "web" {
      driver = "raw_exec"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        command = "/bin/sh"
        args    = ["-c", "echo start $COLOUR; exec sleep 1000"]
        role    = "mounts"
        splay   = "0s"
        %s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`

// Engines are mounted, upgraded, moved and unmounted while tasks run on them.
func TestMountLife(t *testing.T) {
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "mounts", Placement: harness.InPlace, Secrets: map[string]any{"poll_interval": "1s", "lease_check_interval": "2s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newLabOn(t, agent)
	v := l.Vault
	database := func(ctx context.Context, mount string) {
		require.NoError(t, v.EnableDatabase(ctx, mount, l.MariaDB))
		require.NoError(t, v.DatabaseRole(ctx, mount, "app", time.Hour, 2*time.Hour))
	}
	require.NoError(t, v.EnableKV1(l.Ctx, "life-kv"))
	require.NoError(t, v.PutKV1(l.Ctx, "life-kv", "app", map[string]any{"colour": "one"}))
	database(l.Ctx, "life-db")
	require.NoError(t, v.Policy(l.Ctx, "mounts", `
path "life-kv/app" { capabilities = ["read"] }
path "life-kv/data/app" { capabilities = ["read"] }
path "life-db/creds/app" { capabilities = ["read"] }
path "life-db-2/creds/app" { capabilities = ["read"] }`))
	require.NoError(t, v.WorkloadRole(l.Ctx, l.Agent.AuthPath, "mounts", harness.WorkloadRole{Policies: []string{"mounts"}, TTL: time.Hour}))

	kv := l.Run(fmt.Sprintf(mountsJob, "mounts-kv", `secret "app" {
          path = "life-kv/app"
          env  = { COLOUR = "colour" }
        }`))
	db := l.Run(fmt.Sprintf(mountsJob, "mounts-db", `secret "db" {
          path = "life-db/creds/app"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }
        }`))
	l.Lines(kv, "web", "start one", 1)
	l.Lines(db, "web", "start", 1)

	// A second engine of the type, mounted elsewhere.
	database(l.Ctx, "life-db-2")
	second := l.Run(fmt.Sprintf(mountsJob, "mounts-second", `secret "db" {
          path = "life-db-2/creds/app"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }
        }`))
	require.True(t, l.MariaDB.CanLogin(l.Ctx, l.Env(second, "web", "DB_USER"), l.Env(second, "web", "DB_PASSWORD")))

	// A KV version 1 becomes a version 2: the same content is nothing, another is a change.
	require.NoError(t, v.Client().Sys().TuneMountAllowNilWithContext(l.Ctx, "life-kv", api.TuneMountConfigInput{Options: &map[string]string{"version": "2"}}))
	l.Until("KV v2 at life-kv", func() error {
		_, err := v.Client().Logical().ReadWithContext(l.Ctx, "life-kv/config")
		return err
	})
	mark, err := v.Mark()
	require.NoError(t, err)
	l.Until("the driver to read it as version 2", func() error {
		requests, err := v.Requests(mark, "life-kv/data/app")
		if err == nil && len(requests) < 3 {
			err = fmt.Errorf("%d requests", len(requests))
		}
		return err
	})
	require.NoError(t, v.PutKV2(l.Ctx, "life-kv", "app", map[string]any{"colour": "two"}))
	require.Len(t, l.Lines(kv, "web", "start", 2), 2)
	require.Equal(t, "two", l.Env(kv, "web", "COLOUR"))

	// A move revokes all leases. The path is gone: the task runs on, and it is said.
	user := l.Env(db, "web", "DB_USER")
	require.NoError(t, v.Client().Sys().RemountWithContext(l.Ctx, "life-db", "life-db-moved"))
	_, err = db.WaitEvent(l.Ctx, "web", "no secrets engine is mounted there")
	require.NoError(t, err)
	require.Equal(t, user, l.Env(db, "web", "DB_USER"), "it runs on")
	// Somebody mounts one at the old path: the task heals.
	database(l.Ctx, "life-db")
	l.Lines(db, "web", "start", 2)
	require.True(t, l.MariaDB.CanLogin(l.Ctx, l.Env(db, "web", "DB_USER"), l.Env(db, "web", "DB_PASSWORD")))

	// An unmount is the same to the task.
	require.NoError(t, v.Client().Sys().UnmountWithContext(l.Ctx, "life-db-2"))
	_, err = second.WaitEvent(l.Ctx, "web", "no secrets engine is mounted there")
	require.NoError(t, err)
	for _, alloc := range []*harness.Alloc{kv, db, second} {
		restarts, err := alloc.Restarts(l.Ctx, "web")
		require.NoError(t, err)
		require.Zero(t, restarts)
	}
	require.Len(t, l.Lines(second, "web", "start", 1), 1, "the second task was not disturbed by any of it")
}
