package poll

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/bubble"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// C5: one poll a path and interval, whatever number of tasks share it; T tasks with S secrets make S.
func TestPollOncePerPath(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tasks := rapid.IntRange(1, 20).Draw(rt, "tasks")
		paths := rapid.IntRange(1, 40).Draw(rt, "secrets")
		intervals := rapid.IntRange(1, 5).Draw(rt, "intervals")
		bubble.Check(t, rt, func(t *testing.T, errorf func(string, ...any)) {
			p := newPolling(t, 1000)
			for i := range paths {
				path := fmt.Sprint("secret/", i)
				p.server.content[path] = "v1"
			}
			for i := range paths {
				for j := range tasks {
					p.watch(fmt.Sprint("secret/", i), fmt.Sprint("T", j), "v1")
				}
			}
			time.Sleep(time.Duration(intervals) * testInterval)
			perPath := map[string][]kvRead{}
			for _, r := range p.server.taken() {
				perPath[r.path] = append(perPath[r.path], r)
			}
			if len(perPath) != paths {
				errorf("%d of %d paths were polled", len(perPath), paths)
			}
			for path, reads := range perPath {
				if n := len(reads); n < intervals-1 || n > intervals+1 {
					errorf("%s: %d polls in %d intervals", path, n, intervals)
				}
				for i := 1; i < len(reads); i++ {
					if d := reads[i].at.Sub(reads[i-1].at); d < testInterval || d > testInterval+time.Second {
						errorf("%s: polls %v apart", path, d)
					}
				}
			}
		})
	})
}

// C5: a change is seen within the interval, by every task that has not seen it; C7: nobody is notified
// of the same content.
func TestPollTellsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolling(t, 1000)
		p.server.content["a"] = "v1"
		one, two := p.watch("a", "T", "v1"), p.watch("a", "S", "v1")
		unknown := p.watch("a", "U", "")
		time.Sleep(3 * testInterval)
		require.Zero(t, one.count()+two.count())
		require.Equal(t, 1, unknown.count(), "once, until it says what it has")
		unknown.MarkSeen("v1")

		p.server.set(func() { p.server.content["a"] = "v2" })
		changed := time.Now()
		time.Sleep(testInterval)
		for _, w := range []*watcher{one, two, unknown} {
			require.Equal(t, 1, w.count())
			require.LessOrEqual(t, w.lastAt.Sub(changed), testInterval)
		}
		one.MarkSeen("v2")
		time.Sleep(3 * testInterval)
		require.Zero(t, one.count())
		require.Zero(t, two.count(), "not again for the same")

		two.MarkSeen("v1") // it has read, but from a standby that lags
		time.Sleep(testInterval)
		require.Equal(t, 1, two.count())

		p.server.set(func() { p.server.content["a"] = "v1" }) // back again
		time.Sleep(testInterval)
		require.Equal(t, 1, one.count())
		require.Zero(t, two.count())
	})
}

// C5: with a rotation_schedule the server tells of the next period some seconds before the password changes. However
// far apart the polls are, the change is seen within seconds.
func TestPollScheduleTellsTooSoon(t *testing.T) {
	for lag := time.Duration(0); lag <= 10*time.Second; lag += time.Second {
		synctest.Test(t, func(t *testing.T) {
			const period = time.Minute
			p := newPolling(t, 1000)
			p.cfg.Interval = 5 * time.Minute
			began := time.Now()
			content := func(now time.Time) string { return fmt.Sprint(int(now.Add(-lag).Sub(began) / period)) }
			p.server.content["a"] = content(began)
			p.server.changes = func(now time.Time) time.Time { // is called for each answer, under the lock
				p.server.content["a"] = content(now)
				return began.Add((now.Sub(began)/period + 1) * period)
			}
			time.Sleep(20 * time.Second)
			w := &watcher{}
			w.Subscription = p.Subscribe(Key{Path: "a"}, Subscriber{
				Token: func() (secrets.Token, bool) { return secrets.Token{Value: secrets.TextValue("T")}, true },
				Seen:  "0", Changes: p.server.changes(time.Now()), Notify: w.notify,
			})
			for n := 1; n < 10; n++ {
				time.Sleep(time.Until(began.Add(time.Duration(n)*period + lag + 2*time.Second)))
				require.Equal(t, 1, w.count(), "change %d, %v after the ttl", n, lag)
				w.MarkSeen(fmt.Sprint(n))
			}
			require.Less(t, len(p.server.taken()), 10*30, "polls")
		})
	}
}

