package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// What a job may ask for and not get. Each refusal is an event that says what to do, and comes at once:
// Nomad does not try again what cannot pass by itself (S2). Nothing is started, and nothing stays behind.

// refusalJob would leave a mark, if it were started, and has a database credential, so that whatever
// is issued is there to be seen. It is made here: the table says what is in it.
const refusalJob = `
job "%[1]s" {
  group "g" {
    restart {
      attempts = 3
      interval = "10m"
      delay    = "1s"
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "web" {
      driver = "%[2]s"
      %[3]s
      config {
        %[4]s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`

// refusalLease has the server make a credential, in every job that may ask it for something; "never"
// is for those that may not.
const refusalLease = `
secret "lease" {
	path = "refusedb/creds/%s"
	env  = { LEASE = "username" }
}`

func TestRefusals(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	require.NoError(t, l.Vault.EnableKV2(l.Ctx, "refuse"))
	require.NoError(t, l.Vault.EnableKV2(l.Ctx, "refuse-hidden"))
	for path, fields := range map[string]map[string]any{
		"app":    {"colour": "hunter2-green", "size": "9"},
		"binary": {"nul": "a\x00b"},
		"big":    {"blob": strings.Repeat("x", 500<<10)}, // of the 1 MiB that Nomad gives secrets/
		"nomad":  {"nomad_addr": "x"},
		"denied": {"colour": "black"},
	} {
		require.NoError(t, l.Vault.PutKV2(l.Ctx, "refuse", path, fields))
	}
	require.NoError(t, l.Vault.EnableDatabase(l.Ctx, "refusedb", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.Ctx, "refusedb", "undone", time.Hour, time.Hour))
	require.NoError(t, l.Vault.DatabaseRole(l.Ctx, "refusedb", "never", time.Hour, time.Hour))
	require.NoError(t, l.Vault.EnablePKI(l.Ctx, "refuse-pki", "web"))
	policy := `path "refusedb/creds/+" { capabilities = ["read"] }
path "refusedb/crds/+" { capabilities = ["read"] }
path "refuse-pki/issue/+" { capabilities = ["update"] }`
	for _, path := range []string{"app", "binary", "big", "nomad", "none"} {
		policy += fmt.Sprintf("\npath %q { capabilities = [\"create\", \"read\", \"update\"] }", "refuse/data/"+path)
	}
	require.NoError(t, l.Vault.Policy(l.Ctx, "refuse", policy))
	require.NoError(t, l.Vault.WorkloadRole(l.Ctx, l.Agent.AuthPath, "refuse", harness.WorkloadRole{Policies: []string{"refuse"}, TTL: time.Hour}))
	mark, err := l.Vault.Mark()
	require.NoError(t, err)

	marks := t.TempDir()
	jobs := make([]*harness.Job, len(refusals))
	for i, r := range refusals {
		jobs[i] = l.Submit(r.job(filepath.Join(marks, r.name)))
	}
	allocs := make([]*harness.Alloc, len(refusals))
	for i, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			alloc, err := jobs[i].Failed(l.Ctx)
			require.NoError(t, err)
			allocs[i] = alloc
			state, err := alloc.State(l.Ctx, "web")
			require.NoError(t, err)
			r.check(t, state)
			_, err = os.Stat(filepath.Join(marks, r.name))
			require.ErrorIs(t, err, os.ErrNotExist, "the task's program ran")
		})
	}
	if t.Failed() {
		return
	}
	for _, alloc := range allocs {
		l.NoProcess(alloc, "web")
		l.NoJournal(alloc)
	}
	l.Leases("refusedb/creds/undone", 0)
	issued, err := l.Vault.Requests(mark, "refusedb/creds/never")
	require.NoError(t, err)
	require.Empty(t, issued, "requests for jobs that are wrong by themselves")
	issued, err = l.Vault.Requests(mark, "refusedb/creds/undone")
	require.NoError(t, err)
	require.NotEmpty(t, issued, "no job made what is to be undone: the test shows nothing")
	noTokens(l, allocs)

	// `params` have overwritten nothing.
	app, err := l.Vault.Client().KVv2("refuse").Get(l.Ctx, "app")
	require.NoError(t, err)
	require.Equal(t, 1, app.VersionMetadata.Version)
	require.Equal(t, "hunter2-green", app.Data["colour"])
	hidden, err := l.Vault.Client().Logical().ListWithContext(l.Ctx, "refuse-hidden/metadata")
	require.NoError(t, err)
	require.Nil(t, hidden)
}

// job is the refusal's job; it is named after it. Its program would write the file mark.
func (r refusal) job(mark string) string {
	config := r.config
	if r.name != "from-policies" { // which declares nothing else
		lease := "never"
		if r.asks {
			lease = "undone"
		}
		config += fmt.Sprintf(refusalLease, lease)
	}
	if !strings.Contains(config, "role =") {
		config += "\nrole = \"refuse\"\n"
	}
	driver, task := r.driver, r.task
	if driver == "" {
		driver = "raw_exec"
	}
	if task == "" {
		task = lab.IdentityBlock
	}
	if driver == "docker" {
		config += "\nimage = \"${meta.image}\"\n"
		config += fmt.Sprintf("mount {\ntype = \"bind\"\nsource = %q\ntarget = %q\n}\n", filepath.Dir(mark), filepath.Dir(mark))
	}
	config += fmt.Sprintf("\ncommand = \"/bin/sh\"\nargs = [\"-c\", \"touch %s; exec sleep 1000\"]\n", mark)
	return fmt.Sprintf(refusalJob, "refuse-"+r.name, driver, task, config)
}

// check checks what Nomad tells of the task.
func (r refusal) check(t *testing.T, state *api.TaskState) {
	t.Helper()
	var events []string
	for _, e := range state.Events {
		events = append(events, e.Type+": "+e.DisplayMessage)
		require.NotEqual(t, api.TaskStarted, e.Type)
	}
	all := strings.Join(events, "\n")
	for _, says := range r.says {
		require.Contains(t, all, says)
	}
	require.NotContains(t, all, "hunter2", "the value of a secret is in an event")
	require.Zero(t, state.Restarts, "Nomad tried again what cannot pass by itself:\n%s", all)
	require.Regexp(t, regexp.MustCompile(`(?m)^(Driver Failure|Failed Validation): `), all)
}

// noTokens waits until no token that was made for these allocations' jobs is left.
func noTokens(l *lab.Lab, allocs []*harness.Alloc) {
	l.T.Helper()
	jobs := map[string]bool{}
	for _, alloc := range allocs {
		jobs[alloc.Job.ID] = true
	}
	l.Until("the tokens of refused tasks to be revoked", func() error {
		list, err := l.Vault.Client().Logical().ListWithContext(l.Ctx, "auth/token/accessors")
		if err != nil {
			return err
		}
		for _, accessor := range list.Data["keys"].([]any) {
			token, err := l.Vault.Client().Auth().Token().LookupAccessorWithContext(l.Ctx, accessor.(string))
			if err != nil {
				continue // it has ended
			}
			meta, _ := token.Data["meta"].(map[string]any)
			if job, _ := meta["nomad_job_id"].(string); jobs[job] {
				return fmt.Errorf("job %s has one", job)
			}
		}
		return nil
	})
}
