package driver

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// After a crash of the plugin a log pipe is good as long as another writer has kept it, and its reader
// reads.
func TestCollected(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.stdout.fifo")
	must.NoError(t, syscall.Mkfifo(path, 0o600))
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // as a collector that has stopped
	must.NoError(t, err)
	defer reader.Close()
	pipes := newLogPipes(&drivers.TaskConfig{StdoutPath: path, StderrPath: "/dev/null"})
	must.NoError(t, pipes.hold())
	defer pipes.release()
	must.False(t, pipes.collected())

	out, err := os.OpenFile(path, os.O_WRONLY, 0)
	must.NoError(t, err)
	task := exec.Command("sh", "-c", "echo line; exec sleep 1000")
	task.Stdout = out
	must.NoError(t, task.Start())
	must.NoError(t, out.Close())
	defer func() {
		_ = task.Process.Kill()
		_ = task.Wait()
	}()
	must.Eq(t, true, func() bool { // the line stays where it is
		for pipes.collected() {
		}
		return true
	}())

	line := make([]byte, len("line\n"))
	_, err = io.ReadFull(reader, line)
	must.NoError(t, err)
	must.True(t, pipes.collected())
}
