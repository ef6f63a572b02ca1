package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// exampleImage is the image that the jobs name.
const exampleImage = "secrets-demo/busybox:1"

// Every job in jobs/ runs as it is, on a Vault that is set up by the very commands of jobs/README.md, and
// does what its comment says: when it starts, and when its secret changes. Each logs in with a role
// that has its own policy alone, so the policies are shown to be enough, too.
func TestExampleJobs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	vault, err := shared.NewVault(ctx, "vault-jobs")
	require.NoError(t, err)
	l := newOwnLab(t, harness.AgentOptions{Name: "jobs", Placement: harness.InPlace, Vault: vault, AuthPath: "jwt-nomad"}, 5*time.Minute)
	require.NoError(t, vault.Client().Sys().DisableAuthWithContext(l.ctx, l.agent.AuthPath)) // the harness's: the README makes it
	need, readme, run := l.setUpExamples()

	files, err := filepath.Glob("../jobs/*.nomad.hcl")
	require.NoError(t, err)
	require.Len(t, files, len(examples), "jobs, and what is known of them here")
	var all []*exampleRun
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".nomad.hcl")
		hcl, err := os.ReadFile(file)
		require.NoError(t, err)
		example, known := examples[name]
		require.True(t, known, "nothing is known here of job %s", name)
		require.Contains(t, readme, "| `"+name+"` |", "the table of jobs/README.md")
		require.FileExists(t, "../jobs/policies/"+name+".hcl")
		require.Regexp(t, `attr\.driver\.(docker|raw_exec)\.secrets`, string(hcl), "the constraint of job %s", name)
		all = append(all, &exampleRun{lab: l, example: example, name: name, job: l.submit(string(hcl)), examplesNeed: need})
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
	require.NoError(t, vault.Client().Sys().RevokePrefixWithContext(l.ctx, "database/creds/app"))
	l.shell(regexp.MustCompile(`(?m)^vault kv put .*$`).FindString(run))
	for _, e := range all {
		if e.changes != nil {
			t.Run(e.name+"/changes", func(t *testing.T) { e := e.of(t); e.changes(e) })
		}
	}
	for _, e := range all {
		for _, alloc := range e.allocs {
			l.notRestarted(alloc, "app")
			events, err := alloc.Events(l.ctx, "app")
			require.NoError(t, err)
			require.NotContains(t, strings.Join(events, "\n"), "policy needs", "the policy of %s is not enough", e.name)
		}
		require.NoError(t, e.job.Stop(l.ctx))
	}
	ends, cancel := context.WithTimeout(l.ctx, 5*time.Second)
	defer cancel()
	require.NoError(t, harness.Until(ends, "every lease to be revoked (E1)", func() error {
		leases, err := vault.Leases(l.ctx, "database/creds/app")
		if users := need.aws.Users(); err == nil && len(leases)+len(users) > 0 {
			err = fmt.Errorf("there are %v, and in AWS %v", leases, users)
		}
		return err
	}))
	l.nothingJournalled()
}

// example is what a job promises.
type example struct {
	starts, changes func(*exampleRun) // the latter after new values at secret/app-1, and the end of all leases
	allocs          int               // 0 is 1
}

// exampleRun is a job of jobs/ that was submitted.
type exampleRun struct {
	*lab
	example
	examplesNeed
	name   string
	job    *harness.Job
	allocs []*harness.Alloc
	bodies []string // of the allocations: their containers at the start
	noted  string   // what starts leaves for changes
}

// of is e in a subtest; what it finds out is e's.
func (e *exampleRun) of(t *testing.T) *exampleRun {
	e.lab = e.lab.of(t)
	return e
}

func (e *exampleRun) awaitRunning() (err error) {
	if e.allocs, err = e.job.AllRunning(e.ctx, max(1, e.example.allocs)); err != nil {
		return err
	}
	if e.name == "raw_exec-database" {
		return nil
	}
	for _, alloc := range e.allocs {
		inspect, err := alloc.Container(e.ctx, "app")
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
	e.t.Helper()
	e.until("output of "+script, func() (err error) {
		if out, err = e.trySh(script); err == nil && out == "" {
			err = errors.New("nothing")
		}
		return err
	})
	return out
}

func (e *exampleRun) trySh(script string) (string, error) {
	out, code, err := e.allocs[0].Exec(e.ctx, "app", "sh", "-c", script)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, out)
	}
	return strings.TrimSuffix(out, "\n"), err
}

// file is one of the task's, as the host sees it: Nomad's docker driver may lose a part of what is long.
func (e *exampleRun) file(name string) string {
	e.t.Helper()
	content, err := os.ReadFile(filepath.Join(e.allocs[0].SecretsDir("app"), name))
	require.NoError(e.t, err)
	return string(content)
}

// prints waits until a script in the task prints this.
func (e *exampleRun) prints(script, want string) {
	e.t.Helper()
	e.until(fmt.Sprintf("%s to print %q", script, want), func() error {
		out, err := e.trySh(script)
		if err == nil && out != want {
			err = fmt.Errorf("it prints %q", out)
		}
		return err
	})
}

// field is what Vault has now at secret/app-1.
func (e *exampleRun) field(name string) string {
	e.t.Helper()
	secret, err := e.agent.Vault().Client().KVv2("secret").Get(e.ctx, "app-1")
	require.NoError(e.t, err)
	return secret.Data[name].(string)
}

// newProcess tells whether the task was restarted in place since its start, or left alone.
func (e *exampleRun) newProcess(want bool) {
	e.t.Helper()
	inspect, err := e.allocs[0].Container(e.ctx, "app")
	require.NoError(e.t, err)
	require.Equal(e.t, want, inspect.ID != e.bodies[0], "whether the task has a new container")
}

// replaced is nil once an allocation's container is another than at the start.
func (e *exampleRun) replaced(i int) error {
	inspect, err := e.allocs[i].Container(e.ctx, "app")
	if err == nil && inspect.ID == e.bodies[i] {
		err = errors.New("it is the one from the start")
	}
	return err
}

// index is an allocation's place in its group.
func (e *exampleRun) index(i int) int {
	e.t.Helper()
	info, err := e.allocs[i].Info(e.ctx)
	require.NoError(e.t, err)
	_, index, _ := strings.Cut(info.Name, "[")
	n, err := strconv.Atoi(strings.TrimSuffix(index, "]"))
	require.NoError(e.t, err)
	return n
}

// user waits until the task's credentials, printed by a script as user and password, are others than
// those before, and shows that the database takes them.
func (e *exampleRun) user(script string) {
	e.t.Helper()
	e.working(script, func(user, password string) bool { return e.MariaDB.CanLogin(e.ctx, user, password) })
}

func (e *exampleRun) working(script string, canLogin func(user, password string) bool) {
	e.t.Helper()
	e.until("working credentials, other than "+e.noted, func() error {
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
