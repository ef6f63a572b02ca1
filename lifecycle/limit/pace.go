package limit

import "time"

const (
	// slowestShare is the least of the request rate that is left while a server is away or overloaded, and urgentShare what
	// is left for requests that are urgent: one of so many. No rate is below slowest, in requests a second, unless the request rate is.
	slowestShare = 10
	slowest      = 2
	urgentShare  = 4
	// urgentWithin: a credential that ends within this time is renewed whatever others wait for.
	urgentWithin = time.Minute
	// recoverIn is how long the rate takes from nothing to the whole request rate while the server answers well.
	recoverIn = 30 * time.Second
	// decreaseEvery is how far apart two decreases are at the least: as long as the first takes to show.
	decreaseEvery = time.Second
	// awayAfter and awayMisses: a server is away when it has answered nothing for that long, and so many requests in vain.
	awayAfter  = time.Second
	awayMisses = 3
	// overloadedAt: a server whose fastest answer takes that long has too much to do; at sunkAt, so much that half is no help.
	overloadedAt = 300 * time.Millisecond
	sunkAt       = 2 * time.Second
	// From longAt on the rate falls as the answers take longer, so that no more requests are under way; it is as for longest at the
	// least.
	longAt  = time.Second
	longest = 20 * time.Second
	// silentAfter: a server that has answered nothing for that long may hang, and is asked as it was. To ask it ever less would only
	// have tasks learn later of it.
	silentAfter = 2 * time.Second
	// distanceFactor: a server that is far away has not too much to do before it takes so many times what it has ever taken. No
	// server is farther than farthest: else one that was overloaded from the first would count as far.
	distanceFactor = 2
	farthest       = 500 * time.Millisecond
	// maxRetryAfter bounds what a server may ask for: it may mean one of its paths alone.
	maxRetryAfter = 30 * time.Second
)

// Result is what became of a request, as far as the server as a whole is concerned.
type Result int

// The results.
const (
	Answered    Result = iota // with whatever it was
	Limited                   // the server answers, and wants fewer requests: 429
	Unavailable               // no connection, no answer, or sealed
	Overdue                   // no answer in all the time that its asker had, which Took says
)

// Answer is what a request tells of its server as a whole.
type Answer struct {
	Result Result
	Tenant Tenant // whose request it was; the zero one: not known
	Mount  string // what it was sent to
	Sent   time.Time
	// Took is how long an answer took, or was waited for in vain. Own says that it is the server's own work, and waited for nothing behind it, such as a
	// database.
	Took time.Duration
	Own  bool
	// RetryAfter is how long the server asks to wait; zero: it does not say.
	RetryAfter time.Duration
}

// pace is how fast the background requests of this process go to one server. A thousand processes that each use their whole
// request rate would hold down a server that comes back: so the rate follows what the server's answers tell. It falls to half
// when the server is overloaded, to the least when it is away or much overloaded, and grows while it answers well. What is urgent goes faster, as
// its credential would end. It decides and does nothing else; r is random, in [0, 1).
type pace struct {
	full float64 // requests a second at the most
	rate float64 // requests a second now

	away       bool
	back       bool // it was away, and has answered well since: that alone is why it is asked less
	overloaded bool
	latency    time.Duration // what its fastest answer takes; zero: less than longAt, or it answers nothing at all
	misses     int           // requests in a row without an answer
	answered   time.Time     // when the last answer came
	decreased  time.Time
	grown      time.Time // until when rate has grown
	until      time.Time // the server has asked not to be asked before
	limited    time.Time // when it last did
	recent     recent
	underWay   underWay
	quick      time.Time     // when the last request was sent that was answered quickly
	nearest    time.Duration // the quickest answer of the server's own work that there ever was: how far away it is

	next       time.Time // the earliest moment for the next request
	nextUrgent time.Time // and for one that is urgent
}

func newPace(full float64) *pace { return &pace{full: full, rate: full} }

// least is the lowest rate.
func (p *pace) least() float64 { return min(p.full, max(p.full/slowestShare, slowest)) }

