package limit

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// C11: a 429 may be the quota of one path, one mount or one namespace: it slows down the tenant whose request it was. Only when most
// tenants have one, at different mounts, it is the server's.
func TestQuotaIsOneTenants(t *testing.T) {
	const full = 20.0
	type told struct {
		job, mount string
		limited    bool
	}
	for _, tt := range []struct {
		name   string
		says   []told // each second, for a minute and a half
		server bool   // slows down
		slow   []string
	}{
		{"one path's", []told{{"a", "secret", true}, {"b", "secret", false}, {"c", "database", false}}, false, []string{"a"}},
		{"one path's, of the only tenant", []told{{"a", "secret", true}, {"a", "sys", true}}, false, []string{"a"}},
		{"one mount's", []told{{"a", "secret", true}, {"b", "secret", true}, {"a", "sys", false}, {"b", "sys", false}}, false, []string{"a", "b"}},
		{"two tenants' own, of three", []told{{"a", "a", true}, {"b", "b", true}, {"c", "c", false}}, false, []string{"a", "b"}},
		{"the server's", []told{{"a", "secret", true}, {"b", "database", true}, {"c", "secret", true}, {"d", "sys", false}}, true, []string{"a", "b", "c"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, now := newServerPace(full), epoch
			for range 90 {
				for _, s := range tt.says {
					now = now.Add(time.Second / time.Duration(len(tt.says)))
					a := Answer{Tenant: Tenant{Job: s.job}, Mount: s.mount, Sent: now, Took: time.Millisecond, Own: true}
					if s.limited {
						a.Result = Limited
					}
					p.heard(now, a, 0)
				}
			}
			if tt.server {
				require.Less(t, p.rate, full/2)
			} else {
				require.Equal(t, full, p.rate)
			}
			var slow []string
			for _, job := range []string{"a", "b", "c", "d"} {
				if q := p.quotas.tenants[Tenant{Job: job}]; q != nil && q.pace != nil {
					slow = append(slow, job)
				}
			}
			require.Equal(t, tt.slow, slow)
		})
	}
}

// A tenant is at its full rate again after half a minute of good answers; what is known of those that ask no more is forgotten.
func TestQuotaIsOver(t *testing.T) {
	p, now := newServerPace(20), epoch
	p.heard(now, Answer{Tenant: one, Result: Limited, RetryAfter: 9 * time.Second, Sent: now}, 0)
	p.sent(now, one, 0.5)
	require.Equal(t, 9*time.Second, p.wait(now, one, time.Time{}, false), "it is asked for that")
	require.Zero(t, p.wait(now, other, time.Time{}, false))
	for range 31 {
		now = now.Add(time.Second)
		p.heard(now, Answer{Tenant: one, Sent: now, Took: time.Millisecond, Own: true}, 0)
	}
	require.Zero(t, p.wait(now, one, time.Time{}, false))
	require.Nil(t, p.quotas.tenants[one].pace)

	for i := range 10_000 {
		now = now.Add(time.Second)
		p.heard(now, Answer{Tenant: Tenant{Job: fmt.Sprint(i)}, Result: Limited, Mount: "secret", Sent: now}, 0)
	}
	require.LessOrEqual(t, len(p.quotas.tenants), 2*60+64)
}

// C11: a tenant whose requests are all limited holds up no other's, of whatever rank, and keeps alive what ends within the minute.
func TestQuotaHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(20, nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		limited := func(err error) {
			if err == nil {
				l.Answered("vault", Answer{Tenant: one, Mount: "secret", Result: Limited, Sent: time.Now()})
			}
		}
		for range 30 { // a while of 429s
			l.Queue(ctx, one.At("vault"), Poll, time.Now(), limited)
			time.Sleep(time.Second)
		}
		var polls, renewals, others, urgent atomic.Int32
		count := func(n *atomic.Int32) func(error) {
			return func(err error) {
				if err == nil {
					n.Add(1)
				}
			}
		}
		for range 100 {
			l.Queue(ctx, one.At("vault"), Poll, time.Now(), func(err error) { count(&polls)(err); limited(err) })
			l.Queue(ctx, other.At("vault"), Poll, time.Now(), count(&others))
		}
		for range 40 {
			l.Queue(ctx, other.At("vault"), Renew, time.Now().Add(time.Hour), count(&renewals))
			l.Queue(ctx, one.At("vault"), Renew, time.Now().Add(10*time.Second), count(&urgent))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 40, renewals.Load())
		require.EqualValues(t, 40, urgent.Load())
		require.GreaterOrEqual(t, others.Load(), int32(90))
		require.LessOrEqual(t, polls.Load(), int32(45))
		require.Equal(t, 20.0, l.Rate())
		cancel()
		synctest.Wait()
	})
}
