package vault

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// leaseCall is a request about one lease; all of them are writes.
func leaseCall(tok secrets.Token, namespace, verb string, id secrets.LeaseID) call {
	return call{
		request: request{
			operation:    verb + " lease " + string(id),
			token:        tok.Value,
			namespace:    namespace,
			path:         "sys/leases/" + verb,
			capabilities: `"update"`,
			mount:        mount{typ: "system"},
		},
		body: map[string]any{"lease_id": string(id)},
	}
}

// Renew extends a lease. The server answers 400 both for a lease that it does not know and for one
// that could not be renewed this time: it is asked which, for text is no ground to fetch anew.
func (v *Client) Renew(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID, increment time.Duration) (secrets.Lease, error) {
	c := leaseCall(tok, namespace, "renew", id)
	if increment > 0 {
		c.body["increment"] = int64(increment / time.Second)
	}
	r, err := v.do(ctx, c)
	if err == nil && r.ok() && r.cached {
		if l, ok := v.renewedBefore(ctx, tok, namespace, id); ok {
			return l, nil
		}
		c.fresh = true
		r, err = v.do(ctx, c)
	}
	if err != nil {
		return secrets.Lease{}, err
	}
	if r.ok() {
		return secrets.Lease{ID: id, Duration: time.Duration(r.body.LeaseDuration) * time.Second, Renewable: r.body.Renewable}, nil
	}
	refused := c.refusal(r)
	if secrets.KindOf(refused) != secrets.Invalid && secrets.KindOf(refused) != secrets.NotFound {
		return secrets.Lease{}, refused
	}
	left, renewable, err := v.lookupLease(ctx, tok, namespace, id)
	switch {
	case secrets.KindOf(err) == secrets.Gone:
		return secrets.Lease{}, secrets.Errorf(secrets.Gone, "%w", refused)
	case err != nil:
		// May not look: then the words are all there is.
		if said := c.quote(r); strings.Contains(said, "lease not found") || strings.Contains(said, "lease expired") {
			return secrets.Lease{}, secrets.Errorf(secrets.Gone, "%w", refused)
		}
		return secrets.Lease{}, refused
	case renewable && left > 0:
		// The database behind the engine, say, is away. The lease lives.
		return secrets.Lease{}, &secrets.Error{Kind: secrets.Outage, Err: refused, Elsewhere: true}
	}
	return secrets.Lease{}, refused
}

// LeaseTTL is how long a lease still lives. One whose time has passed, and which the server has
// yet to clear away, is Gone: so are those that were revoked behind our back (C6).
func (v *Client) LeaseTTL(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) (time.Duration, error) {
	left, _, err := v.lookupLease(ctx, tok, namespace, id)
	return left, err
}

func (v *Client) lookupLease(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) (left time.Duration, renewable bool, err error) {
	c := leaseCall(tok, namespace, "lookup", id)
	r, err := v.do(ctx, c)
	if err != nil {
		return 0, false, err
	}
	if r.status == http.StatusBadRequest || r.status == http.StatusNotFound {
		return 0, false, secrets.Errorf(secrets.Gone, "%w", c.refusal(r)) // "invalid lease"
	}
	if !r.ok() {
		return 0, false, c.refusal(r)
	}
	left = seconds(r.body.Data["ttl"])
	if r.body.Data["expire_time"] != nil && left <= 0 {
		return 0, false, secrets.Errorf(secrets.Gone, "%s: it has expired", c.where())
	}
	renewable, _ = r.body.Data["renewable"].(bool)
	return left, renewable, nil
}

// Revoke ends a lease. The server queues it, and says 204 for one that it does not know.
func (v *Client) Revoke(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) error {
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
