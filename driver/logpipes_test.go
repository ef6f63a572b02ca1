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

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
)

// After a crash of the plugin a log pipe is good as long as another writer has kept it, and its reader
// reads.
func TestCollected(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "web.stdout.fifo")
	must.NoError(t, syscall.Mkfifo(path, 0o600))
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // as a collector that has stopped
	must.NoError(t, err)
	defer reader.Close()
	pipes := newLogPipes(&drivers.TaskConfig{AllocDir: dir, StdoutPath: path, StderrPath: "/dev/null"})
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

// What the wrapped driver gets in the place of a FIFO's path is that FIFO, over all restarts in place, whatever the
// task puts there meanwhile; and nothing of it is left after the end.
func TestLentPipesAreTheFirst(t *testing.T) {
	dir, root := t.TempDir(), filepath.Join(t.TempDir(), "binds")
	path, victim := filepath.Join(dir, "web.stdout.fifo"), filepath.Join(dir, "victim")
	must.NoError(t, os.WriteFile(victim, nil, 0o600))
	must.NoError(t, syscall.Mkfifo(path, 0o600))
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	must.NoError(t, err)
	defer reader.Close()
	own := &drivers.TaskConfig{AllocDir: dir, StdoutPath: path, StderrPath: "/dev/null"}
	pipes := newLogPipes(own)
	var last string
	for range 2 {
		cfg := own.Copy()
		must.NoError(t, pipes.lend(cfg, root, (*guard.Pins).Release))
		must.EqOp(t, "/dev/null", cfg.StderrPath)
		out, err := os.OpenFile(cfg.StdoutPath, os.O_WRONLY, 0)
		must.NoError(t, err)
		_, err = out.WriteString("line")
		must.NoError(t, err)
		must.NoError(t, out.Close())
		_, err = io.ReadFull(reader, make([]byte, len("line")))
		must.NoError(t, err)
		last = cfg.StdoutPath

		_ = os.Remove(path)
		must.NoError(t, os.Symlink(victim, path))
		must.NoError(t, pipes.hold())
	}
	must.True(t, writtenByOthersOrUs(t, pipes, path))
	pipes.release()
	_, err = os.Lstat(last)
	must.ErrorIs(t, err, os.ErrNotExist)
	content, err := os.ReadFile(victim)
	must.NoError(t, err)
	must.EqOp(t, "", string(content))

	again := newLogPipes(own)
	defer again.release()
	must.ErrorContains(t, again.lend(own.Copy(), root, (*guard.Pins).Release), "something else than Nomad put it there")
	must.Error(t, again.hold())
}

func writtenByOthersOrUs(t *testing.T, p *logPipes, path string) bool {
	t.Helper()
	pids, err := writers(p.fifos[path])
	must.NoError(t, err)
	return len(pids) > 0
}
