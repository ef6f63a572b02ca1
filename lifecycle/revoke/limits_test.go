package revoke

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/stretchr/testify/require"
)

// What is to be revoked of a task that ended does not keep its values and its config.
func TestLimitOfWhatIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromVaultBlock, "T", tokenRights{}, "a")
		require.NoError(t, j.Save(map[string]secrets.Fields{"db": fieldsOf(strings.Repeat("x", 1<<20))}, func(e *journal.Entry) {
			e.Driver = json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)
		}))
		o.server.answer(errAway)
		require.NoError(t, o.Enqueue(j))
		synctest.Wait()
		require.Equal(t, 1, o.left())
		var size int64
		require.NoError(t, filepath.Walk(filepath.Join(o.stateDir, ".owed"), func(_ string, info os.FileInfo, err error) error {
			size += info.Size()
			return err
		}))
		require.Less(t, size, int64(16<<10))
	})
}
