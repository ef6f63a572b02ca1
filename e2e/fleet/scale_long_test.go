//go:build long

package fleet

import (
	"os"
	"strconv"
	"time"
)

// whole is the fleet of the model, FLEET_NODES large; steady the part of it that goes through an hour, for nodes at a server that
// is not busy do not meet; big one node; atVault the one at a real Vault, FLEET_AT_VAULT large.
var (
	whole   = shape{nodes: nodes("FLEET_NODES", 1000), tasks: 40, rate: 20, poll: 10 * time.Second, check: time.Minute, startTimeout: 2 * time.Minute}
	steady  = shape{nodes: max(whole.nodes/20, 2), tasks: 40, rate: 20, poll: 10 * time.Second, check: time.Minute, startTimeout: 2 * time.Minute}
	big     = shape{nodes: 1, tasks: 1000, rate: 20, poll: 10 * time.Second, check: time.Minute, startTimeout: 2 * time.Minute}
	atVault = onThisMachine(nodes("FLEET_AT_VAULT", 10))
)

func nodes(variable string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// onThisMachine is a fleet that two cores can carry together with its Vault: ten nodes with all options at their defaults and leases of a
// minute, which are renewed as often in a minute as leases of an hour in an hour. A larger one polls and checks as docs/fleet.md
// advises, has leases of ten minutes, and waits longer for what such a Vault gives all of its tasks at once. The largest polls and checks
// more rarely still, and has leases of an hour: what it takes of Vault is no more than such a machine has, and nothing is to be renewed while it starts.
func onThisMachine(nodes int) shape {
	if nodes <= 10 {
		return shape{
			nodes: nodes, tasks: 40, rate: 20, poll: 10 * time.Second, check: time.Minute, startTimeout: 2 * time.Minute,
			leaseTTL: time.Minute, runs: 2 * time.Minute, away: 12 * time.Second,
		}
	}
	s := shape{
		nodes: nodes, tasks: 40, rate: 20, poll: time.Minute, check: 5 * time.Minute, startTimeout: 20 * time.Minute,
		leaseTTL: 10 * time.Minute, runs: 2 * time.Minute, away: 12 * time.Second,
	}
	if nodes > 500 {
		s.poll, s.check, s.leaseTTL = 5*time.Minute, 10*time.Minute, time.Hour
	}
	return s
}