// A path that vanishes is notified of once, and again when something else comes of it.
func TestPollNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolling(t, 1000)
		p.server.content["a"] = "v1"
		has, hasNot := p.watch("a", "T", "v1"), p.watch("a", "S", Absent)
		p.server.set(func() { delete(p.server.content, "a") })
		time.Sleep(5 * testInterval)
		require.Equal(t, 1, has.count())
		require.Zero(t, hasNot.count())
		require.Len(t, p.server.taken(), 5, "it goes on at the interval")

		p.server.set(func() { p.server.content["a"] = "v1" })
		time.Sleep(2 * testInterval)
		require.Zero(t, has.count(), "it is as it was")
		require.Equal(t, 1, hasNot.count())

		p.server.set(func() { delete(p.server.content, "a") })
		time.Sleep(2 * testInterval)
		require.Equal(t, 1, has.count())
	})
}

// A token that is no good any more is no reason to see changes late: another task's is tried within
// the same poll, each once, and the good one is asked first from then on.
func TestPollAnotherToken(t *testing.T) {
	for _, err := range []error{errDenied, secrets.Errorf(secrets.Gone, "no such token")} {
		synctest.Test(t, func(t *testing.T) {
			p := newPolling(t, 1000)
			p.server.content["a"] = "v2"
			p.server.refuse["T"], p.server.refuse["S"] = err, err
			all := []*watcher{p.watch("a", "T", "v1"), p.watch("a", "", "v1"), p.watch("a", "S", "v1"), p.watch("a", "U", "v1")}
			time.Sleep(testInterval)
			var asked []string
			for _, r := range p.server.taken() {
				asked = append(asked, r.token)
			}
			require.Equal(t, []string{"T", "S", "U"}, asked)
			for _, w := range all {
				require.Equal(t, 1, w.count())
			}
			time.Sleep(testInterval)
			for _, r := range p.server.taken() {
				require.Equal(t, "U", r.token)
			}

			// With none that is good each is notified of that, once, and asked once a poll.
			p.server.set(func() { p.server.refuse["U"] = err; p.server.content["a"] = "v3" })
			time.Sleep(testInterval)
			require.Len(t, p.server.taken(), 3)
			for _, w := range all {
				require.Equal(t, 1, w.count())
			}
			time.Sleep(5 * testInterval)
			require.NotEmpty(t, p.server.taken())
			require.Zero(t, all[3].count())
			all[0].Cancel()
			all[2].Cancel()
			all[3].Cancel()
			time.Sleep(5 * testInterval)
			require.Empty(t, p.server.taken(), "no token, no request")
			require.Zero(t, all[1].count())
			newcomer := p.watch("a", "V", "v1")
			time.Sleep(testInterval)
			require.Equal(t, 1, newcomer.count(), "its token is good: at once")
		})
	}
}

// C3: an outage tells nobody anything; polls become fewer, and are back within an interval of the
// first that succeeds.
func TestPollOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolling(t, 1000)
		var all []*watcher
		for i := range 20 {
			path := fmt.Sprint("secret/", i)
			p.server.content[path] = "v1"
			all = append(all, p.watch(path, "T", "v1"))
		}
		p.server.set(func() { p.server.fail = errAway })
		time.Sleep(20 * testInterval)
		require.Less(t, len(p.server.taken()), 20*9)

		p.server.set(func() {
			p.server.fail = nil
			for path := range p.server.content {
				p.server.content[path] = "v2"
			}
		})
		for len(p.server.taken()) == 0 {
			time.Sleep(time.Second)
		}
		time.Sleep(testInterval)
		for _, w := range all {
			require.Equal(t, 1, w.count())
		}
		p.server.taken()
		time.Sleep(4 * testInterval)
		require.InDelta(t, 4*20, len(p.server.taken()), 20)
		synctest.Wait()
		require.Zero(t, p.failing)
	})
}

// A server that hangs is away; close does not wait for it.
func TestPollHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolling(t, 1000)
		p.server.requests.Latency(24 * time.Hour)
		w := p.watch("a", "T", "v1")
		time.Sleep(10 * testInterval)
		require.Zero(t, w.count())
		synctest.Wait()
		require.Equal(t, 1, p.server.requests.Most(), "one in flight a path")
		for i := range 100 {
			p.watch(fmt.Sprint(i), "T", "v1")
		}
		time.Sleep(testInterval)
		synctest.Wait()
		require.GreaterOrEqual(t, p.server.requests.Most(), 100, "none holds up the others")
		start := time.Now()
		p.Close()
		require.Zero(t, time.Since(start))
	})
}

