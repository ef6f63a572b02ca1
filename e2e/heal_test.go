package e2e

import (
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
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
		task   dbTask
		revoke func(l *lab, d dbTask, since harness.Mark) error
		event  string
	}{
		{
			task: dbTask{name: "heal-lease", driver: "docker"},
			revoke: func(l *lab, d dbTask, _ harness.Mark) error {
				leases, err := l.Vault.Leases(l.ctx, "database/creds/"+d.name)
				require.NoError(l.t, err)
				require.Len(l.t, leases, 1)
				return l.Vault.Client().Sys().RevokeWithContext(l.ctx, leases[0])
			},
			event: "its lease was revoked",
		},
		{
			task: dbTask{name: "heal-token", driver: "raw_exec"},
			revoke: func(l *lab, d dbTask, since harness.Mark) error {
				return l.Vault.Client().Auth().Token().RevokeAccessorWithContext(l.ctx, l.accessor(d, since))
			},
			event: "the task's token has ended; logging in again",
		},
	}
	for _, test := range tests {
		t.Run(test.task.name, func(t *testing.T) {
			t.Parallel()
			l, d := newLab(t), test.task
			d.token, d.ttl, d.max, d.args = harness.WorkloadRole{TTL: hour}, hour, hour, `"dblogin"`
			since := l.mark()
			alloc := d.run(l)
			at := time.Now()
			require.NoError(t, test.revoke(l, d, since))
			users := l.users(alloc, 2)
			healed := l.generations(alloc)[1].began
			require.Less(t, healed.Sub(at), healing, "time to heal")
			_, err := alloc.WaitEvent(l.ctx, "app", test.event)
			require.NoError(t, err)
			_, err = alloc.WaitEvent(l.ctx, "app", "task restarted in place")
			require.NoError(t, err)
			l.settled(d, users)
			l.noRestarts(alloc)
			l.gone(d, alloc, users)
		})
	}
}

// Nomad replaces the token of the job's vault block, here since somebody revoked it and with it all
// leases. With change_mode noop it leaves the task alone: it is we who follow the new token, and get
// the task something that works (DESIGN 5.1).
func TestTokenReplacedByNomad(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := dbTask{
		name: "replaced", driver: "docker", vault: `change_mode = "noop"`,
		token: harness.WorkloadRole{Period: 10 * time.Second}, ttl: hour, max: hour, args: `"dblogin"`,
	}
	since := l.mark()
	alloc := d.run(l)
	first := l.accessor(d, since)
	require.NoError(t, l.Vault.Client().Auth().Token().RevokeAccessorWithContext(l.ctx, first))

	users := l.users(alloc, 2)
	l.settled(d, users)
	_, err := alloc.WaitEvent(l.ctx, "app", "task restarted in place")
	require.NoError(t, err)
	l.noRestarts(alloc)
	minted, err := l.Vault.Requests(since, "database/creds/"+d.name)
	require.NoError(t, err)
	second := minted[len(minted)-1].Accessor
	require.NotEqual(t, first, second)
	logins, err := l.Vault.Requests(since, "auth/jwt-nomad/login")
	require.NoError(t, err)
	require.NotEmpty(t, logins)

	l.gone(d, alloc, users) // its leases are revoked with the new token
	require.True(t, l.tokenLives(second), "Nomad's token is not ours to revoke")
}
