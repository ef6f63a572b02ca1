package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// keptLab is a lab for what must not be lost: tasks that log in to MariaDB all the time, whose
// credentials come from a Vault that the test may break.
type keptLab struct {
	*lab
	vault  *harness.Vault
	tasks  []*keptTask
	budget time.Duration
}

// keptJob is a job of such tasks.
type keptJob struct {
	name   string // of the job, and of Vault's policy and roles
	driver string
	count  int
	ttl    time.Duration // of the credentials, which can be renewed for a day
	mount  string        // of the database engine; empty: "database"
}

// keptTask is one of them, as it was found.
type keptTask struct {
	job    keptJob
	alloc  *harness.Alloc
	starts int // processes so far
}

const keptApp = "app"

var keptMounts sync.Mutex // one at a time: of two who mount the same, one is refused

// newKeptLab is a lab on an agent of the test's own. Some of these tests wait for longer than most.
func newKeptLab(t testing.TB, agent *harness.Agent, vault *harness.Vault, budget time.Duration) *keptLab {
	l := &keptLab{lab: newLabOn(t, agent), vault: vault, budget: budget}
	ctx, cancel := context.WithTimeout(t.Context(), budget)
	t.Cleanup(cancel)
	l.ctx = ctx
	return l
}

// prepare sets Vault up for a job.
func (l *keptLab) prepare(authPath string, j *keptJob) {
	l.t.Helper()
	if j.mount == "" {
		j.mount = "database"
	}
	l.serve(*j)
	require.NoError(l.t, l.vault.EnableKV2(l.ctx, "secret"))
	require.NoError(l.t, l.vault.PutKV2(l.ctx, "secret", j.name, map[string]any{"colour": "green"}))
	require.NoError(l.t, l.vault.Policy(l.ctx, j.name, fmt.Sprintf(`
path "%s/creds/%s"  { capabilities = ["read"] }
path "secret/data/%[2]s" { capabilities = ["read"] }
path "sys/leases/revoke" { capabilities = ["update"] }`, j.mount, j.name)))
	require.NoError(l.t, l.vault.WorkloadRole(l.ctx, authPath, j.name, harness.WorkloadRole{Policies: []string{j.name}, TTL: 24 * time.Hour}))
}

// keep sets Vault up for a job and runs it.
func (l *keptLab) keep(authPath string, j keptJob) []*keptTask {
	l.t.Helper()
	l.prepare(authPath, &j)
	job := l.submit(j.hcl())
	allocs, err := job.AllRunning(l.ctx, j.count)
	require.NoError(l.t, err)
	var tasks []*keptTask
	for _, alloc := range allocs {
		l.lines(alloc, keptApp, "login user=", 1)
		tasks = append(tasks, &keptTask{job: j, alloc: alloc, starts: 1})
	}
	l.tasks = append(l.tasks, tasks...)
	return tasks
}

// serve has Vault give the job's credentials.
func (l *keptLab) serve(j keptJob) {
	l.t.Helper()
	keptMounts.Lock()
	defer keptMounts.Unlock()
	require.NoError(l.t, l.vault.EnableDatabase(l.ctx, j.mount, l.MariaDB))
	require.NoError(l.t, l.vault.DatabaseRole(l.ctx, j.mount, j.name, j.ttl, 24*time.Hour))
}

func (j keptJob) hcl() string {
	image := ""
	if j.driver == "docker" {
		image = "image = \"${meta.image}\"\n        network_mode = \"host\""
	}
	return fmt.Sprintf(`
job %q {
  group "g" {
    count = %d
    task "app" {
      driver = %q
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      env {
        DB_ADDR = "${meta.db_addr}"
      }
      config {
        %s
        command = "testapp"
        args    = ["-every=500ms", "dblogin"]
        role    = %[1]q
        secret "db" {
          path    = "%[5]s/creds/%[1]s"
          splay   = "500ms"
          stagger = "0s"
          env     = { DB_USER = "username", DB_PASSWORD = "password" }
        }
        secret "kv" {
          path        = "secret/%[1]s"
          files       = true
          change_mode = "noop"
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`, j.name, j.count, j.driver, image, j.mount)
}

