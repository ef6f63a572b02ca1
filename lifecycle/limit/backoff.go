package limit

import "time"

// Backoff is how long to wait after n failed attempts (n ≥ 1): twice as long each time, from first to last, less a random
// part of up to a half; r is in [0, 1).
func Backoff(first, last time.Duration, n int, r float64) time.Duration {
	d := first
	for ; n > 1 && d < last; n-- {
		d *= 2
	}
	d = min(d, last)
	return d/2 + time.Duration(r*float64(d/2))
}
