package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/client/lib/cgroupslib"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
)

// What a command leaves that ran in a task, a change_script, say, ends with the task at the latest. In a container the engine sees to that. Under
// raw_exec Nomad starts commands in the task's cgroup where the host has cgroups of version 2, and of version 1 beside it: so they
// are moved there before they run. At the task's end what is left in the cgroup is killed, and nothing else.

// taskCgroup is the cgroup that has a task's processes, and only those; empty if there is none.
func taskCgroup(cfg *drivers.TaskConfig) string {
	dir := ""
	switch cgroupslib.GetMode() {
	case cgroupslib.CG1:
		dir = cgroupslib.PathCG1(cfg.AllocID, cfg.Name, "freezer")
	case cgroupslib.CG2:
		if cfg.Resources != nil && cfg.Resources.LinuxResources != nil {
			dir = cfg.Resources.LinuxResources.CpusetCgroupPath
		}
	case cgroupslib.OFF:
	}
	if cfg.AllocID == "" || !strings.Contains(filepath.Base(dir), cfg.AllocID) {
		return ""
	}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
		return ""
	}
	return dir
}

// joinTask moves a command that waits at the launcher into the task's cgroup. It is a child of the task's executor, and has the hold's name among its
// arguments.
func (p *processes) joinTask(t *task, hold *launcher.Hold) error {
	dir := taskCgroup(t.cfg)
	if dir == "" || cgroupslib.GetMode() != cgroupslib.CG1 {
		return nil
	}
	procs, err := readProcesses()
	if err != nil {
		return err
	}
	logFile := filepath.Join(t.cfg.TaskDir().Dir, "executor.out")
	executors := map[int]bool{}
	for _, p := range procs {
		if isExecutor(p.args, logFile) && isHelper(p.pid) {
			executors[p.pid] = true
		}
	}
	for _, p := range procs {
		if executors[p.parent] && hold.Has(p.args) {
			return writeCgroup(dir, "cgroup.procs", strconv.Itoa(p.pid))
		}
	}
	return errors.New("it is no child of the task's executor")
}

// endStrays kills what is left of a raw_exec task that has ended.
func (p *processes) endStrays(cfg *drivers.TaskConfig) error {
	dir := taskCgroup(cfg)
	if dir == "" {
		return nil
	}
	left, err := inCgroup(dir)
	if err != nil || len(left) == 0 {
		return err
	}
	if cgroupslib.GetMode() == cgroupslib.CG2 {
		return writeCgroup(dir, "cgroup.kill", "1")
	}
	// What is frozen makes no new process.
	if err := writeCgroup(dir, "freezer.state", "FROZEN"); err != nil {
		return err
	}
	if left, err = inCgroup(dir); err == nil {
		for _, pid := range left {
			if found, ferr := os.FindProcess(pid); ferr == nil {
				if kerr := found.Kill(); kerr != nil && !errors.Is(kerr, os.ErrProcessDone) {
					err = errors.Join(err, kerr)
				}
			}
		}
	}
	return errors.Join(err, writeCgroup(dir, "freezer.state", "THAWED"))
}

// inCgroup are the processes in a cgroup.
func inCgroup(dir string) (pids []int, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) { // Nomad has removed it
		return nil, nil
	}
	for _, field := range strings.Fields(string(b)) {
		pid, perr := strconv.Atoi(field)
		if perr == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// writeCgroup writes a file of a cgroup, which is there if the cgroup is.
func writeCgroup(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%s of %s: %w", name, dir, err)
	}
	return nil
}

// A container's processes end with it.
func (c *containers) endStrays(*drivers.TaskConfig) error { return nil }
