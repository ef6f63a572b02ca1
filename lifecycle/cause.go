package lifecycle

import (
	"cmp"
	"maps"
	"slices"
)

// Cause is why a secret is replaced, in one word: metrics have it as a label, and events the sentence that goes with it.
// There are no others, so that a label has few values.
type Cause string

// The causes.
const (
	CauseChanged        Cause = "changed"         // somebody wrote a static secret, or its engine has rotated it
	CauseLeaseMaximum   Cause = "lease_maximum"   // its lease cannot be extended any further
	CauseNotRenewable   Cause = "not_renewable"   // its lease cannot be extended at all
	CauseRenewalRefused Cause = "renewal_refused" // a policy does not let the task extend its lease
	CauseExpiring       Cause = "expiring"        // a certificate, which nothing extends, nears its end
	CauseExpired        Cause = "expired"         // it has ended before it could be extended or replaced
	CauseRevoked        Cause = "revoked"         // the server does not know its lease any more
	CauseTokenMaximum   Cause = "token_maximum"   // the token that it was made under cannot be extended any further
	CauseTokenEnded     Cause = "token_ended"     // that token has ended
	CauseGranted        Cause = "granted"         // the policies grant it newly
	CauseWithdrawn      Cause = "withdrawn"       // they grant it no longer
	CauseOperator       Cause = "operator"        // an operator asked for a new one
	CauseUnknown        Cause = "unknown"         // an older version of the plugin journalled none
)

// causes are all there are, each with what events say of it; empty: what the event says anyway is enough.
var causes = map[Cause]string{
	CauseChanged:        "",
	CauseLeaseMaximum:   "its lease reached its maximum",
	CauseNotRenewable:   "its lease cannot be renewed",
	CauseRenewalRefused: "its lease may not be renewed",
	CauseExpiring:       "", // when
	CauseExpired:        "", // when
	CauseRevoked:        "its lease was revoked",
	CauseTokenMaximum:   "the token it was made under reached its maximum",
	CauseTokenEnded:     "the token it was made under has ended",
	CauseGranted:        "",
	CauseWithdrawn:      "",
	CauseOperator:       "an operator asked for a new one",
	CauseUnknown:        "",
}

// Causes are all there are, in no order.
func Causes() []Cause { return slices.Collect(maps.Keys(causes)) }

// Known reports whether c is one of the causes: what a newer version of the plugin journalled need not be.
func (c Cause) Known() bool {
	_, known := causes[c]
	return known
}

// reason is a cause, and what an event says of it.
type reason struct {
	cause Cause
	text  string // empty: what the event says anyway is enough
}

// because is a cause with its usual text.
func because(c Cause) reason { return reason{c, causes[c]} }

// resumedReason is what the journal has of a reason.
func resumedReason(cause, text string) reason { return reason{Cause(cause), text} }

// cause is why a secret is replaced, as metrics count it.
func (c *change) cause() Cause {
	switch {
	case c.drop:
		return CauseWithdrawn
	case c.added:
		return CauseGranted
	}
	return cmp.Or(c.why.cause, CauseUnknown)
}
