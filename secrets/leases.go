package secrets

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// leaseCall is a request about one lease; all of them are writes.
func leaseCall(tok Token, namespace, verb string, id LeaseID) call {
	return call{
		errand: errand{
			doing:     verb + " lease " + string(id),
			token:     tok.Value,
			namespace: namespace,
			path:      "sys/leases/" + verb,
			needs:     `"update"`,
			mount:     mount{typ: "system"},
		},
		body: map[string]any{"lease_id": string(id)},
	}
}

// Renew extends a lease. The server answers 400 both for a lease that it does not know and for one
// that could not be renewed this time: it is asked which, for text is no ground to mint anew on.
func (v *Vault) Renew(ctx context.Context, tok Token, namespace string, id LeaseID, increment time.Duration) (Lease, error) {
	c := leaseCall(tok, namespace, "renew", id)
	if increment > 0 {
		c.body["increment"] = int64(increment / time.Second)
	}
	r, err := v.do(ctx, c)
	if err != nil {
		return Lease{}, err
	}
	if r.ok() {
		return Lease{ID: id, Duration: time.Duration(r.body.LeaseDuration) * time.Second, Renewable: r.body.Renewable}, nil
	}
	refused := c.refusal(r)
	if KindOf(refused) != Invalid && KindOf(refused) != NotFound {
		return Lease{}, refused
	}
	left, renewable, err := v.lookupLease(ctx, tok, namespace, id)
	switch {
	case KindOf(err) == Gone:
		return Lease{}, Errorf(Gone, "%w", refused)
	case err != nil:
		// May not look: then the words are all there is.
		if said := c.quote(r); strings.Contains(said, "lease not found") || strings.Contains(said, "lease expired") {
			return Lease{}, Errorf(Gone, "%w", refused)
		}
		return Lease{}, refused
	case renewable && left > 0:
		// The database behind the engine, say, is away. The lease lives.
		return Lease{}, &Error{Kind: Outage, Err: refused, Elsewhere: true}
	}
	return Lease{}, refused
}

// LeaseTTL is how long a lease still lives. One whose time has passed, and which the server has
// yet to clear away, is Gone: so are those that were revoked behind our back (C6).
func (v *Vault) LeaseTTL(ctx context.Context, tok Token, namespace string, id LeaseID) (time.Duration, error) {
	left, _, err := v.lookupLease(ctx, tok, namespace, id)
	return left, err
}

func (v *Vault) lookupLease(ctx context.Context, tok Token, namespace string, id LeaseID) (left time.Duration, renewable bool, err error) {
	c := leaseCall(tok, namespace, "lookup", id)
	r, err := v.do(ctx, c)
	if err != nil {
		return 0, false, err
	}
	if r.status == http.StatusBadRequest || r.status == http.StatusNotFound {
		return 0, false, Errorf(Gone, "%w", c.refusal(r)) // "invalid lease"
	}
	if !r.ok() {
		return 0, false, c.refusal(r)
	}
	left = seconds(r.body.Data["ttl"])
	if r.body.Data["expire_time"] != nil && left <= 0 {
		return 0, false, Errorf(Gone, "%s: its time has passed", c.where())
	}
	renewable, _ = r.body.Data["renewable"].(bool)
	return left, renewable, nil
}

// Revoke ends a lease. The server queues it, and says 204 for one that it does not know.
func (v *Vault) Revoke(ctx context.Context, tok Token, namespace string, id LeaseID) error {
	c := leaseCall(tok, namespace, "revoke", id)
	r, err := v.do(ctx, c)
	if err != nil {
		return err
	}
	if r.ok() || r.status == http.StatusNotFound {
		return nil
	}
	return c.refusal(r)
}
