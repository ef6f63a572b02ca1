package revoke

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Provider is what revokes the tokens and leases of one; nil: there is no such provider, or it has none.
type Provider struct {
	Tokens TokenRevoker
	Leases LeaseRevoker
	// Server is the address of the server. What another one knows waits until that is asked again; empty: no server
	// is, and everything waits.
	Server string
}

// TokenRevoker revokes tokens.
type TokenRevoker interface {
	RevokeToken(ctx context.Context, tok secrets.Token, namespace string) error
	LookupToken(ctx context.Context, tok secrets.Token, namespace string) (secrets.Token, error)
}

// LeaseRevoker revokes leases.
type LeaseRevoker interface {
	Revoke(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) error
}

// errNoProvider is about a provider that this version does not have: one that has may be installed again, until what
// is to be revoked has ended.
func errNoProvider(name string) error {
	return secrets.Errorf(secrets.Outage, "provider %q is not in this version of the plugin", name)
}

// revokeTimeout bounds one request, so that a server that accepts and never answers counts as away.
const revokeTimeout = 10 * time.Second

// standbyLag is how long after a token was first seen a refusal proves nothing: a standby of the server
// may not have heard of it yet (S2).
const standbyLag = 5 * time.Second

// revocation is what is left to be revoked of one task. It belongs to the goroutine that runs it.
type revocation struct {
	task      journal.Task
	namespace string
	provider  string // of the tokens
	// revoke are the tokens to be revoked themselves; a lease under one of them goes with it. A batch token cannot be
	// revoked: its leases are, one by one.
	revoke map[string]journal.Token
	// use are the tokens that leases are revoked with.
	use    map[string]journal.Token
	leases []journal.Lease
	// elsewhere is when what another server knows ends by itself, zero where that is not known, and servers are whose
	// it is. This server's answers say nothing of it.
	elsewhere []time.Time
	servers   []string

	err error // why the last attempt left something
}

func newRevocation(e journal.Entry, tokens map[string]journal.Token, server string) *revocation {
	r := &revocation{
		task:      e.Task,
		namespace: e.Namespace,
		provider:  e.TokenProvider,
		revoke:    map[string]journal.Token{},
		use:       maps.Clone(tokens),
		leases:    slices.Clone(e.Leases),
	}
	for tokenID, t := range tokens {
		if t.Source == journal.FromIdentity && !t.Token.Batch && !e.KeepTokens {
			r.revoke[tokenID] = t
		}
	}
	for id, t := range tokens {
		if known := t.Token.Server; server == "" || known != "" && known != server {
			if _, ours := r.revoke[id]; ours {
				r.elsewhere = append(r.elsewhere, t.Token.Expires)
			}
			delete(r.revoke, id)
			delete(r.use, id)
			if !slices.Contains(r.servers, known) {
				r.servers = append(r.servers, known)
			}
		}
	}
	r.leases = slices.DeleteFunc(r.leases, func(l journal.Lease) bool {
		_, known := tokens[l.TokenID]
		_, here := r.use[l.TokenID]
		if here || !known && server != "" {
			return false
		}
		r.elsewhere = append(r.elsewhere, l.Ends)
		return true
	})
	return r
}

// waits reports whether something that another server knows has not ended yet.
func (r *revocation) waits() bool {
	return slices.ContainsFunc(r.elsewhere, func(ends time.Time) bool { return !ended(ends) })
}

// attempt asks the server once for all that is left of r, tokens first, and reports whether nothing
// is left.
func (q *Queue) attempt(r *revocation) bool {
	r.err = nil
	for tokenID, t := range r.revoke {
		err := q.request(r, r.provider, func(ctx context.Context) error {
			p := q.cfg.Provider(r.provider)
			if p.Tokens == nil {
				return errNoProvider(r.provider)
			}
			return p.Tokens.RevokeToken(ctx, t.Token, r.namespace)
		})
		switch verdict := verdictOf(err, t); {
		case verdict == done, verdict == retry && ended(t.Token.Expires):
			delete(r.revoke, tokenID)
			delete(r.use, tokenID)
			r.leases = slices.DeleteFunc(r.leases, func(l journal.Lease) bool { return l.TokenID == tokenID })
		case verdict == refused:
			// Of a batch token that an older version journalled this is no news. Its leases still can be.
			delete(r.revoke, tokenID)
			if secrets.KindOf(err) == secrets.Refused {
				q.report(r.task, tokenRefused(), fmt.Errorf("revoke the task's own token: %w", err))
			}
		case verdict == retry:
			r.err = err
		}
	}
	q.attemptLeases(r)
	return len(r.revoke) == 0 && len(r.leases) == 0 && !r.waits()
}

