package launcher

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

const execForEver = "LAUNCHER_TEST_EXEC_FOR_EVER"

// As a program of its own, the test becomes itself over and over, as a Go program does: not in its first
// thread.
func init() {
	if os.Getenv(execForEver) == "" {
		return
	}
	go func() {
		runtime.LockOSThread()
		_ = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}()
	select {}
}

// A process does not die by becoming another program, though its first thread does.
func TestAliveOverExec(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), execForEver+"=1")
	must.NoError(t, cmd.Start())
	t.Cleanup(func() { // it would go on for ever
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	alive := Alive(cmd.Process.Pid)
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		must.NoError(t, alive())
	}
	must.NoError(t, cmd.Process.Kill())
	for until := time.Now().Add(10 * time.Second); alive() == nil; { // not waited for: a zombie
		must.True(t, time.Now().Before(until), must.Sprint("a killed process counts as alive"))
	}
	_, err := cmd.Process.Wait()
	must.NoError(t, err)
	must.Error(t, alive())
}

// A pid that is another process's by now is nobody to hand anything to.
func TestOwnerOfAnotherProcess(t *testing.T) {
	h, _ := testHold(t)
	h.bound = 50 * time.Millisecond
	other := exec.Command("sleep", "1000")
	must.NoError(t, other.Start())
	_, err := h.WaitingOwner(t.Context(), other.Process.Pid)
	must.ErrorIs(t, err, ErrTimeout)
	must.NoError(t, other.Process.Kill())
	_ = other.Wait()
	_, err = h.WaitingOwner(t.Context(), other.Process.Pid)
	must.ErrorContains(t, err, "gone")
}
