package e2e

import (
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// checkInterval is the lease_check_interval of the harness's agents.
const checkInterval = 10 * time.Second

// healing is how long a task may take from the revocation of what it has to the process that has
// something new: to notice (C6), to gather what else has changed (C7), and to swap.
const healing = checkInterval + time.Second + 4*time.Second

// What somebody revokes behind our back is seen within lease_check_interval, and the task gets
// something new (C6).
func TestRevokedBehindOurBack(t *testing.T) {
	t.Parallel()
	tests := []struct {
		task   lab.DBTask
		revoke func(l *lab.Lab, d lab.DBTask, since harness.Mark) error
		event  string
	}{
		{
			task: lab.DBTask{Name: "heal-lease", Driver: "docker"},
			revoke: func(l *lab.Lab, d lab.DBTask, _ harness.Mark) error {
				leases, err := l.Vault.Leases(l.Ctx, "database/creds/"+d.Name)
				require.NoError(l.T, err)
				require.Len(l.T, leases, 1)
				return l.Vault.Client().Sys().RevokeWithContext(l.Ctx, leases[0])
			},
			event: "its lease was revoked",
		},
		{
			task: lab.DBTask{Name: "heal-token", Driver: "raw_exec"},
			revoke: func(l *lab.Lab, d lab.DBTask, since harness.Mark) error {
				return l.Vault.Client().Auth().Token().RevokeAccessorWithContext(l.Ctx, l.Accessor(d, since))
			},
			event: "the task's token has ended; logging in again",
		},
	}
	for _, test := range tests {
		t.Run(test.task.Name, func(t *testing.T) {
			t.Parallel()
			l, d := newLab(t), test.task
			d.Token, d.TTL, d.Max, d.Args = harness.WorkloadRole{TTL: hour}, hour, hour, `"dblogin"`
			since := l.Mark()
			alloc := d.Run(l)
			at := time.Now()
			require.NoError(t, test.revoke(l, d, since))
			users := l.Users(alloc, 2)
			healed := l.Generations(alloc)[1].Began
			require.Less(t, healed.Sub(at), healing, "time to heal")
			_, err := alloc.WaitEvent(l.Ctx, "app", test.event)
			require.NoError(t, err)
			_, err = alloc.WaitEvent(l.Ctx, "app", "task restarted in place")
			require.NoError(t, err)
			l.OnlyLastUser(d, users)
			l.NotRestarted(alloc, lab.App)
			l.StopAndRevoked(d, alloc, users)
		})
	}
}

// Nomad replaces the token of the job's vault block, here since somebody revoked it and with it all
// leases. With change_mode noop it leaves the task alone: it is we who follow the new token, and get
// the task something that works.
func TestTokenReplacedByNomad(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := lab.DBTask{
		Name: "replaced", Driver: "docker", Vault: `change_mode = "noop"`,
		Token: harness.WorkloadRole{Period: 10 * time.Second}, TTL: hour, Max: hour, Args: `"dblogin"`,
	}
	since := l.Mark()
	alloc := d.Run(l)
	first := l.Accessor(d, since)
	require.NoError(t, l.Vault.Client().Auth().Token().RevokeAccessorWithContext(l.Ctx, first))

	users := l.Users(alloc, 2)
	l.OnlyLastUser(d, users)
	_, err := alloc.WaitEvent(l.Ctx, "app", "task restarted in place")
	require.NoError(t, err)
	l.NotRestarted(alloc, lab.App)
	issued, err := l.Vault.Requests(since, "database/creds/"+d.Name)
	require.NoError(t, err)
	second := issued[len(issued)-1].Accessor
	require.NotEqual(t, first, second)
	logins, err := l.Vault.Requests(since, "auth/jwt-nomad/login")
	require.NoError(t, err)
	require.NotEmpty(t, logins)

	l.StopAndRevoked(d, alloc, users) // its leases are revoked with the new token
	require.True(t, l.TokenLives(second), "Nomad's token is not ours to revoke")
}
