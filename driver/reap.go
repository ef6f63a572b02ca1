package driver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/drivers/docker/docklog"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// reapBound is how long the remains of an earlier start may take to die after SIGKILL.
const reapBound = 10 * time.Second

// reap kills the executor that an earlier start of the same task left, and what it runs. It is
// found by the log file it was given, which no other task's has.
func (p *processes) reap(ctx context.Context, cfg *drivers.TaskConfig, found func()) error {
	logFile := filepath.Join(cfg.TaskDir().Dir, "executor.out")
	procs, err := readProcesses()
	if err != nil {
		return err
	}
	var doomed []int
	for _, proc := range procs {
		if isExecutor(proc.args, logFile) {
			doomed = append(doomed, descendants(procs, proc.pid)...)
			doomed = append(doomed, proc.pid)
		}
	}
	if len(doomed) > 0 {
		found()
	}
	return killAll(ctx, doomed)
}

func killAll(ctx context.Context, doomed []int) error {
	for _, pid := range doomed {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("kill process %d of an earlier start: %w", pid, err)
		}
	}
	return awaitGone(ctx, doomed)
}

// loggersOf finds the docker driver's log collectors that write to a task's log pipes.
func loggersOf(cfg *drivers.TaskConfig) ([]int, error) {
	procs, err := readProcesses()
	if err != nil {
		return nil, err
	}
	var found []int
	for _, pid := range writers(cfg.StdoutPath) {
		if slices.ContainsFunc(procs, func(p proc) bool {
			return p.pid == pid && len(p.args) >= 2 && p.args[1] == docklog.PluginName
		}) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// isExecutor reports whether a command line is that of Nomad's executor for one task: its second
// argument is a JSON object that names the log file.
func isExecutor(args []string, logFile string) bool {
	return len(args) >= 3 && args[1] == "executor" && strings.Contains(args[2], strconv.Quote(logFile))
}

type proc struct {
	pid, parent int
	args        []string
}

func readProcesses() ([]proc, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var procs []proc
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		procs = append(procs, proc{
			pid: pid, parent: parentOf(string(stat)),
			args: strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00"),
		})
	}
	return procs, nil
}

// parentOf reads the parent's pid in /proc/PID/stat: the second field after the name, which is in
// parentheses and may itself hold any character (proc(5)).
func parentOf(stat string) int {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}

func descendants(procs []proc, of int) []int {
	var found []int
	for _, p := range procs {
		if p.parent == of {
			found = append(found, descendants(procs, p.pid)...)
			found = append(found, p.pid)
		}
	}
	return found
}

func awaitGone(ctx context.Context, pids []int) error {
	ctx, cancel := context.WithTimeout(ctx, reapBound)
	defer cancel()
	for _, pid := range pids {
		for !gone(pid) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("process %d of an earlier start does not end", pid)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}

// gone reports whether a process has ended; one that only waits to be collected by its parent has.
func gone(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return true
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return len(fields) > 0 && fields[0] == "Z"
}
