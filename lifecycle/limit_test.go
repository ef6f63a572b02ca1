package lifecycle

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// inBubble checks one example of rapid's in a bubble of its own. What is wrong with it is said
// outside, on the goroutine that rapid can go on from: else it could not look for a simpler example.
func inBubble(t *testing.T, rt *rapid.T, check func(t *testing.T, errorf func(string, ...any))) {
	var wrong string
	synctest.Test(t, func(t *testing.T) {
		check(t, func(format string, args ...any) {
			if wrong == "" {
				wrong = fmt.Sprintf(format, args...)
			}
		})
	})
	if wrong != "" {
		rt.Fatal(wrong)
	}
}

// Background requests are never closer than the rate allows, whoever asks whenever, and none is
// held back without need (C5, C6: intervals stretch beyond request_rate).
func TestLimiterRate(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rate := rapid.Float64Range(0.5, 200).Draw(rt, "rate")
		delays := rapid.SliceOfN(rapid.IntRange(0, 2000), 1, 60).Draw(rt, "delays in ms")
		inBubble(t, rt, func(t *testing.T, errorf func(string, ...any)) {
			l := newLimiter(rate)
			gap := time.Duration(float64(time.Second) / rate)
			var mu sync.Mutex
			var asked, sent []time.Time
			var all sync.WaitGroup
			for _, d := range delays {
				all.Go(func() {
					time.Sleep(time.Duration(d) * time.Millisecond)
					now := time.Now()
					require.NoError(t, l.background(t.Context(), toLook, now))
					mu.Lock()
					defer mu.Unlock()
					asked, sent = append(asked, now), append(sent, time.Now())
				})
			}
			all.Wait()
			slices.SortFunc(asked, time.Time.Compare)
			slices.SortFunc(sent, time.Time.Compare)
			for i := range sent {
				if i > 0 && sent[i].Sub(sent[i-1]) < gap {
					errorf("two requests %v apart, less than %v", sent[i].Sub(sent[i-1]), gap)
				}
				want := asked[i]
				if i > 0 && sent[i-1].Add(gap).After(want) {
					want = sent[i-1].Add(gap)
				}
				if sent[i].After(want) {
					errorf("request %d sent %v later than it might have been", i, sent[i].Sub(want))
				}
			}
		})
	})
}

// Of those who wait the most urgent goes first, then the one who is due first; of equals, the one who
// asked first.
func TestLimiterMostUrgentFirst(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		urgencies := rapid.SliceOfN(rapid.IntRange(int(toKeep), int(toLook)), 40, 40).Draw(rt, "urgencies")
		dues := rapid.SliceOfN(rapid.IntRange(-5, 5), 1, 40).Draw(rt, "dues in s")
		leave := rapid.SliceOfN(rapid.Bool(), len(dues), len(dues)).Draw(rt, "who leaves")
		inBubble(t, rt, func(t *testing.T, errorf func(string, ...any)) {
			l := newLimiter(10)
			require.NoError(t, l.background(t.Context(), toLook, time.Now())) // from here on all must wait
			start := time.Now()
			type waiterID struct{ urgency, due, order int }
			var want, got []waiterID
			var mu sync.Mutex
			var all sync.WaitGroup
			for i, due := range dues {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				all.Go(func() {
					err := l.background(ctx, urgency(urgencies[i]), start.Add(time.Duration(due)*time.Second))
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						got = append(got, waiterID{urgencies[i], due, i})
					}
				})
				synctest.Wait() // so that the order of asking is known
				if leave[i] {
					cancel()
				} else {
					want = append(want, waiterID{urgencies[i], due, i})
				}
			}
			all.Wait()
			slices.SortStableFunc(want, func(a, b waiterID) int { return cmp.Or(a.urgency-b.urgency, a.due-b.due) })
			if !slices.Equal(want, got) {
				errorf("order %v, want %v", got, want)
			}
		})
	})
}

// Who has left does not hold up the others, and takes no turn.
func TestLimiterLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(1)
		require.NoError(t, l.background(t.Context(), toLook, time.Now()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		require.ErrorIs(t, l.background(ctx, toLook, time.Time{}), context.DeadlineExceeded)
		require.ErrorIs(t, l.background(ctx, toLook, time.Time{}), context.DeadlineExceeded)

		start := time.Now()
		require.NoError(t, l.background(t.Context(), toLook, time.Now()))
		require.Equal(t, time.Second/2, time.Since(start))
	})
}

// Starts and revocations: at most 16 at once (DESIGN 4), outside the request rate.
func TestLimiterForeground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(0.001)
		var mu sync.Mutex
		now, most := 0, 0
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				release, err := l.foreground(t.Context())
				require.NoError(t, err)
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				now--
				mu.Unlock()
				release()
				release() // once only
			})
		}
		start := time.Now()
		all.Wait()
		require.Equal(t, foregroundAtOnce, most)
		require.Equal(t, 7*time.Second, time.Since(start))

		for range foregroundAtOnce {
			_, err := l.foreground(t.Context())
			require.NoError(t, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := l.foreground(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}
