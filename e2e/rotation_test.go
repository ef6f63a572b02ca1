package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
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
	for _, d := range []dbTask{
		{name: "rot-dock-v", driver: "docker", vault: `change_mode = "restart"`},
		{name: "rot-dock-i", driver: "docker"},
		{name: "rot-raw-v", driver: "raw_exec", vault: `change_mode = "restart"`},
		{name: "rot-raw-i", driver: "raw_exec"},
	} {
		d.token, d.ttl, d.max, d.args = harness.WorkloadRole{TTL: hour}, 15*time.Second, 30*time.Second, lingering
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			rotates(newLab(t), d)
		})
	}
}

func rotates(l *lab, d dbTask) {
	const swaps = 3
	before := l.mark()
	alloc := d.run(l)
	for n := 1; n <= swaps+1; n++ {
		users := l.users(alloc, n)
		l.settled(d, users) // the old user is gone after each swap, and one lease is left
	}
	l.events(alloc, swaps, `secret "db" rotated`, "its lease reached its maximum", "task restarted in place")
	l.noRestarts(alloc)
	source := "reading with the task's identity"
	if d.vault != "" {
		source = "reading with the token of the job's vault block"
	}
	l.events(alloc, 1, source)

	// The token: ours is one for all this time, and Nomad's is not ours to revoke (DESIGN 5).
	accessor := l.accessor(d, before)
	require.True(l.t, l.tokenLives(accessor))
	require.Empty(l.t, l.requests(d, before, "auth/token/revoke"))
	minted := l.requests(d, before, "database/creds/"+d.name)

	users := l.users(alloc, swaps+1)
	l.gone(d, alloc, users)
	require.Equal(l.t, d.vault != "", l.tokenLives(accessor), "whether the token outlives the task")

	// Every process's lines are in the logs (C8), and none was ever refused.
	users = l.users(alloc, swaps+1)
	all := l.generations(alloc)
	require.Len(l.t, all, len(users), "each process had credentials of its own")
	neverRefused(l.t, all)
	overlap(l, d, before, minted, all)
}

// overlap shows the order of C2: the new credentials are there before the old process is told to end,
// a second before it does, and the old ones are not revoked until the new process runs.
func overlap(l *lab, d dbTask, since harness.Mark, minted []harness.Request, all []generation) {
	l.t.Helper()
	revoked := l.requests(d, since, "sys/leases/revoke")
	require.NotEmpty(l.t, revoked, "no old lease was revoked by its task")
	for i := 1; i < min(len(all), len(minted)); i++ {
		require.WithinRange(l.t, minted[i].Time, all[i-1].began, all[i-1].ended.Add(-time.Second),
			"when the credentials of process %d were made", i+1)
		for _, r := range revoked {
			require.Empty(l.t, r.Error)
			// A process's beginning is known to a hundredth of a second.
			if early := all[i].began.Sub(r.Time); r.Time.After(minted[i].Time) && early > 20*time.Millisecond {
				l.t.Errorf("credentials were revoked %v before process %d was there", early, i+1)
			}
		}
	}
}

// Credentials that reach the task as files are replaced under it, and the old outlive the signal for
// as long as it takes to notice (C2): the process goes on, and is never refused.
func TestCredentialsRotateBySignal(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := dbTask{
		name: "rot-signal", driver: "docker",
		token: harness.WorkloadRole{TTL: hour}, ttl: 15 * time.Second, max: 30 * time.Second,
		args: `"dblogin", "-files", "${NOMAD_SECRETS_DIR}/db"`,
		deliver: `files         = true
          change_mode   = "signal"
          change_signal = "SIGHUP"`,
	}
	alloc := d.run(l)
	for n := 1; n <= 3; n++ {
		l.settled(d, l.users(alloc, n))
	}
	l.noRestarts(alloc)
	l.events(alloc, 2, `secret "db" rotated`, "signalled with SIGHUP")
	l.gone(d, alloc, l.users(alloc, 3))
	all := l.generations(alloc)
	require.Len(t, all, 1, "the process was restarted")
	neverRefused(t, all)
}

// A lease ends with the token it was made under (DESIGN 5): before a token of ours reaches its
// maximum, the task has credentials made under the next.
func TestTokenReachesItsMaximum(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := dbTask{
		name: "tokenmax", driver: "raw_exec",
		token: harness.WorkloadRole{TTL: 15 * time.Second, MaxTTL: 30 * time.Second}, ttl: hour, max: hour,
		args: `"-linger=1s", "dblogin"`,
	}
	before := l.mark()
	alloc := d.run(l)
	first := l.accessor(d, before)
	for n := 1; n <= 3; n++ {
		l.settled(d, l.users(alloc, n))
	}
	l.noRestarts(alloc)
	l.events(alloc, 2, `secret "db" rotated`, "the token it was made under reached its maximum", "task restarted in place")
	minted, err := l.Vault.Requests(before, "database/creds/"+d.name)
	require.NoError(t, err)
	require.NotEqual(t, minted[0].Accessor, minted[1].Accessor, "both credentials were made under one token")

	// The old token was used, renewed and revoked by the task; nothing was left to its end.
	require.NotEmpty(t, l.requests(d, before, "auth/token/renew-self"))
	require.NotEmpty(t, l.requests(d, before, "auth/token/revoke-self"))
	require.False(t, l.tokenLives(first))

	l.gone(d, alloc, l.users(alloc, 3))
	all := l.generations(alloc)
	neverRefused(t, all)
}

// Where the policy does not let the task revoke leases, an event says so, and an old lease ends with
// its TTL: the task itself is none the worse (DESIGN 9).
func TestRevocationRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := dbTask{
		name: "norevoke", driver: "raw_exec", vault: `change_mode = "restart"`, noRevoke: true,
		token: harness.WorkloadRole{TTL: hour}, ttl: 15 * time.Second, max: 30 * time.Second,
		args: `"dblogin"`,
	}
	alloc := d.run(l)
	users := l.users(alloc, 2)
	l.events(alloc, 1, "revocation of old leases refused", "sys/leases/revoke")
	there, err := l.usersOf(l.ctx, users)
	require.NoError(t, err)
	require.Equal(t, users, there, "the old user lives until its lease ends")
	l.soon("the old lease to end", 30*time.Second, func(ctx context.Context) error {
		there, err := l.usersOf(ctx, users)
		if err == nil && slices.Contains(there, users[0]) {
			err = fmt.Errorf("users %v", there)
		}
		return err
	})
	l.noRestarts(alloc)
	require.NoError(t, alloc.Job.Stop(l.ctx))
	neverRefused(t, l.generations(alloc)[:1])
}
