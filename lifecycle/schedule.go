package lifecycle

import (
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What is here decides and does nothing else: functions of the time, of what the server granted,
// and of a random number r in [0, 1). The loop in watch.go asks them and acts.

const (
	// coalesce is how long changes are gathered before they are applied together (C7).
	coalesce = time.Second
	// maxSpread bounds splay + stagger: a job with many allocations must not run for hours on what
	// has changed.
	maxSpread = 5 * time.Minute
	// standbyLag is how long after a login a refusal may only mean that a standby has not heard of
	// the token yet (S2).
	standbyLag = 5 * time.Second
	// firstRetry and lastRetry bound the wait between attempts while the server is away.
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	// slowRetry is for what waiting alone hardly helps: a policy, a template.
	slowRetry = time.Minute
	// clockSlack is how far the server's word for a lease's end may be from ours without meaning anything:
	// it counts in seconds, and an answer takes its time.
	clockSlack = 5 * time.Second
	// oldLeaseGrace is how long an old lease outlives a signal or a script: the task gets its new
	// credential then, but begins to use it in its own time.
	oldLeaseGrace = 10 * time.Second
	// reissueAtLeast is how far apart the certificates of one secret are issued, whatever their lifetime (C11).
	reissueAtLeast = 30 * time.Second
)

// between is the moment that lies r of the way from lo to hi after t.
func between(t time.Time, lo, hi time.Duration, r float64) time.Time {
	return t.Add(lo + time.Duration(r*float64(hi-lo)))
}

// renewAt is when to renew what was granted for d at t: between half and two thirds of d, so that
// what was granted together is not renewed together, and a failure leaves a third of d for the next
// attempts (C1).
func renewAt(t time.Time, d time.Duration, r float64) time.Time {
	return between(t, d/2, d/3*2, r)
}

// renewedAt is renewAt for what was seen at a moment to have been granted before: some of what is left passes first.
func renewedAt(seen, since time.Time, d time.Duration, r float64) time.Time {
	at, left := renewAt(since, d, r), since.Add(d).Sub(seen)
	if soonest := between(seen, left/4, left/3, r); at.Before(soonest) {
		return soonest
	}
	return at
}

// checkAt is when to look again whether the server still knows a lease that was seen at t (C6):
// never later than the interval.
func checkAt(t time.Time, interval time.Duration, r float64) time.Time {
	return between(t, interval*8/10, interval, r)
}

// atMaximum reports whether a renewal that asked for one duration and got another shows that the
// lease will end for good. The twentieth forgives servers that round.
func atMaximum(asked, got time.Duration) bool {
	return got < asked-asked/20
}

// backoff is how long to wait before the next attempt after n failed ones (n ≥ 1).
func backoff(n int, r float64) time.Duration { return limit.Backoff(firstRetry, lastRetry, n, r) }

// retryRenewal is after backoff, made shorter where the lease has not long to live: attempts are no further apart than a tenth
// of what remains, or a second, for a server may answer for seconds only (and not all at the same moments); and at least one more fits in (C1). Past the lease's end it is backoff's again: the server is asked
// until it says that the lease is gone.
func retryRenewal(now, end time.Time, n int, r float64) time.Time {
	wait := backoff(n, r)
	if left := end.Sub(now); left > 0 {
		most := max(left/10, firstRetry)
		wait = min(wait, most/2+time.Duration(r*float64(most/2)), max(left/3, firstRetry/4))
	}
	return now.Add(wait)
}

// slowBackoff is how long to wait after n failures that waiting hardly helps.
func slowBackoff(n int, r float64) time.Duration {
	d := slowRetry * time.Duration(min(n, 10))
	return d/2 + time.Duration(r*float64(d/2))
}

// spread is how long to wait with a change, so that not every allocation applies it at once: a random part of
// the splay, and stagger for each allocation before this one, but no more than maxSpread in all:
// beyond that a random part of maxSpread.
func spread(c secrets.Change, allocIndex int, r float64) time.Duration {
	stagger := c.Stagger * time.Duration(allocIndex)
	if c.Stagger > 0 && stagger/c.Stagger != time.Duration(allocIndex) {
		stagger = maxSpread // overflow
	}
	if c.Splay > maxSpread || stagger > maxSpread || c.Splay+stagger > maxSpread {
		return time.Duration(r * float64(maxSpread))
	}
	return time.Duration(r*float64(c.Splay)) + stagger
}

// need is the longest time that a rotation may take from its decision to the old process's end.
func need(c secrets.Change, allocIndex int, stopTime time.Duration) time.Duration {
	wait := min(c.Splay, maxSpread)
	if c.Stagger > 0 && time.Duration(allocIndex) > maxSpread/c.Stagger {
		wait = maxSpread
	} else {
		wait = min(wait+c.Stagger*time.Duration(allocIndex), maxSpread)
	}
	return coalesce + wait + applyTime(c.Mode, stopTime)
}

// applyTime is how long the action itself takes until the old credential is not used any more. stopTime is what the job
// gives the old process.
func applyTime(m secrets.Mode, stopTime time.Duration) time.Duration {
	if m == secrets.Restart {
		return stopTime + StopAllowance
	}
	return StopAllowance
}

// rotateAt is when to begin to replace what was granted for d (0: for what is left) and ends for good
// at end: a third of d before the end, or sooner if the rotation needs longer, but no sooner than two
// thirds of d before it, since replacing more often helps nobody. What has less left than it needs,
// since its maximum showed only when it was renewed, is replaced at once.
func rotateAt(now, end time.Time, d, need time.Duration) time.Time {
	left := end.Sub(now)
	if left <= 0 {
		return now
	}
	lead := min(max(d/3, need), max(d, left)/3*2)
	if lead >= left {
		return now
	}
	return end.Add(-lead)
}

// issuedAt is when to replace what is valid from at to end, without a lease (a certificate): at
// about two thirds of its life, jittered, or sooner if the rotation needs longer, but not before reissueAtLeast
// has passed. What has ended when it comes is not replaced faster: the next may have ended, too.
func issuedAt(at, end time.Time, need time.Duration, r float64) time.Time {
	life := end.Sub(at)
	if life <= 0 {
		return at.Add(slowRetry)
	}
	when := between(at, life/100*60, life/100*70, r)
	when = earliest(when, rotateAt(at, end, 0, need))
	if soonest := at.Add(reissueAtLeast); when.Before(soonest) {
		return soonest
	}
	return when
}

// applyAt is when to act on a change seen at now: after its spread and not before coalesce has
// passed, but never so late that the credential would end (limit; zero: never) before the action.
func applyAt(now time.Time, wait time.Duration, limit time.Time) time.Time {
	at := now.Add(max(wait, coalesce))
	if limit.IsZero() || at.Before(limit) {
		return at
	}
	if limit.Before(now) {
		return now
	}
	return limit
}

// strongest is the one thing done for several changes (C7).
func strongest(modes ...secrets.Mode) secrets.Mode {
	m := secrets.Noop
	for _, x := range modes {
		m = max(m, x)
	}
	return m
}

// earliest is the first of the moments that are not zero; zero if there is none.
func earliest(ts ...time.Time) time.Time {
	var first time.Time
	for _, t := range ts {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}
