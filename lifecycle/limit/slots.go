package limit

import "time"

// The bounds of the requests that somebody waits for (C11).
const (
	// ForegroundAtOnce is how many of them go to the server at once: those of starts and revocations. They
	// are outside the request rate.
	ForegroundAtOnce = 16
	// slowAfter is when a request is slow: it leaves its slot for the overflow. What it waits for is a
	// database, say, and no work of the server's.
	slowAfter = time.Second
	// slowFactor: while the server is overloaded, a request is slow when it takes so many times what the fastest does; but
	// never later than slowAtMost.
	slowFactor = 4
	slowAtMost = 10 * time.Second
	// overflow bounds the slow requests that take no slot.
	overflow = 256
	// lanesAtOnce bounds the requests of one lane, slow ones included.
	lanesAtOnce = 16
	// slowestAtOnce is the least of the slots that are left while a server is overloaded, or has just come back.
	slowestAtOnce = 4
	// slowMemory is how long it is remembered that a tenant's requests were slow.
	slowMemory = time.Minute
)

// Kind is what a request of the foreground is for. The two are counted apart, so that a tenant's starts that
// wait for a dead database do not hold up its revocations.
type Kind int

// The kinds.
const (
	ForStart Kind = iota
	ForRevocation
	kinds
)

// slots decides which requests of the foreground go to the servers: at most ForegroundAtOnce that are not yet
// slow, fewer to a server that has too much to do, and of the slow ones overflow. Tenants take turns; one that has its share under way waits. It decides and
// does nothing else.
type slots struct {
	atOnce    map[string]int // how many there are now for a server; missing: all
	young     int            // under way, and not slow
	youngAt   map[string]int // of those, by server
	slowYoung int            // those of them whose lane was slow before
	old       int            // slow
	lanes     map[laneKey]*lane
	prune     int // how many lanes there may be before those that are idle are looked for
	waiting   [kinds]turns
	last      Kind // of the request that went last
}

func newSlots() slots {
	return slots{atOnce: map[string]int{}, youngAt: map[string]int{}, lanes: map[laneKey]*lane{}}
}

// most is how many slots there are for a server.
func (s *slots) most(server string) int {
	if n, ok := s.atOnce[server]; ok {
		return n
	}
	return ForegroundAtOnce
}

// slowAtOnce bounds the slots for tenants whose requests were slow before: the next will be, too, and the other slots are for
// those that get an answer.
func (s *slots) slowAtOnce(server string) int { return s.most(server) / 2 }

type laneKey struct {
	tenant Tenant
	kind   Kind
}

// lane is what is under way of one kind for one tenant.
type lane struct {
	young, old int
	slow       bool
	slowSince  time.Time // when a request of it was last seen to be slow
}

// flight is one request under way.
type flight struct {
	lane      laneKey
	server    string
	old       bool
	slowYoung bool
	over      bool
	timer     *time.Timer
}

// share is how many requests one lane may have under way: less where the overflow fills up, so that there
// is room left for more tenants than can fill it.
func (s *slots) share() int {
	return min(max((overflow-s.old)/8, 1), lanesAtOnce)
}

// mayGo reports whether a tenant may send one more request of a kind, to a server.
func (s *slots) mayGo(now time.Time, key laneKey, server string) bool {
	l := s.lanes[key]
	switch {
	case s.youngAt[server] >= s.most(server):
		return false
	case l == nil:
		return true
	case l.young+l.old >= s.share():
		return false
	}
	return !l.isSlow(now) || s.slowYoung < s.slowAtOnce(server)
}

func (l *lane) isSlow(now time.Time) bool {
	return l.slow && (l.old > 0 || now.Sub(l.slowSince) < slowMemory)
}

// next takes out the request that goes now, and counts it as under way; nil if none may. Kinds take turns.
func (s *slots) next(now time.Time) *waiter {
	if s.young+max(0, s.old-overflow) >= ForegroundAtOnce {
		return nil
	}
	for i := range kinds {
		k := (s.last + 1 + i) % kinds
		w := s.waiting[k].next(func(l *line) bool { return s.mayGo(now, laneKey{l.tenant, k}, l.waiting[0].server) })
		if w != nil {
			s.last = k
			w.flight = s.begin(now, laneKey{w.tenant, k}, w.server)
			return w
		}
	}
	return nil
}

func (s *slots) begin(now time.Time, key laneKey, server string) *flight {
	l := s.lanes[key]
	if l == nil {
		s.forgetIdle(now)
		l = &lane{}
		s.lanes[key] = l
	}
	f := &flight{lane: key, server: server, slowYoung: l.isSlow(now)}
	l.young++
	s.young++
	s.youngAt[server]++
	if f.slowYoung {
		s.slowYoung++
	}
	return f
}

// turnSlow notes that a request is slow.
func (s *slots) turnSlow(now time.Time, f *flight) {
	l := s.lanes[f.lane]
	s.leaveSlot(l, f)
	f.old = true
	l.old++
	s.old++
	l.slow, l.slowSince = true, now
}

// end notes that a request is over.
func (s *slots) end(now time.Time, f *flight) {
	l := s.lanes[f.lane]
	if f.old {
		l.old--
		s.old--
		l.slowSince = now
	} else {
		s.leaveSlot(l, f)
		if l.old == 0 {
			l.slow = false // it is answered again
		}
	}
	if l.young+l.old == 0 && !l.isSlow(now) {
		delete(s.lanes, f.lane)
	}
}

func (s *slots) leaveSlot(l *lane, f *flight) {
	l.young--
	s.young--
	s.youngAt[f.server]--
	if f.slowYoung {
		s.slowYoung--
	}
}

// forgetIdle makes room for a new lane: what is remembered of tenants that send nothing ends.
func (s *slots) forgetIdle(now time.Time) {
	if len(s.lanes) < s.prune {
		return
	}
	for key, l := range s.lanes {
		if l.young+l.old == 0 && !l.isSlow(now) {
			delete(s.lanes, key)
		}
	}
	s.prune = max(2*len(s.lanes), 64)
}
