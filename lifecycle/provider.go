package lifecycle

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/poll"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/revoke"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Provider is where secrets are read from, by the name that a job gives. This is what every provider does, and its
// static secrets are watched by reading them again. What only some do are the interfaces below: a provider that is one
// of them is asked for that, too.
//
// Each error is of a kind in package secrets, which decides what happens next. Each call is one attempt, bounded by
// ctx: waiting and trying again is the lifecycle's. Safe for concurrent use.
type Provider interface {
	// Read fetches a secret: one request, plus a mount look-up where none is cached (S3). For a
	// leased secret this makes a credential. The token is empty for a provider without tokens, which finds what
	// the task may ask with by the request's Task.
	Read(ctx context.Context, tok secrets.Token, req secrets.Request) (secrets.Answer, error)
}

// Waiter is a Provider that can wait for a change by itself: its secrets are not read again and again to find one.
type Waiter = poll.Waiter

// Issuer is a Provider that is asked with tokens, for which a task's identity is exchanged. A task has the tokens of
// one provider at most.
type Issuer interface {
	// Address is the server's, which its tokens are journalled with: what is to be revoked on another waits until that
	// is asked again. Empty: none is configured, and everything waits.
	Address() string

	// Login exchanges a workload's JWT for a token.
	Login(ctx context.Context, in secrets.Login) (secrets.Token, error)

	// RenewToken extends tok; the answer has the same Value.
	RenewToken(ctx context.Context, tok secrets.Token, namespace string) (secrets.Token, error)

	// LookupToken says what is left of tok; KindGone if the server does not know it.
	LookupToken(ctx context.Context, tok secrets.Token, namespace string) (secrets.Token, error)

	// RevokeToken ends tok and with it every lease under it. One that is gone already is no error.
	RevokeToken(ctx context.Context, tok secrets.Token, namespace string) error
}

// Leaser is a Provider that lends secrets. A lease is made under a token, and ends with it.
type Leaser interface {
	Issuer

	// Renew extends a lease. The answer's Duration counts from now and may be shorter than asked
	// for: then the lease has reached its maximum. A lease the server does not know is KindGone.
	Renew(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID, increment time.Duration) (secrets.Lease, error)

	// LeaseTTL is how long a lease still lives; KindGone if the server does not know it.
	LeaseTTL(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) (time.Duration, error)

	// Revoke ends a lease. One that is gone already is no error.
	Revoke(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) error
}

// Discoverer is a Provider that can tell what a token's policies grant (from_policies). Each of its requests waits
// for turn, unless that is nil.
type Discoverer interface {
	Issuer

	Discover(ctx context.Context, tok secrets.Token, namespace string, known []string, turn func(context.Context) error) (*secrets.Discovery, error)
}

// provider is a Provider and what else it can do; nil: it cannot.
type provider struct {
	name string
	Provider
	waits     Waiter
	tokens    Issuer
	leases    Leaser
	discovery Discoverer
}

// providers are those that the driver has handed over, by name. What each can do is found out here and nowhere else.
type providers map[string]*provider

func newProviders(all map[string]Provider, r *requests) providers {
	ps := providers{}
	for name, p := range all {
		of := &provider{name: name, Provider: p}
		of.waits, _ = p.(Waiter)
		of.tokens, _ = p.(Issuer)
		of.leases, _ = p.(Leaser)
		of.discovery, _ = p.(Discoverer)
		r.measure(of)
		ps[name] = of
	}
	return ps
}

// named is a provider by its name. That there is none is of kind Invalid.
func (ps providers) named(name string) (*provider, error) {
	if p := ps[name]; p != nil {
		return p, nil
	}
	return nil, secrets.Errorf(secrets.Invalid, "provider %q is not in this version of the plugin", name)
}

// compile compiles a task's config with the providers there are.
func (ps providers) compile(c secrets.TaskConfig) (*secrets.Spec, error) {
	return secrets.Compile(c, slices.Collect(maps.Keys(ps))...)
}

// issuerFor is the provider whose tokens a task needs; nil: none of those that it reads from has any. What its
// policies grant is the default provider's.
func (ps providers) issuerFor(spec *secrets.Spec, c secrets.TaskConfig) (*provider, error) {
	names := make([]string, 0, len(spec.Secrets))
	for _, sec := range spec.Secrets {
		names = append(names, sec.Request.Provider)
	}
	if asksPolicies(c) || len(names) == 0 {
		names = append(names, secrets.DefaultProvider)
	}
	slices.Sort(names)
	var issuer *provider
	for _, name := range slices.Compact(names) {
		p, err := ps.named(name)
		if err != nil {
			return nil, err
		}
		if p.tokens == nil {
			continue
		}
		if issuer != nil {
			return nil, secrets.Errorf(secrets.Invalid, "the task's secrets are from %s and %s, and its identity can log in at one of them only: give the others to another task", issuer.name, name)
		}
		issuer = p
	}
	return issuer, nil
}

// read and waiter are for the polls, which know a provider by its name.
func (ps providers) read(ctx context.Context, tok secrets.Token, req secrets.Request) (secrets.Answer, error) {
	p, err := ps.named(req.Provider)
	if err != nil {
		return secrets.Answer{}, err
	}
	return p.Read(ctx, tok, req)
}

func (ps providers) waiter(name string) Waiter {
	if p := ps[name]; p != nil {
		return p.waits
	}
	return nil
}

// revoker is what revokes a provider's tokens and leases.
func (ps providers) revoker(name string) (r revoke.Provider) {
	if p := ps[name]; p != nil {
		r.Tokens, r.Leases = p.tokens, p.leases
		if p.tokens != nil {
			r.Server = p.tokens.Address()
		}
	}
	return r
}
