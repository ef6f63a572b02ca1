package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/nomad/drivers/docker/docklog"
	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
)

// loggersOf finds the docker driver's log collectors that write to a task's log pipes.
func loggersOf(cfg *drivers.TaskConfig) ([]seenProcess, error) {
	if cfg.StdoutPath == "" || cfg.StdoutPath == os.DevNull {
		return nil, nil
	}
	fifo, err := guard.OpenFIFO(cfg.AllocDir, cfg.StdoutPath)
	if err != nil {
		return nil, nil // it is not Nomad's, and nobody of ours writes to it
	}
	defer fifo.Close()
	pids, err := writers(fifo)
	if err != nil {
		return nil, err
	}
	procs, err := readProcesses()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(procs, func(p seenProcess) bool { return !slices.Contains(pids, p.pid) || !isLogger(p) }), nil
}

// isLogger reports whether a process is a log collector of a docker driver's.
func isLogger(p seenProcess) bool {
	return len(p.args) >= 2 && p.args[1] == docklog.PluginName && isHelper(p.pid)
}

// writtenByOthers reports whether another process has a pipe open for writing.
func writtenByOthers(fifo *os.File) bool {
	pids, err := writers(fifo)
	return err == nil && slices.ContainsFunc(pids, func(pid int) bool { return pid != os.Getpid() })
}

// writers are the processes that have a file open for writing, which is opened (O_PATH).
func writers(fifo *os.File) (pids []int, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(fifo.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look for who writes to %s: %w", fifo.Name(), err)
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		if !isWriter(fd, st) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(fd, "/")[2]); err == nil && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// isWriter reports whether an open file of a process, /proc/PID/fd/N, is fifo, open for writing.
func isWriter(fd string, fifo unix.Stat_t) bool {
	link, err := os.Readlink(fd)
	if err != nil || !filepath.IsAbs(link) { // a socket, a pipe
		return false
	}
	// Without a sync: a process may have files open whose server does not answer.
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, fd, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE|unix.STATX_INO, &st); err != nil {
		return false
	}
	if st.Ino != fifo.Ino || unix.Mkdev(st.Dev_major, st.Dev_minor) != fifo.Dev {
		return false
	}
	info, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(fd)), "fdinfo", filepath.Base(fd)))
	return err == nil && forWriting(string(info))
}

// forWriting reads a file's fdinfo, whose flags are octal (proc(5)).
func forWriting(fdinfo string) bool {
	for line := range strings.Lines(fdinfo) {
		if text, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(text), 8, 64)
			return err == nil && flags&syscall.O_ACCMODE != syscall.O_RDONLY
		}
	}
	return false
}
