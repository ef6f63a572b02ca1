package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// procDirs are the /proc directories of processes that run a program of this name with all of these variables. Those
// in containers are seen, too.
func procDirs(program string, variables ...string) (found []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != program {
			continue
		}
		environ, err := os.ReadFile(filepath.Join(dir, "environ")) // empty of one that only waits to be collected
		if err != nil {
			continue
		}
		has := strings.Split(string(environ), "\x00")
		if !slices.ContainsFunc(variables, func(v string) bool { return !slices.Contains(has, v) }) {
			found = append(found, dir)
		}
	}
	return found
}

// ProcessesOf are the processes of an allocation that run a program of this name: pid and arguments.
func ProcessesOf(alloc *harness.Alloc, program string) []string {
	var found []string
	for _, dir := range procDirs(program, "NOMAD_ALLOC_ID="+alloc.ID) {
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		found = append(found, filepath.Base(dir)+" "+string(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
	}
	return found
}

// ProcDir waits for the test program of a task, and returns its /proc directory.
func (l *Lab) ProcDir(alloc *harness.Alloc, task string) (found string) {
	l.T.Helper()
	l.Until("the process of task "+task, func() error {
		all := procDirs("testapp", "NOMAD_ALLOC_ID="+alloc.ID, "NOMAD_TASK_NAME="+task)
		if len(all) == 0 {
			return errors.New("there is none")
		}
		found = all[0]
		return nil
	})
	return found
}

// NeverTwo fails the test if the allocation ever has two processes of the test program at once, until
// the test ends.
func NeverTwo(t *testing.T, alloc *harness.Alloc) {
	t.Helper()
	done := make(chan struct{})
	var watch sync.WaitGroup
	var most []string
	watch.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if now := ProcessesOf(alloc, "testapp"); len(now) > len(most) {
				most = now
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(done)
		watch.Wait()
		require.Len(t, most, 1, "processes of allocation %s at one moment", alloc.ID)
	})
}

// NoProcess waits until the test program does not run in an allocation any more, and its container is
// gone.
func (l *Lab) NoProcess(alloc *harness.Alloc, task string) {
	l.T.Helper()
	l.Until("the processes of "+alloc.ID+" to be gone", func() error {
		if left := ProcessesOf(alloc, "testapp"); len(left) > 0 {
			return fmt.Errorf("there are:\n%s", strings.Join(left, "\n"))
		}
		if c, err := alloc.Container(l.Ctx, task); err == nil {
			return fmt.Errorf("container %s is there, %s", c.Name, c.State.Status)
		}
		return nil
	})
}

// Process is the whole of a task's process, so that another one is told from it: the container, and the
// process with the time it began, since pids come again.
type Process struct {
	container string
	pid       int
	began     string
}

// ProcessOf is the process that a task has now. A raw_exec task is testapp with a pidfile "pid" in its
// task directory.
func (l *Lab) ProcessOf(alloc *harness.Alloc, task, driver string) Process {
	l.T.Helper()
	var b Process
	if driver == "docker" {
		inspect, err := alloc.Container(l.Ctx, task)
		require.NoError(l.T, err)
		b.container, b.pid = inspect.ID, inspect.State.Pid
	} else {
		l.Until("the pid file of task "+task, func() error {
			content, err := os.ReadFile(alloc.Dir(task, "pid"))
			if err != nil {
				return err
			}
			_, err = fmt.Sscan(string(content), &b.pid)
			return err
		})
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.pid))
	require.NoError(l.T, err, "the process of task %s", task)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	b.began = fields[19]
	return b
}

// PIDOf is the process of the task "app", as the host sees it.
func (l *Lab) PIDOf(alloc *harness.Alloc, driver string) int {
	l.T.Helper()
	if driver == "docker" {
		c, err := alloc.Container(l.Ctx, App)
		require.NoError(l.T, err)
		return c.State.Pid
	}
	starts := l.Lines(alloc, App, "start pid=", 1)
	digits, _, _ := strings.Cut(starts[len(starts)-1], " ")
	pid, err := strconv.Atoi(digits)
	require.NoError(l.T, err)
	_, err = os.Stat(fmt.Sprintf("/proc/%d", pid))
	require.NoError(l.T, err, "process of %s", alloc.Job.ID)
	return pid
}
