//go:build !long

package fleet

import "time"

// whole is the fleet of the model; steady the part of it that goes through an hour; big one node; atVault the one at a real Vault.
var (
	whole   = shape{nodes: 5, tasks: 40, rate: 20, poll: 10 * time.Second, check: time.Minute, startTimeout: 2 * time.Minute}
	steady  = shape{nodes: 2, tasks: 40, rate: 20, poll: 10 * time.Second, check: time.Minute, startTimeout: 2 * time.Minute}
	big     = shape{nodes: 1, tasks: 100, rate: 20, poll: 10 * time.Second, check: time.Minute, startTimeout: 2 * time.Minute}
	atVault = shape{
		nodes: 2, tasks: 12, rate: 20, poll: 10 * time.Second, check: 3 * time.Second, startTimeout: 2 * time.Minute,
		leaseTTL: time.Minute, runs: 3 * time.Second, away: 4 * time.Second,
	}
)
