package lifecycle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func duration(t *rapid.T, label string, lo, hi time.Duration) time.Duration {
	return time.Duration(rapid.Int64Range(int64(lo), int64(hi)).Draw(t, label))
}

func random(t *rapid.T) float64 { return rapid.Float64Range(0, 0.9999999).Draw(t, "r") }

func drawChange(t *rapid.T) secrets.Change {
	return secrets.Change{
		Mode:    secrets.Mode(rapid.IntRange(int(secrets.Noop), int(secrets.Restart)).Draw(t, "mode")),
		Splay:   duration(t, "splay", 0, time.Hour),
		Stagger: duration(t, "stagger", 0, time.Hour),
	}
}

// C1: always before the expiry, with at least a third of the lease left for failures.
func TestRenewAt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := duration(t, "granted", time.Second, 1000*time.Hour)
		at := renewAt(epoch, d, random(t))
		require.False(t, at.Before(epoch.Add(d/2)))
		require.False(t, at.After(epoch.Add(d/3*2)))
	})
	require.Greater(t, renewAt(epoch, time.Hour, 0.9).Sub(renewAt(epoch, time.Hour, 0.1)), 7*time.Minute, "it spreads")
	require.Greater(t, renewAt(epoch, 2*time.Second, 0.9).Sub(renewAt(epoch, 2*time.Second, 0.1)), 200*time.Millisecond, "short ones, too")
}

// C1: while the lease lives, each failure is followed by another attempt before its end.
func TestRetryRenewal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		left := duration(t, "left", time.Second, 100*time.Hour)
		n := rapid.IntRange(1, 1000).Draw(t, "failures")
		at := retryRenewal(epoch, epoch.Add(left), n, random(t))
		require.True(t, at.After(epoch))
		require.True(t, at.Before(epoch.Add(left)))
		require.LessOrEqual(t, at.Sub(epoch), lastRetry)
	})
	rapid.Check(t, func(t *rapid.T) { // past its end, and without one
		for _, end := range []time.Time{{}, epoch.Add(-time.Hour)} {
			n := rapid.IntRange(1, 1000).Draw(t, "failures")
			at := retryRenewal(epoch, end, n, random(t))
			require.GreaterOrEqual(t, at.Sub(epoch), firstRetry/2)
			require.LessOrEqual(t, at.Sub(epoch), lastRetry)
		}
	})
}

// C6: a check is never later than the interval.
func TestCheckAt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		interval := duration(t, "interval", time.Second, time.Hour)
		at := checkAt(epoch, interval, random(t))
		require.LessOrEqual(t, at.Sub(epoch), interval)
		require.GreaterOrEqual(t, at.Sub(epoch), interval*8/10-1)
	})
}

func TestAtMaximum(t *testing.T) {
	for _, tt := range []struct {
		asked, got time.Duration
		want       bool
	}{
		{time.Hour, time.Hour, false},
		{time.Hour, 2 * time.Hour, false},
		{time.Hour, time.Hour - time.Second, false},
		{time.Hour, 50 * time.Minute, true},
		{time.Hour, 0, true},
		{4 * time.Second, 3 * time.Second, true},
	} {
		require.Equal(t, tt.want, atMaximum(tt.asked, tt.got), "%v %v", tt.asked, tt.got)
	}
}

// C2: a rotation begins so early that its splay, stagger and stop fit before the lease's
// end, as far as the lease is long enough; and what it waits never goes past the end.
func TestRotationFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawChange(t)
		index := rapid.IntRange(0, 10000).Draw(t, "index")
		stop := duration(t, "stop", 0, time.Minute)
		granted := duration(t, "granted", time.Second, 100*time.Hour)
		left := duration(t, "left", time.Second, granted)
		end := epoch.Add(left)

		needs := need(c, index, stop)
		at := rotateAt(epoch, end, granted, needs)
		require.False(t, at.Before(epoch))
		require.LessOrEqual(t, end.Sub(at), granted/3*2, "not in the first third")
		require.True(t, at.Before(end))
		if granted/3*2 >= needs {
			require.GreaterOrEqual(t, end.Sub(at), min(needs, left))
		}

		last := end.Add(-applyTime(c.Mode, stop))
		act := applyAt(at, spread(c, index, random(t)), last)
		require.False(t, act.Before(at))
		if !last.Before(at) {
			require.False(t, act.After(last), "never past what the lease allows")
		} else {
			require.Equal(t, at, act)
		}
	})
}

// Splay and stagger are at most five minutes in all; beyond, a random moment in them (docs/changes.md, "When a secret changes").
func TestSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawChange(t)
		index := rapid.IntRange(0, 1<<40).Draw(t, "index")
		got := spread(c, index, random(t))
		require.GreaterOrEqual(t, got, time.Duration(0))
		require.LessOrEqual(t, got, maxSpread)
		require.LessOrEqual(t, got+coalesce, need(c, index, 0))
	})
	ten := secrets.Change{Splay: 5 * time.Second, Stagger: 10 * time.Second}
	require.Equal(t, 20*time.Second, spread(ten, 2, 0))
	require.Equal(t, 22500*time.Millisecond, spread(ten, 2, 0.5))
	require.Equal(t, 150*time.Second, spread(ten, 200, 0.5))
	require.Equal(t, 150*time.Second, spread(secrets.Change{Splay: time.Hour}, 0, 0.5))
}