// said waits until each task has an event with this text, no older than since.
func (l *keptLab) said(tasks []*keptTask, since time.Time, text string) {
	l.t.Helper()
	for _, task := range tasks {
		l.until(fmt.Sprintf("%s to be told %q", task.job.name, text), func() error {
			events, err := task.events(l.ctx, since, text)
			if err == nil && len(events) == 0 {
				all, _ := task.alloc.Events(l.ctx, keptApp)
				err = fmt.Errorf("events:\n%s", strings.Join(all, "\n"))
			}
			return err
		})
	}
}

// events are those with a text that are no older than since.
func (k *keptTask) events(ctx context.Context, since time.Time, text string) (found []string, err error) {
	state, err := k.alloc.State(ctx, keptApp)
	if err != nil {
		return nil, err
	}
	for _, e := range state.Events {
		message := e.DisplayMessage + " " + e.Details["driver_message"]
		if e.Time >= since.UnixNano() && strings.Contains(message, text) {
			found = append(found, message)
		}
	}
	return found, nil
}

// undisturbed: no task was restarted, by Nomad or in place, and none was refused by the database.
func (l *keptLab) undisturbed(tasks []*keptTask) {
	l.t.Helper()
	for _, task := range tasks {
		l.runsOn(task)
		starts, err := task.alloc.Lines(keptApp, "start ")
		require.NoError(l.t, err)
		require.Len(l.t, starts, task.starts, "%s was restarted", task.job.name)
		refused, err := task.alloc.Lines(keptApp, "refused ")
		require.NoError(l.t, err)
		require.Empty(l.t, refused, task.job.name)
	}
}

// runsOn: Nomad has started a task once, and it runs.
func (l *keptLab) runsOn(task *keptTask) {
	l.t.Helper()
	state, err := task.alloc.State(l.ctx, keptApp)
	require.NoError(l.t, err)
	require.Equal(l.t, "running", state.State, task.job.name)
	require.Zero(l.t, state.Restarts, "Nomad has restarted %s", task.job.name)
}

// healed waits until a task has logged in as n users, and its last process is not refused.
func (l *keptLab) healed(task *keptTask, n int) {
	l.t.Helper()
	l.lines(task.alloc, keptApp, "login user=", n)
	task.starts = n
	l.runsOn(task)
}

// oneLeaseEach waits until a job's tasks have one lease each on the server.
func (l *keptLab) oneLeaseEach(j keptJob) {
	l.t.Helper()
	l.until("one lease a task of "+j.name, func() error {
		leases, err := l.vault.Leases(l.ctx, j.mount+"/creds/"+j.name)
		if err == nil && len(leases) != j.count {
			err = fmt.Errorf("%d leases, %d tasks", len(leases), j.count)
		}
		return err
	})
}

// minted are the credentials and tokens that tasks got since a mark.
func (l *keptLab) minted(since harness.Mark) []harness.Request {
	l.t.Helper()
	all, err := l.vault.Requests(since, "database/creds/", "auth/jwt-")
	require.NoError(l.t, err)
	return all
}

// tokensOf are the accessors of the tokens with which a job's credentials were made.
func (l *keptLab) tokensOf(j keptJob) (all []string) {
	l.t.Helper()
	reads, err := l.vault.Requests(0, j.mount+"/creds/"+j.name)
	require.NoError(l.t, err)
	for _, r := range reads {
		all = append(all, r.Accessor)
	}
	slices.Sort(all)
	return slices.Compact(all) // a standby that passes a request on logs it, too
}

// askedFor waits until there was an answer since a mark to each of these tokens, at a path.
func (l *keptLab) askedFor(since harness.Mark, path string, tokens []string) {
	l.t.Helper()
	l.until(path+" asked by every task", func() error {
		answers, err := l.vault.Requests(since, path)
		if err != nil {
			return err
		}
		missing := 0
		for _, token := range tokens {
			if !slices.ContainsFunc(answers, func(r harness.Request) bool { return r.Accessor == token && r.Error == "" }) {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d tasks have not yet", missing, len(tokens))
		}
		return nil
	})
}
