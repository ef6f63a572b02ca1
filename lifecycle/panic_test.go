package lifecycle

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// C14: a panic in the watch over one task ends that, with an event, and nothing else: other tasks rotate, and the
// task's leases are revoked at its end.
func TestPanicIsOneTasks(t *testing.T) {
	for name, where := range map[string]func(w *world, s *Session){
		"in the loop": func(w *world, s *Session) { s.results <- func() { panic("hunter2") } },
		"in a request": func(_ *world, s *Session) {
			s.results <- func() { s.do(func(context.Context) func() { panic("hunter2") }) }
		},
		"in what is done to it": func(w *world, _ *Session) { w.host.during = func(string) { panic("hunter2") } },
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
				require.Contains(t, w.host.said(), "Secrets: not watched any more, because of an error in this plugin")
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
