package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// dbTask is a task that logs in to MariaDB over and over with credentials of a database role of its
// own: testapp's dblogin.
type dbTask struct {
	name   string // of the job, of Vault's policy and roles; at most ten characters of it are in a user's name
	driver string
	// vault is the job's vault block, less the role; empty: the task has an identity.
	vault    string
	token    harness.WorkloadRole // less the policies
	ttl, max time.Duration        // of the credentials
	args     string               // of testapp, as in HCL
	deliver  string               // in the secret block, how it reaches the task; empty: by env
	noRevoke bool                 // the policy does not let the task revoke leases
}

const identityBlock = `
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }`

// run sets Vault up for the task, runs its job, and waits for its first log-in.
func (d dbTask) run(l *lab) *harness.Alloc {
	l.t.Helper()
	l.tellRequests(d)
	require.NoError(l.t, l.Vault.EnableDatabase(l.ctx, "database", l.MariaDB))
	require.NoError(l.t, l.Vault.DatabaseRole(l.ctx, "database", d.name, d.ttl, d.max))
	policy := fmt.Sprintf(`path "database/creds/%s" { capabilities = ["read"] }`, d.name)
	if !d.noRevoke {
		policy += "\n" + `path "sys/leases/revoke" { capabilities = ["update"] }`
	}
	require.NoError(l.t, l.Vault.Policy(l.ctx, d.name, policy))
	role := d.token
	role.Policies = []string{d.name}
	require.NoError(l.t, l.Vault.WorkloadRole(l.ctx, "jwt-nomad", d.name, role))

	token, ourRole := identityBlock, fmt.Sprintf("role = %q", d.name)
	if d.vault != "" {
		token, ourRole = fmt.Sprintf("vault {\n  role = %q\n  %s\n}", d.name, d.vault), ""
	}
	place := ""
	if d.driver == "docker" {
		place = "image = \"${meta.image}\"\n        network_mode = \"host\""
	}
	deliver := d.deliver
	if deliver == "" {
		deliver = `env = { DB_USER = "username", DB_PASSWORD = "password" }`
	}
	alloc := l.run(fmt.Sprintf(`
job %q {
  group "g" {
    task "app" {
      driver = %q
      %s
      env {
        DB_ADDR = "${meta.db_addr}"
      }
      config {
        %s
        command = "testapp"
        args    = [%s]
        %s
        secret "db" {
          path  = "database/creds/%s"
          splay = "500ms"
          %s
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`, d.name, d.driver, token, place, d.args, ourRole, d.name, deliver))
	l.lines(alloc, "app", "login user=", 1)
	return alloc
}

// tellRequests prints what the task asked of Vault, if the test fails.
func (l *lab) tellRequests(d dbTask) {
	since := l.mark()
	l.t.Cleanup(func() {
		all, err := l.Vault.Requests(since)
		if !l.t.Failed() || err != nil {
			return
		}
		tokens := map[string]bool{}
		for _, r := range all {
			tokens[r.Accessor] = tokens[r.Accessor] || r.Path == "database/creds/"+d.name
		}
		for _, r := range all {
			if tokens[r.Accessor] {
				l.t.Logf("%s %s %s %s", r.Time.Format("15:04:05.000"), r.Operation, r.Path, r.Error)
			}
		}
	})
}

// generation is what one process of the task told of itself.
type generation struct {
	began, lastOK, ended time.Time // the latter two are known once it has ended
	ok, refused          int
}

// generations are the processes that a dbTask has had, from its logs: so they also show that the
// logs of each are there (C8).
func (l *lab) generations(alloc *harness.Alloc) []generation {
	l.t.Helper()
	starts, err := alloc.Lines("app", "start ")
	require.NoError(l.t, err)
	ends, err := alloc.Lines("app", "counts ")
	require.NoError(l.t, err)
	all := make([]generation, len(starts))
	for i, line := range starts {
		var pid, uid int
		var env string
		var began int64
		_, err := fmt.Sscanf(line, "pid=%d uid=%d env=%16s began=%d", &pid, &uid, &env, &began)
		require.NoError(l.t, err, line)
		all[i].began = time.UnixMilli(began)
	}
	require.LessOrEqual(l.t, len(ends), len(starts))
	for i, line := range ends {
		g := &all[i]
		var lastOK, ended int64
		_, err := fmt.Sscanf(line, "ok=%d refused=%d last=%d ended=%d", &g.ok, &g.refused, &lastOK, &ended)
		require.NoError(l.t, err, line)
		g.lastOK, g.ended = time.UnixMilli(lastOK), time.UnixMilli(ended)
	}
	return all
}

// users waits until the task has logged in as n users, and returns them.
func (l *lab) users(alloc *harness.Alloc, n int) []string {
	l.t.Helper()
	return l.lines(alloc, "app", "login user=", n)
}

// settled waits until the database has exactly one user, and Vault one lease, of those that the task
// was ever given: the last. It fails where this takes longer than a few seconds.
func (l *lab) settled(d dbTask, users []string) {
	l.t.Helper()
	last := users[len(users)-1]
	l.soon(fmt.Sprintf("%s to be the only user of %s", last, d.name), 10*time.Second, func(ctx context.Context) error {
		there, err := l.usersOf(ctx, users)
		if err != nil {
			return err
		}
		leases, err := l.Vault.Leases(ctx, "database/creds/"+d.name)
		if err != nil {
			return err
		}
		if !slices.Equal(there, []string{last}) || len(leases) != 1 {
			return fmt.Errorf("users %v, leases %v", there, leases)
		}
		return nil
	})
}

