package e2e

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
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
	}, lab.DefaultTimeout)
	require.NoError(t, l.Vault.EnableKV2(l.Ctx, "wrapping"))
	put := func(colour string) {
		require.NoError(t, l.Vault.PutKV2(l.Ctx, "wrapping", "app", map[string]any{"colour": colour}))
	}
	put("green")
	require.NoError(t, l.Vault.EnableDatabase(l.Ctx, "wrappingdb", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.Ctx, "wrappingdb", "wrapped", 10*time.Second, time.Hour))
	l.AllowLeased("wrapping", "wrapping/data/app", "wrappingdb/creds/wrapped")
	since, _ := l.Now()
	jobs := []lab.Job{{ID: "wrapping-docker", Driver: "docker"}, {ID: "wrapping-raw-exec", Driver: "raw_exec"}}
	for i := range jobs {
		jobs[i].Role, jobs[i].Run = "wrapping", []string{"testapp", "env", "COLOUR"}
		jobs[i].Config = `
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
	allocs := l.RunAll(jobs...)
	opened := func() int {
		requests, err := l.Vault.Requests(since, "sys/wrapping/unwrap")
		require.NoError(t, err)
		return len(requests)
	}
	require.GreaterOrEqual(t, opened(), 4, "answers opened: nothing was wrapped, and the test shows nothing")
	put("red")
	for _, alloc := range allocs {
		require.Equal(t, []string{`"green"`, `"red"`}, l.Lines(alloc, "app", "env COLOUR=", 2))
		require.True(t, l.MariaDB.CanLogin(l.Ctx, l.Env(alloc, "app", "DB_USER"), l.Env(alloc, "app", "DB_PASSWORD")))
		l.Until("the lease's renewal", func() error {
			renewals, err := l.Vault.Requests(since, "sys/leases/renew")
			if err == nil && len(lab.OfJob(renewals, alloc.Job.ID)) == 0 {
				err = errors.New("none yet")
			}
			return err
		})
		l.StartedTimes(alloc, 2)
	}
	made, err := l.Vault.Requests(since, "wrappingdb/creds/wrapped")
	require.NoError(t, err)
	require.Len(t, made, len(jobs), "one credential a task")
	for _, alloc := range allocs {
		require.NoError(t, alloc.Job.Stop(l.Ctx))
	}
	l.Leases("wrappingdb/creds/wrapped", 0)
	require.Empty(t, l.DatabaseUsers("wrapped"))
}

// What the task's token has in its cubbyhole, it finds at its next start, and when it changes.
func TestCubbyhole(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	require.NoError(t, l.Images.Named(l.Ctx, lab.ExampleImage))
	l.Allow("cubbyhole")
	hcl, err := os.ReadFile("../jobs/cubbyhole.nomad.hcl")
	require.NoError(t, err)
	alloc := l.Run(string(hcl))
	l.Event(alloc, `secret "own" not found at cubbyhole/app; skipped`)

	var token string
	l.Until("the task's token", func() error { // Nomad may lose what exec prints
		if token = l.Env(alloc, "app", "VAULT_TOKEN"); token == "" {
			return errors.New("it is empty")
		}
		return nil
	})
	client, err := l.Vault.ClientWithToken(token)
	require.NoError(t, err)
	note := func(text string) {
		t.Helper()
		_, err := client.Logical().WriteWithContext(l.Ctx, "cubbyhole/app", map[string]any{"note": text})
		require.NoError(t, err)
	}
	finds := func(text string) {
		t.Helper()
		l.Until("the task to have "+text, func() error {
			out, _, err := alloc.Exec(l.Ctx, "app", "sh", "-c", "echo $NOTE")
			if err == nil && strings.TrimSpace(out) != text {
				err = errors.New("it has " + out)
			}
			return err
		})
	}
	note("first")
	require.NoError(t, alloc.Restart(l.Ctx, "app"))
	finds("first")
	note("second")
	finds("second")
	restarts, err := alloc.Restarts(l.Ctx, "app")
	require.NoError(t, err)
	require.EqualValues(t, 1, restarts, "Nomad's restarts: the one that was asked for")
}

// The driver's own token has an empty cubbyhole, and the task's failure says why.
func TestCubbyholeWithAnIdentity(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.Allow("own-cubbyhole")
	alloc, err := l.Submit(lab.Job{ID: "own-cubbyhole", Driver: "raw_exec", Role: "own-cubbyhole",
		Run: []string{"testapp", "sleep"}, Config: `secret "own" { path = "cubbyhole/app" }`}.HCL()).Failed(l.Ctx)
	require.NoError(t, err)
	require.Contains(t, l.Event(alloc, "Driver Failure"), `secret "own": read cubbyhole/app: nothing is there; `+
		"a cubbyhole is its token's own: only who has the task's token can write there")
	l.NoJournal(alloc)
}
