package server

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// oomScore is near the end of whom the kernel kills when memory runs out: this process is small, and all live directories.
const oomScore = "-900"

// protect is done first, while the process may do what it wants.
func protect() (warnings []string) {
	warn := func(what string, err error) {
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("file server: %s: %v", what, err))
		}
	}
	warn("make it not dumpable", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	warn("forbid core dumps", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
	warn("keep it when memory runs out (oom_score_adj)", os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0))
	// Locked as it is touched: the address space that Go reserves is large. Where that is not allowed the limit
	// would end the process at its next allocation, so then only values are locked, as many as may be (values.go).
	if hasCapability(unix.CAP_IPC_LOCK) {
		warn("lock memory", unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT))
	}
	return warnings
}

// dropCapabilities leaves the one to lock memory, in all threads, and none that exec could give back.
func dropCapabilities() error {
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if c == unix.CAP_IPC_LOCK {
			continue
		}
		if err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	keep := uint32(0)
	if hasCapability(unix.CAP_IPC_LOCK) {
		keep = 1 << unix.CAP_IPC_LOCK
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: keep, Permitted: keep}}
	if err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

func allThreads(trap, a, b, c uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall(trap, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

func hasCapability(c int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[c/32].Effective&(1<<(c%32)) != 0
}
