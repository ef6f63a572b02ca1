// Package bubble is for tests whose time is testing/synctest's.
package bubble

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// Check checks one example of rapid's in a bubble of its own. What is wrong with it is said outside, on the goroutine that
// rapid can go on from: else it could not look for a simpler example.
func Check(t *testing.T, rt *rapid.T, check func(t *testing.T, errorf func(string, ...any))) {
	var wrong string
	synctest.Test(t, func(t *testing.T) {
		check(t, func(format string, args ...any) {
			if wrong == "" {
				wrong = fmt.Sprintf(format, args...)
			}
		})
	})
	if wrong != "" {
		rt.Fatal(wrong)
	}
}

// Requests are those that a server of a test's has at once.
type Requests struct {
	mu        sync.Mutex
	latency   time.Duration
	now, most int
}

// Latency sets how long each takes from now on.
func (r *Requests) Latency(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latency = d
}

// Most is how many there have been at once.
func (r *Requests) Most() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.most
}

// Serve lets one take its time. The error is ctx's, where that ends before.
func (r *Requests) Serve(ctx context.Context) error {
	r.mu.Lock()
	r.now++
	r.most = max(r.most, r.now)
	latency := r.latency
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.now--
		r.mu.Unlock()
	}()
	if latency == 0 { // under the race detector Go 1.26 sometimes crashes in a bubble at a timer that is due at once
		return ctx.Err()
	}
	select {
	case <-time.After(latency):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
