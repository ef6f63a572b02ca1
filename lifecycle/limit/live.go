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

// nextLocked takes out the background request whose turn it is; nil if nothing waits but looks that are not to go yet.
func (l *Limiter) nextLocked(now time.Time) *waiter {
	if l.live.size > 0 && !now.Before(l.nextLive) && l.ranks.turns[Renew].size == 0 {
		l.nextLive = now.Add(liveShare * l.gap)
		return l.live.next(nil)
	}
	return l.ranks.next()
}
