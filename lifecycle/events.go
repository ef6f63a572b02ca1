package lifecycle

import (
	"fmt"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// All that a session tells the operator. Only ten events are kept of a task, so they are few, and
// short; what comes again and again is said once.

func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

func sayReading(id *identity) string { return "secrets: reading with " + id.describe() }

func sayLeftOut(sec *secrets.Secret) string {
	return fmt.Sprintf("secret %q: nothing is at %s; left out, for it is not required", sec.Name, sec.Request.Path)
}

func sayOutage(now, ends time.Time) string {
	switch {
	case ends.IsZero():
		return "secrets server unreachable; the task keeps its secrets"
	case ends.Before(now):
		return "secrets server unreachable; credentials ended at " + clock(ends) + ", and are replaced when it is back"
	}
	return "secrets server unreachable; credentials stay valid until " + clock(ends)
}

func sayOutageOver() string { return "secrets server reachable again" }

func sayRevocationRefused() string {
	return "revocation of old leases refused: they end with their TTL (policy needs update on sys/leases/revoke)"
}

func sayTokenRevocationRefused() string {
	return "revocation of the task's token refused: it ends with its TTL (policy needs update on auth/token/revoke-self)"
}

func sayTokenRenewalRefused() string {
	return "secrets: renewal of the task's token refused (policy needs update on auth/token/renew-self); before its end the task logs in again, and its leases are rotated"
}

func sayRenewalRefused(name string) string {
	return fmt.Sprintf("secret %q: renewal refused (policy needs update on sys/leases/renew); it is rotated before its end instead", name)
}

func sayRenewalFailed(h *held, err error) string {
	return fmt.Sprintf("secret %q: not renewed yet: %v; the one in hand ends at %s", h.secret.Name, err, clock(h.ends))
}

func sayCheckRefused() string {
	return "secrets: lease checks refused (policy needs update on sys/leases/lookup); a revoked lease is seen only when it is renewed"
}

func sayTokenDead(id *identity) string {
	if id.source == fromIdentity {
		return "the task's token has ended; logging in again"
	}
	return id.describe() + " is not valid any more; waiting for a new one"
}

func sayLoginRefused(err error) string { return fmt.Sprintf("secrets: %v", err) }

// sayFailed is about a rotation that cannot be; the task keeps what it has.
func sayFailed(h *held, err error) string {
	text := fmt.Sprintf("%v", err)
	if !strings.Contains(text, fmt.Sprintf("secret %q", h.secret.Name)) {
		text = fmt.Sprintf("secret %q: %s", h.secret.Name, text)
	}
	switch {
	case h.gone:
		return fmt.Sprintf("not rotated: %s; the one in hand has ended", text)
	case h.ends.IsZero():
		return "not rotated: " + text
	}
	return fmt.Sprintf("not rotated: %s; the one in hand ends at %s", text, clock(h.ends))
}

func sayNothingGranted() string {
	return "secrets: the policies of the task's token grant no secret; look at the policies of its role"
}

func sayPolicies(err error) string {
	return fmt.Sprintf("secrets: what the policies grant cannot be taken up: %v", err)
}

func sayNotAdded(name string, err error) string {
	return fmt.Sprintf("secret %q is granted by the policies now, and not added: %v", name, err)
}

func sayChange(c *change) string {
	switch {
	case c.drop:
		return fmt.Sprintf("secret %q left out (%s)", c.name, c.why)
	case c.added:
		return fmt.Sprintf("secret %q added (the policies grant it now)", c.name)
	}
	if c.why == "" {
		return fmt.Sprintf("secret %q changed", c.name)
	}
	return fmt.Sprintf("secret %q rotated (%s)", c.name, c.why)
}

func sayRotated(r *rotation, outcome string) string {
	var parts []string
	for _, c := range r.batch {
		parts = append(parts, sayChange(c))
	}
	return strings.Join(parts, ", ") + "; " + outcome
}
