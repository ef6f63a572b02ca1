package driver

import (
	"cmp"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/drivers/shared/executor"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/proc"
)

// fakeExecutor is a program that sleeps, of this name, with the arguments of a task's executor.
func fakeExecutor(t *testing.T, dir, name, logFile string, attr *syscall.SysProcAttr) *exec.Cmd {
	shell, err := os.ReadFile("/bin/sh")
	must.NoError(t, err)
	program := filepath.Join(dir, name)
	must.NoError(t, os.WriteFile(program, shell, 0o755))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "executor"), []byte("echo up; while read line; do :; done"), 0o644))
	config, err := json.Marshal(executor.ExecutorConfig{LogFile: logFile, LogLevel: "trace"}) // as Nomad does
	must.NoError(t, err)
	cmd := exec.Command(program, "executor", string(config))
	cmd.Dir, cmd.SysProcAttr = dir, attr
	in, err := cmd.StdinPipe()
	must.NoError(t, err)
	t.Cleanup(func() { _ = in.Close() })
	return cmd
}

// Whoever gives a process the arguments of another task's executor gets neither that process killed nor any
// other, and cannot hold up the task's start.
func TestLeftoverExecutorIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		program string
		attr    *syscall.SysProcAttr
		task    string
		dies    bool
	}{
		"ours": {program: "raw_exec", dies: true},
		"ours, of a task whose name JSON escapes": {program: "raw_exec", task: "<R&D>", dies: true},
		"the built-in's":     {program: "nomad", dies: true},
		"another user's":     {program: "raw_exec", attr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242}}},
		"a container's root": {program: "raw_exec", attr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}},
		"root of a user namespace": {program: "raw_exec", attr: &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1}},
		}},
		"another program's": {program: "grep"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "")
			must.NoError(t, err)
			t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
			must.NoError(t, os.Chmod(dir, 0o755))
			cfg := &drivers.TaskConfig{ID: "alloc/web/1", Name: cmp.Or(c.task, "web"), AllocID: "alloc", AllocDir: dir}
			cmd := fakeExecutor(t, dir, c.program, filepath.Join(cfg.TaskDir().Dir, "executor.out"), c.attr)
			out, err := cmd.StdoutPipe()
			must.NoError(t, err)
			must.NoError(t, cmd.Start())
			up := make([]byte, 3)
			_, err = out.Read(up)
			must.NoError(t, err)
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()

			found := false
			must.NoError(t, (&processes{}).removeLeftovers(t.Context(), cfg, func() { found = true }))
			must.Eq(t, c.dies, found)
			if !c.dies {
				notYet(t, ended)
				must.NoError(t, cmd.Process.Kill())
			}
			await(t, ended)
		})
	}
}

// A pid may be another process's by the time it is to be killed.
func TestKillsWhatItSaw(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	must.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	now, err := proc.Read(cmd.Process.Pid)
	must.NoError(t, err)
	must.NoError(t, killAll(t.Context(), []seenProcess{{pid: cmd.Process.Pid, started: now.Started + 1}}))
	notYet(t, ended)
	must.NoError(t, killAll(t.Context(), []seenProcess{{pid: cmd.Process.Pid, started: now.Started}}))
	await(t, ended)
}
