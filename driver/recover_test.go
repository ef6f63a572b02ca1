package driver

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// E2: a restart in place that a crash cut short is brought to its end, and Nomad sees nothing of it (C8).
func TestResumedRestart(t *testing.T) {
	resumed := func(t *testing.T, change func(*fakeRunner, *task)) (*fakeRunner, *task, error) {
		r := &fakeRunner{inner: newFakeInner()}
		tk := fakeTask(t, r)
		change(r, tk)
		handle := drivers.NewTaskHandle(1)
		handle.Config = tk.cfg
		return r, tk, tk.resumeRestart(handle)
	}
	oldRuns := func(*fakeRunner, *task) {}
	oldEnded := func(r *fakeRunner, tk *task) {
		tk.state.on(restartBegun) // by the earlier process of the plugin, whose the exit is
		r.inner.end(tk.cfg.ID, 0)
		await(t, tk.state.exitsOfRestart())
		tk.state.on(restartDone)
	}
	newRuns := func(r *fakeRunner, tk *task) {
		oldEnded(r, tk)
		must.NoError(t, r.inner.DestroyTask(tk.cfg.ID, false))
	}

	for name, there := range map[string]func(*fakeRunner, *task){"the old process runs": oldRuns, "the new process runs": newRuns} {
		t.Run(name, func(t *testing.T) {
			r, tk, err := resumed(t, there)
			must.NoError(t, err)
			if name == "the new process runs" {
				tk.watch() // as RecoverTask does; it finds no process
			}
			exits := tk.wait(t.Context())
			must.NoError(t, await(t, restart(tk)))
			must.Eq(t, 1, r.starts)
			notYet(t, exits)
			r.inner.end(tk.cfg.ID, 7)
			must.Eq(t, 7, await(t, exits).ExitCode)
		})
	}
	t.Run("the old process has been told to stop, and does", func(t *testing.T) {
		r, tk, err := resumed(t, oldRuns)
		must.NoError(t, err)
		exits := tk.wait(t.Context())
		r.inner.end(tk.cfg.ID, 0)
		must.NoError(t, await(t, restart(tk)))
		must.Eq(t, 1, r.starts)
		notYet(t, exits)
	})
	t.Run("StopTask comes first", func(t *testing.T) {
		r, tk, err := resumed(t, oldRuns)
		must.NoError(t, err)
		exits := tk.wait(t.Context())
		must.NoError(t, tk.stop(0, "SIGTERM"))
		must.Eq(t, 143, await(t, exits).ExitCode)
		must.Zero(t, r.starts)
		must.Error(t, await(t, restart(tk)))
		must.Zero(t, r.starts)
	})
	t.Run("the old process has ended", func(t *testing.T) { // and no log pipe tells that nobody reads
		r, tk, err := resumed(t, oldEnded)
		must.NoError(t, err)
		tk.watch()
		must.NoError(t, await(t, restart(tk)))
		must.Eq(t, 1, r.starts)
	})
}

// C4: a log pipe to which nobody else writes is a reason to have Nomad start the task anew only where logs are collected.
func TestResumedRestartWithoutLogs(t *testing.T) {
	for _, noLogs := range []bool{true, false} {
		r := &fakeRunner{inner: newFakeInner()}
		tk := fakeTask(t, r)
		tk.d.opts.guard.noLogs = noLogs
		tk.cfg.StdoutPath = filepath.Join(tk.cfg.AllocDir, "web.stdout.fifo")
		must.NoError(t, syscall.Mkfifo(tk.cfg.StdoutPath, 0o600))
		reader, err := os.OpenFile(tk.cfg.StdoutPath, os.O_RDONLY|syscall.O_NONBLOCK, 0) // Nomad's log collector runs all the same
		must.NoError(t, err)
		defer reader.Close()
		tk.logs = newLogPipes(tk.cfg)
		defer tk.logs.release()
		tk.holdLogs()
		handle := drivers.NewTaskHandle(1)
		handle.Config = tk.cfg
		err = tk.resumeRestart(handle)
		if !noLogs {
			must.ErrorContains(t, err, "the plugin ended while the task had no process")
			continue
		}
		must.NoError(t, err)
		must.NoError(t, await(t, restart(tk)))
		must.Eq(t, 1, r.starts)
	}
}

// E2: a crash after a task's end, when its secrets are given back and Nomad has not removed it yet. Its
// handle is the first process's; what is left of the last one goes, too.
func TestRecoverAfterTheEnd(t *testing.T) {
	for _, env := range []map[string]string{nil, {"NOMAD_TASK_NAME": "web"}} {
		dir := t.TempDir()
		d := &Driver{name: "raw_exec", wrapped: &wrappedRawExec, inner: newFakeInner(), ctx: t.Context(), log: testLog(t)}
		handle := drivers.NewTaskHandle(1)
		handle.Config = &drivers.TaskConfig{ID: "alloc/web/1", Name: "web", AllocID: "alloc", AllocDir: dir, Env: env}

		left := fakeExecutor(t, dir, "raw_exec", filepath.Join(handle.Config.TaskDir().Dir, "executor.out"), nil)
		must.NoError(t, left.Start())
		ended := make(chan error, 1)
		go func() { ended <- left.Wait() }()

		must.ErrorIs(t, d.recoverPlain(handle), drivers.ErrTaskNotFound)
		if env != nil { // the inner driver's alone
			notYet(t, ended)
			must.NoError(t, left.Process.Kill())
		}
		await(t, ended)
	}
}
