package renew

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRetry(t *testing.T) {
	t.Parallel()
	none := time.Time{}
	for name, test := range map[string]struct {
		notAfter time.Time
		attempt  Attempt
		want     time.Duration
	}{
		"the first":                        {after(30 * day), Attempt{Failure: Unavailable, Count: 1}, 15 * time.Second},
		"the fourth":                       {after(30 * day), Attempt{Failure: Unavailable, Count: 4}, 2 * time.Minute},
		"the longest":                      {after(30 * day), Attempt{Failure: Unavailable, Count: 100}, 30 * time.Minute},
		"jitter":                           {after(30 * day), Attempt{Failure: Unavailable, Count: 1, Jitter: 1}, 18 * time.Second},
		"what the server asked for":        {after(30 * day), Attempt{Failure: Unavailable, Count: 1, RetryAfter: 2 * time.Hour}, 2 * time.Hour},
		"a refusal":                        {after(30 * day), Attempt{Failure: Refused, Count: 2}, 30 * time.Minute},
		"rate limited":                     {after(30 * day), Attempt{Failure: RateLimited, Count: 1, RetryAfter: 7 * time.Hour}, 7 * time.Hour},
		"little time is left":              {after(time.Hour), Attempt{Failure: Unavailable, Count: 100}, 6 * time.Minute},
		"hardly any":                       {after(10 * time.Second), Attempt{Failure: Unavailable, Count: 100}, 5 * time.Second},
		"a refusal, and hardly any":        {after(10 * time.Second), Attempt{Failure: Refused, Count: 100}, time.Minute},
		"it has ended":                     {after(-time.Hour), Attempt{Failure: Unavailable, Count: 100}, 30 * time.Minute},
		"none yet":                         {none, Attempt{Failure: Unavailable, Count: 2}, 30 * time.Second},
		"limited, though little time left": {after(time.Hour), Attempt{Failure: RateLimited, Count: 1, RetryAfter: 2 * time.Hour}, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, after(test.want), Retry(begin, test.notAfter, test.attempt))
		})
	}
}

// An authority may be away for as long as a certificate has left, less a day: there are attempts in that day. And
// never is one made before the server wants it, nor one after the other without a pause.
func TestRetryLeavesTime(t *testing.T) {
	t.Parallel()
	failures := []Failure{Unavailable, RateLimited, Refused, Misconfigured, "unheard of"}
	for range 20000 {
		left := time.Duration(rand.Int64N(int64(90 * day)))
		a := Attempt{Failure: failures[rand.IntN(len(failures))], Count: rand.IntN(200), Jitter: rand.Float64()}
		if rand.IntN(2) == 0 {
			a.RetryAfter = time.Duration(rand.Int64N(int64(day)))
		}
		wait := Retry(begin, after(left), a).Sub(begin)
		require.GreaterOrEqual(t, wait, a.RetryAfter)
		require.GreaterOrEqual(t, wait, 5*time.Second)
		if a.RetryAfter == 0 {
			require.LessOrEqual(t, wait, max(left/10, time.Minute)*6/5, "%+v with %s left", a, left)
			require.LessOrEqual(t, wait, 8*time.Hour)
		}
	}
}
