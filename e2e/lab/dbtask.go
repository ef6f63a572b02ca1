package lab

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// DBTask is a task that logs in to MariaDB over and over with credentials of a database role of its
// own: testapp's dblogin.
type DBTask struct {
	Name   string // of the job, of Vault's policy and roles; at most ten characters of it are in a user's name
	Driver string
	// Vault is the job's vault block, less the role; empty: the task has an identity.
	Vault    string
	Token    harness.WorkloadRole // less the policies
	TTL, Max time.Duration        // of the credentials
	Args     string               // of testapp, as in HCL
	Delivery string               // the rest of the secret block: how it reaches the task, and other options; empty: by env
	NoRevoke bool                 // the policy does not let the task revoke leases
}

// Run sets Vault up for the task, runs its job, and waits for its first log-in.
func (d DBTask) Run(l *Lab) *harness.Alloc {
	l.T.Helper()
	l.logRequests(d)
	require.NoError(l.T, l.Vault.EnableDatabase(l.Ctx, "database", l.MariaDB))
	require.NoError(l.T, l.Vault.DatabaseRole(l.Ctx, "database", d.Name, d.TTL, d.Max))
	policy := fmt.Sprintf(`path "database/creds/%s" { capabilities = ["read"] }`, d.Name)
	if !d.NoRevoke {
		policy += "\n" + `path "sys/leases/revoke" { capabilities = ["update"] }`
	}
	require.NoError(l.T, l.Vault.Policy(l.Ctx, d.Name, policy))
	role := d.Token
	role.Policies = []string{d.Name}
	require.NoError(l.T, l.Vault.WorkloadRole(l.Ctx, l.Agent.AuthPath, d.Name, role))

	token, ourRole := IdentityBlock, fmt.Sprintf("role = %q", d.Name)
	if d.Vault != "" {
		token, ourRole = fmt.Sprintf("vault {\n  role = %q\n  %s\n}", d.Name, d.Vault), ""
	}
	place := ""
	if d.Driver == "docker" {
		place = "image = \"${meta.image}\"\n        network_mode = \"host\""
	}
	deliver := d.Delivery
	if deliver == "" {
		deliver = `env = { DB_USER = "username", DB_PASSWORD = "password" }`
	}
	alloc := l.Run(fmt.Sprintf(`
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
}`, d.Name, d.Driver, token, place, d.Args, ourRole, d.Name, deliver))
	l.Lines(alloc, App, "login user=", 1)
	return alloc
}

// logRequests prints what the task asked of Vault, if the test fails.
func (l *Lab) logRequests(d DBTask) {
	since := l.Mark()
	l.T.Cleanup(func() {
		all, err := l.Vault.Requests(since)
		if !l.T.Failed() || err != nil {
			return
		}
		tokens := map[string]bool{}
		for _, r := range all {
			tokens[r.Accessor] = tokens[r.Accessor] || r.Path == "database/creds/"+d.Name
		}
		for _, r := range all {
			if tokens[r.Accessor] {
				l.T.Logf("%s %s %s %s", r.Time.Format("15:04:05.000"), r.Operation, r.Path, r.Error)
			}
		}
	})
}

// Generation is one process of the task: what it printed about itself.
type Generation struct {
	Began, lastOK, Ended time.Time // the latter two are known once it has ended
	ok, refused          int
}

// Generations are the processes that a dbTask has had, from its logs: so they also show that the
// logs of each are there (C8).
func (l *Lab) Generations(alloc *harness.Alloc) []Generation {
	l.T.Helper()
	starts, err := alloc.Lines(App, "start ")
	require.NoError(l.T, err)
	ends, err := alloc.Lines(App, "counts ")
	require.NoError(l.T, err)
	all := make([]Generation, len(starts))
	for i, line := range starts {
		var pid, uid int
		var env string
		var began int64
		_, err := fmt.Sscanf(line, "pid=%d uid=%d env=%16s began=%d", &pid, &uid, &env, &began)
		require.NoError(l.T, err, line)
		all[i].Began = time.UnixMilli(began)
	}
	require.LessOrEqual(l.T, len(ends), len(starts))
	for i, line := range ends {
		g := &all[i]
		var lastOK, ended int64
		_, err := fmt.Sscanf(line, "ok=%d refused=%d last=%d ended=%d", &g.ok, &g.refused, &lastOK, &ended)
		require.NoError(l.T, err, line)
		g.lastOK, g.Ended = time.UnixMilli(lastOK), time.UnixMilli(ended)
	}
	return all
}

