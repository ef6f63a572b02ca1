package limit

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// other is a second tenant.
var other = Tenant{Namespace: "default", Job: "other"}

// away has a server answer nothing for so long that it counts as away.
func away(l *Limiter, server string) {
	for range 30 {
		time.Sleep(100 * time.Millisecond)
		l.Answered(server, Answer{Result: Unavailable, Sent: time.Now()})
	}
}

// Renewals that their server's pace holds back hold up no look at what is being read from another server.
func TestLiveLooksWhileAnotherServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(20, nil)
		away(l, "vault")
		for range 100 {
			l.Queue(t.Context(), one.At("vault"), Renew, time.Now().Add(time.Hour), func(error) {})
		}
		var looks atomic.Int32
		for range 10 {
			l.QueueLive(t.Context(), one.At("nomad"), time.Now(), func(error) { looks.Add(1) })
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 10, looks.Load())
	})
}

// When a server is back, a read of what somebody reads just now does not wait until it is asked as much as before.
func TestLiveReadsWhenAServerIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(20, nil)
		away(l, "vault")
		var polls atomic.Int32
		for range 20 {
			l.Queue(t.Context(), other.At("vault"), Poll, time.Now(), func(error) { polls.Add(1) })
		}
		l.Answered("vault", Answer{Sent: time.Now(), Took: time.Millisecond, Own: true})
		began := time.Now()
		for range 5 {
			require.NoError(t, l.Live(t.Context(), one.At("vault"), time.Now()))
		}
		require.LessOrEqual(t, time.Since(began), 500*time.Millisecond)
		require.LessOrEqual(t, polls.Load(), int32(3))
		time.Sleep(time.Minute)
		synctest.Wait()
	})
}

// What is urgent does not take the turns of all the rest: that has the rate which is left.
func TestUrgentLeavesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(20, nil)
		for range 30 {
			time.Sleep(100 * time.Millisecond)
			l.Answered("vault", Answer{Sent: time.Now(), Took: time.Second, Own: true})
		}
		var urgent, polls atomic.Int32
		for range 400 {
			l.Queue(t.Context(), one.At("vault"), Renew, time.Now().Add(20*time.Second), func(error) { urgent.Add(1) })
			l.Queue(t.Context(), other.At("vault"), Poll, time.Now(), func(error) { polls.Add(1) })
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.GreaterOrEqual(t, urgent.Load(), int32(90))
		require.GreaterOrEqual(t, polls.Load(), int32(4))
	})
}

// A server that limits one path, and answers others, is asked for these.
func TestLimitOfOnePath(t *testing.T) {
	p, now := newPace(20), epoch
	limited := Answer{Result: Limited, Sent: now, RetryAfter: 30 * time.Second}
	p.heard(now, limited, 0)
	p.heard(now.Add(time.Millisecond), Answer{Sent: now.Add(-time.Second), Took: time.Second}, 0) // was under way
	require.Equal(t, 30*time.Second, p.wait(now, time.Time{}, false), "it asks for that")
	now = now.Add(time.Second)
	p.heard(now, Answer{Sent: now, Took: time.Millisecond}, 0)
	require.Zero(t, p.wait(now, time.Time{}, false))
}

// A server that has too much to do has fewer slots, and another as many as ever.
func TestSlotsAreEachServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(20, nil)
		away(l, "vault")
		well(l, "nomad")
		var under [2]atomic.Int32
		start := func(i int, server string, job string) {
			if _, err := l.Foreground(t.Context(), Tenant{Job: job, Server: server}, ForStart); err == nil {
				under[i].Add(1)
			}
		}
		for i := range 20 {
			go start(0, "vault", fmt.Sprint("v", i))
		}
		synctest.Wait()
		for i := range 20 {
			go start(1, "nomad", fmt.Sprint("n", i))
		}
		synctest.Wait()
		require.EqualValues(t, slowestAtOnce, under[0].Load())
		require.EqualValues(t, ForegroundAtOnce-slowestAtOnce, under[1].Load())
	})
}

// A server that is far away is not overloaded, until it takes longer than that.
func TestServerThatIsFarAway(t *testing.T) {
	p, now := newPace(20), epoch
	hear := func(n int, took time.Duration) {
		for range n {
			now = now.Add(100 * time.Millisecond)
			p.heard(now, Answer{Sent: now, Took: took, Own: true}, 0)
		}
	}
	hear(100, 400*time.Millisecond)
	require.Equal(t, 20.0, p.rate)
	hear(30, 900*time.Millisecond)
	require.Less(t, p.rate, 10.0)
	hear(400, 400*time.Millisecond)
	require.Equal(t, 20.0, p.rate)
}
