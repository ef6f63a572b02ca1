package lifecycle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What an operator sees and asks of a provider without tokens and leases: each look is a read with the task's own rights, an outage is told
// by the provider's name, and there is nothing to rotate.
func TestOperateOnASecondProvider(t *testing.T) {
	inWorld(t, func(w *world) {
		store := w.withStore()
		withDB(w)
		store.put("app/config", "one")
		s := w.open(many{"db": db(""), "app": inStore("app/config", "signal")})
		st := statusOf(s, "app")
		require.Equal(t, "store", st.Provider)
		require.Equal(t, "app/config", st.Path)
		require.Equal(t, "static", st.Kind)
		require.Equal(t, SecretReady, st.State)
		require.Zero(t, st.NextRenewal)
		require.Zero(t, st.Expires)

		store.sent()
		results, all := w.operate(Refresh, Selection{})
		require.Equal(t, map[string]Result{"db": Unchanged, "app": Unchanged}, results, "%+v", all)
		require.Equal(t, 1, store.sent())
		results, all = w.operate(Rotate, Selection{Secret: "app"})
		require.Equal(t, map[string]Result{"app": Skipped}, results, "%+v", all)

		store.put("app/config", "two")
		results, all = w.operate(Refresh, Selection{Secret: "app"})
		require.Equal(t, map[string]Result{"app": Replaced}, results, "%+v", all)
		require.Equal(t, []string{"publish", "signal SIGHUP"}, w.host.applied(), "once, though the wait finds it, too")
		require.Equal(t, "changed on the server", statusOf(s, "app").Cause)

		store.with(func() { store.away = errAway })
		results, all = w.operate(Refresh, Selection{})
		require.Equal(t, map[string]Result{"db": Unchanged, "app": Failed}, results, "%+v", all)
		w.sleep(time.Minute)
		task := w.keeper.Status().Tasks[0]
		require.Len(t, task.Outages, 1)
		require.Equal(t, "store", task.Outages[0].Provider)
		require.Equal(t, SecretFailing, statusOf(s, "app").State)
		require.Contains(t, statusOf(s, "app").LastError.Text, "connection refused")
		require.Equal(t, SecretReady, statusOf(s, "db").State)

		store.with(func() { store.away = nil })
		results, all = w.operate(Refresh, Selection{Secret: "app"})
		require.Equal(t, map[string]Result{"app": Unchanged}, results, "%+v", all)
		w.sleep(time.Minute)
		require.Empty(t, w.keeper.Status().Tasks[0].Outages, "though nothing has changed that a wait would be answered for")
		require.Equal(t, SecretReady, statusOf(s, "app").State)

		store.with(func() { store.denied[w.taskDir] = true })
		results, all = w.operate(Refresh, Selection{Secret: "app"})
		require.Equal(t, map[string]Result{"app": Failed}, results, "%+v", all)
		require.Contains(t, all[0].Detail, `task "web" may not read app/config`)
		s.End()
	})
}
