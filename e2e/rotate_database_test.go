package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// hour is for what is not to end within a test.
const hour = time.Hour

// A task whose database credentials end for good after 30 s is restarted in place with new ones
// before that, three times over, on both drivers and with both kinds of token. The processes log in over and over, also
// for a second after they are told to stop.
func TestCredentialsRotate(t *testing.T) {
	t.Parallel()
	const lingering = `"-linger=1s", "dblogin"`
	for _, d := range []lab.DBTask{
		{Name: "rot-dock-v", Driver: "docker", Vault: `change_mode = "restart"`},
		{Name: "rot-dock-i", Driver: "docker"},
		{Name: "rot-raw-v", Driver: "raw_exec", Vault: `change_mode = "restart"`},
		{Name: "rot-raw-i", Driver: "raw_exec"},
	} {
		d.Token, d.TTL, d.Max, d.Args = harness.WorkloadRole{TTL: hour}, 15*time.Second, 30*time.Second, lingering
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			rotates(newLab(t), d)
		})
	}
}

func rotates(l *lab.Lab, d lab.DBTask) {
	const swaps = 3
	before := l.Mark()
	alloc := d.Run(l)
	for n := 1; n <= swaps+1; n++ {
		users := l.Users(alloc, n)
		l.OnlyLastUser(d, users) // the old user is gone after each swap, and one lease is left
	}
	l.Events(alloc, swaps, `secret "db" rotated`, "its lease reached its maximum", "task restarted in place")
	l.NotRestarted(alloc, lab.App)
	source := "reading with the task's identity"
	if d.Vault != "" {
		source = "reading with the token of the job's vault block"
	}
	l.Events(alloc, 1, source)

	// The token: ours is one for all this time, and Nomad's is not ours to revoke.
	accessor := l.Accessor(d, before)
	require.True(l.T, l.TokenLives(accessor))
	require.Empty(l.T, l.Requests(d, before, "auth/token/revoke"))
	issued := l.Requests(d, before, "database/creds/"+d.Name)

	users := l.Users(alloc, swaps+1)
	l.StopAndRevoked(d, alloc, users)
	require.Equal(l.T, d.Vault != "", l.TokenLives(accessor), "whether the token outlives the task")

	// Every process's lines are in the logs (C8), and none was ever refused.
	users = l.Users(alloc, swaps+1)
	all := l.Generations(alloc)
	require.Len(l.T, all, len(users), "each process had credentials of its own")
	lab.NeverRefused(l.T, all)
	overlap(l, d, before, issued, all)
}

// overlap shows the order of C2: the new credentials are there before the old process is told to end,
// a second before it does, and the old ones are not revoked until the new process runs.
func overlap(l *lab.Lab, d lab.DBTask, since harness.Mark, issued []harness.Request, all []lab.Generation) {
	l.T.Helper()
	revoked := l.Requests(d, since, "sys/leases/revoke")
	require.NotEmpty(l.T, revoked, "no old lease was revoked by its task")
	for i := 1; i < min(len(all), len(issued)); i++ {
		require.WithinRange(l.T, issued[i].Time, all[i-1].Began, all[i-1].Ended.Add(-time.Second),
			"when the credentials of process %d were made", i+1)
		for _, r := range revoked {
			require.Empty(l.T, r.Error)
			// A process's beginning is known to a hundredth of a second.
			if early := all[i].Began.Sub(r.Time); r.Time.After(issued[i].Time) && early > 20*time.Millisecond {
				l.T.Errorf("credentials were revoked %v before process %d was there", early, i+1)
			}
		}
	}
}

// Credentials that reach the task as files are replaced under it, and the old outlive the signal for
// as long as it takes to notice (C2): the process goes on, and is never refused.
func TestCredentialsRotateBySignal(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := lab.DBTask{
		Name: "rot-signal", Driver: "docker",
		Token: harness.WorkloadRole{TTL: hour}, TTL: 15 * time.Second, Max: 30 * time.Second,
		Args: `"dblogin", "-files", "${NOMAD_SECRETS_DIR}/db"`,
		Delivery: `files         = true
          change_mode   = "signal"
          change_signal = "SIGHUP"`,
	}
	alloc := d.Run(l)
	for n := 1; n <= 3; n++ {
		l.OnlyLastUser(d, l.Users(alloc, n))
	}
	l.NotRestarted(alloc, lab.App)
	l.Events(alloc, 2, `secret "db" rotated`, "signalled with SIGHUP")
	l.StopAndRevoked(d, alloc, l.Users(alloc, 3))
	all := l.Generations(alloc)
	require.Len(t, all, 1, "the process was restarted")
	lab.NeverRefused(t, all)
}

// A lease ends with the token it was made under: before a token of ours reaches its
// maximum, the task has credentials made under the next.
func TestTokenReachesItsMaximum(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := lab.DBTask{
		Name: "tokenmax", Driver: "raw_exec",
		Token: harness.WorkloadRole{TTL: 15 * time.Second, MaxTTL: 30 * time.Second}, TTL: hour, Max: hour,
		Args: `"-linger=1s", "dblogin"`,
	}
	before := l.Mark()
	alloc := d.Run(l)
	first := l.Accessor(d, before)
	for n := 1; n <= 3; n++ {
		l.OnlyLastUser(d, l.Users(alloc, n))
	}
	l.NotRestarted(alloc, lab.App)
	l.Events(alloc, 2, `secret "db" rotated`, "the token it was made under reached its maximum", "task restarted in place")
	issued, err := l.Vault.Requests(before, "database/creds/"+d.Name)
	require.NoError(t, err)
	require.NotEqual(t, issued[0].Accessor, issued[1].Accessor, "both credentials were made under one token")

	// The old token was used, renewed and revoked by the task; nothing was left to its end.
	require.NotEmpty(t, l.Requests(d, before, "auth/token/renew-self"))
	require.NotEmpty(t, l.Requests(d, before, "auth/token/revoke-self"))
	require.False(t, l.TokenLives(first))

	l.StopAndRevoked(d, alloc, l.Users(alloc, 3))
	all := l.Generations(alloc)
	lab.NeverRefused(t, all)
}

// Where the policy does not let the task revoke leases, an event says so, and an old lease ends with
// its TTL: the task itself is none the worse (docs/nomad.md).
func TestRevocationRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := lab.DBTask{
		Name: "norevoke", Driver: "raw_exec", Vault: `change_mode = "restart"`, NoRevoke: true,
		Token: harness.WorkloadRole{TTL: hour}, TTL: 15 * time.Second, Max: 30 * time.Second,
		Args: `"dblogin"`,
	}
	alloc := d.Run(l)
	users := l.Users(alloc, 2)
	l.Events(alloc, 1, "revocation of old leases refused", "sys/leases/revoke")
	there, err := l.UsersOf(l.Ctx, users)
	require.NoError(t, err)
	require.Equal(t, users, there, "the old user lives until its lease ends")
	l.Soon("the old lease to end", 30*time.Second, func(ctx context.Context) error {
		there, err := l.UsersOf(ctx, users)
		if err == nil && slices.Contains(there, users[0]) {
			err = fmt.Errorf("users %v", there)
		}
		return err
	})
	l.NotRestarted(alloc, lab.App)
	require.NoError(t, alloc.Job.Stop(l.Ctx))
	lab.NeverRefused(t, l.Generations(alloc)[:1])
}
