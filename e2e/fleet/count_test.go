package fleet

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// server is what a node's plugin asks.
type server interface {
	lifecycle.Provider
	lifecycle.Leaser
}

// kinds are the requests, in the order of a table.
var kinds = []lifecycle.RequestKind{
	lifecycle.OperationLogin, lifecycle.OperationRead, readKV, lifecycle.OperationRenewLease, lifecycle.OperationLookupLease,
	lifecycle.OperationRevokeLease, lifecycle.OperationRenewToken, lifecycle.OperationLookupToken, lifecycle.OperationRevokeToken,
}

// readKV is a read of what the server keeps itself; OperationRead is one that makes a credential.
const readKV lifecycle.RequestKind = "read_kv"

// kindOfRead tells them apart by the path.
func kindOfRead(req secrets.Request) lifecycle.RequestKind {
	if strings.HasPrefix(req.Path, kvMount) {
		return readKV
	}
	return lifecycle.OperationRead
}

// counts is what was sent to a server in a while, by all nodes.
type counts struct {
	mu     sync.Mutex
	from   time.Time
	second map[lifecycle.RequestKind]map[int]int // by when it was sent
	took   map[int]int                           // of those answered: by the logarithm of the milliseconds
	failed map[lifecycle.RequestKind]int
}

func (c *counts) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.from = time.Now()
	c.second, c.took, c.failed = map[lifecycle.RequestKind]map[int]int{}, map[int]int{}, map[lifecycle.RequestKind]int{}
}

// ask counts a request around its call.
func (c *counts) ask(kind lifecycle.RequestKind, call func() error) {
	sent := time.Now()
	c.mu.Lock()
	from := c.from
	if c.second[kind] == nil {
		c.second[kind] = map[int]int{}
	}
	c.second[kind][int(sent.Sub(from)/time.Second)]++
	c.mu.Unlock()
	err := call()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.from.Equal(from) {
		return // of the phase before
	}
	if secrets.KindOf(err) == secrets.Outage {
		c.failed[kind]++
		return
	}
	c.took[bucket(time.Since(sent))]++
}

// Buckets are 5% wide.
func bucket(d time.Duration) int {
	return int(math.Round(math.Log(max(float64(d), 1e4)/1e4) / math.Log(1.05)))
}
func ofBucket(b int) time.Duration { return time.Duration(1e4 * math.Pow(1.05, float64(b))) }

// quantile is of what the answers took, refusals among them.
func (c *counts) quantile(q float64) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := 0
	for _, n := range c.took {
		all += n
	}
	seen := 0
	for _, b := range slices.Sorted(maps.Keys(c.took)) {
		if seen += c.took[b]; float64(seen) >= q*float64(all) {
			return ofBucket(b)
		}
	}
	return 0
}

// rate is the mean and the peak of what was sent in a second, of some kinds (none: of all), in the seconds from lo to hi.
func (c *counts) rate(lo, hi int, of ...lifecycle.RequestKind) (mean float64, peak int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := 0
	for s := lo; s < hi; s++ {
		n := 0
		for kind, by := range c.second {
			if len(of) == 0 || slices.Contains(of, kind) {
				n += by[s]
			}
		}
		sum, peak = sum+n, max(peak, n)
	}
	return float64(sum) / float64(hi-lo), peak
}

// busiest is what was sent in the busiest stretch of so many seconds.
func (c *counts) busiest(of int, kinds ...lifecycle.RequestKind) (most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	each := map[int]int{}
	for _, kind := range kinds {
		for s, n := range c.second[kind] {
			each[s/of] += n
			most = max(most, each[s/of])
		}
	}
	return most
}

func (c *counts) total(of ...lifecycle.RequestKind) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for kind, by := range c.second {
		if len(of) == 0 || slices.Contains(of, kind) {
			for _, k := range by {
				n += k
			}
		}
	}
	return n
}

// unanswered is how many requests of some kinds had no answer.
func (c *counts) unanswered(of ...lifecycle.RequestKind) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, kind := range of {
		n += c.failed[kind]
	}
	return n
}

// table is a phase's figures in rows of Markdown; times is by what they are multiplied where a part of the fleet stands for all.
func (c *counts) table(phase string, seconds int, times float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s, %d s | requests | a second | peak second | without an answer |\n| --- | --- | --- | --- | --- |\n", phase, seconds)
	for _, kind := range kinds {
		if n := c.total(kind); n > 0 {
			mean, peak := c.rate(0, seconds, kind)
			fmt.Fprintf(&b, "| %s | %.0f | %.1f | %.0f | %.0f |\n", kind, float64(n)*times, mean*times, float64(peak)*times, float64(c.failed[kind])*times)
		}
	}
	mean, peak := c.rate(0, seconds)
	fmt.Fprintf(&b, "| all | %.0f | %.1f | %.0f | p50 %v, p99 %v |\n", float64(c.total())*times, mean*times, float64(peak)*times,
		round(c.quantile(.5)), round(c.quantile(.99)))
	return b.String()
}

func round(d time.Duration) time.Duration {
	if d > 100*time.Millisecond {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}

// counted is a server whose requests are counted.
type counted struct {
	server
	*counts
}

func (c counted) Read(ctx context.Context, tok secrets.Token, req secrets.Request) (a secrets.Answer, err error) {
	c.ask(kindOfRead(req), func() error { a, err = c.server.Read(ctx, tok, req); return err })
	return a, err
}

func (c counted) Login(ctx context.Context, in secrets.Login) (t secrets.Token, err error) {
	c.ask(lifecycle.OperationLogin, func() error { t, err = c.server.Login(ctx, in); return err })
	return t, err
}

func (c counted) RenewToken(ctx context.Context, tok secrets.Token, namespace string) (t secrets.Token, err error) {
	c.ask(lifecycle.OperationRenewToken, func() error { t, err = c.server.RenewToken(ctx, tok, namespace); return err })
	return t, err
}

func (c counted) LookupToken(ctx context.Context, tok secrets.Token, namespace string) (t secrets.Token, err error) {
	c.ask(lifecycle.OperationLookupToken, func() error { t, err = c.server.LookupToken(ctx, tok, namespace); return err })
	return t, err
}

func (c counted) RevokeToken(ctx context.Context, tok secrets.Token, namespace string) (err error) {
	c.ask(lifecycle.OperationRevokeToken, func() error { err = c.server.RevokeToken(ctx, tok, namespace); return err })
	return err
}

func (c counted) Renew(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID, d time.Duration) (l secrets.Lease, err error) {
	c.ask(lifecycle.OperationRenewLease, func() error { l, err = c.server.Renew(ctx, tok, namespace, id, d); return err })
	return l, err
}

func (c counted) LeaseTTL(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) (left time.Duration, err error) {
	c.ask(lifecycle.OperationLookupLease, func() error { left, err = c.server.LeaseTTL(ctx, tok, namespace, id); return err })
	return left, err
}

func (c counted) Revoke(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) (err error) {
	c.ask(lifecycle.OperationRevokeLease, func() error { err = c.server.Revoke(ctx, tok, namespace, id); return err })
	return err
}
