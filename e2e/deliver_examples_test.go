package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Every job in jobs/ runs as it is, on a Vault that is set up by the very commands of jobs/README.md, and
// does what its comment says: when it starts, and when its secret changes. Each logs in with the role and the
// one policy that `policy -role` wrote for it: so what that writes is shown to be enough.
func TestExampleJobs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	vault, err := shared.NewVault(ctx, "vault-jobs")
	require.NoError(t, err)
	l := newOwnLab(t, harness.AgentOptions{Name: "jobs", Placement: harness.InPlace, Vault: vault, AuthPath: "jwt-nomad"}, 9*time.Minute)
	require.NoError(t, vault.Client().Sys().DisableAuthWithContext(l.Ctx, l.Agent.AuthPath)) // the harness's: the README makes it
	need, readme, run := l.SetUpExamples()

	files := exampleFiles(t, "../jobs/*.nomad.hcl")
	require.Len(t, files, len(examples), "jobs, and what is known of them here")
	var all []*exampleRun
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".nomad.hcl")
		hcl, err := os.ReadFile(file)
		require.NoError(t, err)
		example, known := examples[name]
		require.True(t, known, "nothing is known here of job %s", name)
		require.Contains(t, readme, "| `"+name+"` |", "the table of jobs/README.md")
		if !strings.Contains(string(hcl), `provider = "nomad"`) {
			require.FileExists(t, "../jobs/policies/"+name+".hcl")
		}
		require.Regexp(t, `attr\.driver\.(docker|raw_exec)\.secrets`, string(hcl), "the constraint of job %s", name)
		all = append(all, &exampleRun{Lab: l, example: example, name: name, job: l.Submit(string(hcl)), ExampleServers: need})
	}
	for _, e := range all {
		t.Run(e.name+"/starts", func(t *testing.T) {
			e := e.of(t)
			require.NoError(t, e.awaitRunning())
			e.starts(e)
		})
	}
	if t.Failed() {
		return
	}
	require.NoError(t, vault.Client().Sys().RevokePrefixWithContext(l.Ctx, "database/creds/app"))
	l.Shell(regexp.MustCompile(`(?m)^vault kv put .*$`).FindString(run))
	for _, e := range all {
		if e.changes != nil {
			t.Run(e.name+"/changes", func(t *testing.T) { e := e.of(t); e.changes(e) })
		}
	}
	for _, e := range all {
		for _, alloc := range e.allocs {
			l.NotRestarted(alloc, "app")
			events, err := alloc.Events(l.Ctx, "app")
			require.NoError(t, err)
			require.NotContains(t, strings.Join(events, "\n"), "policy needs", "the policy of %s is not enough", e.name)
		}
		require.NoError(t, e.job.Stop(l.Ctx))
	}
	l.Soon("every lease to be revoked (E1)", lab.RevokedWithin, func(ctx context.Context) error {
		leases, err := vault.Leases(ctx, "database/creds/app")
		if users := need.AWS.Users(); err == nil && len(leases)+len(users) > 0 {
			err = fmt.Errorf("there are %v, and in AWS %v", leases, users)
		}
		return err
	})
	l.JournalEmpty()
}

// exampleFiles are the files of the examples that are known here. Those of the issuer of certificates need an
// authority, and e2e/acme runs them.
func exampleFiles(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	require.NoError(t, err)
	return slices.DeleteFunc(files, func(file string) bool { return strings.HasPrefix(filepath.Base(file), "acme-") })
}

// example is what a job promises.
type example struct {
	starts, changes func(*exampleRun) // the latter after new values at secret/app-1, and the end of all leases
	allocs          int               // 0 is 1
}

// exampleRun is a job of jobs/ that was submitted.
type exampleRun struct {
	*lab.Lab
	example
	lab.ExampleServers
	name   string
	job    *harness.Job
	allocs []*harness.Alloc
	bodies []string // of the allocations: their containers at the start
	noted  string   // what starts leaves for changes
}

// of is e in a subtest; what it finds out is e's.
func (e *exampleRun) of(t *testing.T) *exampleRun {
	e.Lab = e.Lab.For(t)
	return e
}

