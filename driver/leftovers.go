package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/drivers/shared/executor"
	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/proc"
)

// leftoverBound is how long the remains of an earlier start may take to die after SIGKILL.
const leftoverBound = 10 * time.Second

// removeLeftovers kills the executor that an earlier start of the same task left, and what it runs. It is
// found by the log file it was given, which no other task's has. Anybody can give a process of theirs such
// arguments, so it must be root's, on the host, and a program that runs executors.
func (p *processes) removeLeftovers(ctx context.Context, cfg *drivers.TaskConfig, found func()) error {
	logFile := filepath.Join(cfg.TaskDir().Dir, "executor.out")
	commands, err := commandLooks.commands(readCommands)
	if err != nil || !anyExecutor(commands, logFile) {
		return err // as a rule there is none, and of no process more is read than its arguments
	}
	procs, err := readProcesses()
	if err != nil {
		return err
	}
	var doomed []seenProcess
	for _, p := range procs {
		if isExecutor(p.args, logFile) && isHelper(p.pid) {
			doomed = append(doomed, descendants(procs, p.pid)...)
			doomed = append(doomed, p)
		}
	}
	if len(doomed) > 0 {
		found()
	}
	return killAll(ctx, doomed)
}

// killAll kills processes as they were seen: what has a pid of theirs by now is not touched.
func killAll(ctx context.Context, doomed []seenProcess) error {
	for _, p := range doomed {
		if err := p.kill(); err != nil {
			return fmt.Errorf("kill process %d of an earlier start: %w", p.pid, err)
		}
	}
	return awaitGone(ctx, doomed)
}

// kill kills a process. Its handle is taken first (a pidfd, where the kernel has them), and then it is seen
// to whether that is of the process that was looked at.
func (p seenProcess) kill() error {
	handle, err := os.FindProcess(p.pid)
	if err != nil {
		return nil // it has ended
	}
	defer func() { _ = handle.Release() }()
	if now, err := proc.Read(p.pid); err != nil || now.Started != p.started {
		return nil
	}
	if err := handle.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// isHelper reports whether a process is one that Nomad or a plugin like this one may have started as a helper
// of its own: root's with all its ids (which what is run by a set-uid program is not), in our pid and user namespaces
// (which a container's root is not), and of a program that has such helpers and that only root can write to. That
// may be an older one, whose file is gone. What a process says of itself, its arguments, anybody can say. The mount
// namespace is not asked: an agent's service may get a new one at each start.
func isHelper(pid int) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := proc.ReadStatus(pid)
	if err != nil || !status.Roots() {
		return false
	}
	for _, ns := range []string{"pid", "user"} {
		ours, err := os.Stat(filepath.Join("/proc/self/ns", ns))
		if err != nil {
			return false
		}
		its, err := os.Stat(filepath.Join(dir, "ns", ns))
		if err != nil || !os.SameFile(ours, its) {
			return false
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "exe"), &st); err != nil || st.Uid != 0 || st.Mode&0o022 != 0 {
		return false
	}
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return false
	}
	name := filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	_, ours := served[name]
	return ours || strings.HasPrefix(name, "nomad")
}

// isExecutor reports whether a command line is that of Nomad's executor for one task: its second
// argument is a JSON object that names the log file.
func isExecutor(args []string, logFile string) bool {
	if len(args) < 3 || args[1] != "executor" {
		return false
	}
	var config executor.ExecutorConfig
	return json.Unmarshal([]byte(args[2]), &config) == nil && config.LogFile == logFile
}

func anyExecutor(commands map[int][]string, logFile string) bool {
	for _, args := range commands {
		if isExecutor(args, logFile) {
			return true
		}
	}
	return false
}

// seenProcess is a process at one moment. started is its own for as long as the machine runs, with its pid.
type seenProcess struct {
	pid, parent int
	started     uint64
	args        []string
}

func readProcesses() ([]seenProcess, error) {
	commands, err := readCommands()
	if err != nil {
		return nil, err
	}
	var procs []seenProcess
	for pid, args := range commands {
		stat, err := proc.Read(pid)
		if err != nil {
			continue // it has ended
		}
		procs = append(procs, seenProcess{pid: pid, parent: stat.Parent, started: stat.Started, args: args})
	}
	return procs, nil
}

// readCommands are the arguments of the machine's processes, by pid.
func readCommands() (map[int][]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	commands := make(map[int][]string, len(dirs))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		commands[pid] = strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	}
	return commands, nil
}

func descendants(procs []seenProcess, of int) []seenProcess {
	var found []seenProcess
	for _, p := range procs {
		if p.parent == of {
			found = append(found, descendants(procs, p.pid)...)
			found = append(found, p)
		}
	}
	return found
}

func awaitGone(ctx context.Context, procs []seenProcess) error {
	ctx, cancel := context.WithTimeout(ctx, leftoverBound)
	defer cancel()
	for _, p := range procs {
		for !p.gone() {
			select {
			case <-ctx.Done():
				return fmt.Errorf("process %d of an earlier start does not end", p.pid)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}

// gone reports whether the process has ended.
func (p seenProcess) gone() bool {
	now, err := proc.Read(p.pid)
	return err != nil || now.Started != p.started || now.Ended()
}

// gone reports whether there is no process of this pid that has not ended.
func gone(pid int) bool {
	now, err := proc.Read(pid)
	return err != nil || now.Ended()
}
