package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// AwaitEvent waits until each task has an event with this text, no older than since.
func (l *OutageLab) AwaitEvent(tasks []*OutageTask, since time.Time, text string) {
	l.T.Helper()
	for _, task := range tasks {
		l.Until(fmt.Sprintf("%s to be told %q", task.Job.Name, text), func() error {
			events, err := task.EventsSince(l.Ctx, since, text)
			if err == nil && len(events) == 0 {
				all, _ := task.Alloc.Events(l.Ctx, App)
				err = fmt.Errorf("events:\n%s", strings.Join(all, "\n"))
			}
			return err
		})
	}
}

// EventsSince are those with a text that are no older than since.
func (k *OutageTask) EventsSince(ctx context.Context, since time.Time, text string) (found []string, err error) {
	state, err := k.Alloc.State(ctx, App)
	if err != nil {
		return nil, err
	}
	for _, e := range state.Events {
		message := e.DisplayMessage + " " + e.Details["driver_message"]
		if e.Time >= since.UnixNano() && strings.Contains(message, text) {
			found = append(found, message)
		}
	}
	return found, nil
}

// Undisturbed asserts that no task was restarted, by Nomad or in place, and none was refused by the database.
func (l *OutageLab) Undisturbed(tasks []*OutageTask) {
	l.T.Helper()
	for _, task := range tasks {
		l.NotRestarted(task.Alloc, App)
		starts, err := task.Alloc.Lines(App, "start ")
		require.NoError(l.T, err)
		require.Len(l.T, starts, task.Starts, "%s was restarted", task.Job.Name)
		refused, err := task.Alloc.Lines(App, "refused ")
		require.NoError(l.T, err)
		require.Empty(l.T, refused, task.Job.Name)
	}
}

// Recovered waits until a task has logged in as n users, and its last process is not refused.
func (l *OutageLab) Recovered(task *OutageTask, n int) {
	l.T.Helper()
	l.Lines(task.Alloc, App, "login user=", n)
	task.Starts = n
	l.NotRestarted(task.Alloc, App)
}

// OneLeaseEach waits until a job's tasks have one lease each on the server.
func (l *OutageLab) OneLeaseEach(j OutageJob) {
	l.T.Helper()
	l.Until("one lease a task of "+j.Name, func() error {
		leases, err := l.Server.Leases(l.Ctx, j.Mount+"/creds/"+j.Name)
		if err == nil && len(leases) != j.Count {
			err = fmt.Errorf("%d leases, %d tasks", len(leases), j.Count)
		}
		return err
	})
}

// Issued are the credentials and tokens that tasks got since a mark.
func (l *OutageLab) Issued(since harness.Mark) []harness.Request {
	l.T.Helper()
	all, err := l.Server.Requests(since, "database/creds/", "auth/jwt-")
	require.NoError(l.T, err)
	return all
}

// TokensOf are the accessors of the tokens with which a job's credentials were made.
func (l *OutageLab) TokensOf(j OutageJob) (all []string) {
	l.T.Helper()
	reads, err := l.Server.Requests(0, j.Mount+"/creds/"+j.Name)
	require.NoError(l.T, err)
	for _, r := range reads {
		all = append(all, r.Accessor)
	}
	slices.Sort(all)
	return slices.Compact(all) // a standby that passes a request on logs it, too
}

// AwaitRequests waits until there was an answer since a mark to each of these tokens, at a path.
func (l *OutageLab) AwaitRequests(since harness.Mark, path string, tokens []string) {
	l.T.Helper()
	l.Until(path+" asked by every task", func() error {
		answers, err := l.Server.Requests(since, path)
		if err != nil {
			return err
		}
		missing := 0
		for _, token := range tokens {
			if !slices.ContainsFunc(answers, func(r harness.Request) bool { return r.Accessor == token && r.Error == "" }) {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d tasks have not yet", missing, len(tokens))
		}
		return nil
	})
}

// NoFailures asserts that a task was started once.
func (l *OutageLab) NoFailures(alloc *harness.Alloc) {
	l.T.Helper()
	state, err := alloc.State(l.Ctx, App)
	require.NoError(l.T, err)
	require.Zero(l.T, state.Restarts)
	for _, e := range state.Events {
		require.NotEqual(l.T, "Driver Failure", e.Type, e.DisplayMessage)
	}
}

// Mark is a place in the audit log of the lab's own Vault.
func (l *OutageLab) Mark() harness.Mark {
	l.T.Helper()
	mark, err := l.Server.Mark()
	require.NoError(l.T, err, fmt.Sprintf("the audit log of %s", l.Server.Addr))
	return mark
}
