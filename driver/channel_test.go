package driver

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// testStateDir is a state directory for a test, unmounted in the end.
func testStateDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "")
	must.NoError(t, err)
	t.Cleanup(func() {
		for _, name := range []string{"journal", "shared"} {
			_ = unix.Unmount(filepath.Join(dir, "state", name), unix.MNT_DETACH)
		}
		must.NoError(t, os.RemoveAll(dir))
	})
	return filepath.Join(dir, "state")
}

// A channel that a crash left goes at the next start of any task, with what its container had bound; that of a task with
// a journal, of whichever driver, stays.
func TestChannelsThatWereLeft(t *testing.T) {
	d := &Driver{name: "docker", wrapped: &wrappedDocker, inner: newFakeInner(), ctx: t.Context(), log: testLog(t)}
	d.opts.stateDir = testStateDir(t)
	state, err := d.state()
	must.NoError(t, err)
	const alloc = "f0a1b2c3-0000-1111-2222-333344445555"
	launcherFile.Dirs = []string{t.TempDir()}
	t.Cleanup(func() { launcherFile.Dirs = nil })
	channel := func(task string) (launcher.Channel, launcher.Files) {
		c, err := d.channelOf(&drivers.TaskConfig{AllocID: alloc, Name: task})
		must.NoError(t, err)
		must.NoError(t, c.Make())
		files, err := d.newContainers(false).files(c)
		must.NoError(t, err)
		return c, files
	}
	there, bound := channel("there")
	left, boundLeft := channel("left")

	journal := filepath.Join(state.Journal("raw_exec"), alloc, "there")
	must.NoError(t, os.MkdirAll(journal, 0o700))
	d.sweepChannels()
	must.DirExists(t, there.Path())
	must.FileExists(t, bound.Launcher)
	must.DirNotExists(t, left.Path())
	must.DirNotExists(t, filepath.Dir(boundLeft.Launcher))
	must.NoError(t, os.RemoveAll(journal))
	d.sweepChannels()
	must.DirNotExists(t, there.Path())
	must.DirNotExists(t, filepath.Dir(bound.Launcher))

	_, bound = channel("ends")
	d.removeChannel(&drivers.TaskConfig{AllocID: alloc, Name: "ends"})
	must.DirNotExists(t, filepath.Dir(bound.Launcher))
}

// A task's commands wait for their turn at the launcher, so that one task does not fill what all share.
func TestHeldAtOnce(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	tk := fakeTask(t, r)
	for range maxWaiting {
		must.NoError(t, tk.waiting.take(t.Context()))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := tk.launch(ctx, func() *secrets.Set { return &secrets.Set{} }, []string{"true"}, func([]string) error { return nil })
	must.ErrorIs(t, err, context.DeadlineExceeded)
	tk.waiting.give()
	_, err = tk.launch(t.Context(), func() *secrets.Set { return &secrets.Set{} }, []string{"true"}, func([]string) error { return nil })
	must.ErrorContains(t, err, "not in this test", must.Sprint("it has its turn, and gives it back"))
	must.NoError(t, tk.waiting.take(t.Context()))
}
