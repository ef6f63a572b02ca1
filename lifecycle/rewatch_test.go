package lifecycle

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// C14, S9: a watch that fails while the task is being started begins anew as that of a task whose program does not run yet: what
// ends meanwhile is still replaced before it runs, and nothing is done to the task.
func TestPanicWhileLaunching(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.roles["database/creds/app"] = fakeRole{ttl: 2 * time.Minute, max: 2 * time.Minute, fixed: true}
		s := w.launch(many{"db": db("")})
		first := s.Set()
		s.results <- func() { panic("hunter2") }
		synctest.Wait()
		w.sleep(10 * time.Minute)
		require.Empty(t, w.host.applied(), "there is no process to do it to")
		require.False(t, first == w.deliver(s), "what has ended is replaced")
		s.Watch()
		w.sleep(time.Minute)
		require.Empty(t, w.host.applied())
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}

// Who waits for the loop when it fails is answered: a start is to be tried again, and an operator is told.
func TestPanicAnswersWhoWaits(t *testing.T) {
	t.Run("a start", func(t *testing.T) {
		inWorld(t, func(w *world) {
			withDB(w)
			w.vault.roles["database/creds/app"] = fakeRole{ttl: 15 * time.Second, max: 15 * time.Second, fixed: true}
			s := w.launch(many{"db": db("")})
			w.vault.set(errAway)
			w.sleep(time.Minute)
			delivered := make(chan error)
			began := time.Now()
			go func() {
				_, err := s.Deliver(context.Background())
				delivered <- err
			}()
			synctest.Wait()
			s.results <- func() { panic("hunter2") }
			require.ErrorIs(t, <-delivered, errNotWatched)
			require.Less(t, time.Since(began), deliverTimeout)
			s.End()
		})
	})
	t.Run("an operator", func(t *testing.T) {
		inWorld(t, func(w *world) {
			withDB(w)
			s := w.open(many{"db": db("")})
			w.vault.set(errAway)
			done := make(chan []Outcome)
			go func() { done <- w.keeper.Operate(context.Background(), Rotate, Selection{}) }()
			synctest.Wait()
			s.results <- func() { panic("hunter2") }
			all := <-done
			require.Len(t, all, 1)
			require.Equal(t, Failed, all[0].Result)
			require.Contains(t, all[0].Detail, "not watched just now")
			s.End()
		})
	})
}