// heard takes in what a request tells.
func (p *pace) heard(now time.Time, a Answer, r float64) {
	switch a.Result {
	case Unavailable:
		if a.Sent.Before(p.answered) {
			return // something else was answered meanwhile
		}
		p.misses++
		if p.misses >= awayMisses && now.Sub(p.answered) >= awayAfter {
			p.away, p.back, p.overloaded, p.rate = true, false, false, p.least()
			p.grown = now
			p.note(now, 0)
			p.recent = recent{}
		}
	case Limited:
		p.limit(now, a, r)
	case Overdue:
		p.recent.add(now, a.Took, a.Own)
		p.follow(now)
	case Answered:
		p.takes(now, a)
		p.recent.add(now, a.Took, a.Own)
		if a.Took < p.long() {
			p.quick = later(p.quick, a.Sent)
		}
		if a.Own && (p.nearest == 0 || a.Took < p.nearest) {
			p.nearest = a.Took
		}
		p.follow(now)
		if !p.overloaded {
			p.grow(now)
		}
	}
}

// follow slows down by what the last answers took. A server that is asked little answers little: one answer is enough for it
// to stay overloaded, and one that waited for something behind it is, too.
func (p *pace) follow(now time.Time) {
	if now.Sub(p.answered) > silentAfter {
		return
	}
	least, own, n := p.recent.fastest(now)
	if waited := p.waited(now); waited > least {
		least, own, n = waited, true, recentFew // what was answered is older than that
	}
	p.overloaded = least >= p.long() && (own && n >= recentFew || p.overloaded)
	if !own && !p.overloaded {
		least = 0
	}
	p.note(now, least)
	switch {
	case !p.overloaded:
	case least >= sunkAt:
		p.decreased, p.grown, p.rate, p.back = now, now, p.least(), false
	default:
		p.decrease(now)
	}
}

// waited is how long some requests have been waiting at the least, whose wait tells of an overload; zero: none does. A machine that is
// busy for a moment has requests wait, too: so it takes longAt, where answers tell at overloadedAt.
func (p *pace) waited(now time.Time) time.Duration {
	if waited := p.underWay.waited(now, p.quick); waited >= max(longAt, p.long()) {
		return waited
	}
	return 0
}

// note takes in how long an answer takes. Where that is less than when the last request went, the next waits no
// longer than if the last had gone just now.
func (p *pace) note(now time.Time, latency time.Duration) {
	p.latency = 0
	if latency >= longAt {
		p.latency = min(latency, longest)
	}
	p.next = earlier(p.next, now.Add(gapOf(p.current(), 1)))
	p.nextUrgent = earlier(p.nextUrgent, now.Add(p.urgentGap(1)))
}

// slowed is a rate, by the present latency: a request that is under way for longer is one of fewer.
func (p *pace) slowed(rate float64) float64 {
	return rate * float64(longAt) / float64(max(p.latency, longAt))
}

// sunk reports whether the server has far too much to do.
func (p *pace) sunk() bool { return p.latency >= sunkAt }

// current is how many requests a second go now.
func (p *pace) current() float64 { return p.slowed(p.rate) }

// long is what the fastest answer takes of a server that has too much to do.
func (p *pace) long() time.Duration {
	return max(overloadedAt, distanceFactor*min(p.nearest, farthest))
}

// ails reports whether what takes long may well take long because of the server as a whole: it has answered nothing of late,
// or nothing quickly, its own work among it.
func (p *pace) ails(now time.Time) bool {
	least, own, n := p.recent.fastest(now)
	silent := n == 0 && now.Sub(p.answered) > recentAge
	return p.overloaded || silent || own && least >= p.long()
}

// limit takes in that fewer requests are wanted.
func (p *pace) limit(now time.Time, a Answer, r float64) {
	p.answer(now)
	p.decrease(now)
	p.limited = now
	wait := min(a.RetryAfter, maxRetryAfter)
	if until := now.Add(wait + time.Duration(r*float64(wait/4))); until.After(p.until) {
		p.until = until
	}
}

// takes takes in that a request was answered.
func (p *pace) takes(now time.Time, a Answer) {
	p.answer(now)
	if a.Sent.After(p.limited) {
		p.until = time.Time{} // it takes other requests: the limit is that of one path
	}
}

