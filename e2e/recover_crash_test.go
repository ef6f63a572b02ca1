package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/stretchr/testify/require"
)

// E2: kill -9 of the plugin between any two steps of start, change, end and recovery loses no task,
// leaves one process a task, and leaks no lease. All tasks of a matrix run in one agent, so that every
// kill also tests the recovery of all the others (C4). Those with batch tokens die at each point of a start and an end beside the
// others, and of a rotation in the shorter of the two matrices. One matrix at a time: both together have more restarts than two slow
// processors can make before the next are due.
func TestCrashMatrix(t *testing.T) {
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "crash", Placement: placement, LogLevel: "info",
		Secrets: map[string]any{"lease_check_interval": "5s", "request_rate": 100},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	installCrashtest(t, agent)

	t.Run("raw_exec", func(t *testing.T) {
		m := newCrashMatrix(t, agent, "raw_exec", "crashR")
		m.start(slowLease, 2) // bystanders
		m.withVariables(crashpoint.SecretsJournalled, crashpoint.RotationJournalled, crashpoint.RotationPublished, crashpoint.OldStopped, crashpoint.RotationApplied)
		for _, p := range []crashpoint.Point{
			crashpoint.LeftoversRemoved, crashpoint.IntentJournalled, crashpoint.LoginAnswered, crashpoint.TokenJournalled,
			crashpoint.SecretAnswered, crashpoint.LeaseJournalled, crashpoint.SecretsJournalled,
			crashpoint.FilesPublished, crashpoint.InnerStarted, crashpoint.HandleNoted, crashpoint.Watching,
		} {
			m.atStart(p, slowLease, batchToken)
		}
		m.keep(batchToken, 6) // one for each death at a task's end
		m.atStart(crashpoint.SecretAnswered, vaultBlock)
		m.atStart(crashpoint.LeaseJournalled, vaultBlock)

		m.start(shortToken, 2)
		m.whileRunning("renewal", crashpoint.RenewalAnswered, crashpoint.RenewalJournalled, crashpoint.TokenRenewed)
		m.whileRunning("new token", crashpoint.LoggedInAgain, crashpoint.TokenPending)

		m.start(fastLease, 4)
		m.whileRunning("rotation",
			crashpoint.SecretAnswered, crashpoint.LeaseJournalled, crashpoint.RotationJournalled,
			crashpoint.RotationPublished, crashpoint.SwapNoted, crashpoint.OldStopped, crashpoint.OldDestroyed,
			crashpoint.InnerStarted, crashpoint.NewNoted, crashpoint.OldRetired, crashpoint.RotationApplied,
			crashpoint.LeasePending, crashpoint.RevocationDone, crashpoint.RevocationRemoved)

		m.atRecovery(crashpoint.JournalRead, crashpoint.InnerRecovered, crashpoint.Recovered)
		m.atEnd(crashpoint.StopAsked, crashpoint.ExitSeen, crashpoint.JournalPending, crashpoint.RevocationDone,
			crashpoint.RevocationRemoved, crashpoint.Destroyed)
		m.finish()
		for _, p := range crashpoint.All {
			if p != crashpoint.Released { // which only containers come to
				require.Contains(t, m.points(), p, "a point that the matrix leaves out")
			}
		}
	})
	t.Run("docker", func(t *testing.T) {
		m := newCrashMatrix(t, agent, "docker", "crashD")
		m.start(slowLease, 1)
		m.withVariables(crashpoint.Released, crashpoint.RotationPublished)
		for _, p := range []crashpoint.Point{crashpoint.SecretAnswered, crashpoint.InnerStarted, crashpoint.Released} {
			m.atStart(p, slowLease)
		}
		m.start(fastLease, 2)
		m.whileRunning("rotation", crashpoint.RotationPublished, crashpoint.OldStopped, crashpoint.OldDestroyed,
			crashpoint.InnerStarted, crashpoint.Released)
		m.start(batchToken, 4)
		m.whileOneRuns(batchToken, "rotation, batch token",
			crashpoint.LoggedInAgain, crashpoint.SecretAnswered, crashpoint.LeaseJournalled, crashpoint.RotationJournalled,
			crashpoint.RotationPublished, crashpoint.SwapNoted, crashpoint.OldStopped, crashpoint.OldDestroyed,
			crashpoint.InnerStarted, crashpoint.Released, crashpoint.NewNoted, crashpoint.OldRetired, crashpoint.RotationApplied,
			crashpoint.LeasePending, crashpoint.RevocationDone, crashpoint.RevocationRemoved)
		m.atRecovery(crashpoint.InnerRecovered)
		m.atEnd(crashpoint.ExitSeen)
		m.finish()
	})
}

// crashKind is a kind of task that the matrix runs.
type crashKind int

const (
	slowLease  crashKind = iota // with leases that are renewed every few seconds, and not replaced
	fastLease                   // whose lease is replaced every few seconds, with a restart in place
	shortToken                  // whose token is
	vaultBlock                  // with Nomad's token, and a lease that ends soon
	batchToken                  // with a batch token, which is replaced every 20 s, and its lease with it
)

// setUp makes what the matrix's tasks log in as and read. Role names are short enough to be whole in
// the names of MariaDB's users.
func (m *crashMatrix) setUp() {
	v := m.Vault
	require.NoError(m.T, v.EnableDatabase(m.Ctx, m.mark, m.MariaDB))
	require.NoError(m.T, v.DatabaseRole(m.Ctx, m.mark, m.mark+"slow", 90*time.Second, time.Hour))
	require.NoError(m.T, v.DatabaseRole(m.Ctx, m.mark, m.mark+"fast", 20*time.Second, 20*time.Second))
	require.NoError(m.T, v.Policy(m.Ctx, m.mark, fmt.Sprintf(`
path "%s/creds/*" { capabilities = ["read"] }
path "sys/leases/revoke" { capabilities = ["update"] }`, m.mark)))
	require.NoError(m.T, v.WorkloadRole(m.Ctx, m.Agent.AuthPath, m.mark,
		harness.WorkloadRole{Policies: []string{m.mark}, TTL: 90 * time.Second}))
	require.NoError(m.T, v.WorkloadRole(m.Ctx, m.Agent.AuthPath, m.mark+"token",
		harness.WorkloadRole{Policies: []string{m.mark}, TTL: 15 * time.Second, MaxTTL: 30 * time.Second}))
	// What was made under a batch token, and is nobody's, ends with it: hence less than strayBound.
	require.NoError(m.T, v.WorkloadRole(m.Ctx, m.Agent.AuthPath, m.mark+"batch",
		harness.WorkloadRole{Policies: []string{m.mark}, TTL: 30 * time.Second, Batch: true}))
}

// submit submits a task that logs in to MariaDB over and over. Its name is the job's.
func (m *crashMatrix) submit(name string, kind crashKind) *harness.Job {
	m.T.Helper()
	m.kindOf[name] = kind
	role, creds := m.mark, m.mark+"slow"
	switch kind {
	case shortToken:
		role += "token"
	case batchToken:
		role += "batch"
	case fastLease, vaultBlock:
		creds = m.mark + "fast"
	}
	return m.SubmitFile("crash", lab.Vars{
		"name": name, "driver": m.driver, "role": role, "vault_block": kind == vaultBlock,
		"credentials": m.mark + "/creds/" + creds,
	})
}