func (e *exampleRun) awaitRunning() (err error) {
	if e.allocs, err = e.job.AllRunning(e.Ctx, max(1, e.example.allocs)); err != nil {
		return err
	}
	if strings.Contains(e.name, "raw_exec") {
		return nil
	}
	for _, alloc := range e.allocs {
		inspect, err := alloc.Container(e.Ctx, "app")
		if err != nil {
			return err
		}
		e.bodies = append(e.bodies, inspect.ID)
	}
	return nil
}

// sh runs a script in the task, with its secrets. It must print something: Nomad's docker driver
// sometimes loses what a command prints that ends before it is read.
func (e *exampleRun) sh(script string) (out string) {
	e.T.Helper()
	e.Until("output of "+script, func() (err error) {
		if out, err = e.trySh(script); err == nil && out == "" {
			err = errors.New("nothing")
		}
		return err
	})
	return out
}

func (e *exampleRun) trySh(script string) (string, error) {
	out, code, err := e.allocs[0].Exec(e.Ctx, "app", "sh", "-c", script)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, out)
	}
	return strings.TrimSuffix(out, "\n"), err
}

// file is one of the task's, as the host sees it: Nomad's docker driver may lose a part of what is long.
func (e *exampleRun) file(name string) string {
	e.T.Helper()
	content, err := os.ReadFile(filepath.Join(e.allocs[0].SecretsDir("app"), name))
	require.NoError(e.T, err)
	return string(content)
}

// prints waits until a script in the task prints this.
func (e *exampleRun) prints(script, want string) {
	e.T.Helper()
	e.Until(fmt.Sprintf("%s to print %q", script, want), func() error {
		out, err := e.trySh(script)
		if err == nil && out != want {
			err = fmt.Errorf("it prints %q", out)
		}
		return err
	})
}

// field is what Vault has now at secret/app-1.
func (e *exampleRun) field(name string) string {
	e.T.Helper()
	secret, err := e.Agent.Vault().Client().KVv2("secret").Get(e.Ctx, "app-1")
	require.NoError(e.T, err)
	return secret.Data[name].(string)
}

// newProcess tells whether the task was restarted in place since its start, or left alone.
func (e *exampleRun) newProcess(want bool) {
	e.T.Helper()
	inspect, err := e.allocs[0].Container(e.Ctx, "app")
	require.NoError(e.T, err)
	require.Equal(e.T, want, inspect.ID != e.bodies[0], "whether the task has a new container")
}

// replaced is nil once an allocation's container is another than at the start.
func (e *exampleRun) replaced(i int) error {
	inspect, err := e.allocs[i].Container(e.Ctx, "app")
	if err == nil && inspect.ID == e.bodies[i] {
		err = errors.New("it is the one from the start")
	}
	return err
}

// index is an allocation's place in its group.
func (e *exampleRun) index(i int) int {
	e.T.Helper()
	info, err := e.allocs[i].Info(e.Ctx)
	require.NoError(e.T, err)
	_, index, _ := strings.Cut(info.Name, "[")
	n, err := strconv.Atoi(strings.TrimSuffix(index, "]"))
	require.NoError(e.T, err)
	return n
}

// user waits until the task's credentials, printed by a script as user and password, are others than
// those before, and shows that the database takes them.
func (e *exampleRun) user(script string) {
	e.T.Helper()
	e.working(script, func(user, password string) bool { return e.MariaDB.CanLogin(e.Ctx, user, password) })
}

func (e *exampleRun) working(script string, canLogin func(user, password string) bool) {
	e.T.Helper()
	e.Until("working credentials, other than "+e.noted, func() error {
		out, err := e.trySh(script)
		if err != nil {
			return err
		}
		user, password, _ := strings.Cut(out, " ")
		if user == "" || out == e.noted {
			return fmt.Errorf("the user is %q", user)
		}
		if !canLogin(user, password) {
			return fmt.Errorf("the server refuses %s", user)
		}
		e.noted = out
		return nil
	})
}
