package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// Static roles of MariaDB and PostgreSQL, whose passwords Vault itself changes, and a dynamic role of
// PostgreSQL. Polls are a minute apart, so that what is seen in time is seen because the server said when.
func TestDatabaseEngines(t *testing.T) {
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "engines", Placement: harness.InPlace, Secrets: map[string]any{"poll_interval": "60s", "lease_check_interval": "60s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newLabOn(t, agent)
	v := l.Vault
	pg, err := l.Postgres(l.ctx)
	require.NoError(t, err)
	const period = 20 * time.Second
	require.NoError(t, pg.Exec(l.ctx, `CREATE ROLE static_app WITH LOGIN PASSWORD 'first'`))
	require.NoError(t, l.MariaDB.Exec(l.ctx, `CREATE USER 'static_app'@'%' IDENTIFIED BY 'first'`))
	require.NoError(t, v.EnablePostgres(l.ctx, "engines-pg", pg))
	require.NoError(t, v.PostgresRole(l.ctx, "engines-pg", "app", time.Hour, 2*time.Hour))
	require.NoError(t, v.StaticRole(l.ctx, "engines-pg", "postgres", "rot", "static_app", period))
	require.NoError(t, v.EnableDatabase(l.ctx, "engines-maria", l.MariaDB))
	require.NoError(t, v.StaticRole(l.ctx, "engines-maria", "mariadb", "rot", "static_app", period))
	require.NoError(t, v.Policy(l.ctx, "engines", `
path "engines-pg/creds/app" { capabilities = ["read"] }
path "engines-pg/static-creds/rot" { capabilities = ["read"] }
path "engines-maria/static-creds/rot" { capabilities = ["read"] }`))
	require.NoError(t, v.WorkloadRole(l.ctx, l.agent.AuthPath, "engines", harness.WorkloadRole{Policies: []string{"engines"}, TTL: time.Hour}))
	mark, err := v.Mark()
	require.NoError(t, err)

	task := func(name, more string) string {
		return fmt.Sprintf(`
    task "%[1]s" {
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
        args    = ["-c", "echo start; exec sleep 1000"]
        role    = "engines"
        secret "rot" {
          path  = "engines-%[1]s/static-creds/rot"
          env   = { DB_USER = "username", DB_PASSWORD = "password" }
          splay = "0s"
        }
        %[2]s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`, name, more)
	}
	alloc := l.run(`
job "engines" {
  group "g" {` + task("maria", "") + task("pg", `secret "dynamic" {
          path = "engines-pg/creds/app"
          env  = { APP_USER = "username", APP_PASSWORD = "password" }
        }`) + `
  }
}`)
	login := map[string]func() bool{
		"maria": func() bool {
			return l.MariaDB.CanLogin(l.ctx, l.has(alloc, "maria", "DB_USER"), l.has(alloc, "maria", "DB_PASSWORD"))
		},
		"pg": func() bool {
			return pg.CanLogin(l.ctx, l.has(alloc, "pg", "DB_USER"), l.has(alloc, "pg", "DB_PASSWORD"))
		},
	}
	l.lines(alloc, "maria", "start", 1)
	l.lines(alloc, "pg", "start", 1)
	require.True(t, pg.CanLogin(l.ctx, l.has(alloc, "pg", "APP_USER"), l.has(alloc, "pg", "APP_PASSWORD")))

	for _, name := range []string{"maria", "pg"} {
		l.lines(alloc, name, "start", 2) // the password has been changed, and the task restarted
		seen := time.Now()
		require.True(t, login[name](), "the task %s has the new password", name)
		answer, err := v.Client().Logical().ReadWithContext(l.ctx, "engines-"+name+"/static-creds/rot")
		require.NoError(t, err)
		rotated, err := time.Parse(time.RFC3339Nano, answer.Data["last_vault_rotation"].(string))
		require.NoError(t, err)
		ttl, err := answer.Data["ttl"].(json.Number).Int64()
		require.NoError(t, err)
		require.LessOrEqual(t, ttl, int64(period.Seconds()))
		// A second for the poll, one to gather changes (C7), one for the restart; the rest is for the machine.
		require.Less(t, seen.Sub(rotated), 8*time.Second, "%s: changed at %v, and the task restarted by %v", name, rotated, seen)
	}
	for _, name := range []string{"maria", "pg"} {
		requests, err := v.Requests(mark, "engines-"+name+"/static-creds/rot")
		require.NoError(t, err)
		// One at the start, up to one a second from when it is due until it is done, one by the task, one by this test.
		require.Less(t, len(requests), 20, "no storm of polls")
	}
	minted, err := v.Requests(mark, "engines-pg/creds/app")
	require.NoError(t, err)
	require.Len(t, minted, 1, "a poll, and another secret's rotation, mint nothing")
	require.NoError(t, l.jobs[0].Stop(l.ctx))
	l.until("no user to be left in PostgreSQL (E1)", func() error {
		users, err := pg.Users(l.ctx)
		if err == nil && len(users) > 0 {
			err = fmt.Errorf("there are %v", users)
		}
		return err
	})
}
