package limit

import (
	"context"
	"time"
)

const (
	// askedWithin is how long a tenant counts as one of those that ask a server, and limitedWithin how long as one that is limited,
	// after the answer that showed it.
	askedWithin   = time.Minute
	limitedWithin = 30 * time.Second
	// A limit is the server's own where so many of four tenants are limited, two at the least, and at so many mounts.
	limitedOfFour = 3
	limitedMounts = 2
)

// quotas are what the 429s of a server tell of its tenants. A quota may be of one path, one mount or one namespace. So a 429 slows
// down the tenant whose request it was, and no other (C11), until most tenants have one, and at different mounts: then it is the server's.
//
// They decide and do nothing else. They know the tenants that were answered within askedWithin, twice as many at the most.
type quotas struct {
	full    float64
	tenants map[Tenant]*quota
	prune   int // how many tenants there may be before those are looked for that ask no more
}

// quota is what is known of one tenant.
type quota struct {
	asked   time.Time // when it was last answered
	limited time.Time // with a 429
	mount   string    // at which
	pace    *pace     // nil: it has none but the server's
}

// heard takes in an answer, and reports whether it is to count for the server as a whole.
func (q *quotas) heard(now time.Time, a Answer, r float64) bool {
	if a.Tenant == (Tenant{}) || a.Result == Unavailable || a.Result == Overdue {
		return true
	}
	t := q.tenants[a.Tenant]
	if t == nil {
		t = &quota{}
		q.forgetIdle(now)
		q.tenants[a.Tenant] = t
	}
	t.asked = now
	if a.Result == Limited {
		t.limited, t.mount = now, a.Mount
		if t.pace == nil {
			t.pace = newPace(q.full)
		}
		t.pace.limit(now, a, r)
		return q.ofServer(now)
	}
	if t.pace != nil {
		t.pace.takes(now, a)
		t.pace.grow(now)
		if !t.pace.reduced(now) {
			t.pace = nil
		}
	}
	return true
}

// ofServer reports whether so many tenants are limited that the server as a whole is.
func (q *quotas) ofServer(now time.Time) bool {
	asked, limited := 0, 0
	mounts := map[string]bool{}
	for _, t := range q.tenants {
		if now.Sub(t.asked) >= askedWithin {
			continue
		}
		asked++
		if !t.limited.IsZero() && now.Sub(t.limited) < limitedWithin {
			limited++
			mounts[t.mount] = true
		}
	}
	return limited >= 2 && 4*limited >= limitedOfFour*asked && len(mounts) >= limitedMounts
}

// forgetIdle makes room for one more tenant.
func (q *quotas) forgetIdle(now time.Time) {
	if len(q.tenants) < q.prune {
		return
	}
	for key, t := range q.tenants {
		if now.Sub(t.asked) >= askedWithin {
			delete(q.tenants, key)
		}
	}
	q.prune = max(2*len(q.tenants), 64)
}

// serverPace is how fast requests go to a server, and those of a tenant.
type serverPace struct {
	*pace
	quotas quotas
}

func newServerPace(full float64) *serverPace {
	return &serverPace{newPace(full), quotas{full: full, tenants: map[Tenant]*quota{}}}
}

// heard takes in what a request tells.
func (p *serverPace) heard(now time.Time, a Answer, r float64) {
	if p.quotas.heard(now, a, r) {
		p.pace.heard(now, a, r)
	} else {
		p.answer(now)
	}
}

// wait is how long a tenant's request has to wait.
func (p *serverPace) wait(now time.Time, who Tenant, ends time.Time, live bool) time.Duration {
	wait := p.pace.wait(now, ends, live)
	if t := p.quotas.tenants[who]; t != nil && t.pace != nil {
		wait = max(wait, t.pace.wait(now, ends, live))
	}
	return wait
}

// sent notes that a tenant's request goes.
func (p *serverPace) sent(now time.Time, who Tenant, r float64) {
	p.pace.sent(now, r)
	if t := p.quotas.tenants[who]; t != nil && t.pace != nil {
		t.pace.sent(now, r)
	}
}

type tenantKey struct{}

// For is a context for requests of a tenant: by it is known whose request was answered (TenantIn).
func For(ctx context.Context, t Tenant) context.Context {
	return context.WithValue(ctx, tenantKey{}, t)
}

// TenantIn is the tenant that a context is for; the zero one if it is for none.
func TenantIn(ctx context.Context) Tenant {
	t, _ := ctx.Value(tenantKey{}).(Tenant)
	return t
}

type ownKey struct{}

// Own is a context for a read of what the server itself keeps: nothing behind it makes that slow (Answer.Own).
func Own(ctx context.Context) context.Context { return context.WithValue(ctx, ownKey{}, true) }

// IsOwn reports whether a context is for such a read.
func IsOwn(ctx context.Context) bool { return ctx.Value(ownKey{}) != nil }
