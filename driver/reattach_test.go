package driver

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// C4, C12: a process that runs on while the wrapped driver has lost it is reattached to. Nomad hears
// nothing of that, and the process is signalled, replaced and ended as before.
func TestReattach(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner(), silent: make(chan struct{})}
	tk := fakeTask(t, r)
	exits := tk.wait(t.Context())
	r.inner.lose(tk.cfg.ID)
	awaitPhase(t, tk, phaseDetached)
	given, up := context.WithCancel(t.Context())
	up()
	must.ErrorIs(t, tk.Publish(given, &secrets.Set{}), context.Canceled, must.Sprint("a change waits, too: it may end with a signal"))
	done := restart(tk) // waits until the process is seen again
	notYet(t, done)
	notYet(t, exits)
	close(r.silent)
	must.NoError(t, tk.Publish(t.Context(), &secrets.Set{}))
	must.NoError(t, await(t, done))
	must.Eq(t, 1, r.starts)
	must.Nil(t, r.inner.get(fakeTaskID+"/1"))
	notYet(t, exits)
	must.Eq(t, 0, tk.session.(*fakeSession).ended())

	r.inner.lose(tk.cfg.ID)
	waitFor(t, func() bool { return tk.innerID() != tk.cfg.ID })
	must.NoError(t, tk.d.SignalTask(tk.cfg.ID, "SIGHUP"))
	must.NoError(t, tk.stop(time.Second, ""))
	must.Eq(t, 143, await(t, exits).ExitCode)
	must.NoError(t, tk.destroy(false))
	must.MapEmpty(t, r.inner.running)
}

// C12: one that did not run on has ended, as the wrapped driver says.
func TestLostForGood(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner(), silent: make(chan struct{}), over: true}
	tk := fakeTask(t, r)
	r.inner.lose(tk.cfg.ID)
	awaitPhase(t, tk, phaseDetached)
	done := restart(tk)
	close(r.silent)
	must.ErrorContains(t, await(t, tk.wait(t.Context())).Err, "EOF")
	must.ErrorIs(t, await(t, done), lifecycle.ErrEnded)
	awaitPhase(t, tk, phaseReleased)
	must.Eq(t, 1, tk.session.(*fakeSession).ended())
}

// A process that is removed while it is being reattached to is removed by the name that it gets so, too: the wrapped driver would watch over
// it for ever.
func TestDestroyWhileReattaching(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	begun, over := make(chan struct{}), make(chan struct{})
	r.inner.recover = func() { close(begun); <-over }
	tk := fakeTask(t, r)
	r.inner.lose(tk.cfg.ID)
	await(t, begun)
	must.NoError(t, tk.destroy(true))
	must.NotNil(t, r.inner.get(fakeTaskID+"/1"), must.Sprint("by this name it was not known yet"))
	close(over)
	waitFor(t, func() bool { return r.inner.get(fakeTaskID+"/1") == nil })
	must.Nil(t, r.inner.get(tk.cfg.ID))
	must.EqOp(t, phaseReleased, tk.state.now())
}

// A process with several names whose removal failed half-way is removed by the next attempt.
func TestDestroyAgain(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	tk := fakeTask(t, r)
	p := tk.currentProcess()
	p.id, p.lost = "the first attempt removed it", []string{tk.cfg.ID}
	tk.setProcess(p)
	must.ErrorIs(t, tk.destroyProcess(true), drivers.ErrTaskNotFound)
	must.MapEmpty(t, r.inner.running)
	must.Eq(t, tk.cfg.ID, tk.innerID())
	awaitPhase(t, tk, phaseReleased)
}

// C12: only a wait that failed is looked into: an exit of the process is one.
func TestExitsOfTheProcess(t *testing.T) {
	for _, res := range []*drivers.ExitResult{{}, {ExitCode: 1}, {ExitCode: 137, Err: errors.New("ended")}, {OOMKilled: true, Err: errors.New("ended")}} {
		must.True(t, ofProcess(res))
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for until := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		must.True(t, time.Now().Before(until), must.Sprint("timed out"))
	}
}
