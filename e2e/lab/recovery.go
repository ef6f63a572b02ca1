package lab

import (
	"context"
	"fmt"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// RecoveryTask is a task that is to survive the plugin and the agent, on one of the drivers.
type RecoveryTask struct{ Driver, Token string }

// Survivor is a task that runs, and what it had when that was last looked at.
type Survivor struct {
	RecoveryTask
	Name       string
	Alloc      *harness.Alloc
	Process    Process
	Lease      string
	Generation int
	since      harness.Mark
}

// Start sets Vault up for the task and runs it. Its lease lives for 45 s without renewal.
func (r RecoveryTask) Start(l *Lab, prefix string) *Survivor {
	l.T.Helper()
	return r.StartLeased(l, prefix, 45*time.Second)
}

// StartLeased is Start with another time that the lease lives for without renewal.
func (r RecoveryTask) StartLeased(l *Lab, prefix string, ttl time.Duration) *Survivor {
	l.T.Helper()
	s := &Survivor{RecoveryTask: r, Name: prefix + "-" + r.Driver + "-" + r.Token, Generation: 1}
	v := l.Agent.Vault()
	require.NoError(l.T, v.EnableDatabase(l.Ctx, "database", l.MariaDB))
	require.NoError(l.T, v.DatabaseRole(l.Ctx, "database", s.Name, ttl, time.Hour))
	l.PutColour(s.Name, "green")
	l.AllowLeased(s.Name, "secret/data/"+s.Name, "database/creds/"+s.Name)
	s.Alloc = l.RunFile("recovery", Vars{"name": s.Name, "driver": r.Driver, "vault_block": r.Token == "vault"})
	l.Lines(s.Alloc, "web", `env COLOUR="green"`, 1)
	s.Look(l)
	return s
}

// Look takes down what the task has now.
func (s *Survivor) Look(l *Lab) {
	l.T.Helper()
	s.Process = l.ProcessOf(s.Alloc, "web", s.Driver)
	s.Lease = s.AwaitLeases(l, 1)[0]
	var err error
	s.since, err = l.Agent.Vault().Mark()
	require.NoError(l.T, err)
}

// Untouched waits until the task's lease has been renewed once more since the last look, and shows
// that nothing else was done about the task: same process, nothing fetched anew, no login (C4).
func (s *Survivor) Untouched(l *Lab) {
	l.T.Helper()
	v := l.Agent.Vault()
	before := s.Expiry(l)
	l.Until("a renewal of the lease of "+s.Name, func() error {
		if now := s.Expiry(l); !now.After(before) {
			return fmt.Errorf("it ends at %s as before", now)
		}
		return nil
	})
	require.Equal(l.T, s.Process, l.ProcessOf(s.Alloc, "web", s.Driver), "the process of %s", s.Name)
	l.NotRestarted(s.Alloc, "web")
	starts, err := s.Alloc.Lines("web", "start ")
	require.NoError(l.T, err)
	require.Len(l.T, starts, s.Generation)
	creds, err := v.Requests(s.since, "database/creds/"+s.Name)
	require.NoError(l.T, err)
	require.Empty(l.T, creds, "%s has got new credentials", s.Name)
}

// Expiry is when the task's lease ends, as Vault has it.
func (s *Survivor) Expiry(l *Lab) time.Time {
	l.T.Helper()
	found, err := l.Agent.Vault().Client().Sys().LookupWithContext(l.Ctx, s.Lease)
	require.NoError(l.T, err, "the lease of %s", s.Name)
	at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(found.Data["expire_time"]))
	require.NoError(l.T, err)
	return at
}

// Rotate changes the task's secret.
func (s *Survivor) Rotate(l *Lab, colour string) {
	l.T.Helper()
	l.PutColour(s.Name, colour)
	s.AwaitRotation(l, colour)
}

// AwaitRotation waits for the next generation. It has the new colour, its output is in the log (C8), and it
// has the lease of the one before.
func (s *Survivor) AwaitRotation(l *Lab, colour string) {
	l.T.Helper()
	s.Generation++
	l.Lines(s.Alloc, "web", fmt.Sprintf("env COLOUR=%q", colour), 1)
	l.Lines(s.Alloc, "web", "start ", s.Generation)
	l.NotRestarted(s.Alloc, "web")
	was := s.Lease
	s.Look(l)
	require.Equal(l.T, was, s.Lease, "a change of another secret has replaced the lease")
}

// AwaitLeases waits until the task has n leases, and returns them.
func (s *Survivor) AwaitLeases(l *Lab, n int) (leases []string) {
	l.T.Helper()
	l.Until(fmt.Sprintf("%d leases of %s", n, s.Name), func() (err error) {
		leases, err = l.Agent.Vault().Leases(l.Ctx, "database/creds/"+s.Name)
		if err == nil && len(leases) != n {
			err = fmt.Errorf("leases %v", leases)
		}
		return err
	})
	return leases
}

// RevokeLease revokes the task's lease behind its back: it gets another, and is restarted (C6).
func (s *Survivor) RevokeLease(l *Lab) {
	l.T.Helper()
	old := s.Lease
	require.NoError(l.T, l.Agent.Vault().Client().Sys().RevokeWithContext(l.Ctx, old))
	s.Generation++
	l.Lines(s.Alloc, "web", "start ", s.Generation)
	l.NotRestarted(s.Alloc, "web")
	s.Look(l)
	require.NotEqual(l.T, old, s.Lease)
}

// Stop stops the job: within 5 s the lease is revoked, and no revocation is pending any more (E1).
func (s *Survivor) Stop(l *Lab) {
	l.T.Helper()
	require.NoError(l.T, s.Alloc.Job.Stop(l.Ctx))
	l.Soon("the lease of "+s.Name+" to be revoked", RevokedWithin, func(ctx context.Context) error {
		leases, err := l.Agent.Vault().Leases(ctx, "database/creds/"+s.Name)
		if err == nil && len(leases) > 0 {
			err = fmt.Errorf("leases %v", leases)
		}
		return err
	})
}
