package limit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// What a server's answers make of the rate. Each word is an answer; a number before it repeats it. All come 100 ms apart.
func TestPace(t *testing.T) {
	const full = 20
	answers := map[string]Answer{
		"quick":   {Took: 5 * time.Millisecond, Own: true},
		"slow":    {Took: time.Second, Own: true},
		"sunk":    {Took: 3 * time.Second, Own: true},
		"engine":  {Took: 3 * time.Second}, // it waited for a database
		"limited": {Result: Limited},
		"after9":  {Result: Limited, RetryAfter: 9 * time.Second},
		"dayoff":  {Result: Limited, RetryAfter: 24 * time.Hour},
		"none":    {Result: Unavailable},
		"overdue": {Result: Unavailable, Sent: epoch.Add(-time.Hour)}, // a time-out
		"waited":  {Result: Overdue, Took: 10 * time.Second, Own: true},
		"waitedE": {Result: Overdue, Took: 10 * time.Second}, // for a database
	}
	type heard struct {
		n    int
		what string
	}
	for _, tt := range []struct {
		name string
		says []heard
		rate float64
		away bool
		held time.Duration // by what the server asks for
	}{
		{"all is well", []heard{{100, "quick"}}, full, false, 0},
		{"a moment without answers is no outage", []heard{{5, "quick"}, {8, "none"}}, full, false, 0},
		{"an outage", []heard{{5, "quick"}, {30, "none"}}, 2, true, 0},
		{"from the beginning", []heard{{3, "none"}}, 2, true, 0},
		{"one that answers now and then is not away", []heard{{8, "none"}, {1, "quick"}, {8, "none"}, {1, "quick"}}, 2 + 2./3, false, 0},
		{"what hangs, beside what is answered", []heard{{50, "quick"}, {30, "overdue"}}, full, false, 0},
		{"what only hangs", []heard{{30, "none"}}, 2, true, 0},
		{"what is waited for in vain", []heard{{8, "quick"}, {8, "waited"}}, 2, false, 0},
		{"beside what is answered", []heard{{8, "quick"}, {7, "waited"}, {1, "quick"}, {7, "waited"}}, full, false, 0},
		{"an engine, in vain", []heard{{8, "quick"}, {80, "waitedE"}}, full, false, 0},
		{"what is waited for in vain does not bring all back", []heard{{30, "none"}, {1, "quick"}, {300, "waitedE"}}, 2 + 2./3*.1, false, 0},
		{"it comes back", []heard{{30, "none"}, {1, "quick"}}, 2 + 2./3*.1, false, 0},
		{"and is asked more and more", []heard{{30, "none"}, {150, "quick"}}, 12, false, 0},
		{"until all is well", []heard{{30, "none"}, {300, "quick"}}, full, false, 0},
		{"too few answers tell nothing", []heard{{3, "slow"}}, full, false, 0},
		{"an overload", []heard{{4, "slow"}}, full / 2, false, 0},
		{"is the same one for a while", []heard{{13, "slow"}}, full / 2, false, 0},
		{"one that stays", []heard{{300, "slow"}}, 2, false, 0},
		{"much of one", []heard{{4, "sunk"}}, 2, false, 0},
		{"a slow engine", []heard{{4, "quick"}, {1000, "engine"}}, full, false, 0},
		{"a slow engine of a quick server", []heard{{7, "engine"}, {1, "quick"}, {7, "engine"}, {1, "quick"}}, full, false, 0},
		{"the server, by what is its own", []heard{{7, "engine"}, {1, "slow"}}, full / 2, false, 0},
		{"one mount of several", []heard{{4, "quick"}, {7, "slow"}, {1, "quick"}, {7, "slow"}, {1, "quick"}}, full, false, 0},
		{"a limit", []heard{{1, "limited"}}, full / 2, false, 0},
		{"a limit, once a second", []heard{{1, "limited"}, {9, "limited"}}, full / 2, false, 0},
		{"a limit that says when", []heard{{1, "after9"}}, full / 2, false, 9 * time.Second},
		{"and asks for much", []heard{{1, "dayoff"}}, full / 2, false, maxRetryAfter},
		{"a limit is an answer", []heard{{30, "none"}, {1, "limited"}}, 2, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, now := newPace(full), epoch
			for _, h := range tt.says {
				for range h.n {
					now = now.Add(100 * time.Millisecond)
					a := answers[h.what]
					if a.Sent.IsZero() {
						a.Sent = now
					}
					p.heard(now, a, 0)
				}
			}
			require.InDelta(t, tt.rate, p.rate, 0.01)
			require.Equal(t, tt.away, p.away)
			require.Equal(t, tt.held, max(p.until.Sub(now), 0))
		})
	}
}

