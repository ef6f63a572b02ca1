package limit

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Whatever comes, gets slow and ends when: the bounds hold, for the plugin and for each tenant, the counts are
// right, nobody waits who may go, and what is idle takes no memory for long.
func TestSlotsBounds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tenants := rapid.SampledFrom([]int{1, 3, 40, 600}).Draw(rt, "tenants")
		s := newSlots(ForegroundAtOnce)
		now, order := epoch, uint64(0)
		var flights []*flight
		for range rapid.IntRange(1, 800).Draw(rt, "steps") {
			pick := func() int { return rapid.IntRange(0, len(flights)-1).Draw(rt, "which") }
			switch step := rapid.IntRange(0, 9).Draw(rt, "step"); {
			case step < 6:
				order++
				who := Tenant{Job: fmt.Sprint(rapid.IntRange(0, tenants-1).Draw(rt, "tenant"))}
				s.waiting[rapid.SampledFrom([]Kind{ForStart, ForRevocation}).Draw(rt, "kind")].add(&waiter{tenant: who, order: order})
			case step == 6 && len(flights) > 0:
				i := pick()
				s.end(now, flights[i])
				flights = slices.Delete(flights, i, i+1)
			case step == 7:
				now = now.Add(time.Second * time.Duration(rapid.IntRange(0, 40).Draw(rt, "later")))
			default:
				ails := step == 8
				for _, f := range flights { // all those that are under way are slow
					if !f.old {
						s.turnSlow(now, f, ails)
					}
				}
			}
			for w := s.next(now); w != nil; w = s.next(now) {
				flights = append(flights, w.flight)
			}
			left := 0
			old, each, waiting := 0, map[laneKey]int{}, s.waiting[ForStart].size+s.waiting[ForRevocation].size
			for _, f := range flights {
				each[f.lane]++
				if f.old {
					old++
				}
				if f.left {
					left++
				}
			}
			for key, n := range each {
				if n > lanesAtOnce {
					rt.Fatalf("%d under way of %v", n, key)
				}
			}
			young := len(flights) - old
			switch {
			case young != s.young || old != s.old:
				rt.Fatalf("%d and %d under way, counted %d and %d", young, old, s.young, s.old)
			case left > slowestAtOnce || left != s.at("").left:
				rt.Fatalf("%d have left their slots at a server that ails, counted %d", left, s.at("").left)
			case young > ForegroundAtOnce || len(flights) > overflow+ForegroundAtOnce:
				rt.Fatalf("%d under way, %d slow", len(flights), old)
			case s.slowYoung < 0 || s.slowYoung > ForegroundAtOnce/2:
				rt.Fatalf("%d slots for slow tenants", s.slowYoung)
			case len(flights) == 0 && waiting > 0:
				rt.Fatalf("%d wait for nobody", waiting)
			case len(s.lanes) > max(2*len(each)+2*tenants, 64):
				rt.Fatalf("%d lanes", len(s.lanes))
			}
		}
		for _, f := range flights {
			s.end(now, f)
		}
		s.prune = 0
		s.forgetIdle(now.Add(slowMemory))
		if len(s.lanes) > 0 {
			rt.Fatalf("%d lanes are kept for ever", len(s.lanes))
		}
	})
}

// C11: tenants whose database hangs delay nobody's start by more than a second a step, nor anybody's
// revocations; not even their own. More than sixteen that come at once are known after some seconds.
func TestHangingTenants(t *testing.T) {
	for _, tt := range []struct {
		tenants, each int
		after         time.Duration
	}{{1, 80, 0}, {2, 40, 0}, {16, 1, 0}, {16, 5, 0}, {40, 20, 4 * time.Second}} {
		t.Run(fmt.Sprint(tt.tenants, " of ", tt.each), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(20, nil)
				ctx := t.Context()
				answered := func() { l.Answered("", Answer{Sent: time.Now(), Took: 5 * time.Millisecond, Own: true}) }
				for range min(tt.tenants, recentFew) { // their logins
					answered()
				}
				most := 0
				for i := range tt.tenants {
					for range tt.each {
						go func() {
							for ctx.Err() == nil { // and tries again
								release, err := l.Foreground(ctx, Tenant{Job: fmt.Sprint("dead ", i)}, ForStart)
								if err != nil {
									return
								}
								pause(ctx, 30*time.Second)
								release()
								pause(ctx, time.Second)
							}
						}()
					}
				}
				synctest.Wait()
				step := func(who Tenant, k Kind) time.Duration {
					start := time.Now()
					release, err := l.Foreground(ctx, who, k)
					require.NoError(t, err)
					took := time.Since(start)
					time.Sleep(5 * time.Millisecond)
					answered()
					release()
					l.mu.Lock()
					most = max(most, l.slots.old+l.slots.young)
					l.mu.Unlock()
					return took
				}
				time.Sleep(tt.after)
				for i := range 200 {
					new := Tenant{Job: fmt.Sprint("new ", i)}
					require.LessOrEqual(t, step(new, ForStart)+step(new, ForStart), 2*time.Second, "a start, after %d s", i)
					require.LessOrEqual(t, step(one, ForRevocation), time.Second, "a neighbour's revocation, after %d s", i)
					require.LessOrEqual(t, step(Tenant{Job: "dead 0"}, ForRevocation), time.Second, "its own, after %d s", i)
					time.Sleep(time.Second)
				}
				require.LessOrEqual(t, most, overflow+ForegroundAtOnce)
			})
		})
	}
}

// While nothing is known of a server, those that hang hold up another's start for a second as well, up to four of them; and any
// number no longer than a second after the server's first answer.
func TestHangingTenantsAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(20, nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		hang := func(name string) {
			for i := range slowestAtOnce {
				_, err := l.Foreground(ctx, Tenant{Job: fmt.Sprint(name, i)}, ForStart)
				require.NoError(t, err)
			}
		}
		start := func() time.Duration {
			began := time.Now()
			release, err := l.Foreground(ctx, one, ForStart)
			require.NoError(t, err)
			release()
			return time.Since(began)
		}
		hang("dead")
		require.LessOrEqual(t, start(), time.Second)
		hang("dead, too")
		time.AfterFunc(10*time.Second, func() { l.Answered("", Answer{Sent: time.Now(), Took: 5 * time.Millisecond}) })
		require.LessOrEqual(t, start(), 11*time.Second)
	})
}