// usersOf are those of the users that the database still has.
func (l *lab) usersOf(ctx context.Context, users []string) ([]string, error) {
	all, err := l.MariaDB.Users(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(users), func(u string) bool { return !slices.Contains(all, u) }), nil
}

// noRestarts: Nomad has started the task once and never restarted it (C8).
func (l *lab) noRestarts(alloc *harness.Alloc) {
	l.t.Helper()
	state, err := alloc.State(l.ctx, "app")
	require.NoError(l.t, err)
	require.Zero(l.t, state.Restarts, "Nomad has restarted the task")
	require.Equal(l.t, "running", state.State)
}

// events waits until n of the task's events contain all of texts each.
func (l *lab) events(alloc *harness.Alloc, n int, texts ...string) {
	l.t.Helper()
	l.until(fmt.Sprintf("%d events with %q", n, texts), func() error {
		all, err := alloc.Events(l.ctx, "app")
		if err != nil {
			return err
		}
		with := slices.DeleteFunc(slices.Clone(all), func(event string) bool {
			return slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(event, text) })
		})
		if len(with) < n {
			return fmt.Errorf("there are %d in:\n%s", len(with), strings.Join(all, "\n"))
		}
		return nil
	})
}

// gone stops the task's job and shows that nothing of its secrets is left within 5 s of its end (E1).
func (l *lab) gone(d dbTask, alloc *harness.Alloc, users []string) {
	l.t.Helper()
	require.NoError(l.t, alloc.Job.Stop(l.ctx))
	l.soon("the secrets of "+d.name+" to be gone", 5*time.Second, func(ctx context.Context) error {
		there, err := l.usersOf(ctx, users)
		if err != nil {
			return err
		}
		leases, err := l.Vault.Leases(ctx, "database/creds/"+d.name)
		if err != nil {
			return err
		}
		journal, err := journalsOf(l.agent, alloc)
		if err != nil {
			return err
		}
		if len(there)+len(leases)+len(journal) > 0 {
			return fmt.Errorf("users %v, leases %v, journal %v", there, leases, journal)
		}
		return nil
	})
}

// soon waits for a condition that must come within d.
func (l *lab) soon(what string, d time.Duration, cond func(ctx context.Context) error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, d)
	defer cancel()
	require.NoError(l.t, harness.Until(ctx, what, func() error { return cond(l.ctx) }))
}

// journalsOf are the files in the plugin's state directory that are an allocation's, by their name
// or their content: what is owed has a name of its own.
func journalsOf(agent *harness.Agent, alloc *harness.Alloc) (found []string, err error) {
	err = filepath.WalkDir(agent.StateDir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile, as it should be
		}
		if err != nil {
			return err
		}
		var content []byte
		if entry.Type().IsRegular() {
			if content, err = os.ReadFile(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if strings.Contains(path, alloc.ID) || strings.Contains(string(content), alloc.ID) {
			found = append(found, path)
		}
		return nil
	})
	return found, err
}

// requests are those of the accessor that has read the task's credentials first: its token's.
func (l *lab) requests(d dbTask, since harness.Mark, prefixes ...string) []harness.Request {
	l.t.Helper()
	accessor := l.accessor(d, since)
	all, err := l.Vault.Requests(since, prefixes...)
	require.NoError(l.t, err)
	return slices.DeleteFunc(all, func(r harness.Request) bool { return r.Accessor != accessor })
}

func (l *lab) accessor(d dbTask, since harness.Mark) string {
	l.t.Helper()
	minted, err := l.Vault.Requests(since, "database/creds/"+d.name)
	require.NoError(l.t, err)
	require.NotEmpty(l.t, minted, "nobody has read database/creds/%s", d.name)
	return minted[0].Accessor
}

func (l *lab) mark() harness.Mark {
	l.t.Helper()
	mark, err := l.Vault.Mark()
	require.NoError(l.t, err)
	return mark
}

// tokenLives asks Vault for a token by its accessor.
func (l *lab) tokenLives(accessor string) bool {
	l.t.Helper()
	_, err := l.Vault.Client().Auth().Token().LookupAccessorWithContext(l.ctx, accessor)
	return err == nil
}

// neverRefused: no process of the task was refused by the database, and each went on logging in to
// its end.
func neverRefused(t testing.TB, all []generation) {
	t.Helper()
	for i, g := range all {
		require.Zero(t, g.refused, "process %d was refused by the database", i+1)
		require.Greater(t, g.ok, 10, "process %d hardly logged in", i+1)
		require.Less(t, g.ended.Sub(g.lastOK), 2*time.Second, "process %d did not log in to its end", i+1)
	}
}

// fileLines waits until a file of the host has n lines, and returns them.
func (l *lab) fileLines(path string, n int) (lines []string) {
	l.t.Helper()
	l.until(fmt.Sprintf("%d lines in %s", n, path), func() error {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		lines = strings.Split(strings.TrimSpace(string(content)), "\n")
		if len(lines) < n {
			return fmt.Errorf("there are %d: %q", len(lines), content)
		}
		return nil
	})
	return lines
}
