package e2e

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// What only the token that asks can have: answers that are wrapped, and a cubbyhole.

// Something before the server has it wrap what tasks read. The driver opens each answer, and what is in it
// is watched as ever: the KV secret is polled, the lease renewed, and revoked at the end.
func TestWrappedAnswersAreOpened(t *testing.T) {
	t.Parallel()
	proxy, err := harness.NewFaultProxy(nil, shared.Vault.Addr)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	proxy.Seen(func(r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/wrapping") {
			r.Header.Set("X-Vault-Wrap-TTL", "60s")
		}
	})
	l := newOwnLab(t, harness.AgentOptions{
		Name: "wrapping", Placement: placement, Secrets: map[string]any{"address": proxy.Addr},
	}, testTimeout)
	require.NoError(t, l.Vault.EnableKV2(l.ctx, "wrapping"))
	put := func(colour string) {
		require.NoError(t, l.Vault.PutKV2(l.ctx, "wrapping", "app", map[string]any{"colour": colour}))
	}
	put("green")
	require.NoError(t, l.Vault.EnableDatabase(l.ctx, "wrappingdb", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.ctx, "wrappingdb", "wrapped", 10*time.Second, time.Hour))
	l.mayRead("wrapping", "wrapping/data/app", "wrappingdb/creds/wrapped")
	since, _ := l.now()
	jobs := []simpleJob{{id: "wrapping-docker", driver: "docker"}, {id: "wrapping-raw-exec", driver: "raw_exec"}}
	for i := range jobs {
		jobs[i].role, jobs[i].run = "wrapping", []string{"testapp", "env", "COLOUR"}
		jobs[i].config = `
			splay = "0s"
			secret "app" {
				path = "wrapping/app"
				env  = { COLOUR = "colour" }
			}
			secret "db" {
				path = "wrappingdb/creds/wrapped"
				env  = { DB_USER = "username", DB_PASSWORD = "password" }
			}`
	}
	allocs := l.runAll(jobs...)
	opened := func() int {
		requests, err := l.Vault.Requests(since, "sys/wrapping/unwrap")
		require.NoError(t, err)
		return len(requests)
	}
	require.GreaterOrEqual(t, opened(), 4, "answers opened: nothing was wrapped, and the test shows nothing")
	put("red")
	for _, alloc := range allocs {
		require.Equal(t, []string{`"green"`, `"red"`}, l.lines(alloc, "app", "env COLOUR=", 2))
		require.True(t, l.MariaDB.CanLogin(l.ctx, l.has(alloc, "app", "DB_USER"), l.has(alloc, "app", "DB_PASSWORD")))
		l.until("the lease's renewal", func() error {
			renewals, err := l.Vault.Requests(since, "sys/leases/renew")
			if err == nil && len(ofJob(renewals, alloc.Job.ID)) == 0 {
				err = errors.New("none yet")
			}
			return err
		})
		l.startedTimes(alloc, 2)
	}
	made, err := l.Vault.Requests(since, "wrappingdb/creds/wrapped")
	require.NoError(t, err)
	require.Len(t, made, len(jobs), "one credential a task")
	for _, alloc := range allocs {
		require.NoError(t, alloc.Job.Stop(l.ctx))
	}
	l.leases("wrappingdb/creds/wrapped", 0)
	require.Empty(t, l.databaseUsers("wrapped"))
}

// What the task's token has in its cubbyhole, it finds at its next start, and when it changes.
func TestCubbyhole(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	require.NoError(t, l.Images.Named(l.ctx, exampleImage))
	l.allow("cubbyhole")
	hcl, err := os.ReadFile("../jobs/cubbyhole.nomad.hcl")
	require.NoError(t, err)
	alloc := l.run(string(hcl))
	l.event(alloc, `secret "own": nothing is at cubbyhole/app; left out`)

	var token string
	l.until("the task's token", func() error { // Nomad may lose what exec prints
		if token = l.has(alloc, "app", "VAULT_TOKEN"); token == "" {
			return errors.New("it is empty")
		}
		return nil
	})
	client, err := l.Vault.ClientWithToken(token)
	require.NoError(t, err)
	note := func(text string) {
		t.Helper()
		_, err := client.Logical().WriteWithContext(l.ctx, "cubbyhole/app", map[string]any{"note": text})
		require.NoError(t, err)
	}
	finds := func(text string) {
		t.Helper()
		l.until("the task to have "+text, func() error {
			out, _, err := alloc.Exec(l.ctx, "app", "sh", "-c", "echo $NOTE")
			if err == nil && strings.TrimSpace(out) != text {
				err = errors.New("it has " + out)
			}
			return err
		})
	}
	note("first")
	require.NoError(t, alloc.Restart(l.ctx, "app"))
	finds("first")
	note("second")
	finds("second")
	restarts, err := alloc.Restarts(l.ctx, "app")
	require.NoError(t, err)
	require.EqualValues(t, 1, restarts, "Nomad's restarts: the one that was asked for")
}

// The driver's own token has an empty cubbyhole, and the task's failure says why.
func TestCubbyholeWithAnIdentity(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.allow("own-cubbyhole")
	alloc, err := l.submit(simpleJob{id: "own-cubbyhole", driver: "raw_exec", role: "own-cubbyhole",
		run: []string{"testapp", "sleep"}, config: `secret "own" { path = "cubbyhole/app" }`}.hcl()).Failed(l.ctx)
	require.NoError(t, err)
	require.Contains(t, l.event(alloc, "Driver Failure"), `secret "own": read cubbyhole/app: nothing is there; `+
		"a cubbyhole is its token's own: only who has the task's token can write there")
	l.noJournal(alloc)
}
