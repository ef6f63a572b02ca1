package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// What keeps a task from starting, and what then lets it start.

// fixJob has a restart block in which Nomad tries often. It is made here: its secrets differ.
const fixJob = `
job "%[1]s" {
  group "g" {
    restart {
      attempts = 60
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
      ` + lab.IdentityBlock + `
      config {
        role    = "%[1]s"
        command = "testapp"
        args    = ["sleep"]
        %[3]s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`

var policyStanza = regexp.MustCompile(`path "[^"]+" \{ capabilities = \[[^]]+\] \}`)

// S1: what the event of a denied task says its policy needs is what it needs.
func TestThePrintedPolicyAllows(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	require.NoError(t, l.Vault.EnableKV1(l.Ctx, "mend1"))
	require.NoError(t, l.Vault.PutKV1(l.Ctx, "mend1", "deep/app", map[string]any{"colour": "green"}))
	require.NoError(t, l.Vault.EnableKV2(l.Ctx, "mend2"))
	require.NoError(t, l.Vault.PutKV2(l.Ctx, "mend2", "deep/app", map[string]any{"colour": "green"}))
	require.NoError(t, l.Vault.EnableDatabase(l.Ctx, "menddb", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.Ctx, "menddb", "app", time.Hour, time.Hour))
	require.NoError(t, l.Vault.EnablePKI(l.Ctx, "mendpki", "web"))
	for name, secret := range map[string]string{
		"kv1":      `path = "mend1/deep/app"`,
		"kv2":      `path = "mend2/deep/app"`,
		"database": `path = "menddb/creds/app"`,
		"pki": `path   = "mendpki/issue/web"
			params = { common_name = "a.example.com" }`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			job := "again-" + name
			require.NoError(t, l.Vault.WorkloadRole(l.Ctx, l.Agent.AuthPath, job, harness.WorkloadRole{Policies: []string{job}, TTL: time.Hour}))
			hcl := fmt.Sprintf(fixJob, job, "raw_exec", "secret \"app\" {\n"+secret+"\n}")
			denied, err := l.Submit(hcl).Failed(l.Ctx)
			require.NoError(t, err)
			event, err := denied.WaitEvent(l.Ctx, "web", "Driver Failure")
			require.NoError(t, err)
			stanzas := policyStanza.FindAllString(event, -1)
			require.NotEmpty(t, stanzas, event)
			require.NoError(t, l.Vault.Policy(l.Ctx, job, strings.Join(stanzas, "\n")))
			require.NoError(t, l.Jobs[0].Stop(l.Ctx))
			l.Lines(l.Run(strings.Replace(hcl, job, job+"-again", 1)), "web", "start ", 1)
		})
	}
}

// S5: a symlink that somebody planted in a task's secrets directory, which Nomad leaves open to all,
// leads nothing out of it. The server waits with its answer until the link is there.
func TestASymlinkInTheWay(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	require.NoError(t, l.Vault.EnableDatabase(l.Ctx, "symlink", l.MariaDB))
	l.LockedRole("symlink", "symlink")
	require.NoError(t, l.Vault.Policy(l.Ctx, "symlink", `path "symlink/creds/symlink" { capabilities = ["read"] }`))
	require.NoError(t, l.Vault.WorkloadRole(l.Ctx, l.Agent.AuthPath, "symlink", harness.WorkloadRole{Policies: []string{"symlink"}, TTL: time.Hour}))
	release, err := l.MariaDB.Lock(l.Ctx, "symlink")
	require.NoError(t, err)
	job := l.Submit(fmt.Sprintf(fixJob, "symlink", "raw_exec", `secret "db" {
		path = "symlink/creds/symlink"
		file "tls/key.pem" { field = "password" }
	}`))
	l.CredentialsPending("symlink", 1)
	victim := t.TempDir()
	require.NoError(t, os.Symlink(victim, filepath.Join(l.FirstAlloc(job).SecretsDir("web"), "tls")))
	require.NoError(t, release())

	alloc, err := job.Failed(l.Ctx)
	require.NoError(t, err)
	_, err = alloc.WaitEvent(l.Ctx, "web", `publish files: file "tls": something else has that name in the secrets directory`)
	require.NoError(t, err)
	written, err := os.ReadDir(victim)
	require.NoError(t, err)
	require.Empty(t, written, "the planted link was followed")
	l.Leases("symlink/creds/symlink", 0)
	l.NoProcess(alloc, "web")
	l.NoJournal(alloc)
}