// Whatever a server says: the rate stays within its bounds; no request waits for ever, and one whose credential ends soon
// never for long, least of all where the server answers well; and some time of good answers brings all back.
func TestPaceBounds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		full := rapid.SampledFrom([]float64{0.5, 1, 4, 20, 500}).Draw(rt, "rate")
		p, now := newPace(full), epoch
		random := func() float64 { return rapid.Float64Range(0, 0.999).Draw(rt, "random") }
		for range rapid.IntRange(1, 200).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(rt, "ms")) * time.Millisecond)
			p.heard(now, Answer{
				Result:     rapid.SampledFrom([]Result{Answered, Answered, Limited, Unavailable}).Draw(rt, "result"),
				Sent:       now.Add(-time.Duration(rapid.IntRange(0, 30).Draw(rt, "sent")) * time.Second),
				Took:       time.Duration(rapid.IntRange(0, 40_000).Draw(rt, "took")) * time.Millisecond,
				Own:        rapid.Bool().Draw(rt, "own"),
				RetryAfter: time.Duration(rapid.IntRange(0, 100).Draw(rt, "after")) * time.Second,
			}, random())
			if p.rate < p.least() || p.rate > full || p.current() < p.least()*float64(longAt)/float64(longest) {
				rt.Fatalf("a rate of %v, %v now", p.rate, p.current())
			}
			if p.wait(now, now.Add(time.Second), false) == 0 {
				p.sent(now, random())
			}
			gap := func(rate float64) time.Duration { return time.Duration(1.5 * float64(time.Second) / p.slowed(rate)) }
			if w := p.wait(now, time.Time{}, false); w > max(gap(p.least()), maxRetryAfter*5/4) {
				rt.Fatalf("a request waits for %v", w)
			}
			if w := p.wait(now, now.Add(urgentWithin), false); w > gap(full/urgentShare) {
				rt.Fatalf("an urgent request waits for %v", w)
			}
			if w := p.wait(now, now.Add(2*urgentWithin), false); w > urgentWithin+gap(full/urgentShare) {
				rt.Fatalf("one that is urgent in a while waits for %v", w)
			}
		}
		for range 900 { // what the server has asked for is over, and then it answers well
			now = now.Add(100 * time.Millisecond)
			p.heard(now, Answer{Sent: now, Took: time.Millisecond, Own: true}, random())
		}
		if p.reduced(now) || p.wait(now, time.Time{}, false) != 0 {
			rt.Fatalf("a rate of %v after a minute and a half of good answers", p.rate)
		}
	})
}

