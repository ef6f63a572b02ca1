package limit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBackoff(t *testing.T) {
	for n, want := range []time.Duration{1: 2, 2: 4, 3: 8, 4: 16, 5: 20, 6: 20} {
		if n == 0 {
			continue
		}
		require.Equal(t, want*time.Second/2, Backoff(2*time.Second, 20*time.Second, n, 0))
		require.InDelta(t, float64(want*time.Second), float64(Backoff(2*time.Second, 20*time.Second, n, 0.999999)), float64(time.Millisecond))
	}
	require.Equal(t, 10*time.Second, Backoff(2*time.Second, 20*time.Second, 1<<30, 0), "it does not overflow")
}
