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
	// slowestAtOnce is the least of the slots: as many as there are while a server is overloaded, has just come back, or
	// has not answered yet; sunkAtOnce is the least of one that has far too much to do. As many slow requests leave theirs
	// meanwhile.
	slowestAtOnce = 4
	sunkAtOnce    = 2
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
	first     int // slots for a server that has not answered yet
	servers   map[string]*serverSlots
	young     int // under way, and not slow
	slowYoung int // those of them whose lane was slow before
	old       int // slow
	lanes     map[laneKey]*lane
	prune     int // how many lanes there may be before those that are idle are looked for
	waiting   [kinds]turns
	last      Kind // of the request that went last
}

// serverSlots are those of one server.
type serverSlots struct {
	most  int // how many there are now
	least int // how many there are at the least; as many slow requests may leave theirs
	young int // under way, and not slow
	left  int // slow ones under way that have left their slots while the server as a whole took long
}

func newSlots(first int) slots {
	return slots{first: first, servers: map[string]*serverSlots{}, lanes: map[laneKey]*lane{}}
}

// at are a server's.
func (s *slots) at(server string) *serverSlots {
	a := s.servers[server]
	if a == nil {
		a = &serverSlots{most: s.first, least: slowestAtOnce}
		s.servers[server] = a
	}
	return a
}

// follow gives a server as many slots as its share of the request rate is now. Sunk: it has far too much to do.
func (s *serverSlots) follow(share float64, sunk bool) {
	s.least = slowestAtOnce
	if sunk {
		s.least = sunkAtOnce
	}
	s.most = max(s.least, int(share*ForegroundAtOnce))
}

// slowAtOnce bounds the slots for tenants whose requests were slow before: the next will be, too, and the other slots are for
// those that get an answer.
func (s *serverSlots) slowAtOnce() int { return s.most / 2 }

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
	began     time.Time
	old       bool
	left      bool // it is counted in its server's
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
	l, at := s.lanes[key], s.at(server)
	switch {
	case at.young >= at.most:
		return false
	case l == nil:
		return true
	case l.young+l.old >= s.share():
		return false
	}
	return !l.isSlow(now) || s.slowYoung < at.slowAtOnce()
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
	f := &flight{lane: key, server: server, began: now, slowYoung: l.isSlow(now)}
	l.young++
	s.young++
	s.at(server).young++
	if f.slowYoung {
		s.slowYoung++
	}
	return f
}

// turnSlow notes that a request is slow. Ails says that its server as a whole is: then few leave their slots, for each that takes
// its place is one more that the server has to do. It reports whether this one has.
func (s *slots) turnSlow(now time.Time, f *flight, ails bool) bool {
	at := s.at(f.server)
	if ails && at.left >= at.least {
		return false
	}
	if ails {
		f.left = true
		at.left++
	}
	l := s.lanes[f.lane]
	s.leaveSlot(l, f)
	f.old = true
	l.old++
	s.old++
	l.slow, l.slowSince = true, now
	return true
}

// end notes that a request is over.
func (s *slots) end(now time.Time, f *flight) {
	l := s.lanes[f.lane]
	if f.left {
		s.at(f.server).left--
	}
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
	s.at(f.server).young--
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
