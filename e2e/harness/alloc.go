package harness

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// Alloc is an allocation of a job.
type Alloc struct {
	ID    string
	Job   *Job
	agent *Agent
}

// Info is all that Nomad knows of the allocation.
func (a *Alloc) Info(ctx context.Context) (*api.Allocation, error) {
	info, _, err := a.agent.api.Allocations().Info(a.ID, a.Job.query(ctx))
	return info, err
}

// State is a task's state.
func (a *Alloc) State(ctx context.Context, task string) (*api.TaskState, error) {
	info, err := a.Info(ctx)
	if err != nil {
		return nil, err
	}
	state := info.TaskStates[task]
	if state == nil {
		return nil, fmt.Errorf("allocation %s has no state for task %s yet", a.ID, task)
	}
	return state, nil
}

// Restarts is how often Nomad has restarted the task; a rotation does not count (C8).
func (a *Alloc) Restarts(ctx context.Context, task string) (uint64, error) {
	state, err := a.State(ctx, task)
	if err != nil {
		return 0, err
	}
	return state.Restarts, nil
}

// Events are a task's events, the oldest first, as "Type: message". Nomad keeps the last ten.
func (a *Alloc) Events(ctx context.Context, task string) ([]string, error) {
	state, err := a.State(ctx, task)
	if err != nil {
		return nil, err
	}
	return describe(state.Events), nil
}

// WaitEvent waits until an event of the task contains text, and returns that event.
func (a *Alloc) WaitEvent(ctx context.Context, task, text string) (string, error) {
	var found string
	err := Until(ctx, fmt.Sprintf("an event of task %s with %q", task, text), func() error {
		events, err := a.Events(ctx, task)
		if err != nil {
			return err
		}
		for _, event := range events {
			if strings.Contains(event, text) {
				found = event
				return nil
			}
		}
		return fmt.Errorf("events:\n%s", strings.Join(events, "\n"))
	})
	return found, err
}

func describe(events []*api.TaskEvent) []string {
	lines := make([]string, len(events))
	for i, e := range events {
		message := e.DisplayMessage
		if driver := e.Details["driver_message"]; driver != "" && !strings.Contains(message, driver) {
			message += " " + driver
		}
		lines[i] = e.Type + ": " + message
	}
	return lines
}

// eventsOf is the events of all tasks, for error messages.
func eventsOf(info *api.Allocation) string {
	var b strings.Builder
	for task, state := range info.TaskStates {
		fmt.Fprintf(&b, "  task %s is %s, failed %v, restarts %d\n", task, state.State, state.Failed, state.Restarts)
		for i, line := range describe(state.Events) {
			fmt.Fprintf(&b, "    %s %s\n", time.Unix(0, state.Events[i].Time).Format("15:04:05.000"), line)
		}
	}
	return b.String()
}

// Dir is the allocation's directory on the host, or a path below it.
func (a *Alloc) Dir(elem ...string) string {
	return filepath.Join(append([]string{a.agent.DataDir(), "alloc", a.ID}, elem...)...)
}

// SecretsDir is the host's view of what a task sees as NOMAD_SECRETS_DIR.
func (a *Alloc) SecretsDir(task string) string { return a.Dir(task, "secrets") }

// Signal sends a signal to a task, through Nomad.
func (a *Alloc) Signal(ctx context.Context, task, signal string) error {
	info, err := a.Info(ctx)
	if err != nil {
		return err
	}
	return a.agent.api.Allocations().Signal(info, a.Job.query(ctx), task, signal)
}

// Stats are a task's resources in use, through Nomad.
func (a *Alloc) Stats(ctx context.Context, task string) (*api.TaskResourceUsage, error) {
	info, err := a.Info(ctx)
	if err != nil {
		return nil, err
	}
	usage, err := a.agent.api.Allocations().Stats(info, a.Job.query(ctx))
	if err != nil {
		return nil, err
	}
	if usage.Tasks[task] == nil {
		return nil, fmt.Errorf("no stats for task %s", task)
	}
	return usage.Tasks[task], nil
}

// Restart restarts a task through Nomad, which does count.
func (a *Alloc) Restart(ctx context.Context, task string) error {
	info, err := a.Info(ctx)
	if err != nil {
		return err
	}
	return a.agent.api.Allocations().Restart(info, task, a.Job.query(ctx))
}

// Ended waits until a task is dead and returns its last state.
func (a *Alloc) Ended(ctx context.Context, task string) (*api.TaskState, error) {
	var last *api.TaskState
	err := Until(ctx, "task "+task+" to end", func() error {
		state, err := a.State(ctx, task)
		if err != nil {
			return err
		}
		if last = state; state.State != "dead" {
			return fmt.Errorf("task is %s", state.State)
		}
		return nil
	})
	return last, err
}
