package lifecycle

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What each token has for itself at one path is polled for each task, with its own token, and so it is
// after the plugin's restart: a shared poll would see only the one task's change.
func TestOwnSecretsArePolledApart(t *testing.T) {
	inWorld(t, func(w *world) {
		put := func(token, content string) {
			w.vault.with(func() { w.vault.static[token+":cubbyhole/app"] = map[string]any{"v": content} })
		}
		put("token-1", "one")
		put("token-2", "one")
		cubbyhole := changing(secrets.SecretConfig{Path: "cubbyhole/app", AllFiles: true, ChangeMode: "signal"})
		w.open(many{"app": cubbyhole})
		other := &fakeHost{}
		start := w.startOf(many{"app": cubbyhole})
		start.Task.AllocID, start.Task.ID = "alloc-2", "alloc-2/web/1"
		second, err := w.keeper.Open(w.t.Context(), start, other)
		require.NoError(t, err)
		second.Watch()
		w.sleep(time.Minute)
		require.Empty(t, w.host.applied())
		require.Empty(t, other.applied())

		put("token-2", "two")
		w.sleep(20 * time.Second)
		require.Empty(t, w.host.applied())
		require.Equal(t, []string{"publish", "signal SIGHUP"}, other.applied())

		put("token-1", "two")
		w.sleep(20 * time.Second)
		require.Len(t, w.host.applied(), 2)
		require.Len(t, other.applied(), 2)

		w.crash()
		first := w.recover()
		second, err = w.keeper.Recover(start.Task, other)
		require.NoError(t, err)
		second.Watch()
		put("token-2", "three")
		w.sleep(20 * time.Second)
		require.Len(t, w.host.applied(), 2)
		require.Len(t, other.applied(), 4)
		first.End()
		second.End()
		synctest.Wait()
	})
}
