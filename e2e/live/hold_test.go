package live

import (
	"os"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// Nothing that a container holds of a volume (its working directory, a file that is open, one that is mapped) keeps a mount, a
// process or the file server at its end, neither while all is well nor after the file server has died.
func TestWhatAContainerHoldsAtItsEnd(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	put(t, "held", "user", "x")
	for range 2 {
		r := d.startReader(busyboxImage, "secret/held", nil, "hold", "/secrets")
		must.NoError(t, harness.Until(t.Context(), "it to be held", func() error {
			if mustDocker(t, "logs", r.name) == "" {
				return os.ErrNotExist
			}
			return nil
		}))
	}
	must.Len(t, 1, d.servers())
	d.end()
	must.SliceEmpty(t, d.leftovers())

	r := d.startReader(busyboxImage, "secret/held", nil, "hold", "/secrets")
	d.killServer()
	mustDocker(t, "rm", "-f", r.name)
	d.end()
	must.SliceEmpty(t, d.leftovers())
}
