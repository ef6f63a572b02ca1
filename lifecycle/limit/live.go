package limit

import (
	"context"
	"time"
)

// liveShare: looks at what is being read take one of so many turns at most.
const liveShare = 2

// QueueLive is Queue for a look at a secret that somebody reads just now. Such looks come as often as tasks read, so they
// take at most half of the rate, in turns by tenant.
func (l *Limiter) QueueLive(ctx context.Context, t Tenant, due time.Time, run func(err error)) (leave func() bool) {
	return l.wait(ctx, &l.live, &waiter{tenant: t, due: due, called: func(err error) { go run(err) }}, l.grantLocked)
}

// Live is QueueLive that waits for the turn itself. The error is ctx's.
func (l *Limiter) Live(ctx context.Context, t Tenant, due time.Time) error {
	turn := make(chan error, 1)
	l.wait(ctx, &l.live, &waiter{tenant: t, due: due, called: func(err error) { turn <- err }}, l.grantLocked)
	return <-turn
}

// nextLocked takes out the background request whose turn it is; nil if none is to go yet, and how long until one may be.
func (l *Limiter) nextLocked(now time.Time) (w *waiter, wait time.Duration) {
	wait = longestWait
	goes := func(u Priority, ln *line, live bool) bool {
		d := l.paceLocked(now, u, ln, live)
		if d > 0 {
			wait = min(wait, d)
		}
		return d <= 0
	}
	may := func(u Priority, ln *line) bool { return goes(u, ln, false) }
	renews := func(ln *line) bool { return may(Renew, ln) }
	if l.live.size > 0 && !l.ranks.turns[Renew].any(renews) { // renewals that their server's pace holds back hold up nobody
		if d := l.nextLive.Sub(now); d > 0 {
			wait = min(wait, d)
		} else if w := l.live.next(func(ln *line) bool { return goes(Poll, ln, true) }); w != nil {
			l.nextLive = now.Add(liveShare * l.gap)
			return w, 0
		}
	}
	return l.ranks.next(may), wait
}