// A certificate is replaced at about two thirds of its life, or sooner if that takes long.
func TestIssuedAt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		life := duration(t, "life", secrets.MinLifetime, 10000*time.Hour)
		needs := duration(t, "need", 0, 10*time.Minute)
		end := epoch.Add(life)
		at := issuedAt(epoch, end, needs, random(t))
		require.True(t, at.After(epoch))
		require.True(t, at.Before(end))
		require.LessOrEqual(t, at.Sub(epoch), life/100*70)
		require.GreaterOrEqual(t, at.Sub(epoch), reissueAtLeast, "C11")
		if life/3*2 >= needs && life-needs >= reissueAtLeast {
			require.GreaterOrEqual(t, end.Sub(at), needs)
		}
	})
	require.Equal(t, epoch.Add(reissueAtLeast), issuedAt(epoch, epoch.Add(10*time.Second), 0, 0.5), "a certificate may have ended before")
	require.Equal(t, epoch.Add(slowRetry), issuedAt(epoch, epoch.Add(-time.Hour), 0, 0.5), "no storm, though each has ended when it comes")
}

// C7: of several changes the strongest mode is done; those that wait for it are not made to wait
// past what they can, and a failed one does not pull the others forward.
func TestMoments(t *testing.T) {
	in := func(s int) time.Time { return epoch.Add(time.Duration(s) * time.Second) }
	mode := func(m secrets.Mode, act int) *change {
		return &change{change: secrets.Change{Mode: m}, at: in(act)}
	}
	require.Equal(t, deadlines{}, deadlinesOf(nil))

	silent, signal, restart := mode(secrets.Noop, 1), mode(secrets.SendSignal, 3), mode(secrets.Restart, 60)
	m := deadlinesOf(map[string]*change{"q": silent, "s": signal, "r": restart})
	require.Equal(t, deadlines{silent: in(1), disruptive: in(60), next: in(1)}, m)
	require.True(t, m.due(in(1), silent))
	require.False(t, m.due(in(3), signal), "it goes with the restart")
	require.True(t, m.due(in(60), signal))

	signal.latest = in(10)
	require.Equal(t, in(10), deadlinesOf(map[string]*change{"s": signal, "r": restart}).disruptive)

	failed := mode(secrets.Restart, 2)
	failed.fails = 1
	m = deadlinesOf(map[string]*change{"s": mode(secrets.SendSignal, 5), "f": failed})
	require.Equal(t, deadlines{disruptive: in(5), next: in(2)}, m)
	require.False(t, m.due(in(1), failed))

	require.Equal(t, secrets.Noop, strongest())
	require.Equal(t, secrets.Restart, strongest(secrets.Noop, secrets.Restart, secrets.RunScript))
}

// FuzzSchedule plays a lease's whole life with any numbers: it is always renewed, or replaced,
// before it ends.
func FuzzSchedule(f *testing.F) {
	f.Add(int64(time.Hour), int64(24*time.Hour), int64(5*time.Second), int64(10*time.Second), uint16(3), 0.5)
	f.Add(int64(time.Second), int64(time.Second), int64(time.Hour), int64(time.Hour), uint16(65535), 0.0)
	f.Add(int64(3*time.Second), int64(10*time.Second), int64(0), int64(0), uint16(0), 0.999)
	f.Fuzz(func(t *testing.T, ttl, maxTTL, splay, stagger int64, index uint16, r float64) {
		const year = int64(365 * 24 * time.Hour)
		if ttl < int64(time.Second) || ttl > year || maxTTL < ttl || maxTTL > ttl*1000 || maxTTL > 10*year ||
			splay < 0 || stagger < 0 || !(r >= 0 && r < 1) {
			t.Skip()
		}
		c := secrets.Change{Mode: secrets.Restart, Splay: time.Duration(splay), Stagger: time.Duration(stagger)}
		now, granted, last := epoch, time.Duration(ttl), epoch.Add(time.Duration(maxTTL))
		for steps := 0; ; steps++ {
			end := now.Add(granted)
			if atMaximum(time.Duration(ttl), granted) || steps > 10_000 {
				at := rotateAt(now, end, time.Duration(ttl), need(c, int(index), 0))
				if granted > 0 && !at.Before(end) {
					t.Fatalf("rotated at %v, after its end at %v", at, end)
				}
				act := applyAt(at, spread(c, int(index), r), end.Add(-applyTime(c.Mode, 0)))
				if granted > 0 && act.After(end) {
					t.Fatalf("applied at %v, after its end at %v", act, end)
				}
				return
			}
			next := renewAt(now, granted, r)
			if !next.After(now) || !next.Before(end) {
				t.Fatalf("renewed at %v, what was granted at %v and ends at %v", next, now, end)
			}
			now, granted = next, min(time.Duration(ttl), last.Sub(next))
		}
	})
}
