package lifecycle

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// awayAtMost is how long after the last request in vain a provider counts as away: as long as something needs it, it is
// asked again much sooner.
const awayAtMost = 5 * time.Minute

// overdueAfter is how long an answer has to be waited for in vain to show that the server is slow.
const overdueAfter = 2 * time.Second

// requests measures what the providers are asked for, whoever asks, and knows by their answers which of them is away. The
// limiter is told of all of them: it slows down for a server that has too much to do.
type requests struct {
	meter Meter
	limit observer

	mu      sync.Mutex // guards what follows
	servers map[string]*answers
}

// observer is told of what goes to a server, and of what comes back.
type observer interface {
	Sent(server string, own bool) (ended func())
	Answered(server string, a limit.Answer)
}

// answers is what is known of a provider's server.
type answers struct {
	inVain int       // requests in a row that the server did not answer
	last   time.Time // when the last of them had no answer
}

func newRequests(m Meter, l observer) *requests {
	return &requests{meter: m, limit: l, servers: map[string]*answers{}}
}

// measure has each request to a provider measured. What it can do stays as it is.
func (r *requests) measure(p *provider) {
	begin := func(ctx context.Context, what RequestKind, mount string) *request {
		return r.begin(ctx, p.name, what, mount)
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

func (r *requests) begin(ctx context.Context, provider string, what RequestKind, mount string) *request {
	q := &request{r: r, provider: provider, what: what, mount: mount, began: time.Now()}
	q.own = ownWork[what] || what == OperationRead && limit.IsOwn(ctx)
	q.ended = r.limit.Sent(provider, q.own)
	return q
}

// request is one that is under way.
type request struct {
	r        *requests
	provider string
	what     RequestKind
	mount    string // the part of the server that it is for; a quota may be of one
	began    time.Time
	waited   atomic.Int64 // nanoseconds, for its turn
	own      bool         // it is the server's own work, as far as is known before the answer
	static   bool         // it has read what the server itself keeps
	ended    func()
}

// ownWork are the kinds of requests that wait for nothing behind the server.
var ownWork = map[RequestKind]bool{
	OperationLogin: true, OperationRenewToken: true, OperationLookupToken: true, OperationLookupLease: true,
}

func (q *request) done(ctx context.Context, err error) {
	q.ended()
	was := resultOf(err)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		was = ResultCanceled
	}
	took := time.Since(q.began) - time.Duration(q.waited.Load())
	q.r.meter.Requested(q.what, was, took)
	if was != ResultCanceled {
		q.r.noteAnswer(q.provider, was != ResultOutage)
	}
	if a, ok := q.answer(ctx, was, took, err); ok {
		q.r.limit.Answered(q.provider, a)
	}
}

// answer is what a request shows of its server as a whole. An outage that the provider does not say to be the server's own may be
// of one of its engines, and shows nothing; nor does a request whose asker gave up soon after it was sent. One whose time is over
// shows that an answer takes longer than that.
func (q *request) answer(ctx context.Context, was RequestResult, took time.Duration, err error) (a limit.Answer, ok bool) {
	a.Sent, a.RetryAfter, a.Tenant, a.Mount = q.began, secrets.RetryAfter(err), limit.TenantIn(ctx), q.mount
	switch {
	case was == ResultCanceled || was == ResultError || q.what == OperationWait:
		return a, false
	case err != nil && ctx.Err() != nil:
		a.Result = limit.Overdue
		if took < overdueAfter {
			return a, false
		}
	case secrets.IsLimited(err):
		a.Result = limit.Limited
	case secrets.IsOfServer(err):
		a.Result = limit.Unavailable
	case was == ResultOutage:
		return a, false
	}
	a.Took, a.Own = took, q.own || q.static
	return a, true
}

// noteAnswer notes whether a provider's server has answered, with whatever it was.
func (r *requests) noteAnswer(provider string, did bool) {
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

// mountOf is where a secret is, as far as its path tells: the first part of that.
func mountOf(req secrets.Request) string {
	first, _, _ := strings.Cut(req.Path, "/")
	return req.Namespace + "/" + first
}

type measuredReads struct {
	Provider
	begin func(ctx context.Context, what RequestKind, mount string) *request
}

func (p measuredReads) Read(ctx context.Context, tok secrets.Token, req secrets.Request) (a secrets.Answer, err error) {
	q := p.begin(ctx, OperationRead, mountOf(req))
	a, err = p.Provider.Read(ctx, tok, req)
	q.static = err == nil && a.Kind == secrets.Static
	q.done(ctx, err)
	return a, err
}

type measuredWaits struct {
	Waiter
	begin func(ctx context.Context, what RequestKind, mount string) *request
}

func (p measuredWaits) Wait(ctx context.Context, tok secrets.Token, req secrets.Request, since string, atMost time.Duration) (revision string, err error) {
	q := p.begin(ctx, OperationWait, mountOf(req))
	revision, err = p.Waiter.Wait(ctx, tok, req, since, atMost)
	q.done(ctx, err)
	return revision, err
}

type measuredTokens struct {
	Issuer
	begin func(ctx context.Context, what RequestKind, mount string) *request
}

func (p measuredTokens) Login(ctx context.Context, in secrets.Login) (tok secrets.Token, err error) {
	q := p.begin(ctx, OperationLogin, "auth")
	tok, err = p.Issuer.Login(ctx, in)
	q.done(ctx, err)
	return tok, err
}

func (p measuredTokens) RenewToken(ctx context.Context, tok secrets.Token, namespace string) (got secrets.Token, err error) {
	q := p.begin(ctx, OperationRenewToken, "auth/token")
	got, err = p.Issuer.RenewToken(ctx, tok, namespace)
	q.done(ctx, err)
	return got, err
}

func (p measuredTokens) LookupToken(ctx context.Context, tok secrets.Token, namespace string) (got secrets.Token, err error) {
	q := p.begin(ctx, OperationLookupToken, "auth/token")
	got, err = p.Issuer.LookupToken(ctx, tok, namespace)
	q.done(ctx, err)
	return got, err
}

func (p measuredTokens) RevokeToken(ctx context.Context, tok secrets.Token, namespace string) error {
	q := p.begin(ctx, OperationRevokeToken, "auth/token")
	err := p.Issuer.RevokeToken(ctx, tok, namespace)
	q.done(ctx, err)
	return err
}

// measuredLeases is asked for what has to do with leases alone: what has to do with tokens, measuredTokens is.
type measuredLeases struct {
	Leaser
	begin func(ctx context.Context, what RequestKind, mount string) *request
}

func (p measuredLeases) Renew(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID, increment time.Duration) (l secrets.Lease, err error) {
	q := p.begin(ctx, OperationRenewLease, "sys")
	l, err = p.Leaser.Renew(ctx, tok, namespace, id, increment)
	q.done(ctx, err)
	return l, err
}

func (p measuredLeases) LeaseTTL(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) (left time.Duration, err error) {
	q := p.begin(ctx, OperationLookupLease, "sys")
	left, err = p.Leaser.LeaseTTL(ctx, tok, namespace, id)
	q.done(ctx, err)
	return left, err
}

func (p measuredLeases) Revoke(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) error {
	q := p.begin(ctx, OperationRevokeLease, "sys")
	err := p.Leaser.Revoke(ctx, tok, namespace, id)
	q.done(ctx, err)
	return err
}

type measuredDiscovery struct {
	Discoverer
	begin func(ctx context.Context, what RequestKind, mount string) *request
}

// Discover is several requests, each of which waits for its turn.
func (p measuredDiscovery) Discover(ctx context.Context, tok secrets.Token, namespace string, known []string, turn func(context.Context) error) (d *secrets.Discovery, err error) {
	q := p.begin(ctx, OperationDiscover, "sys")
	measured := turn
	if turn != nil {
		measured = func(ctx context.Context) error {
			at := time.Now()
			defer func() { q.waited.Add(int64(time.Since(at))) }()
			return turn(ctx)
		}
	}
	d, err = p.Discoverer.Discover(ctx, tok, namespace, known, measured)
	q.done(ctx, err)
	return d, err
}
