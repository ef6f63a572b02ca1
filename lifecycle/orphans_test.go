package lifecycle

import (
	"os"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// E1: the leases of a task that was removed while the plugin was away are revoked; those of one that
// is still there wait for its recovery.
func TestOrphans(t *testing.T) {
	for _, gone := range []bool{true, false} {
		inWorld(t, func(w *world) {
			withDB(w)
			w.open(many{"db": db("")})
			w.keeper.Close()
			if gone {
				require.NoError(t, os.RemoveAll(w.taskDir))
			}
			w.start()
			synctest.Wait()
			if gone {
				require.Zero(t, w.vault.liveTokens())
				require.Empty(t, w.vault.live("database/creds/app"))
			} else {
				require.Len(t, w.vault.live("database/creds/app"), 1)
				w.recover()
			}
		})
	}
}