// answer notes that the server has answered. It may do so for moments only: what is urgent does not wait as long as before.
func (p *pace) answer(now time.Time) {
	if soon := now.Add(gapOf(p.full, 0)); p.away && p.nextUrgent.After(soon) {
		p.nextUrgent = soon
	}
	silent := p.overloaded && now.Sub(p.answered) > silentAfter // it was waited for in vain
	p.back = p.back || p.away || silent
	p.misses, p.away, p.answered = 0, false, now
}

// decrease halves the rate, once for what is the same overload.
func (p *pace) decrease(now time.Time) {
	p.back = false
	least, _, _ := p.recent.fastest(now)
	if now.Sub(p.decreased) < max(decreaseEvery, least) {
		return
	}
	p.decreased, p.grown = now, now
	p.rate = max(p.rate/2, p.least())
}

// grow gives the rate what a while of good answers is worth: a second at the most, however long nothing was asked.
func (p *pace) grow(now time.Time) {
	since := min(now.Sub(p.grown), time.Second)
	p.grown = now
	p.rate = min(p.full, p.rate+p.full*float64(since)/float64(recoverIn))
}

// reduced reports whether requests go slower than the request rate.
func (p *pace) reduced(now time.Time) bool { return p.rate < p.full || now.Before(p.until) }

// wait is how long a request has to wait. Ends is when the credential ends that it keeps alive; zero: it keeps none. Live: it
// looks at what somebody reads just now. Of such requests there are as many as before the server was away, so they do not
// wait for the rate to grow.
func (p *pace) wait(now, ends time.Time, live bool) time.Duration {
	if !p.reduced(now) {
		return 0
	}
	at := later(p.next, p.until)
	if live && p.back && p.nextUrgent.Before(at) {
		at = later(p.nextUrgent, p.until)
	}
	if !ends.IsZero() {
		if urgent := later(p.nextUrgent, ends.Add(-urgentWithin)); urgent.Before(at) {
			at = urgent
		}
	}
	return max(at.Sub(now), 0)
}

// sent notes that a request goes. Between requests a random part of the gap is added or left out, so that the nodes of a
// fleet, which see a server come back at one moment, do not go in step.
func (p *pace) sent(now time.Time, r float64) {
	if p.waited(now) > 0 {
		p.follow(now)
	}
	if !p.reduced(now) {
		return
	}
	if !now.Before(p.next) { // else it went because it is urgent: what is not keeps its own rate, or it would never go
		p.next = now.Add(gapOf(p.current(), r))
	}
	p.nextUrgent = now.Add(p.urgentGap(r))
	if !p.away && !p.overloaded && !now.Before(p.until) {
		p.nextUrgent = now.Add(gapOf(p.full, 0.5))
	}
}

// urgentGap is between two requests that are urgent while the server is away, has too much to do, or wants fewer. It is never longer
// than the gap of their rate: the server may answer for a moment of that length.
func (p *pace) urgentGap(r float64) time.Duration {
	rate := max(p.rate, p.full/urgentShare)
	if p.overloaded {
		rate = p.slowed(rate)
	}
	return gapOf(rate, r/2)
}

// gapOf is between half and one and a half of the gap that a rate makes.
func gapOf(rate, r float64) time.Duration {
	return time.Duration((0.5 + r) * float64(time.Second) / rate)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

const (
	// recentAnswers: the fastest of so many answers counts. One that is quick shows that the server as a whole is, whatever
	// hangs behind one of its engines.
	recentAnswers = 8
	// recentFew: fewer answers do not tell that a server is overloaded; and those tell nothing that are older than recentAge.
	recentFew = 4
	recentAge = 10 * time.Second
)

// recent knows the last few answers.
type recent struct {
	last [recentAnswers]struct {
		at   time.Time
		took time.Duration
		own  bool
	}
	next int
}

func (r *recent) add(now time.Time, took time.Duration, own bool) {
	a := &r.last[r.next]
	a.at, a.took, a.own = now, took, own
	r.next = (r.next + 1) % recentAnswers
}

// fastest is what the fastest took, of n. Own says that one of them at least is of the server's own work: else they may all
// have waited for one database.
func (r *recent) fastest(now time.Time) (least time.Duration, own bool, n int) {
	for _, a := range r.last {
		if a.at.IsZero() || now.Sub(a.at) > recentAge {
			continue
		}
		if n++; n == 1 || a.took < least {
			least = a.took
		}
		own = own || a.own
	}
	return least, own, n
}
