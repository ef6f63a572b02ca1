package driver

import (
	"context"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// What is said of a task while it is recovered comes when Nomad listens for it: once it waits for the
// task's end.
func TestEventsOfRecovery(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &fakeRunner{inner: newFakeInner()}
	r.inner.launch("alloc/web/1")
	d := &Driver{name: "docker", wrapped: wrappedDocker, inner: r.inner, ctx: ctx, cancel: cancel, log: testLog(t), tasks: newTasks()}
	d.events = newEvents(ctx, d.log, r.inner)
	t.Cleanup(func() {
		cancel()
		d.events.join()
	})
	heard, err := d.TaskEvents(ctx)
	must.NoError(t, err)
	handle := drivers.NewTaskHandle(1)
	handle.Config = &drivers.TaskConfig{ID: "alloc/web/1", Name: "web", AllocID: "alloc"}
	d.opts.lifecycle.StateDir = "relative, so that there is no journal to be used"
	must.NoError(t, d.RecoverTask(handle))
	d.events.say(&drivers.TaskConfig{ID: "alloc/other/2"}, "of another task")
	must.Eq(t, "of another task", await(t, heard).Message)
	exits, err := d.WaitTask(ctx, handle.Config.ID)
	must.NoError(t, err)
	must.StrContains(t, await(t, heard).Message, "not watched any more")
	notYet(t, exits)
}
