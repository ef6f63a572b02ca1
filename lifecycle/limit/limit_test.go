package limit

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

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/bubble"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// well has a server answer as one does that has little to do.
func well(l *Limiter, server string) {
	for range recentFew {
		l.Answered(server, Answer{Sent: time.Now(), Took: time.Millisecond, Own: true})
	}
}

// pause sleeps, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// Background requests are never closer than the rate allows, whoever asks whenever, and none is
// held back without need (C5, C6: intervals stretch beyond request_rate).
func TestLimiterRate(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rate := rapid.Float64Range(0.5, 200).Draw(rt, "rate")
		delays := rapid.SliceOfN(rapid.IntRange(0, 2000), 1, 60).Draw(rt, "delays in ms")
		bubble.Check(t, rt, func(t *testing.T, errorf func(string, ...any)) {
			l := New(rate, nil)
			gap := time.Duration(float64(time.Second) / rate)
			var mu sync.Mutex
			var asked, sent []time.Time
			var all sync.WaitGroup
			for _, d := range delays {
				all.Go(func() {
					time.Sleep(time.Duration(d) * time.Millisecond)
					now := time.Now()
					require.NoError(t, l.Background(t.Context(), one, Poll, now))
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

// Of a tenant's requests that wait the highest priority goes first, but for one turn of eight (TestRanks), then the
// one who is due first; of equals, the one who asked first.
func TestLimiterMostUrgentFirst(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ranks := rapid.SliceOfN(rapid.IntRange(int(Renew), int(Poll)), 40, 40).Draw(rt, "ranks")
		dues := rapid.SliceOfN(rapid.IntRange(-5, 5), 1, 40).Draw(rt, "dues in s")
		leave := rapid.SliceOfN(rapid.Bool(), len(dues), len(dues)).Draw(rt, "who leaves")
		bubble.Check(t, rt, func(t *testing.T, errorf func(string, ...any)) {
			l := New(10, nil)
			require.NoError(t, l.Background(t.Context(), one, Poll, time.Now())) // from here on all must wait
			start := time.Now()
			type waiterID struct{ rank, due, order int }
			var want, got []waiterID
			var mu sync.Mutex
			var all sync.WaitGroup
			for i, due := range dues {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				all.Go(func() {
					err := l.Background(ctx, one, Priority(ranks[i]), start.Add(time.Duration(due)*time.Second))
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						got = append(got, waiterID{ranks[i], due, i})
					}
				})
				synctest.Wait() // so that the order of asking is known
				if leave[i] {
					cancel()
				} else {
					want = append(want, waiterID{ranks[i], due, i})
				}
			}
			all.Wait()
			slices.SortStableFunc(want, func(a, b waiterID) int { return cmp.Or(a.rank-b.rank, a.due-b.due) })
			late := 0
			for i := range got {
				if i > 0 && got[i].rank < got[i-1].rank {
					late++
				}
			}
			slices.SortStableFunc(got, func(a, b waiterID) int { return a.rank - b.rank })
			if !slices.Equal(want, got) || late > len(got)/lowerTurn {
				errorf("order %v, want %v; %d turns out of rank", got, want, late)
			}
		})
	})
}

// Who has left does not hold up the others, and takes no turn.
func TestLimiterLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(1, nil)
		require.NoError(t, l.Background(t.Context(), one, Poll, time.Now()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		require.ErrorIs(t, l.Background(ctx, one, Poll, time.Time{}), context.DeadlineExceeded)
		require.ErrorIs(t, l.Background(ctx, one, Poll, time.Time{}), context.DeadlineExceeded)

		start := time.Now()
		require.NoError(t, l.Background(t.Context(), one, Poll, time.Now()))
		require.Equal(t, time.Second/2, time.Since(start))
	})
}

// one is a tenant, where there are no others.
var one = Tenant{Namespace: "default", Job: "one"}

// Starts and revocations: at most 16 at once (C11), outside the request rate.
func TestLimiterForeground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(0.001, nil)
		well(l, "")
		var mu sync.Mutex
		now, most := 0, 0
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				release, err := l.Foreground(t.Context(), one, ForStart)
				require.NoError(t, err)
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				time.Sleep(time.Second / 2)
				mu.Lock()
				now--
				mu.Unlock()
				release()
				release() // once only
			})
		}
		start := time.Now()
		all.Wait()
		require.Equal(t, ForegroundAtOnce, most)
		require.Equal(t, 3500*time.Millisecond, time.Since(start))
		require.Empty(t, l.slots.lanes, "what sends nothing takes no memory")

		for range ForegroundAtOnce {
			_, err := l.Foreground(t.Context(), one, ForStart)
			require.NoError(t, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		_, err := l.Foreground(ctx, one, ForStart)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// C11: a tenant that wants more than the rate gets no more than its turns. The others' renewals wait for a
// round at most, their polls go on, and the operator is warned once, with its name.
func TestLimiterGreedyTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var warned []Backlog
		l := New(5, func(b Backlog) { warned = append(warned, b) })
		ctx := t.Context()
		greedy := Tenant{Namespace: "default", Job: "greedy"}
		for range 240 { // 12 a second
			go func() {
				for l.Background(ctx, greedy, Renew, time.Now()) == nil {
					pause(ctx, 20*time.Second)
				}
			}()
		}
		polls := 0
		go func() {
			for l.Background(ctx, one, Poll, time.Now()) == nil {
				polls++
				pause(ctx, 10*time.Second)
			}
		}()
		for range 60 {
			start := time.Now()
			require.NoError(t, l.Background(ctx, one, Renew, start.Add(time.Hour)))
			require.LessOrEqual(t, time.Since(start), time.Second)
			time.Sleep(10 * time.Second)
		}
		synctest.Wait()
		require.Greater(t, polls, 50)
		require.Len(t, warned, 1)
		require.Equal(t, greedy, warned[0].Busiest)
		require.GreaterOrEqual(t, warned[0].Waited, backlogAfter)
	})
}

