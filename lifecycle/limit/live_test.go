package limit

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Looks at what is being read take half of the rate and no more, whether or not others want the rest; tenants take turns;
// and what keeps credentials alive goes first.
func TestLiveLooksTakeHalf(t *testing.T) {
	for _, polls := range []int{0, 100} {
		synctest.Test(t, func(t *testing.T) {
			l := New(20, nil)
			looks, other := map[Tenant]int{}, 0
			done := make(chan func(), 1000)
			for range 100 {
				for _, who := range []Tenant{{Job: "busy"}, {Job: "busy"}, {Job: "busy"}, {Job: "calm"}} {
					l.QueueLive(t.Context(), who, time.Now(), func(error) { done <- func() { looks[who]++ } })
				}
			}
			for range polls {
				l.Queue(t.Context(), one, Poll, time.Now(), func(error) { done <- func() { other++ } })
			}
			time.Sleep(5*time.Second - time.Millisecond)
			synctest.Wait()
			for len(done) > 0 {
				(<-done)()
			}
			require.InDelta(t, 50, looks[Tenant{Job: "busy"}]+looks[Tenant{Job: "calm"}], 1)
			require.InDelta(t, looks[Tenant{Job: "busy"}], looks[Tenant{Job: "calm"}], 2)
			require.InDelta(t, min(polls, 50), other, 1)

			renewed := make(chan time.Time, 1)
			asked := time.Now()
			l.Queue(t.Context(), one, Renew, asked, func(error) { renewed <- time.Now() })
			require.LessOrEqual(t, (<-renewed).Sub(asked), 50*time.Millisecond)
			time.Sleep(time.Hour) // all go
			synctest.Wait()
		})
	}
}
