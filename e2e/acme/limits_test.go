package acme

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// refusals answers the first orders for a domain with a refusal, and notes when each request for one came. One whose nonce
// the authority rejects is sent again.
type refusals struct {
	mu      sync.Mutex
	refusal func() *harness.Refusal
	left    int
	at      []time.Time
}

func (l *lab) refuse(domain string, times int, refusal func() *harness.Refusal) *refusals {
	r := &refusals{refusal: refusal, left: times}
	l.pebble.RefuseOrders(func(domains []string) *harness.Refusal {
		if !slices.Contains(domains, domain) {
			return nil
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.at = append(r.at, time.Now())
		if r.left == 0 {
			return nil
		}
		r.left--
		return r.refusal()
	})
	return r
}

// orders is when each order came.
func (r *refusals) orders() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.at)
}

// An authority limits the orders for a certificate, or has no time, and says for how long: the one in hand stays, it is
// ordered again when that time has passed and not before, and others are ordered meanwhile. The wait is longer than the
// issuer's own would be: 72 seconds after a rate limit with so little time left, 18 for a server that is away.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		wait    time.Duration
		refusal func() *harness.Refusal
		result  string
	}{
		"rate limit": {85 * time.Second, func() *harness.Refusal {
			return &harness.Refusal{Status: http.StatusTooManyRequests, RetryAfter: "85", Type: "rateLimited", Detail: "too many certificates"}
		}, "rate_limited"},
		"maintenance, until a date": {30 * time.Second, func() *harness.Refusal {
			until := time.Now().Add(31 * time.Second) // the header has whole seconds
			return &harness.Refusal{Status: http.StatusServiceUnavailable, RetryAfter: until.UTC().Format(http.TimeFormat), Type: "serverInternal", Detail: "maintenance"}
		}, "unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, test.result, shared.Vault, harness.PebbleOptions{Profiles: map[string]time.Duration{"brief": 5 * time.Minute}})
			limited := l.certificate("limited", "brief", "limited.example.com")
			i := l.start(l.head()+limited, "-once")
			require.Equal(t, 0, i.status(), "%s", i.out)
			first := l.stored(l.path("limited"))

			now := time.Now()
			require.NoError(t, l.pebble.SetRenewalInfo(l.ctx, leafPEM(first), now.Add(-10*time.Minute), now.Add(-5*time.Minute)))
			refused := l.refuse("limited.example.com", 1, test.refusal)
			port := freePort(t)
			i = l.start(l.head()+limited+l.certificate("other", "brief", "other.example.com")+fmt.Sprintf("http {\n address = \"127.0.0.1:%d\"\n}\n", port), "")
			failing := fmt.Sprintf(`acme_issuer_certificate_failing{certificate="limited",result=%q} 1`, test.result)
			l.until("the metric "+failing, func() error {
				_, body, err := l.httpGet(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
				if err == nil && !strings.Contains(body, failing) {
					err = fmt.Errorf("%s\n%s", body, i.out)
				}
				return err
			})
			require.Equal(t, serial(first), serial(l.stored(l.path("limited"))), "the certificate in hand is kept")
			l.until("the other certificate", l.isStored("other"))
			require.Len(t, refused.orders(), 1, "it is not ordered meanwhile")
			l.until("another certificate", l.isStoredAfter("limited", serial(first)))
			orders := refused.orders()
			require.Greater(t, len(orders), 1)
			require.GreaterOrEqual(t, orders[1].Sub(orders[0]), test.wait)
			require.Contains(t, i.out.String(), "certificate=limited result="+test.result)
		})
	}
}

// A rate limit that says no time is a kind of its own all the same: -once reports it, and orders no second time.
func TestRateLimitOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t, "limit-once", shared.Vault, harness.PebbleOptions{})
	refused := l.refuse("web.example.com", 1, func() *harness.Refusal {
		return &harness.Refusal{Status: http.StatusForbidden, Type: "rateLimited", Detail: "too many certificates for web.example.com"}
	})
	i := l.start(l.head()+l.certificate("web", "default", "web.example.com"), "-once")
	require.Equal(t, 1, i.status(), "%s", i.out)
	require.Contains(t, i.out.String(), "certificate=web result=rate_limited")
	last := i.out.String()[strings.LastIndex(strings.TrimSpace(i.out.String()), "\n")+1:]
	require.Contains(t, last, `certificate "web": `)
	require.Contains(t, last, "urn:ietf:params:acme:error:rateLimited")
	require.Contains(t, last, "too many certificates for web.example.com")
	require.Len(t, refused.orders(), 1)
	require.Nil(t, l.stored(l.path("web")))
}