// Users waits until the task has logged in as n users, and returns them.
func (l *Lab) Users(alloc *harness.Alloc, n int) []string {
	l.T.Helper()
	return l.Lines(alloc, App, "login user=", n)
}

// OnlyLastUser waits until the database has exactly one user, and Vault one lease, of those that the task
// was ever given: the last. It fails where this takes longer than a few seconds.
func (l *Lab) OnlyLastUser(d DBTask, users []string) {
	l.T.Helper()
	last := users[len(users)-1]
	l.Soon(fmt.Sprintf("%s to be the only user of %s", last, d.Name), 10*time.Second, func(ctx context.Context) error {
		there, err := l.UsersOf(ctx, users)
		if err != nil {
			return err
		}
		leases, err := l.Vault.Leases(ctx, "database/creds/"+d.Name)
		if err != nil {
			return err
		}
		if !slices.Equal(there, []string{last}) || len(leases) != 1 {
			return fmt.Errorf("users %v, leases %v", there, leases)
		}
		return nil
	})
}

// UsersOf are those of the users that the database still has.
func (l *Lab) UsersOf(ctx context.Context, users []string) ([]string, error) {
	all, err := l.MariaDB.Users(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(users), func(u string) bool { return !slices.Contains(all, u) }), nil
}

// StopAndRevoked stops the task's job and shows that nothing of its secrets is left within 5 s of its end (E1).
func (l *Lab) StopAndRevoked(d DBTask, alloc *harness.Alloc, users []string) {
	l.T.Helper()
	require.NoError(l.T, alloc.Job.Stop(l.Ctx))
	l.Soon("the secrets of "+d.Name+" to be gone", RevokedWithin, func(ctx context.Context) error {
		there, err := l.UsersOf(ctx, users)
		if err != nil {
			return err
		}
		leases, err := l.Vault.Leases(ctx, "database/creds/"+d.Name)
		if err != nil {
			return err
		}
		journal, err := journalFiles(l.Agent, alloc)
		if err != nil {
			return err
		}
		if len(there)+len(leases)+len(journal) > 0 {
			return fmt.Errorf("users %v, leases %v, journal %v", there, leases, journal)
		}
		return nil
	})
}

// Requests are those of the accessor that has read the task's credentials first: its token's.
func (l *Lab) Requests(d DBTask, since harness.Mark, prefixes ...string) []harness.Request {
	l.T.Helper()
	accessor := l.Accessor(d, since)
	all, err := l.Vault.Requests(since, prefixes...)
	require.NoError(l.T, err)
	return slices.DeleteFunc(all, func(r harness.Request) bool { return r.Accessor != accessor })
}

// Accessor is that of the token that has read the task's credentials first since a mark.
func (l *Lab) Accessor(d DBTask, since harness.Mark) string {
	l.T.Helper()
	made, err := l.Vault.Requests(since, "database/creds/"+d.Name)
	require.NoError(l.T, err)
	require.NotEmpty(l.T, made, "nobody has read database/creds/%s", d.Name)
	return made[0].Accessor
}

// NeverRefused asserts that no process of the task was refused by the database, and each went on logging in to
// its end.
func NeverRefused(t testing.TB, all []Generation) {
	t.Helper()
	for i, g := range all {
		require.Zero(t, g.refused, "process %d was refused by the database", i+1)
		require.Greater(t, g.ok, 10, "process %d hardly logged in", i+1)
		require.Less(t, g.Ended.Sub(g.lastOK), 2*time.Second, "process %d did not log in to its end", i+1)
	}
}
