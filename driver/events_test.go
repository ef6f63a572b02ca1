package driver

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

const unusableStateDir = "relative, so that there is no journal to be used"

// recovering is a driver whose inner one has a task in its handle, and its events.
func recovering(t *testing.T, env map[string]string) (*Driver, *fakeInner, *drivers.TaskHandle, <-chan *drivers.TaskEvent) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	inner := newFakeInner()
	inner.launch("alloc/web/1")
	d := &Driver{name: "docker", wrapped: &wrappedDocker, inner: inner, ctx: ctx, cancel: cancel, log: testLog(t), tasks: newTasks()}
	d.events = newEvents(ctx, d.log, inner)
	t.Cleanup(func() {
		cancel()
		d.events.join()
	})
	events, err := d.TaskEvents(ctx)
	must.NoError(t, err)
	heard := make(chan *drivers.TaskEvent, 10)
	go func() { // as an agent does: what nobody takes is dropped
		for {
			select {
			case ev, ok := <-events:
				if !ok {
					return
				}
				heard <- ev
			case <-ctx.Done():
				return
			}
		}
	}()
	handle := drivers.NewTaskHandle(1)
	handle.Config = &drivers.TaskConfig{ID: "alloc/web/1", Name: "web", AllocID: "alloc", Env: env}
	return d, inner, handle, heard
}

// heardNext is the next thing that is said: of the task, or what is said after it.
func heardNext(t *testing.T, d *Driver, heard <-chan *drivers.TaskEvent) string {
	t.Helper()
	d.events.emit(&drivers.TaskConfig{ID: "alloc/other/2"}, "nothing")
	return await(t, heard).Message
}

// What is said of a task while it is recovered comes when Nomad listens for it: once it waits for the
// task's end.
func TestEventsOfRecovery(t *testing.T) {
	d, _, handle, heard := recovering(t, nil)
	d.opts.stateDir = unusableStateDir
	must.NoError(t, d.RecoverTask(handle))
	must.Eq(t, "nothing", heardNext(t, d, heard))
	exits, err := d.WaitTask(t.Context(), handle.Config.ID)
	must.NoError(t, err)
	must.StrContains(t, await(t, heard).Message, "not watched any more")
	notYet(t, exits)
}

// C14: nobody waits for an agent that does not read its events, and what it gets when it reads again is the newest.
func TestEventsNobodyReads(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	e := newEvents(ctx, testLog(t), newFakeInner())
	defer func() {
		cancel()
		e.join()
	}()
	stalled, err := e.subscribe(ctx)
	must.NoError(t, err)
	began := time.Now()
	for i := range 10 * queuedEvents {
		e.emit(&drivers.TaskConfig{ID: "alloc/web/1"}, fmt.Sprint(i))
	}
	must.Less(t, time.Second, time.Since(began), must.Sprint("a sender waited"))
	var last string
	for last != fmt.Sprint(10*queuedEvents-1) {
		last = await(t, stalled).Message
	}
}

// A task with secrets that runs and has no journal is not watched, and its operator is told why. Of one that has
// ended, and of one that never had secrets, nothing is said, whatever state_dir is like.
func TestEventsOfTasksWithoutAJournal(t *testing.T) {
	plain := map[string]string{"NOMAD_TASK_NAME": "web"}
	for name, c := range map[string]struct {
		env   map[string]string
		ended bool
		want  string
	}{
		"it has secrets":            {want: "Secrets: not watched, since there is no journal of the task under /run/moved (was state_dir changed?); restart the task to have them renewed"},
		"it has secrets, and ended": {ended: true, want: "nothing"},
		"it has none":               {env: plain, want: "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			d, inner, handle, heard := recovering(t, c.env)
			d.opts.stateDir = "/run/moved"
			if c.ended {
				inner.end(handle.Config.ID, 1)
			}
			must.NoError(t, d.recoverPlain(handle))
			must.Eq(t, c.want, heardNext(t, d, heard))
		})
	}
	t.Run("it has none, and state_dir cannot be used", func(t *testing.T) {
		d, _, handle, heard := recovering(t, plain)
		d.opts.stateDir = unusableStateDir
		must.NoError(t, d.RecoverTask(handle))
		d.events.release(handle.Config.ID)
		must.Eq(t, "nothing", heardNext(t, d, heard))
	})
}
