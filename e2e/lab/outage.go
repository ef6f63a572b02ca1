package lab

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// OutageLab is a lab for what must not be lost: tasks that log in to MariaDB all the time, whose
// credentials come from a Vault that the test may break.
type OutageLab struct {
	*Lab
	Server *harness.Vault
	Tasks  []*OutageTask
}

// OutageJob is a job of such tasks.
type OutageJob struct {
	Name   string // of the job, and of Vault's policy and roles
	Driver string
	Count  int
	TTL    time.Duration // of the credentials, which can be renewed for a day
	Mount  string        // of the database engine; empty: "database"
	Batch  time.Duration // not 0: its tasks log in for batch tokens that live so long
	// OwnEngine is of containers on a Docker engine of the test's own, which have no network: they reach MariaDB by its socket.
	OwnEngine bool
}

// OutageTask is one of them, as it was found.
type OutageTask struct {
	Job    OutageJob
	Alloc  *harness.Alloc
	Starts int // processes so far
}

var outageMounts sync.Mutex // one at a time: of two who mount the same, one is refused

// NewOutage is a lab on an agent of the test's own. Some of these tests wait for longer than most.
func NewOutage(t testing.TB, cluster *harness.Cluster, agent *harness.Agent, vault *harness.Vault, budget time.Duration) *OutageLab {
	l := &OutageLab{Lab: New(t, cluster, agent), Server: vault}
	ctx, cancel := context.WithTimeout(t.Context(), budget)
	t.Cleanup(cancel)
	l.Ctx = ctx
	return l
}

// Prepare sets Vault up for a job.
func (l *OutageLab) Prepare(authPath string, j *OutageJob) {
	l.T.Helper()
	if j.Mount == "" {
		j.Mount = "database"
	}
	l.ServeCredentials(*j)
	require.NoError(l.T, l.Server.EnableKV2(l.Ctx, "secret"))
	require.NoError(l.T, l.Server.PutKV2(l.Ctx, "secret", j.Name, map[string]any{"colour": "green"}))
	require.NoError(l.T, l.Server.Policy(l.Ctx, j.Name, fmt.Sprintf(`
path "%s/creds/%s"  { capabilities = ["read"] }
path "secret/data/%[2]s" { capabilities = ["read"] }
path "sys/leases/revoke" { capabilities = ["update"] }`, j.Mount, j.Name)))
	role := harness.WorkloadRole{Policies: []string{j.Name}, TTL: 24 * time.Hour}
	if j.Batch > 0 {
		role.TTL, role.Batch = j.Batch, true
	}
	require.NoError(l.T, l.Server.WorkloadRole(l.Ctx, authPath, j.Name, role))
}

// Start sets Vault up for a job and runs it.
func (l *OutageLab) Start(authPath string, j OutageJob) []*OutageTask {
	l.T.Helper()
	l.Prepare(authPath, &j)
	job := l.SubmitJob(j)
	allocs, err := job.AllRunning(l.Ctx, j.Count)
	require.NoError(l.T, err)
	var tasks []*OutageTask
	for _, alloc := range allocs {
		l.Lines(alloc, App, "login user=", 1)
		tasks = append(tasks, &OutageTask{Job: j, Alloc: alloc, Starts: 1})
	}
	l.Tasks = append(l.Tasks, tasks...)
	return tasks
}

// ServeCredentials has Vault give the job's credentials.
func (l *OutageLab) ServeCredentials(j OutageJob) {
	l.T.Helper()
	outageMounts.Lock()
	defer outageMounts.Unlock()
	require.NoError(l.T, l.Server.EnableDatabase(l.Ctx, j.Mount, l.MariaDB))
	require.NoError(l.T, l.Server.DatabaseRole(l.Ctx, j.Mount, j.Name, j.TTL, 24*time.Hour))
}

// SubmitJob submits a job that Vault is set up for.
func (l *OutageLab) SubmitJob(j OutageJob) *harness.Job {
	l.T.Helper()
	return l.SubmitFile("outage", Vars{"name": j.Name, "driver": j.Driver, "count": j.Count, "mount": j.Mount, "own_engine": j.OwnEngine})
}