// S2: an outage at a task's start is waited out: for start_timeout by the driver, then by Nomad, within
// the job's restart block.
func TestAnOutageAtTheStart(t *testing.T) {
	t.Parallel()
	v, err := shared.NewVault(t.Context(), "vault-outage-retried")
	require.NoError(t, err)
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "outage-retried", Placement: placement, Vault: v, Secrets: map[string]any{"start_timeout": "3s"},
	})
	require.NoError(t, err)
	l := newLabOn(t, agent)
	require.NoError(t, v.EnableDatabase(l.Ctx, "database", l.MariaDB))
	require.NoError(t, v.DatabaseRole(l.Ctx, "database", "outage", time.Hour, time.Hour))
	require.NoError(t, v.Policy(l.Ctx, "outage", `path "database/creds/outage" { capabilities = ["read"] }`))
	for _, role := range []string{"outage-raw", "outage-docker"} {
		require.NoError(t, v.WorkloadRole(l.Ctx, agent.AuthPath, role, harness.WorkloadRole{Policies: []string{"outage"}, TTL: time.Hour}))
	}

	v.Stop()
	secret := `secret "db" {
		path = "database/creds/outage"
		env  = { DB_USER = "username" }
	}`
	jobs := []*harness.Job{
		l.Submit(fmt.Sprintf(fixJob, "outage-raw", "raw_exec", secret)),
		l.Submit(fmt.Sprintf(fixJob, "outage-docker", "docker", secret+"\nimage = \"${meta.image}\"")),
	}
	allocs := []*harness.Alloc{l.FirstAlloc(jobs[0]), l.FirstAlloc(jobs[1])}
	for _, alloc := range allocs {
		event, err := alloc.WaitEvent(l.Ctx, "web", "Driver Failure")
		require.NoError(t, err)
		require.Contains(t, event, "gave up waiting: log in with the task's identity")
		require.Contains(t, event, "connection refused")
	}

	require.NoError(t, v.StartSealed(l.Ctx))
	for _, alloc := range allocs {
		_, err := alloc.WaitEvent(l.Ctx, "web", "Vault is sealed")
		require.NoError(t, err)
	}

	require.NoError(t, v.Unseal(l.Ctx))
	for i, job := range jobs {
		alloc, err := job.Running(l.Ctx)
		require.NoError(t, err)
		require.Equal(t, allocs[i].ID, alloc.ID)
		require.Len(t, l.Lines(alloc, "web", "start ", 1), 1, "processes started")
		restarts, err := alloc.Restarts(l.Ctx, "web")
		require.NoError(t, err)
		require.NotZero(t, restarts, "Nomad has not tried again")
	}
	ids, err := v.Leases(l.Ctx, "database/creds/outage")
	require.NoError(t, err)
	require.Len(t, ids, 2, "leases, of two tasks")
}

// A plugin without the server's address serves tasks without secrets, and tells the others
// what is missing; Nomad does not try again.
func TestNoAddress(t *testing.T) {
	t.Parallel()
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "no-address", Placement: placement, Secrets: map[string]any{"address": nil},
	})
	require.NoError(t, err)
	l := newLabOn(t, agent)
	require.Empty(t, l.PluginVersion("raw_exec"), "no job that constrains on it comes here")
	alloc, err := l.Submit(fmt.Sprintf(fixJob, "no-address", "raw_exec", `secret "app" { path = "secret/app" }`)).Failed(l.Ctx)
	require.NoError(t, err)
	event, err := alloc.WaitEvent(l.Ctx, "web", "Driver Failure")
	require.NoError(t, err)
	require.Contains(t, event, "no address of a secrets server: set `address`")
	require.Contains(t, event, "VAULT_ADDR")
	restarts, err := alloc.Restarts(l.Ctx, "web")
	require.NoError(t, err)
	require.Zero(t, restarts)
	l.NoJournal(alloc)

	none := strings.Replace(fmt.Sprintf(fixJob, "no-secrets", "raw_exec", ""), `role    = "no-secrets"`, "", 1)
	l.Lines(l.Run(none), "web", "start ", 1)
}

// An agent whose plugin options are wrong does not start, and says which.
func TestAnAgentWithWrongOptions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		secrets map[string]any
		says    string
	}{
		"unknown": {map[string]any{"adress": "http://127.0.0.1:8200"}, `No argument or block type is named "adress"`},
		"wrong":   {map[string]any{"poll_interval": "soon"}, `secrets.poll_interval: "soon" is not a duration; write it like "10s" or "2m"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := shared.NewAgent(t.Context(), harness.AgentOptions{Name: "options-" + name, Placement: placement, Secrets: c.secrets})
			require.ErrorContains(t, err, "ended by itself")
			require.ErrorContains(t, err, c.says)
		})
	}
}
