package lifecycle

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
)

// What recovery finds (E2): a start that was cut short is ended, a rotation that only fetched leaves nothing, and one
// that was being applied is resumed.
func TestPhaseInTheJournal(t *testing.T) {
	for p, want := range map[phase]journal.Step{
		phaseStarting: journal.StepStarting, phaseLaunching: journal.StepWatching, phaseWatching: journal.StepWatching, phaseFetching: journal.StepWatching,
		phaseApplying: journal.StepApplying, phaseOver: journal.StepWatching,
	} {
		require.Equal(t, want, p.step(), "%d", p)
		require.Equal(t, p == phaseFetching || p == phaseApplying, p.rotating(), "%d", p)
	}
}