// What was cancelled does not run, and takes no turn.
func TestLimiterTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(1, nil)
		require.NoError(t, l.Background(t.Context(), one, Poll, time.Now()))
		leave := l.Queue(t.Context(), one, Poll, time.Now(), func(error) { t.Error("it ran") })
		require.Equal(t, 1, l.Waiting(one, Poll))
		require.True(t, leave())
		require.False(t, leave())
		require.Zero(t, l.Waiting(one, Poll))
		ran := false
		leave = l.Queue(t.Context(), one, Poll, time.Now(), func(error) { ran = true })
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.True(t, ran)
		require.False(t, leave())
	})
}

// A server that is away is asked little; one that is there is asked as ever, and so is the one that was away for what ends
// within the minute. All the rest goes once it has answered well for a while.
func TestEachServerHasAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(20, nil)
		for range 30 {
			time.Sleep(100 * time.Millisecond)
			l.Answered("vault", Answer{Result: Unavailable, Sent: time.Now()})
		}
		require.InDelta(t, 2, l.Rate(), 0.01)
		var sent [3]int
		var mu sync.Mutex
		count := func(i int) func(error) {
			return func(error) {
				mu.Lock()
				defer mu.Unlock()
				sent[i]++
			}
		}
		vault, other := one.At("vault"), one.At("nomad")
		far := time.Now().Add(time.Hour)
		for range 100 {
			l.Queue(t.Context(), vault, Renew, far, count(0))
			l.Queue(t.Context(), other, Poll, time.Now(), count(2))
		}
		seen := func(d time.Duration) [3]int {
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			now := sent
			sent = [3]int{}
			return now
		}
		got := seen(5 * time.Second)
		require.InDelta(t, 10, got[0], 4, "to the one that is away")
		require.InDelta(t, 90, got[2], 5, "to the other")

		for range 60 {
			l.Queue(t.Context(), vault, Renew, time.Now().Add(30*time.Second), count(1))
		}
		got = seen(4 * time.Second)
		require.InDelta(t, 27, got[1], 8, "urgent, to the one that is away: 5 a second at the least")
		require.LessOrEqual(t, got[0], 3)

		for range 8 {
			l.Answered("vault", Answer{Sent: time.Now(), Took: time.Millisecond, Own: true})
		}
		got = seen(time.Second)
		require.GreaterOrEqual(t, got[1], 12, "urgent, once it has answered")
		for range 400 {
			time.Sleep(100 * time.Millisecond)
			l.Answered("vault", Answer{Sent: time.Now(), Took: time.Millisecond, Own: true})
		}
		require.InDelta(t, 20, l.Rate(), 0.01)
		require.Equal(t, ForegroundAtOnce, l.slots.at("vault").most)
	})
}

// While a server as a whole takes long for anything, or answers nothing, a request is not slow because it takes long, and few leave
// their slots to others: fewer are under way, not more. Where one database hangs, and the server answers, slots are left as ever.
func TestForegroundOfAnOverloadedServer(t *testing.T) {
	const never = time.Hour
	for _, tt := range []struct {
		name        string
		took, hangs time.Duration // an answer, and what is under way
		least, most int
	}{
		{"the server", time.Second, 5 * time.Second, slowestAtOnce, 2 * slowestAtOnce},
		{"and much longer than that", time.Second, 50 * time.Second, slowestAtOnce, 2 * slowestAtOnce},
		{"a server that has far too much to do", 3 * time.Second, 5 * time.Second, sunkAtOnce, 2 * sunkAtOnce},
		{"and takes ever longer", 3 * time.Second, 50 * time.Second, sunkAtOnce, 2 * sunkAtOnce},
		{"a server that has not answered yet", never, 50 * time.Second, slowestAtOnce, 2 * slowestAtOnce},
		{"a database behind it", time.Millisecond, 5 * time.Second, 60, overflow},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(20, nil)
				answered := func() {
					if tt.took < never {
						l.Answered("vault", Answer{Sent: time.Now(), Took: tt.took, Own: true})
					}
				}
				for range 60 {
					time.Sleep(100 * time.Millisecond)
					answered()
				}
				under, most := 0, 0
				var mu sync.Mutex
				var all sync.WaitGroup
				for i := range 200 {
					all.Go(func() {
						release, err := l.Foreground(t.Context(), Tenant{Job: fmt.Sprint(i), Server: "vault"}, ForStart)
						require.NoError(t, err)
						mu.Lock()
						under++
						most = max(most, under)
						mu.Unlock()
						time.Sleep(tt.hangs)
						answered()
						mu.Lock()
						under--
						mu.Unlock()
						release()
					})
				}
				all.Wait()
				require.GreaterOrEqual(t, most, tt.least)
				require.LessOrEqual(t, most, tt.most)
			})
		})
	}
}
