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
	pg, err := l.Postgres(l.Ctx)
	require.NoError(t, err)
	const period = 20 * time.Second
	require.NoError(t, pg.Exec(l.Ctx, `CREATE ROLE static_app WITH LOGIN PASSWORD 'first'`))
	require.NoError(t, l.MariaDB.Exec(l.Ctx, `CREATE USER 'static_app'@'%' IDENTIFIED BY 'first'`))
	require.NoError(t, v.EnablePostgres(l.Ctx, "engines-pg", pg))
	require.NoError(t, v.PostgresRole(l.Ctx, "engines-pg", "app", time.Hour, 2*time.Hour))
	require.NoError(t, v.StaticRole(l.Ctx, "engines-pg", "postgres", "rot", "static_app", period))
	require.NoError(t, v.EnableDatabase(l.Ctx, "engines-maria", l.MariaDB))
	require.NoError(t, v.StaticRole(l.Ctx, "engines-maria", "mariadb", "rot", "static_app", period))
	require.NoError(t, v.Policy(l.Ctx, "engines", `
path "engines-pg/creds/app" { capabilities = ["read"] }
path "engines-pg/static-creds/rot" { capabilities = ["read"] }
path "engines-maria/static-creds/rot" { capabilities = ["read"] }`))
	require.NoError(t, v.WorkloadRole(l.Ctx, l.Agent.AuthPath, "engines", harness.WorkloadRole{Policies: []string{"engines"}, TTL: time.Hour}))
	mark, err := v.Mark()
	require.NoError(t, err)

	alloc := l.RunFile("engines", nil)
	login := map[string]func() bool{
		"maria": func() bool {
			return l.MariaDB.CanLogin(l.Ctx, l.Env(alloc, "maria", "DB_USER"), l.Env(alloc, "maria", "DB_PASSWORD"))
		},
		"pg": func() bool {
			return pg.CanLogin(l.Ctx, l.Env(alloc, "pg", "DB_USER"), l.Env(alloc, "pg", "DB_PASSWORD"))
		},
	}
	l.Lines(alloc, "maria", "start", 1)
	l.Lines(alloc, "pg", "start", 1)
	require.True(t, pg.CanLogin(l.Ctx, l.Env(alloc, "pg", "APP_USER"), l.Env(alloc, "pg", "APP_PASSWORD")))

	for _, name := range []string{"maria", "pg"} {
		l.Lines(alloc, name, "start", 2) // the password has been changed, and the task restarted
		seen := time.Now()
		require.True(t, login[name](), "the task %s has the new password", name)
		answer, err := v.Client().Logical().ReadWithContext(l.Ctx, "engines-"+name+"/static-creds/rot")
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
	issued, err := v.Requests(mark, "engines-pg/creds/app")
	require.NoError(t, err)
	require.Len(t, issued, 1, "a poll, and another secret's rotation, fetch nothing")
	require.NoError(t, l.Jobs[0].Stop(l.Ctx))
	l.Until("no user to be left in PostgreSQL (E1)", func() error {
		users, err := pg.Users(l.Ctx)
		if err == nil && len(users) > 0 {
			err = fmt.Errorf("there are %v", users)
		}
		return err
	})
}
