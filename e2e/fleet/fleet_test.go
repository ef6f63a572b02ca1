package fleet

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

// coresOfThousand is how many cores the model has for a thousand nodes.
const coresOfThousand = 8

// inFleet runs a test in a bubble, on a fleet that is up, with leases of so long.
func inFleet(t *testing.T, sh shape, ttl time.Duration, test func(f *fleet, m *model, c *counts)) {
	t.Helper()
	inFleetOf(t, sh, coresOfThousand, ttl, test)
}

// inFleetOf is inFleet with so many cores for a thousand nodes.
func inFleetOf(t *testing.T, sh shape, cores float64, ttl time.Duration, test func(f *fleet, m *model, c *counts)) {
	synctest.Test(t, func(t *testing.T) {
		// A fleet of fewer tasks has a smaller server.
		m, c := newModel(cores*float64(sh.nodes*sh.tasks)/40_000, ttl), &counts{}
		f := newFleet(t, sh, func() server { return counted{m, c} }, "a.b.c")
		defer f.close()
		c.reset()
		began := time.Now()
		f.start(t.Context())
		took := time.Since(began)
		t.Logf("%d tasks on %d nodes are up after %v, %d starts failed\n%s", sh.nodes*sh.tasks, sh.nodes, took.Round(time.Second),
			f.failed.Load(), c.table("cold start", int(took/time.Second)+1, sh.toThousand()))
		require.Equal(t, sh.leases(), m.alive())
		test(f, m, c)
		require.Zero(t, f.failed.Load(), "starts failed")
	})
}

// byChance is how many come at the most by chance where mean are to be expected.
func byChance(mean float64) float64 { return mean + 6*math.Sqrt(mean) + 4 }

// C11, C3: a fleet's renewals are spread, although all its tasks have started at once: in no second of the first hour are
// there many more of them than in the mean.
func TestSteadyFleet(t *testing.T) {
	t.Parallel()
	inFleet(t, steady, time.Hour, func(f *fleet, _ *model, c *counts) {
		time.Sleep(time.Minute)
		c.reset()
		const seconds = 3600
		time.Sleep(seconds * time.Second)
		t.Logf("%s", c.table("an hour", seconds, steady.toThousand()))
		mean, peak := c.rate(0, seconds, lifecycle.OperationRenewLease, lifecycle.OperationRenewToken)
		require.Positive(t, mean)
		require.LessOrEqual(t, float64(peak), byChance(5*mean), "renewals in one second, of %.2f in the mean", mean)
		// Those of the first time come in ten minutes, from half to two thirds of an hour.
		most := c.busiest(60, lifecycle.OperationRenewLease, lifecycle.OperationRenewToken)
		t.Logf("%d renewals in the busiest minute, of %.1f in the mean", most, 60*mean)
		require.LessOrEqual(t, float64(most), byChance(6*60*mean), "renewals in one minute, of %.1f in the mean", 60*mean)
		mean, peak = c.rate(0, seconds)
		require.LessOrEqual(t, float64(peak), byChance(1.2*mean), "requests in one second, of %.1f in the mean", mean)
		require.Zero(t, f.restarts.Load())
	})
}

// C3, C11: a server that comes back is not held down by the fleet. What waited is spread over the time that
// the server needs for it, and all is renewed in time.
func TestFleetAfterAnOutage(t *testing.T) {
	t.Parallel()
	inFleet(t, whole, 15*time.Minute, func(f *fleet, m *model, c *counts) {
		time.Sleep(5 * time.Minute)
		c.reset()
		m.seal(true)
		const away = 420 // at its end each lease has waited for its renewal, and has two or three minutes left
		time.Sleep(away * time.Second)
		t.Logf("%s", c.table("outage", away, whole.toThousand()))
		mean, _ := c.rate(60, away)
		require.LessOrEqual(t, mean, whole.rate/6*float64(whole.nodes), "requests a second to a server that is away")

		m.seal(false)
		c.reset()
		const seconds = 180
		longest := time.Duration(0)
		for range seconds {
			time.Sleep(time.Second)
			longest = max(longest, m.queued())
		}
		t.Logf("at most %v of work waited\n%s", longest.Round(time.Millisecond), c.table("after the outage", seconds, whole.toThousand()))
		require.LessOrEqual(t, longest, 3*time.Second, "work that waits at the server")
		require.LessOrEqual(t, c.quantile(.99), 3*time.Second)
		mean, peak := c.rate(0, seconds)
		require.LessOrEqual(t, float64(peak), 6*mean, "requests in one second, of %.0f in the mean", mean)
		require.Zero(t, f.late())
		require.Equal(t, whole.leases(), m.alive())
		require.Zero(t, f.restarts.Load())
	})
}

// C3, C11: a fleet that needs four times what its server can do looks less often for what may have changed, and loses nothing: no
// request to keep something alive waits for its answer in vain.
func TestFleetTooLarge(t *testing.T) {
	t.Parallel()
	sh := whole
	sh.startTimeout = 20 * time.Minute
	inFleetOf(t, sh, 1, 10*time.Minute, func(f *fleet, m *model, c *counts) {
		time.Sleep(time.Minute)
		c.reset()
		const seconds = 1200
		longest := time.Duration(0)
		for range seconds {
			time.Sleep(time.Second)
			longest = max(longest, m.queued())
		}
		t.Logf("at most %v of work waited\n%s", longest.Round(time.Millisecond), c.table("20 minutes", seconds, sh.toThousand()))
		require.LessOrEqual(t, longest, 15*time.Second, "work that waits at the server")
		require.Zero(t, c.unanswered(lifecycle.OperationRenewLease, lifecycle.OperationRenewToken, lifecycle.OperationLogin))
		require.Zero(t, f.late())
		require.Equal(t, sh.leases(), m.alive())
		require.Zero(t, f.restarts.Load())
	})
}

// C6: what is revoked all at once heals at the pace that the server can take.
func TestFleetAfterAMassRevocation(t *testing.T) {
	t.Parallel()
	inFleet(t, whole, time.Hour, func(f *fleet, m *model, c *counts) {
		time.Sleep(2 * time.Minute)
		c.reset()
		n := m.revokeAll()
		const seconds = 180
		longest := time.Duration(0)
		for range seconds {
			time.Sleep(time.Second)
			longest = max(longest, m.queued())
		}
		t.Logf("%d leases revoked; at most %v of work waited\n%s", n, longest.Round(time.Millisecond), c.table("after a mass revocation", seconds, whole.toThousand()))
		took := f.awaitHealed(10 * time.Minute)
		t.Logf("healed %v after that", took)
		require.Equal(t, whole.leases(), m.alive())
		require.LessOrEqual(t, longest, 3*time.Second)
	})
}