// attemptLeases revokes the leases that no token to be revoked takes with it, all at once: they are
// to be gone within seconds of the task's end (E1), and the limiter bounds them.
func (q *Queue) attemptLeases(r *revocation) {
	type result struct {
		verdict verdict
		err     error
	}
	results := make([]result, len(r.leases))
	var all sync.WaitGroup
	for i, l := range r.leases {
		if _, wait := r.revoke[l.TokenID]; wait {
			results[i].verdict = retry
			continue
		}
		all.Go(func() {
			v, err := q.revokeLease(r, l)
			results[i] = result{v, err}
		})
	}
	all.Wait()

	var left []journal.Lease
	for i, l := range r.leases {
		switch res := results[i]; {
		case res.verdict == retry && !ended(l.Ends):
			left = append(left, l)
			if res.err != nil {
				r.err = res.err
			}
		case res.verdict == refused:
			q.report(r.task, leaseRefused(), fmt.Errorf("revoke a lease, which ends by its TTL instead: %w", res.err))
		}
	}
	r.leases = left
}

// revokeLease asks with the token that the lease was made under, then with the task's others: the
// first may have been replaced, or may do less.
func (q *Queue) revokeLease(r *revocation, l journal.Lease) (verdict, error) {
	p := q.cfg.Provider(l.Provider)
	if p.Leases == nil {
		return retry, errNoProvider(l.Provider)
	}
	tokenIDs := slices.Sorted(maps.Keys(r.use))
	if i := slices.Index(tokenIDs, l.TokenID); i > 0 {
		tokenIDs[0], tokenIDs[i] = tokenIDs[i], tokenIDs[0]
	}
	refusal := secrets.Errorf(secrets.Refused, "no token is left to do it with")
	for _, tokenID := range tokenIDs {
		t := r.use[tokenID]
		err := q.request(r, l.Provider, func(ctx context.Context) error {
			return p.Leases.Revoke(ctx, t.Token, r.namespace, l.ID)
		})
		if verdictOf(err, t) == refused {
			// The server says the same of a token that has ended and of one that may not. Leases
			// end with their token: then nothing is to be revoked or reported.
			_, lookup := q.lookup(r, t)
			switch verdictOf(lookup, t) {
			case retry:
				return retry, err
			case done:
				if secrets.KindOf(lookup) == secrets.Gone {
					err = lookup
				}
			}
		}
		switch verdict := verdictOf(err, t); {
		case verdict == retry:
			return retry, err
		case verdict == done && (secrets.KindOf(err) != secrets.Gone || tokenID == l.TokenID):
			return done, nil
		case verdict == refused:
			refusal = err
		}
	}
	return refused, refusal
}

func (q *Queue) lookup(r *revocation, t journal.Token) (tok secrets.Token, err error) {
	err = q.request(r, r.provider, func(ctx context.Context) (err error) {
		p := q.cfg.Provider(r.provider)
		if p.Tokens == nil {
			return errNoProvider(r.provider)
		}
		tok, err = p.Tokens.LookupToken(ctx, t.Token, r.namespace)
		return err
	})
	return tok, err
}

// request makes one request in the foreground: outside the request rate, one of a few at once, and in turns
// with those of other tenants.
func (q *Queue) request(r *revocation, provider string, do func(context.Context) error) error {
	tenant := limit.TenantOf(r.task.Namespace, r.task.JobID, r.task.AllocID)
	release, err := q.cfg.Limit.Foreground(q.ctx, tenant.At(provider), limit.ForRevocation)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithTimeout(limit.For(q.ctx, tenant), revokeTimeout)
	defer cancel()
	err = do(ctx)
	if q.cfg.Answered != nil && q.ctx.Err() == nil {
		q.cfg.Answered(provider, err)
	}
	return err
}

// verdict is what a server's answer means for a revocation.
type verdict int

const (
	retry   verdict = iota // ask again later
	done                   // done, or gone already
	refused                // asking again does not help
)

func verdictOf(err error, t journal.Token) verdict {
	if err == nil {
		return done
	}
	kind := secrets.KindOf(err)
	if (kind == secrets.Refused || kind == secrets.Gone) && time.Since(t.SavedAt) < standbyLag {
		return retry
	}
	switch kind {
	case secrets.Gone, secrets.NotFound:
		return done
	case secrets.Refused, secrets.Invalid:
		return refused
	}
	return retry // an outage, and what is of no kind: to be sure
}

// ended reports whether what ends at a moment has ended by itself; zero: not known.
func ended(at time.Time) bool { return !at.IsZero() && !time.Now().Before(at) }

func leaseRefused() string {
	return "Secrets: revocation of old leases refused (policy needs update on sys/leases/revoke); they end with their TTL"
}

func tokenRefused() string {
	return "Secrets: revocation of the task's token refused (policy needs update on auth/token/revoke-self); it ends with its TTL"
}
