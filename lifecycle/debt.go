package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// revoker is the part of a secrets.Provider that pays debts.
type revoker interface {
	Revoke(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) error
	RevokeToken(ctx context.Context, tok secrets.Token, namespace string) error
	LookupToken(ctx context.Context, tok secrets.Token, namespace string) (secrets.Token, error)
}

// revokeTimeout bounds one request, so that a server that accepts and never answers counts as away.
const revokeTimeout = 10 * time.Second

// doubtful is how long after a token was first seen a refusal proves nothing: a standby of the server
// may not have heard of it yet (S2).
const doubtful = 5 * time.Second

// debt is what is left to be revoked of one task. It belongs to the goroutine that settles it.
type debt struct {
	task      Task
	namespace string
	// revoke are the tokens to be revoked themselves; a lease under one of them goes with it.
	revoke map[string]storedToken
	// use are the tokens that leases are revoked with.
	use    map[string]storedToken
	leases []heldLease
}

func newDebt(e entry, tokens map[string]storedToken) *debt {
	b := &debt{
		task:      e.Task,
		namespace: e.Namespace,
		revoke:    map[string]storedToken{},
		use:       maps.Clone(tokens),
		leases:    slices.Clone(e.Leases),
	}
	for accessor, t := range tokens {
		if t.Source == fromIdentity && !e.KeepTokens {
			b.revoke[accessor] = t
		}
	}
	return b
}

// attempt asks the server once for all that is left of b, tokens first, and reports whether nothing
// is left.
func (d *debts) attempt(b *debt) bool {
	for accessor, t := range b.revoke {
		err := d.request(func(ctx context.Context) error {
			return d.cfg.provider.RevokeToken(ctx, t.Token, b.namespace)
		})
		switch verdict := judge(err, t); {
		case verdict == paid, verdict == away && ended(t.Token.Expires):
			delete(b.revoke, accessor)
			delete(b.use, accessor)
			b.leases = slices.DeleteFunc(b.leases, func(l heldLease) bool { return l.TokenAccessor == accessor })
		case verdict == refused:
			// A batch token cannot be revoked; of any other it is news. Its leases still can be.
			delete(b.revoke, accessor)
			if secrets.KindOf(err) == secrets.Refused {
				d.tell(b.task, sayTokenRevocationRefused(), fmt.Errorf("revoke the task's own token: %w", err))
			}
		}
	}
	d.attemptLeases(b)
	return len(b.revoke) == 0 && len(b.leases) == 0
}

// attemptLeases revokes the leases that no token to be revoked takes with it, all at once: they are
// to be gone within seconds of the task's end (E1), and the limiter bounds them.
func (d *debts) attemptLeases(b *debt) {
	type result struct {
		verdict verdict
		err     error
	}
	results := make([]result, len(b.leases))
	var all sync.WaitGroup
	for i, l := range b.leases {
		if _, wait := b.revoke[l.TokenAccessor]; wait {
			results[i].verdict = away
			continue
		}
		all.Go(func() {
			v, err := d.revokeLease(b, l)
			results[i] = result{v, err}
		})
	}
	all.Wait()

	var left []heldLease
	for i, l := range b.leases {
		switch r := results[i]; {
		case r.verdict == away && !ended(l.Ends):
			left = append(left, l)
		case r.verdict == refused:
			d.tell(b.task, sayRevocationRefused(), fmt.Errorf("revoke a lease, which ends by its TTL instead: %w", r.err))
		}
	}
	b.leases = left
}

// revokeLease asks with the token that the lease was made under, then with the task's others: the
// first may have been replaced, or may do less.
func (d *debts) revokeLease(b *debt, l heldLease) (verdict, error) {
	accessors := slices.Sorted(maps.Keys(b.use))
	if i := slices.Index(accessors, l.TokenAccessor); i > 0 {
		accessors[0], accessors[i] = accessors[i], accessors[0]
	}
	refusal := secrets.Errorf(secrets.Refused, "no token is left to do it with")
	for _, accessor := range accessors {
		t := b.use[accessor]
		err := d.request(func(ctx context.Context) error {
			return d.cfg.provider.Revoke(ctx, t.Token, b.namespace, l.ID)
		})
		if judge(err, t) == refused {
			// The server says the same of a token that has ended and of one that may not. Leases
			// end with their token: then nothing is owed, and there is nothing to tell.
			_, lookup := d.lookup(b, t)
			switch judge(lookup, t) {
			case away:
				return away, err
			case paid:
				if secrets.KindOf(lookup) == secrets.Gone {
					err = lookup
				}
			}
		}
		switch verdict := judge(err, t); {
		case verdict == away:
			return away, err
		case verdict == paid && (secrets.KindOf(err) != secrets.Gone || accessor == l.TokenAccessor):
			return paid, nil
		case verdict == refused:
			refusal = err
		}
	}
	return refused, refusal
}

func (d *debts) lookup(b *debt, t storedToken) (tok secrets.Token, err error) {
	err = d.request(func(ctx context.Context) (err error) {
		tok, err = d.cfg.provider.LookupToken(ctx, t.Token, b.namespace)
		return err
	})
	return tok, err
}

// request makes one request in the foreground: outside the request rate, one of a few at once.
func (d *debts) request(do func(context.Context) error) error {
	release, err := d.cfg.limit.foreground(d.ctx)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithTimeout(d.ctx, revokeTimeout)
	defer cancel()
	return do(ctx)
}

// verdict is what a server's answer means for a debt.
type verdict int

const (
	away    verdict = iota // ask again later
	paid                   // done, or gone already
	refused                // asking again does not help
)

func judge(err error, t storedToken) verdict {
	if err == nil {
		return paid
	}
	kind := secrets.KindOf(err)
	if (kind == secrets.Refused || kind == secrets.Gone) && time.Since(t.SavedAt) < doubtful {
		return away
	}
	switch kind {
	case secrets.Gone, secrets.NotFound:
		return paid
	case secrets.Refused, secrets.Invalid:
		return refused
	}
	return away // an outage, and what is of no kind: to be sure
}

// ended reports whether something has ended by itself; zero: not known.
func ended(at time.Time) bool { return !at.IsZero() && !time.Now().Before(at) }
