package driver

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/drivers/docker/docklog"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
)

// A process is taken for a docker driver's logger, and killed with the container that it is left of, only if
// it can be nothing else: what others only claim, or write to, does not do.
func TestLoggersOf(t *testing.T) {
	dir := t.TempDir()
	cfg := &drivers.TaskConfig{AllocDir: dir, StdoutPath: filepath.Join(dir, "web.stdout.fifo")}
	must.NoError(t, syscall.Mkfifo(cfg.StdoutPath, 0o600))
	other := filepath.Join(dir, "other", "web.stdout.fifo") // the same name elsewhere
	must.NoError(t, os.Mkdir(filepath.Dir(other), 0o755))
	must.NoError(t, syscall.Mkfifo(other, 0o600))

	open := func(path string, flags int) *os.File {
		f, err := os.OpenFile(path, flags, 0)
		must.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	both := open(cfg.StdoutPath, os.O_RDWR)
	writer, reader := open(cfg.StdoutPath, os.O_WRONLY), open(cfg.StdoutPath, os.O_RDONLY)
	elsewhere := open(other, os.O_RDWR)
	// cat with a logger's arguments, which waits for a FIFO of that name.
	must.NoError(t, syscall.Mkfifo(filepath.Join(dir, docklog.PluginName), 0o644))
	own := filepath.Join(dir, "nomad-own") // a program that another user may have written
	nomad := filepath.Join(dir, "nomad")
	cat, err := os.ReadFile("/bin/cat")
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(own, cat, 0o755))
	must.NoError(t, os.WriteFile(nomad, cat, 0o755))
	must.NoError(t, os.Chown(own, 4242, 4242))
	must.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	run := func(program string, stdout *os.File, attr *syscall.SysProcAttr, arg string) int {
		cmd := exec.Command(program, arg)
		cmd.Dir, cmd.Stdout, cmd.SysProcAttr = dir, stdout, attr
		must.NoError(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return cmd.Process.Pid
	}
	const arg = docklog.PluginName
	good := run(nomad, writer, nil, arg)
	hostile := map[string]int{
		"of another user":       run(nomad, writer, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242}}, arg),
		"in a pid namespace":    run(nomad, writer, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}, arg),
		"another program":       run("/bin/cat", writer, nil, arg),
		"another's FIFO":        run(nomad, elsewhere, nil, arg),
		"only reads":            run(nomad, reader, nil, arg),
		"other arguments":       run(nomad, writer, nil, "./"+arg),
		"another user's binary": run(own, both, nil, arg),
	}
	pids, err := func() ([]int, error) {
		fifo, err := guard.OpenFIFO(dir, cfg.StdoutPath)
		must.NoError(t, err)
		defer fifo.Close()
		return writers(fifo)
	}()
	must.NoError(t, err)
	for what, pid := range hostile { // the others are there to be found
		must.Eq(t, what != "another's FIFO" && what != "only reads", slices.Contains(pids, pid), must.Sprint(what))
	}
	found, err := loggersOf(cfg)
	must.NoError(t, err)
	must.Len(t, 1, found, must.Sprint(hostile))
	must.EqOp(t, good, found[0].pid)

	must.NoError(t, os.Rename(cfg.StdoutPath, cfg.StdoutPath+"2"))
	must.NoError(t, os.Symlink(cfg.StdoutPath+"2", cfg.StdoutPath))
	found, err = loggersOf(cfg)
	must.NoError(t, err)
	must.SliceEmpty(t, found, must.Sprint("what a task put in the FIFO's place was followed"))
}
