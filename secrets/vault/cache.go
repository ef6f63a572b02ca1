package vault

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A Vault Proxy or Agent with a cache stands between tasks and the server in many places. It keeps logins, leases and their renewals (of
// tokens that it has seen made), renews them by itself, and gives the kept answer to a request that is the same in all its headers and its
// body. So what makes something is asked for in a way that no other request is the same. A renewal is not, for the cache keeps renewing each
// that it has not seen before, for as long as its lease lives: there the server is asked how things stand, which no cache answers.

// pastCaches has a client's request answered by the server itself.
func pastCaches(client *api.Client) {
	client.AddHeader("Cache-Control", "no-cache")
	client.AddHeader("X-Request-Id", rand.Text())
}

// ageOf is how old an answer is that a cache gave.
func ageOf(header http.Header) (cached bool, age time.Duration) {
	said := header.Get("Age")
	if said == "" {
		return false, 0
	}
	seconds, err := strconv.Atoi(said)
	if err != nil || seconds < 0 {
		return true, 0
	}
	return true, time.Duration(seconds) * time.Second
}

// renewedEnough reports whether what was granted, and of which so much is left, need not be renewed yet: who renewed it before us does
// so in time.
func renewedEnough(granted, left time.Duration) bool { return left > 0 && left >= granted/3 }

// renewedBefore is a lease whose renewal a cache has answered, as the server knows it; ok is false if it has yet to be renewed.
func (v *Client) renewedBefore(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) (l secrets.Lease, ok bool) {
	r, err := v.do(ctx, leaseCall(tok, namespace, "lookup", id))
	if err != nil || !r.ok() {
		return l, false
	}
	left := seconds(r.body.Data["ttl"])
	granted := grantedBetween(r.body.Data, "expire_time", "last_renewal", "issue_time")
	if !renewedEnough(granted, left) {
		return l, false
	}
	renewable, _ := r.body.Data["renewable"].(bool)
	return secrets.Lease{ID: id, Duration: granted, Renewable: renewable, Since: r.at.Add(left - granted)}, true
}

// grantedBetween is for how long something was granted, by when it ends, and the latest of the other moments.
func grantedBetween(data map[string]any, ends string, others ...string) time.Duration {
	end := momentOf(data[ends])
	var latest time.Time
	for _, other := range others {
		if at := momentOf(data[other]); at.After(latest) {
			latest = at
		}
	}
	if end.IsZero() || latest.IsZero() {
		return 0
	}
	if latest.Nanosecond() == 0 { // a token's renewal has no fractions of a second
		end = end.Truncate(time.Second)
	}
	// The two are not taken at quite the same moment.
	return (end.Sub(latest) + time.Second/10).Truncate(time.Second)
}

// momentOf is a moment in an answer, which may be a text or a number; zero if it is none.
func momentOf(field any) time.Time {
	switch f := field.(type) {
	case string:
		at, _ := time.Parse(time.RFC3339Nano, f)
		return at
	case json.Number:
		return unixTime(f)
	}
	return time.Time{}
}
