//go:build long || soak

package e2e

import (
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// busiest is the largest number of requests in any second.
func busiest(requests []harness.Request) int {
	most := 0
	for i, first := range requests {
		n := 0
		for _, r := range requests[i:] {
			if r.Time.Sub(first.Time) < time.Second {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}
