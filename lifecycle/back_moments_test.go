package lifecycle

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// C1: a server that fails for 12 s, and then answers for 0.3 s or a little more, over and over, loses no credential of 40 s: what is nearest to its
// end is tried again so often that one attempt falls into each such moment. (In less than 0.6 s, the request rate does not let all ten tasks renew.)
func TestServerThatAnswersForMoments(t *testing.T) {
	const forEver = 1000 * time.Hour
	renewable, fixed := fakeRole{ttl: 40 * time.Second, max: forEver}, fakeRole{ttl: 40 * time.Second, max: 40 * time.Second, fixed: true}
	for _, tt := range []struct {
		name        string
		tasks       int
		lease       fakeRole
		login       fakeRole
		nothingElse bool          // the tasks have no static secret, whose polls would find out that the server answers
		least, most time.Duration // for which it answers
	}{
		{"one task", 1, renewable, fakeRole{ttl: time.Hour, max: forEver}, false, 3 * time.Second / 10, time.Second / 2},
		{"one task with nothing but a lease", 1, renewable, fakeRole{ttl: time.Hour, max: forEver}, true, 3 * time.Second / 10, time.Second / 2},
		{"a token of 40 s", 1, renewable, fakeRole{ttl: 40 * time.Second, max: forEver}, true, 3 * time.Second / 10, time.Second / 2},
		{"a lease that cannot be renewed", 1, fixed, fakeRole{ttl: time.Hour, max: forEver}, true, 3 * time.Second / 10, time.Second / 2},
		{"a batch token of 45 s", 1, renewable, fakeRole{ttl: 45 * time.Second, max: 45 * time.Second, batch: true}, false, 3 * time.Second / 10, time.Second / 2},
		{"a batch token of 45 s, and nothing but a lease", 1, renewable, fakeRole{ttl: 45 * time.Second, max: 45 * time.Second, batch: true}, true, 3 * time.Second / 10, time.Second / 2},
		{"a token that ends for good after 45 s", 1, renewable, fakeRole{ttl: 45 * time.Second, max: 45 * time.Second}, true, 6 * time.Second / 10, 3 * time.Second / 2},
		{"ten tasks", 10, renewable, fakeRole{ttl: 2 * time.Minute, max: forEver}, false, 6 * time.Second / 10, 3 * time.Second / 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(3) {
				inWorld(t, func(w *world) {
					w.keeper.Close()
					w.cfg.RequestRate = 20
					w.start()
					w.vault.roles["database/creds/app"], w.vault.login = tt.lease, tt.login
					withApp(w, "x")
					all := many{"db": db(""), "app": app("noop")}
					if tt.nothingElse {
						delete(all, "app")
					}
					var sessions []*Session
					var hosts []*fakeHost
					for i := range tt.tasks {
						start, host := w.startOf(all), &fakeHost{}
						start.Task.AllocID = string(rune('a' + i))
						s, err := w.keeper.Open(w.t.Context(), start, host)
						require.NoError(w.t, err)
						s.Watch()
						sessions, hosts = append(sessions, s), append(hosts, host)
					}
					r := rand.New(rand.NewPCG(seed, 0))
					for round := range 40 {
						w.vault.set(errAway)
						w.sleep(12 * time.Second)
						for i, h := range hosts {
							has := h.env
							if has == nil {
								has = sessions[i].Set()
							}
							user := has.Env["DB_USER"].Text()
							require.Contains(w.t, w.vault.live("database/creds/app"), "database/creds/app/"+user[len("user-"):],
								"seed %d: after outage %d task %d is refused; %s", seed, round, i, h.said())
						}
						w.vault.set(nil)
						w.sleep(tt.least + time.Duration(r.Int64N(int64(tt.most-tt.least))))
					}
					for _, s := range sessions {
						s.End()
					}
				})
			}
		})
	}
}

// While a server is away, it is asked often only for what ends soon, by all tasks together no more often than the rate allows, and by few as
// often as one attempt in each moment needs. One that limits requests is not away.
func TestProbesOfAServerThatIsAway(t *testing.T) {
	for _, tt := range []struct {
		name        string
		tasks       int
		ttl         time.Duration
		err         error
		until       time.Duration // the moment at which 10 s are looked at
		least, most int           // requests in these
	}{
		{"of a lease of an hour", 1, time.Hour, errAway, 50 * time.Minute, 0, 3},
		{"of a lease that ends soon", 1, 40 * time.Second, errAway, 28 * time.Second, 45, 55},
		{"of three", 3, 40 * time.Second, errAway, 28 * time.Second, 45, 70},
		{"of many", 60, 40 * time.Second, errAway, 28 * time.Second, 50, 101}, // a quarter of the rate at the least, half at the most
		{"of one that limits requests", 1, 40 * time.Second, errLimited, 28 * time.Second, 5, 25},
		{"of one that ended minutes ago", 1, 40 * time.Second, errAway, 5 * time.Minute, 0, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.keeper.Close()
				w.cfg.RequestRate, w.cfg.LeaseCheckInterval = 20, 24*time.Hour
				w.start()
				w.vault.roles["database/creds/app"] = fakeRole{ttl: tt.ttl, max: 1000 * time.Hour}
				w.vault.login = fakeRole{ttl: 100 * time.Hour, max: 1000 * time.Hour}
				for i := range tt.tasks {
					start := w.startOf(many{"db": db("")})
					start.Task.AllocID = fmt.Sprint("task-", i)
					s, err := w.keeper.Open(w.t.Context(), start, &fakeHost{})
					require.NoError(w.t, err)
					s.Watch()
				}
				w.vault.set(tt.err)
				w.sleep(tt.until)
				asked := func() (n int) {
					w.vault.with(func() { n = w.vault.asked })
					return n
				}
				before := asked()
				w.sleep(10 * time.Second)
				n := asked() - before
				require.GreaterOrEqual(w.t, n, tt.least)
				require.LessOrEqual(w.t, n, tt.most)
			})
		})
	}
}

// Attempts that are brought forward are evenly apart, for whichever task; one that comes sooner anyway stays where it is.
func TestAttemptsBroughtForward(t *testing.T) {
	var a answering
	now := time.Now()
	far := now.Add(time.Hour)
	for i := 1; i <= 3; i++ {
		require.Equal(t, now.Add(time.Duration(i)*time.Second), a.probe(now, "vault", far, time.Second))
	}
	require.Equal(t, now.Add(3500*time.Millisecond), a.probe(now, "vault", now.Add(3500*time.Millisecond), time.Second))
	require.Equal(t, now.Add(4*time.Second), a.probe(now, "vault", far, time.Second), "that took no turn")
	require.Equal(t, now.Add(time.Second), a.probe(now, "nomad", far, time.Second), "another server")
	now = now.Add(time.Minute)
	require.Equal(t, now.Add(time.Second), a.probe(now, "vault", far, time.Second))

	for rate, want := range map[float64]time.Duration{0: 200 * time.Millisecond, 100: 200 * time.Millisecond, 20: 200 * time.Millisecond, 2: 2 * time.Second} {
		k := &Keeper{cfg: Config{RequestRate: rate}}
		require.Equal(t, want, k.probeEvery())
	}
}
