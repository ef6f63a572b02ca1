package renew

import "time"

// Failure is a kind of failure, by what repeating the attempt may do.
type Failure string

// The kinds of failures.
const (
	// Unavailable: a server does not answer, or not well. It costs nothing to ask again.
	Unavailable Failure = "unavailable"
	// RateLimited: the authority says that it was asked too often.
	RateLimited Failure = "rate_limited"
	// Refused: the authority did not find the domain to be ours, or does not issue for it. A person has to
	// act, and failed validations are counted against the account.
	Refused Failure = "refused"
	// Misconfigured: the authority or Vault does not accept the request as such.
	Misconfigured Failure = "misconfigured"
)

// pace is how a kind is repeated: the first wait, doubled each time, up to the longest.
type pace struct{ first, longest time.Duration }

var paces = map[Failure]pace{
	Unavailable:   {15 * time.Second, 30 * time.Minute},
	RateLimited:   {15 * time.Minute, 6 * time.Hour},
	Refused:       {15 * time.Minute, 6 * time.Hour},
	Misconfigured: {5 * time.Minute, time.Hour},
}

// shortest is the shortest wait of all.
const shortest = 5 * time.Second

// Attempt is a failed one.
type Attempt struct {
	Failure    Failure
	Count      int           // in a row, this one included
	RetryAfter time.Duration // what the server asked for, 0 if it did not
	Jitter     float64       // 0 to 1
}

// Retry is when a failed attempt is repeated. A certificate that will end is tried again while there is
// still time for some attempts more: the wait is at most a tenth of what is left. Only what the server
// asked for is longer. notAfter is zero if there is no certificate.
func Retry(now, notAfter time.Time, a Attempt) time.Time {
	p, known := paces[a.Failure]
	if !known {
		p = paces[Unavailable]
	}
	wait := p.longest
	if shift := max(a.Count, 1) - 1; shift < 20 {
		wait = min(p.first<<shift, p.longest)
	}
	if left := notAfter.Sub(now); !notAfter.IsZero() && left > 0 {
		wait = min(wait, max(left/10, lower(a.Failure)))
	}
	wait += time.Duration(a.Jitter * float64(wait) / 5)
	return now.Add(max(wait, a.RetryAfter, shortest))
}

// lower is the shortest wait of a kind, however little time is left: what counts against the account is
// not repeated every few seconds.
func lower(f Failure) time.Duration {
	if f == Unavailable {
		return shortest
	}
	return time.Minute
}