// C5: beyond the request rate intervals stretch, all alike.
func TestPollBeyondRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const paths, rate = 400, 20 // twice what the rate allows in an interval
		p := newPolling(t, rate)
		for i := range paths {
			path := fmt.Sprint("secret/", i)
			p.server.content[path] = "v1"
			p.watch(path, "T", "v1")
		}
		time.Sleep(4 * testInterval)
		p.server.taken()
		start := time.Now()
		time.Sleep(10 * testInterval)
		reads := p.server.taken()
		require.InDelta(t, 10*testInterval.Seconds()*rate, len(reads), 20, "the rate is used, and kept")
		last := map[string]time.Time{}
		for _, r := range reads {
			before, ok := last[r.path]
			if !ok {
				before = start
			} else {
				require.Greater(t, r.at.Sub(before), testInterval)
			}
			require.Less(t, r.at.Sub(before), 2*testInterval+testInterval/2, "none is left behind")
			last[r.path] = r.at
		}
		require.Len(t, last, paths)

		// Nor do polls push aside what is due now, however long they have been short of turns.
		time.Sleep(100 * testInterval)
		start = time.Now()
		require.NoError(t, p.cfg.Limit.Background(t.Context(), limit.Tenant{}, limit.Rotate, start))
		require.LessOrEqual(t, time.Since(start), 2*testInterval)
	})
}

// What is not static is never read again: a read might make a credential.
func TestPollNotStatic(t *testing.T) {
	for _, kind := range []secrets.Kind{secrets.Leased, secrets.Issued, secrets.Opaque} {
		synctest.Test(t, func(t *testing.T) {
			p := newPolling(t, 1000)
			p.server.content["a"] = "v1"
			p.server.kind = kind
			w := p.watch("a", "T", "v1")
			time.Sleep(10 * testInterval)
			require.Len(t, p.server.taken(), 1)
			require.Equal(t, 1, w.count())
			w.Cancel()
		})
	}
}

// What was no static secret, and is one again, as the subscriber has found by a read of its own, is polled again.
func TestPollStaticAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolling(t, 1000)
		p.server.content["a"] = "v1"
		first, second := p.watch("a", "T", "v1"), p.watch("a", "T", "v1")
		p.server.set(func() { p.server.kind = secrets.Leased })
		time.Sleep(2 * testInterval)
		require.Equal(t, 1, first.count())
		require.Equal(t, 1, second.count())
		p.server.set(func() { p.server.kind = secrets.Static })
		for _, w := range []*watcher{first, second} {
			w.MarkSeen("v1")
			w.Resume()
		}
		p.server.taken()
		time.Sleep(2 * testInterval)
		require.Contains(t, []int{1, 2}, len(p.server.taken()), "one poll an interval for both")
		p.server.set(func() { p.server.content["a"] = "v2" })
		time.Sleep(2 * testInterval)
		require.Equal(t, 1, first.count())
		require.Equal(t, 1, second.count())
		first.Cancel()
		second.Cancel()
		p.server.taken()
		time.Sleep(2 * testInterval)
		require.Empty(t, p.server.taken())
	})
}

// A pinned version never changes.
func TestPollPinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolling(t, 1000)
		s := p.Subscribe(Key{Path: "a", Version: 3}, Subscriber{Seen: "v1"})
		time.Sleep(10 * testInterval)
		require.Empty(t, p.server.taken())
		s.MarkSeen("v2")
		s.Cancel()
	})
}

// Whoever subscribes and cancels when: no poll is left of those that are gone, and none is missing.
func TestPollSubscriptions(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 7), 1, 60).Draw(rt, "steps")
		bubble.Check(t, rt, func(t *testing.T, errorf func(string, ...any)) {
			p := newPolling(t, 1000)
			p.server.requests.Latency(30 * time.Millisecond)
			subs := map[int][]*watcher{}
			for _, step := range steps {
				path := step % 3
				switch {
				case step < 3:
					subs[path] = append(subs[path], p.watch(fmt.Sprint(path), "T", "v1"))
				case step < 6 && len(subs[path]) > 0:
					subs[path][0].Cancel()
					subs[path][0].Cancel()
					subs[path] = subs[path][1:]
				case step == 6:
					p.server.set(func() {
						if p.server.fail == nil {
							p.server.fail = errAway
						} else {
							p.server.fail = nil
						}
					})
				}
				time.Sleep(3 * time.Second)
			}
			p.server.set(func() { p.server.fail = nil })
			time.Sleep(maxStretch * testInterval)
			p.server.taken()
			time.Sleep(2 * testInterval)
			var polled []string
			for _, r := range p.server.taken() {
				polled = append(polled, r.path)
			}
			for path := range 3 {
				if slices.Contains(polled, fmt.Sprint(path)) != (len(subs[path]) > 0) {
					errorf("path %d has %d subscribers; polled: %v", path, len(subs[path]), polled)
				}
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.failing != 0 {
				errorf("failing %d", p.failing)
			}
		})
	})
}
