package driver

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A plugin that ends in the midst of a restart in place that takes long ends within go-plugin's 2 s. The restart is left to its next
// process, as after a crash: nothing is told of an exit, and nothing revoked.
func TestCloseDoesNotWaitForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRunner{inner: newFakeInner()}
		r.inner.hold = make(chan struct{}) // the old process takes its time
		tk := fakeTask(t, r)
		session := tk.session.(*fakeSession)
		exits := tk.wait(t.Context())
		done := restart(tk)
		<-r.inner.stopped
		time.Sleep(time.Minute)
		begin := time.Now()
		tk.d.Close()
		must.LessEq(t, closeAllowance, time.Since(begin))
		must.ErrorIs(t, <-done, lifecycle.ErrEnded)
		close(r.inner.hold)
		synctest.Wait()
		_, told := <-exits
		must.False(t, told)
		must.Nil(t, tk.state.exitResult())
		must.EqOp(t, 0, session.ended())
		must.False(t, session.isPending())
		note, _, _, err := decodeRecord(session.Driver())
		must.NoError(t, err)
		must.True(t, note.Replacing)
	})
}

// C14: a restart in place that panics is done again; Nomad's stop meanwhile is not held up by it.
func TestRestartThatPanics(t *testing.T) {
	panics := func(tk *task) {
		defer func() { must.NotNil(t, recover()) }()
		_ = tk.Restart(context.Background(), context.Background(), &secrets.Set{})
	}
	r := &fakeRunner{inner: newFakeInner(), panics: true}
	tk := fakeTask(t, r)
	exits := tk.wait(t.Context())
	panics(tk)
	must.EqOp(t, phaseInterrupted, tk.state.now())
	notYet(t, exits)
	r.panics = false
	must.NoError(t, await(t, restart(tk)))
	must.EqOp(t, phaseRunning, tk.state.now())
	notYet(t, exits)

	r.panics = true
	panics(tk)
	must.NoError(t, tk.stop(time.Second, ""))
	await(t, exits)
}
