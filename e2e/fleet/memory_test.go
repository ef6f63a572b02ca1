package fleet

import (
	"io/fs"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// TestMemoryOfANode measures what the secrets of a node's tasks take of its plugin's memory, and of the journal's.
func TestMemoryOfANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c := newModel(1000, time.Hour), &counts{}
		f := newFleet(t, big, func() server { return counted{m, c} }, "a.b.c")
		defer f.close()
		c.reset()
		before, goroutines := harness.MemoryInUse(), runtime.NumGoroutine()
		f.start(t.Context())
		time.Sleep(5 * time.Minute)
		m.mu.Lock() // the server's side does not count
		m.leases, m.tokens = nil, nil
		after, more := harness.MemoryInUse(), runtime.NumGoroutine()-goroutines
		m.mu.Unlock()
		journal := int64(0)
		require.NoError(t, filepath.WalkDir(f.stateDir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				journal += (info.Size() + 4095) / 4096 * 4096
			}
			return err
		}))
		secrets := big.tasks * (staticEach + leasesEach)
		t.Logf("%d tasks with %d secrets: %.1f MiB in the plugin, %.1f MiB of journal, %d goroutines", big.tasks, secrets,
			float64(after-before)/(1<<20), float64(journal)/(1<<20), more)
		require.LessOrEqual(t, after-before, uint64(secrets*8<<10))
	})
}
