package lifecycle

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// The events of a session. Nomad keeps ten of a task, so they are few, and short; what repeats is emitted once.

func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

func eventReading(id *identity) string { return "Secrets: reading with " + id.describe() }

func eventSkipped(sec *secrets.Secret) string {
	return fmt.Sprintf("Secrets: secret %q not found at %s; skipped (required = false)", sec.Name, sec.Request.Path)
}

// eventWaits is about a start that tries again.
func eventWaits(cause error, until time.Time) string {
	return fmt.Sprintf("Secrets: the start waits, and tries again until %s, because of: %s", clock(until), secrets.Cut(secrets.OneLine(cause.Error()), maxReason))
}

// eventNoAnswerYet is about a start whose first request takes long.
func eventNoAnswerYet(what string, until time.Time) string {
	return fmt.Sprintf("Secrets: the start waits for %s until %s, and has no answer yet", what, clock(until))
}

func eventOutage(provider string, now, ends time.Time) string {
	head := "Secrets: " + serverOf(provider) + " unreachable; "
	switch {
	case ends.IsZero():
		return head + "the task keeps its secrets"
	case ends.Before(now):
		return head + "credentials ended at " + clock(ends) + " and are replaced when it is back"
	}
	return head + "credentials stay valid until " + clock(ends)
}

// eventEnded is about credentials that have ended and that the task still has; first is when the first of them did.
func eventEnded(names []string, first time.Time) string {
	return "Secrets: secret " + quoted(names) + ": the credential in hand ended at " + clock(first) + "; it is replaced as soon as the server gives a new one"
}

// quoted are the names of secrets, as many as an event may have.
func quoted(names []string) string {
	all := make([]string, 0, maxNamed)
	for _, name := range names[:min(len(names), maxNamed)] {
		all = append(all, strconv.Quote(name))
	}
	text := strings.Join(all, ", ")
	if more := len(names) - len(all); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// eventReplacedBeforeRun is about credentials that had ended when the task's program was about to run.
func eventReplacedBeforeRun(names []string) string {
	return "Secrets: secret " + quoted(names) + ": the credential ended before the task's program ran, and was replaced"
}

func eventWatchFailed(again time.Time) string {
	return "Secrets: not watched, because of an error in this plugin (the agent's log has it; please report it); the watch begins anew at " + clock(again)
}

func eventWatchEnded() string {
	return "Secrets: not watched any more, since the journal cannot be used; restart the task to have them renewed"
}

func eventOutageOver(provider string) string {
	return "Secrets: " + serverOf(provider) + " reachable again"
}

// serverOf is how an event names a provider's server.
func serverOf(provider string) string {
	if provider == secrets.DefaultProvider {
		return "server"
	}
	return fmt.Sprintf("provider %q", provider)
}

func eventTokenRenewalRefused() string {
	return "Secrets: renewal of the task's token refused (policy needs update on auth/token/renew-self); the task logs in again before its end, and its leases are rotated"
}

func eventRenewalRefused(name string) string {
	return fmt.Sprintf("Secrets: secret %q: renewal refused (policy needs update on sys/leases/renew); it is rotated before its end instead", name)
}

func eventRenewalFailed(h *secretState, err error) string {
	return fmt.Sprintf("Secrets: secret %q: not renewed yet: %v; the current one ends at %s", h.secret.Name, err, clock(h.ends))
}

func eventCheckRefused() string {
	return "Secrets: lease checks refused (policy needs update on sys/leases/lookup); a revoked lease is noticed only when it is renewed"
}

func eventTokenLost(id *identity) string {
	if id.source == journal.FromIdentity {
		return "Secrets: the task's token has ended; logging in again"
	}
	return "Secrets: " + id.describe() + " is no longer valid; waiting for a new one"
}

func eventLoginRefused(err error) string { return fmt.Sprintf("Secrets: %v", err) }

// eventNotRotated is about a rotation that cannot be; the task keeps what it has.
func eventNotRotated(h *secretState, err error) string {
	text := secrets.Cut(err.Error(), maxReason)
	if !strings.Contains(text, fmt.Sprintf("secret %q", h.secret.Name)) {
		text = fmt.Sprintf("secret %q: %s", h.secret.Name, text)
	}
	switch {
	case h.lost:
		return fmt.Sprintf("Secrets: not rotated: %s; the current one has ended", text)
	case h.ends.IsZero():
		return "Secrets: not rotated: " + text
	}
	return fmt.Sprintf("Secrets: not rotated: %s; the current one ends at %s", text, clock(h.ends))
}

// emitShortLived reports a certificate that ends before it may be issued again: the server has begun to give
// shorter ones since the start, which refuses them.
func (s *Session) emitShortLived(h *secretState) {
	if h.answer.Kind == secrets.Issued && h.rotate.After(h.ends) {
		s.emitOnce(keyLifetime(h.secret.Name), fmt.Sprintf(
			"Secrets: secret %q: its certificates have begun to end before they may be issued again, every %v at most; raise the role's ttl or max_ttl to %v or more",
			h.secret.Name, reissueAtLeast, secrets.MinLifetime))
	}
}

// maxReason bounds an error within an event, so that what follows it is seen.
const maxReason = 1500

// maxOutcome bounds what is said of the action in an event about a rotation.
const maxOutcome = 500

func eventNothingGranted() string {
	return "Secrets: the policies of the task's token grant no secret; check the policies of its role"
}

func eventPolicies(err error) string {
	return fmt.Sprintf("Secrets: what the policies grant cannot be applied: %v", err)
}

func eventPoliciesCut() string {
	return fmt.Sprintf("Secrets: the policies grant more than the %d secrets that one task may have, or their patterns hold more than %d paths; the rest is skipped: narrow the policy, or declare secrets", secrets.MaxSecrets, secrets.MaxDiscovered)
}

// maxNamed and maxEvent bound an event about many secrets: it goes into Nomad's own state.
const (
	maxNamed = 20
	maxEvent = 2 << 10
)

func eventGrantsSkipped(all []secrets.Skipped) string {
	const head = "Secrets: granted by the policies and skipped: "
	named := all[:min(len(all), maxNamed)]
	most := (maxEvent-len(head)-20)/len(named) - 2
	parts := make([]string, len(named))
	for i, l := range named {
		parts[i] = secrets.Cut(secrets.Cut(plain(l.Path), most/2)+" ("+secrets.Cut(secrets.OneLine(l.Why), 300), most-1) + ")"
	}
	text := head + strings.Join(parts, "; ")
	if more := len(all) - len(named); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// plain is a path as it is, or quoted where that would not show what it is: a key may hold anything.
func plain(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }) {
		return strconv.Quote(path)
	}
	return path
}

func describeChange(c *change) string {
	switch {
	case c.drop:
		return fmt.Sprintf("secret %q removed (the policies no longer grant it)", c.name)
	case c.added:
		return fmt.Sprintf("secret %q added (the policies grant it now)", c.name)
	}
	why := c.reason()
	if why == "" {
		return fmt.Sprintf("secret %q changed", c.name)
	}
	return fmt.Sprintf("secret %q rotated (%s)", c.name, why)
}

func eventRotated(r *rotation, outcome string) string {
	const most = 20
	var parts []string
	for _, c := range r.batch[:min(most, len(r.batch))] {
		parts = append(parts, describeChange(c))
	}
	if rest := len(r.batch) - most; rest > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", rest))
	}
	return "Secrets: " + secrets.Cut(strings.Join(parts, ", "), maxReason) + "; " + secrets.Cut(outcome, maxOutcome)
}