// While a server comes back, what ends soon goes at the whole rate; with an overload, at a quarter of it at the least.
func TestPaceUrgent(t *testing.T) {
	for _, tt := range []struct {
		name string
		took time.Duration // of the server's answers
		want int           // urgent requests in ten seconds, at the least
	}{{"quick", 5 * time.Millisecond, 195}, {"overloaded", time.Second, 45}} {
		t.Run(tt.name, func(t *testing.T) {
			p, now := newPace(20), epoch
			for range 100 {
				now = now.Add(time.Second)
				p.heard(now, Answer{Result: Unavailable, Sent: now}, 0.5)
			}
			for range 8 { // and eight that were under way
				p.heard(now, Answer{Sent: now, Took: tt.took, Own: true}, 0.5)
			}
			urgent, other := 0, 0
			for end := now.Add(10 * time.Second); now.Before(end); now = now.Add(time.Millisecond) {
				p.heard(now, Answer{Sent: now, Took: tt.took, Own: true}, 0.5)
				switch {
				case p.wait(now, now.Add(20*time.Second), false) == 0:
					urgent++
					p.sent(now, 0.5)
				case p.wait(now, time.Time{}, false) == 0:
					other++
				}
			}
			require.GreaterOrEqual(t, urgent, tt.want)
			require.LessOrEqual(t, urgent, 201+40, "with the turns that what is not urgent leaves")
			require.Zero(t, other, "all that goes counts")
		})
	}
}

// However long a server takes for each answer, a few requests are under way. When it takes less, the next does not wait as
// long as it would have.
func TestPaceLatency(t *testing.T) {
	const full, underWay = 20, 2 // the least rate, for longAt
	quick := Answer{Took: 5 * time.Millisecond, Own: true}
	for _, tt := range []struct {
		name  string
		says  Answer
		rate  float64 // then
		after float64 // and when it has answered quickly
	}{
		{"overloaded", Answer{Took: time.Second, Own: true}, 2, 2},
		{"sunk", Answer{Took: 2 * time.Second, Own: true}, underWay / 2., 2},
		{"deeper", Answer{Took: 8 * time.Second, Own: true}, underWay / 8., 2},
		{"takes minutes", Answer{Took: time.Hour, Own: true}, underWay / 20., 2},
		{"answers nothing", Answer{Result: Overdue, Took: 10 * time.Second, Own: true}, full, full},
		{"time-outs", Answer{Result: Unavailable, Took: 10 * time.Second}, 2, 2},
		{"away", Answer{Result: Unavailable}, 2, 2},
		{"of an engine", Answer{Took: 8 * time.Second}, full, full},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, now := newPace(full), epoch
			for range 40 {
				now = now.Add(time.Second)
				tt.says.Sent = now.Add(-tt.says.Took)
				p.heard(now, tt.says, 0)
			}
			require.InDelta(t, tt.rate, p.current(), 0.01)

			p.sent(now, 0.999) // the longest gap
			require.LessOrEqual(t, p.wait(now, time.Time{}, false).Seconds(), 1.5/tt.rate)
			quick.Sent = now
			p.heard(now, quick, 0)
			require.GreaterOrEqual(t, p.current(), tt.after)
			require.LessOrEqual(t, p.wait(now, time.Time{}, false).Seconds(), 1.5/tt.after)
			require.LessOrEqual(t, p.wait(now, now.Add(urgentWithin), false).Seconds(), 1./(full/urgentShare))
		})
	}
}

// A server that was slow and then answers nothing for a while is asked as before, and is back once it answers.
func TestPaceSilent(t *testing.T) {
	p, now := newPace(20), epoch
	for range recentFew {
		p.heard(now, Answer{Sent: now, Took: time.Second, Own: true}, 0)
	}
	rate := p.current()
	now = now.Add(3 * time.Second)
	for range recentAnswers {
		p.heard(now, Answer{Result: Overdue, Sent: epoch, Took: 10 * time.Second, Own: true}, 0)
	}
	require.InDelta(t, rate, p.current(), 0.01)
	require.False(t, p.back)
	p.heard(now, Answer{Sent: now, Took: time.Millisecond, Own: true}, 0)
	require.True(t, p.back)
}

// One that is asked little answers little, and is overloaded all the same.
func TestPaceFewSlowAnswers(t *testing.T) {
	p, now := newPace(20), epoch
	for i := range 40 {
		now = now.Add(time.Second)
		if i > recentFew {
			now = now.Add(recentAge / 2)
		}
		p.heard(now, Answer{Sent: now, Took: 5 * time.Second, Own: true}, 0)
	}
	require.True(t, p.overloaded)
	require.InDelta(t, p.least(), p.rate, 0.01)
}

