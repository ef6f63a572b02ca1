package lifecycle

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// End stops a rotation that is under way, and all that either left is revoked.
func TestEndDuringRotation(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		restarting := make(chan struct{})
		w.host.restart = func(ctx context.Context) error {
			close(restarting)
			<-ctx.Done()
			return ErrEnded
		}
		s := w.open(many{"db": db("")})
		<-restarting
		require.Len(t, w.vault.live("database/creds/app"), 2)
		began := time.Now()
		s.End()
		require.Zero(t, time.Since(began), "End waits for no server")
		synctest.Wait()
		require.Empty(t, w.vault.live("database/creds/app"))
		require.Zero(t, w.vault.liveTokens())
	})
}

// E2: who learns that the task has ended finds its leases pending, from within a rotation, too; and what
// that rotation still gets is revoked.
func TestEnqueueRevocations(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		w.host.restart = func(context.Context) error {
			w.keeper.sessions[w.task().Key()].EnqueueRevocations()
			_, err := w.keeper.Recover(w.task(), w.host)
			require.ErrorIs(w.t, err, ErrNoJournal)
			return ErrEnded
		}
		s, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db("")}), w.host)
		require.NoError(w.t, err)
		s.Watch()
		w.sleep(time.Hour)
		require.Equal(t, 1, w.host.count("restart"))
		require.Empty(t, w.vault.live("database/creds/app"))
		require.Zero(t, w.vault.liveTokens())
		s.End()
	})
}

// End does not wait for a server that hangs.
func TestEndHanging(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		w.vault.with(func() { w.vault.delay = time.Hour })
		w.sleep(41 * time.Minute) // in the middle of a renewal
		began := time.Now()
		s.End()
		require.Zero(t, time.Since(began))
		w.vault.with(func() { w.vault.delay = 0 })
		w.sleep(3 * time.Minute)
		require.Zero(t, w.vault.liveTokens())
	})
}
