package limit

import "time"

// longestWait is after how long it is looked again whether a request may go.
const longestWait = urgentWithin

// Sent takes in that a request goes to a server, until ended is called. Own: as in Answer.
func (l *Limiter) Sent(server string, own bool) (ended func()) {
	if l.gap == 0 || !own {
		return func() {}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.paceOf(server).underWay.add(time.Now())
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.paces[server].underWay.remove(f)
	}
}

// paceOf is a server's pace.
func (l *Limiter) paceOf(server string) *serverPace {
	p := l.paces[server]
	if p == nil {
		p = newServerPace(l.rate)
		l.paces[server] = p
	}
	return p
}

// Answered takes in what a request to a server has come to: by that the limiter slows down, for that server, and is at its
// full rate again (pace.go).
func (l *Limiter) Answered(server string, a Answer) {
	if l.gap == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.paceOf(server)
	if a.Tenant != (Tenant{}) {
		a.Tenant = a.Tenant.At(server)
	}
	p.heard(time.Now(), a, l.random())
	if _, _, n := p.recent.fastest(time.Now()); n >= recentFew || p.rate < p.full {
		l.slots.at(server).follow(p.rate/p.full, p.sunk())
	}
	l.grantLocked()
	l.fillLocked()
}

// Rate is how many background requests a second go to the server that is asked the least.
func (l *Limiter) Rate() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	rate := l.rate
	for _, p := range l.paces {
		rate = min(rate, p.current())
	}
	return rate
}

// paceLocked is how long the request whose turn it is in a line has to wait for the sake of its server, or of a
// quota of its tenant's there. Live: see pace.wait.
func (l *Limiter) paceLocked(now time.Time, u Priority, ln *line, live bool) time.Duration {
	p := l.paces[ln.tenant.Server]
	if p == nil {
		return 0
	}
	var ends time.Time
	if u == Renew {
		ends = ln.waiting[0].due
	}
	return p.wait(now, ln.tenant, ends, live)
}

// slowAfterLocked is when a request of the foreground is slow. Ails says that its server as a whole may be what takes long: then
// that is later, the longer anything takes. Else all would leave their slots, and as many again go to a server that has too
// much to do.
func (l *Limiter) slowAfterLocked(now time.Time, server string) (after time.Duration, ails bool) {
	p := l.paces[server]
	switch {
	case l.gap == 0:
		return slowAfter, false
	case p == nil:
		return slowAfter, true
	case !p.ails(now):
		return slowAfter, false
	}
	least, _, _ := p.recent.fastest(now)
	return max(slowAfter, min(slowFactor*least, slowAtMost)), true
}