// Requests that wait tell of an overload before the first slow answer comes: those for the server's own work, all sent after the
// last that was answered quickly.
func TestPaceUnderWay(t *testing.T) {
	for _, tt := range []struct {
		name string
		sent int
		wait time.Duration
		then time.Duration // a quick answer to what was sent at that moment; zero: none
		want bool
	}{
		{"few", recentFew - 1, time.Minute, 0, false},
		{"for a moment", recentFew, longAt / 2, 0, false},
		{"long", recentFew, longAt, 0, true},
		{"many", 50, longAt, 0, true},
		{"beside what is answered", 50, time.Minute, time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, now := newPace(20), epoch
			for range recentAnswers {
				p.heard(now, Answer{Sent: now, Took: time.Millisecond, Own: true}, 0)
			}
			var all []*time.Time
			for i := range tt.sent {
				all = append(all, p.underWay.add(now.Add(time.Duration(i+1))))
			}
			if tt.then > 0 {
				p.heard(now.Add(tt.then), Answer{Sent: now.Add(tt.then), Took: time.Millisecond, Own: true}, 0)
			}
			now = now.Add(tt.wait + time.Millisecond)
			p.sent(now, 0)
			require.Equal(t, tt.want, p.overloaded)
			require.Equal(t, tt.want, p.rate < 20)
			for _, f := range all {
				p.underWay.remove(f)
			}
			require.Empty(t, p.underWay)
		})
	}
}

// When a server is back, what is being read is looked at as often as before it was away; all else is asked for more and more. Of
// one that has too much to do, or wants fewer requests, nobody reads faster.
func TestPaceLive(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before Answer // the outage, or none
		says   Answer
		want   int // looks in two seconds
	}{
		{"back", Answer{Result: Unavailable}, Answer{Took: 5 * time.Millisecond, Own: true}, 40},
		{"back with too much to do", Answer{Result: Unavailable}, Answer{Took: time.Second, Own: true}, 4},
		{"back with a limit", Answer{Result: Unavailable}, Answer{Result: Limited}, 4},
		{"too much to do", Answer{Own: true}, Answer{Took: 3 * time.Second, Own: true}, 1},
		{"away", Answer{Result: Unavailable}, Answer{Result: Unavailable}, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, now := newPace(20), epoch
			hears := func(a Answer) { a.Sent = now; p.heard(now, a, 0.5) }
			for range 30 {
				now = now.Add(100 * time.Millisecond)
				hears(tt.before)
			}
			for range recentAnswers {
				hears(tt.says)
			}
			looks, other := 0, 0
			for end := now.Add(2 * time.Second); now.Before(end); now = now.Add(time.Millisecond) {
				if p.wait(now, time.Time{}, false) == 0 {
					other++
				}
				if p.wait(now, time.Time{}, true) == 0 {
					looks++
					p.sent(now, 0.5)
				}
			}
			require.InDelta(t, tt.want, looks, 1)
			require.LessOrEqual(t, other, 5, "of other requests")
		})
	}
}

// What takes long is put down to the server as a whole only where nothing shows that it answers.
func TestPaceAils(t *testing.T) {
	answer := func(took time.Duration, own bool) Answer { return Answer{Sent: epoch, Took: took, Own: own} }
	for _, tt := range []struct {
		name  string
		heard Answer
		after time.Duration
		want  bool
	}{
		{"a quick answer", answer(time.Millisecond, true), time.Second, false},
		{"and nothing since", answer(time.Millisecond, true), recentAge + time.Second, true},
		{"its own work takes long", answer(3*time.Second, true), time.Second, true},
		{"what waits for a database takes long", answer(3*time.Second, false), time.Second, false},
		{"it limits", Answer{Result: Limited, Sent: epoch}, time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPace(20)
			p.heard(epoch, tt.heard, 0)
			require.Equal(t, tt.want, p.ails(epoch.Add(tt.after)))
		})
	}
}
