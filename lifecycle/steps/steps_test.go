package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whichever step fails, those before it are undone, the last first, and no other.
func TestRun(t *testing.T) {
	const n = 4
	for failing := range n + 1 {
		var did, undid []int
		var all []Step
		for i := range n {
			step := Step{
				Do: func(context.Context) error {
					if i == failing {
						return fmt.Errorf("step %d", i)
					}
					did = append(did, i)
					return nil
				},
				Undo: func() error { undid = append(undid, i); return nil },
			}
			if i == 1 {
				step.Undo = nil // it leaves nothing
			}
			all = append(all, step)
		}
		err := Run(t.Context(), all...)
		if failing == n {
			require.NoError(t, err)
			require.Len(t, did, n)
			require.Empty(t, undid)
			continue
		}
		require.EqualError(t, err, fmt.Sprintf("step %d", failing))
		want := slices.DeleteFunc(slices.Clone(did), func(i int) bool { return i == 1 })
		slices.Reverse(want)
		require.Equal(t, want, undid, "step %d fails", failing)
		require.Len(t, did, failing)
	}
}

// An undo that fails stops no other, and both errors are told; the step's first.
func TestUndoFails(t *testing.T) {
	cause, broken := errors.New("no room"), errors.New("busy")
	undone := false
	err := Run(t.Context(),
		Step{Do: func(context.Context) error { return nil }, Undo: func() error { undone = true; return nil }},
		Step{Do: func(context.Context) error { return nil }, Undo: func() error { return broken }},
		Step{Do: func(context.Context) error { return cause }},
	)
	require.ErrorIs(t, err, cause)
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, "no room\nbusy")
	require.True(t, undone)
}
