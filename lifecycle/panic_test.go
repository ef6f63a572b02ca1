package lifecycle

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// C14: a panic in the watch over one task ends that, with an event, and nothing else: other tasks rotate. The watch begins
// anew, and at the task's end its leases are revoked.
func TestPanicIsOneTasks(t *testing.T) {
	for name, where := range map[string]func(w *world, s *Session){
		"in the loop": func(w *world, s *Session) { s.results <- func() { panic("hunter2") } },
		"in a request": func(_ *world, s *Session) {
			s.results <- func() { s.do(func(context.Context) func() { panic("hunter2") }) }
		},
		"in what is done to it": func(w *world, _ *Session) {
			times := 0
			w.host.during = func(string) {
				if times++; times < 4 {
					panic("hunter2")
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withDB(w)
				w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: 3 * time.Hour}
				s := w.open(many{"db": db("")})
				other := &fakeHost{}
				start := w.startOf(many{"db": db("")})
				start.Task.AllocID = "alloc-2"
				second, err := w.keeper.Open(w.t.Context(), start, other)
				require.NoError(t, err)
				second.Watch()
				where(w, s)
				w.sleep(10 * time.Hour)
				require.Contains(t, w.host.said(), "Secrets: not watched, because of an error in this plugin")
				require.Contains(t, w.host.said(), "task restarted in place")
				require.Len(t, w.vault.live("database/creds/app"), 2, "each task has the one that it was given last")
				require.NotContains(t, w.host.said(), "hunter2")
				require.Positive(t, other.count("restart"))
				require.NotContains(t, other.said(), "not watched")
				s.End()
				second.End()
				synctest.Wait()
				w.sleep(time.Minute)
				require.Empty(t, w.vault.live("database/creds/app"))
				require.Zero(t, w.vault.liveTokens())
			})
		})
	}
}

// A watch that panics over and over begins anew less and less often, tells of it once, and loses nothing that it has.
func TestPanicOverAndOver(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		panics := 0
		w.host.during = func(string) { panics++; panic("hunter2") }
		s := w.open(many{"db": db("")})
		w.sleep(24 * time.Hour)
		require.Greater(t, panics, 10)
		require.Less(t, panics, 24*60/5+20)
		require.Equal(t, 1, strings.Count(w.host.said(), "not watched"))
		w.host.mu.Lock()
		w.host.during = nil
		w.host.mu.Unlock()
		w.sleep(time.Hour)
		require.Contains(t, w.host.said(), "task restarted in place")
		s.End()
		synctest.Wait()
		w.sleep(time.Minute)
		require.Empty(t, w.vault.live("database/creds/app"))
		require.Zero(t, w.vault.liveTokens())
	})
}

// The end of a task whose watch is about to begin anew waits for nothing.
func TestPanicThenEnd(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		s.results <- func() { panic("hunter2") }
		synctest.Wait()
		began := time.Now()
		s.End()
		require.Zero(t, time.Since(began))
		synctest.Wait()
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}
