package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// App is the name of the one task that most jobs have.
const App = "app"

// Events waits until n of the task's events contain all of texts each.
func (l *Lab) Events(alloc *harness.Alloc, n int, texts ...string) {
	l.T.Helper()
	l.Until(fmt.Sprintf("%d events with %q", n, texts), func() error {
		all, err := alloc.Events(l.Ctx, App)
		if err != nil {
			return err
		}
		with := slices.DeleteFunc(slices.Clone(all), func(event string) bool {
			return slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(event, text) })
		})
		if len(with) < n {
			return fmt.Errorf("there are %d in:\n%s", len(with), strings.Join(all, "\n"))
		}
		return nil
	})
}

// StartedTimes says that the task "app" has been started n times, all of them unnoticed by Nomad but
// the first (C8).
func (l *Lab) StartedTimes(alloc *harness.Alloc, n int) {
	l.T.Helper()
	starts, err := alloc.Lines(App, "start ")
	require.NoError(l.T, err)
	require.Len(l.T, starts, n, "starts of %s", alloc.Job.ID)
	restarts, err := alloc.Restarts(l.Ctx, App)
	require.NoError(l.T, err)
	require.Zero(l.T, restarts, "Nomad restarted %s", alloc.Job.ID)
}

// Event waits for an event of the task "app".
func (l *Lab) Event(alloc *harness.Alloc, text string) string {
	l.T.Helper()
	event, err := alloc.WaitEvent(l.Ctx, App, text)
	require.NoError(l.T, err)
	return event
}

// NotRestarted asserts that Nomad has started the task once, never restarted it, and has it running (C8).
func (l *Lab) NotRestarted(alloc *harness.Alloc, task string) {
	l.T.Helper()
	state, err := alloc.State(l.Ctx, task)
	require.NoError(l.T, err)
	require.Equal(l.T, "running", state.State, "task %s of %s", task, alloc.Job.ID)
	require.Zero(l.T, state.Restarts, "Nomad has restarted task %s of %s", task, alloc.Job.ID)
}

// KeptTask is a task with the process that it is to keep.
type KeptTask struct {
	Alloc        *harness.Alloc
	Task, Driver string
	Process      Process
}

// AllKept shows that every task still has its process, that Nomad can reach it through the driver, and
// that nobody counts a restart.
func (l *Lab) AllKept(tasks []KeptTask) {
	l.T.Helper()
	for _, s := range tasks {
		require.Equal(l.T, s.Process, l.ProcessOf(s.Alloc, s.Task, s.Driver), "the process of task %s", s.Task)
		l.NotRestarted(s.Alloc, s.Task)
		l.Until("exec in task "+s.Task, func() error {
			out, code, err := s.Alloc.Exec(l.Ctx, s.Task, "sh", "-c", "echo $NOMAD_TASK_NAME")
			if err == nil && (code != 0 || out != s.Task+"\n") { // none: Nomad may lose it
				err = fmt.Errorf("exit code %d: %s", code, out)
			}
			return err
		})
	}
}

// Env says what a variable of a running task is now.
func (l *Lab) Env(alloc *harness.Alloc, task, name string) string {
	l.T.Helper()
	out, code, err := alloc.Exec(l.Ctx, task, "/bin/sh", "-c", "echo -n $"+name)
	require.NoError(l.T, err)
	require.Zero(l.T, code, out)
	return strings.TrimSpace(out)
}

// SameProcess asserts that the task's first process lives on, and Nomad knows of nothing else.
func (l *Lab) SameProcess(alloc *harness.Alloc) {
	l.T.Helper()
	starts, err := alloc.Lines(App, "start ")
	require.NoError(l.T, err)
	require.Len(l.T, starts, 1, "the process was restarted")
	ends, err := alloc.Lines(App, "stopping")
	require.NoError(l.T, err)
	require.Empty(l.T, ends, "the process was stopped")
	l.NotRestarted(alloc, App)
}

// PortOf is the address at which Nomad says that a port of an allocation is.
func (l *Lab) PortOf(alloc *harness.Alloc, label string) string {
	l.T.Helper()
	info, err := alloc.Info(l.Ctx)
	require.NoError(l.T, err)
	for _, port := range info.AllocatedResources.Shared.Ports {
		if port.Label == label {
			return fmt.Sprintf("%s:%d", port.HostIP, port.Value)
		}
	}
	require.Fail(l.T, "no port "+label)
	return ""
}

// FileIs says whether a file in the task "app"'s secrets directory has this content.
func FileIs(alloc *harness.Alloc, path, want string) error {
	content, err := os.ReadFile(filepath.Join(alloc.SecretsDir(App), path))
	if err != nil {
		return err
	}
	if string(content) != want {
		return fmt.Errorf("file %s is %.40q, not %.40q", path, content, want)
	}
	return nil
}

// Nanoseconds is the time that a task printed in nanoseconds.
func Nanoseconds(t *testing.T, text string) time.Time {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err)
	return time.Unix(0, n)
}

// RunPlain runs a task without secrets on each driver.
func (l *Lab) RunPlain(name string) (tasks []KeptTask) {
	l.T.Helper()
	for _, driver := range []string{"docker", "raw_exec"} {
		alloc := l.RunFile("plain", Vars{"name": name + "-" + driver, "driver": driver})
		l.Lines(alloc, "web", "start ", 1)
		tasks = append(tasks, KeptTask{Alloc: alloc, Task: "web", Driver: driver, Process: l.ProcessOf(alloc, "web", driver)})
	}
	return tasks
}

// NoPluginEvents asserts that the plugin has told nothing about a task.
func (l *Lab) NoPluginEvents(s KeptTask) {
	l.T.Helper()
	events, err := s.Alloc.Events(l.Ctx, s.Task)
	require.NoError(l.T, err)
	for _, event := range events {
		require.NotContains(l.T, event, "Secrets:", "an event of a task without secrets")
	}
}
