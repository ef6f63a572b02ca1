package lifecycle

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// awayAtMost is how long after the last request in vain a provider counts as away: as long as something needs it, it is
// asked again much sooner.
const awayAtMost = 5 * time.Minute

// requests measures what the providers are asked for, whoever asks, and knows by their answers which of them is away.
type requests struct {
	meter Meter

	mu      sync.Mutex // guards what follows
	servers map[string]*answers
}

// answers is what is known of a provider's server.
type answers struct {
	inVain int       // requests in a row that the server did not answer
	last   time.Time // when the last of them had no answer
}

func newRequests(m Meter) *requests { return &requests{meter: m, servers: map[string]*answers{}} }

// measure has each request to a provider measured. What it can do stays as it is.
func (r *requests) measure(p *provider) {
	begin := func(what RequestKind) *request {
		return &request{r: r, provider: p.name, what: what, began: time.Now()}
	}
	p.Provider = measuredReads{p.Provider, begin}
	if p.waits != nil {
		p.waits = measuredWaits{p.waits, begin}
	}
	if p.tokens != nil {
		p.tokens = measuredTokens{p.tokens, begin}
	}
	if p.leases != nil {
		p.leases = measuredLeases{p.leases, begin}
	}
	if p.discovery != nil {
		p.discovery = measuredDiscovery{p.discovery, begin}
	}
}

// request is one that is under way.
type request struct {
	r        *requests
	provider string
	what     RequestKind
	began    time.Time
	waited   atomic.Int64 // nanoseconds, for its turn
}

func (q *request) done(ctx context.Context, err error) {
	was := resultOf(err)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		was = ResultCanceled
	}
	q.r.meter.Requested(q.what, was, time.Since(q.began)-time.Duration(q.waited.Load()))
	if was != ResultCanceled {
		q.r.answered(q.provider, was != ResultOutage)
	}
}

// answered notes whether a provider's server has answered, with whatever it was.
func (r *requests) answered(provider string, did bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.servers[provider]
	if a == nil {
		a = &answers{}
		r.servers[provider] = a
	}
	if did {
		a.inVain = 0
		return
	}
	a.inVain++
	a.last = time.Now()
}

// outage reports whether a provider is away. A single request in vain is none.
func (r *requests) outage(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.servers {
		if a.inVain > 1 && now.Before(a.last.Add(awayAtMost)) {
			return true
		}
	}
	return false
}

type measuredReads struct {
	Provider
	begin func(RequestKind) *request
}

func (p measuredReads) Read(ctx context.Context, tok secrets.Token, req secrets.Request) (a secrets.Answer, err error) {
	q := p.begin(OperationRead)
	a, err = p.Provider.Read(ctx, tok, req)
	q.done(ctx, err)
	return a, err
}

type measuredWaits struct {
	Waiter
	begin func(RequestKind) *request
}

func (p measuredWaits) Wait(ctx context.Context, tok secrets.Token, req secrets.Request, since string) (revision string, err error) {
	q := p.begin(OperationWait)
	revision, err = p.Waiter.Wait(ctx, tok, req, since)
	q.done(ctx, err)
	return revision, err
}

type measuredTokens struct {
	Issuer
	begin func(RequestKind) *request
}

func (p measuredTokens) Login(ctx context.Context, in secrets.Login) (tok secrets.Token, err error) {
	q := p.begin(OperationLogin)
	tok, err = p.Issuer.Login(ctx, in)
	q.done(ctx, err)
	return tok, err
}

func (p measuredTokens) RenewToken(ctx context.Context, tok secrets.Token, namespace string) (got secrets.Token, err error) {
	q := p.begin(OperationRenewToken)
	got, err = p.Issuer.RenewToken(ctx, tok, namespace)
	q.done(ctx, err)
	return got, err
}

func (p measuredTokens) LookupToken(ctx context.Context, tok secrets.Token, namespace string) (got secrets.Token, err error) {
	q := p.begin(OperationLookupToken)
	got, err = p.Issuer.LookupToken(ctx, tok, namespace)
	q.done(ctx, err)
	return got, err
}

func (p measuredTokens) RevokeToken(ctx context.Context, tok secrets.Token, namespace string) error {
	q := p.begin(OperationRevokeToken)
	err := p.Issuer.RevokeToken(ctx, tok, namespace)
	q.done(ctx, err)
	return err
}

// measuredLeases is asked for what has to do with leases alone: what has to do with tokens, measuredTokens is.
type measuredLeases struct {
	Leaser
	begin func(RequestKind) *request
}

func (p measuredLeases) Renew(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID, increment time.Duration) (l secrets.Lease, err error) {
	q := p.begin(OperationRenewLease)
	l, err = p.Leaser.Renew(ctx, tok, namespace, id, increment)
	q.done(ctx, err)
	return l, err
}

func (p measuredLeases) LeaseTTL(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) (left time.Duration, err error) {
	q := p.begin(OperationLookupLease)
	left, err = p.Leaser.LeaseTTL(ctx, tok, namespace, id)
	q.done(ctx, err)
	return left, err
}

func (p measuredLeases) Revoke(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) error {
	q := p.begin(OperationRevokeLease)
	err := p.Leaser.Revoke(ctx, tok, namespace, id)
	q.done(ctx, err)
	return err
}

type measuredDiscovery struct {
	Discoverer
	begin func(RequestKind) *request
}

// Discover is several requests, each of which waits for its turn.
func (p measuredDiscovery) Discover(ctx context.Context, tok secrets.Token, namespace string, held []string, turn func(context.Context) error) (d *secrets.Discovery, err error) {
	q := p.begin(OperationDiscover)
	measured := turn
	if turn != nil {
		measured = func(ctx context.Context) error {
			at := time.Now()
			defer func() { q.waited.Add(int64(time.Since(at))) }()
			return turn(ctx)
		}
	}
	d, err = p.Discoverer.Discover(ctx, tok, namespace, held, measured)
	q.done(ctx, err)
	return d, err
}
