package renew

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Many orders, some with domains in common: never more at once than allowed, never two of one domain, and
// all have their turn.
func TestTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(4)
		var running, most atomic.Int32
		var mu sync.Mutex
		busy := map[string]bool{}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				name := fmt.Sprintf("%d.example.com", i%7)
				domains := []string{"*." + name, name}
				done, err := turns.Take(t.Context(), domains)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if busy[name] {
					t.Errorf("two orders for %s", name)
				}
				busy[name] = true
				mu.Unlock()
				if n := running.Add(1); n > most.Load() {
					most.Store(n)
				}
				time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
				running.Add(-1)
				mu.Lock()
				busy[name] = false
				mu.Unlock()
				done()
			})
		}
		wg.Wait()
		require.LessOrEqual(t, most.Load(), int32(4))
		require.Greater(t, most.Load(), int32(1))
	})
}

func TestTurnEndsWithItsContext(t *testing.T) {
	t.Parallel()
	turns := NewTurns(1)
	done, err := turns.Take(t.Context(), []string{"a"})
	require.NoError(t, err)
	why := errors.New("shutdown")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err = turns.Take(ctx, []string{"b"})
	require.ErrorIs(t, err, why)
	done()
	done, err = turns.Take(t.Context(), []string{"b"})
	require.NoError(t, err)
	done()
}
