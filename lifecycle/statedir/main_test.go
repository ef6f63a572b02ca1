package statedir

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inOwnMounts is set for the run that has a mount namespace of its own.
const inOwnMounts = "STATEDIR_TEST_OWN_MOUNTS"

// TestMain runs the tests in a mount namespace of their own: nothing that they mount is seen by the host, and
// with the last of their processes it is gone.
func TestMain(m *testing.M) {
	if os.Getenv(inOwnMounts) == "" {
		os.Exit(runInOwnMounts())
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Fprintln(os.Stderr, "make all mounts private:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func runInOwnMounts() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inOwnMounts+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "these tests mount file systems, and so need root:", err)
		}
		return 1
	}
	return 0
}
