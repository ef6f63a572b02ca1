package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

var errAway = errors.New("the engine is away")

// fakeEngine has one container, which runs on while the engine is away.
type fakeEngine struct {
	mu      sync.Mutex
	goesAt  string // the question at which it goes away
	gone    bool
	runs    bool
	wentOff chan struct{} // closed when it has
	removed int
}

func awayAt(question string) *fakeEngine {
	return &fakeEngine{goesAt: question, runs: true, wentOff: make(chan struct{})}
}

// at is the engine's answer to a question.
func (e *fakeEngine) at(question string) error {
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.gone && question != "" && e.goesAt == question {
		e.gone, e.goesAt = true, ""
		close(e.wentOff)
	}
	if e.gone {
		return fmt.Errorf("%s: %w", question, errAway)
	}
	return nil
}

func (e *fakeEngine) answer() error { return e.at("") }

func (e *fakeEngine) set(change func()) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

func (e *fakeEngine) comesBack() { e.set(func() { e.gone = false }) }
func (e *fakeEngine) ended()     { e.set(func() { e.runs = false }) }
func (e *fakeEngine) launched()  { e.set(func() { e.runs = true }) }

func (e *fakeEngine) seek(ctx context.Context, _ *fakeInner) finding {
	for {
		e.mu.Lock()
		gone, runs := e.gone, e.runs
		e.mu.Unlock()
		switch {
		case !gone && runs:
			return foundRunning
		case !gone:
			return foundGone
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return unconfirmed
		}
	}
}

func (e *fakeEngine) remove() error {
	if err := e.answer(); err != nil {
		return err
	}
	e.set(func() { e.runs = false; e.removed++ })
	return nil
}

// recovered: the inner driver takes a container that runs by any name.
func (e *fakeEngine) recovered(f *fakeInner, id string) error {
	if err := e.answer(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.runs {
		return drivers.ErrTaskNotFound
	}
	f.launch(id)
	return nil
}

// engineTask is a task whose engine goes away at a question.
func engineTask(t *testing.T, question string) (*fakeRunner, *task) {
	e := awayAt(question)
	r := &fakeRunner{inner: newFakeInner(), engine: e}
	r.inner.engine = e
	return r, fakeTask(t, r)
}

// C12: an engine that goes away in the midst of a restart in place is waited for, whatever is being asked of it, and
// the restart goes on. Nomad hears of nothing, and no lease is revoked.
func TestEngineAwayInARestart(t *testing.T) {
	for _, question := range []string{"stop", "inspect", "destroy", "start"} {
		t.Run(question, func(t *testing.T) {
			t.Parallel()
			r, tk := engineTask(t, question)
			exits := tk.wait(t.Context())
			done := restart(tk)
			await(t, r.engine.wentOff)
			must.False(t, tk.session.(*fakeSession).isPending())
			r.engine.comesBack()
			must.NoError(t, await(t, done))
			notYet(t, exits)
			awaitPhase(t, tk, phaseRunning)
			must.False(t, tk.session.(*fakeSession).isPending())
			must.EqOp(t, 0, tk.session.(*fakeSession).ended())
			must.EqOp(t, tk.cfg.ID, tk.innerID())
			must.EqOp(t, map[bool]int{false: 1, true: 2}[question == "start"], r.starts)
			must.EqOp(t, 1, len(r.inner.running), must.Sprint("one process"))

			r.inner.end(tk.cfg.ID, 7) // and the new process is the task's
			must.EqOp(t, 7, await(t, exits).ExitCode)
			awaitPhase(t, tk, phaseReleased)
		})
	}
}

// C12: Nomad's stop ends the wait for the engine at once. The container may run: its leases are not revoked before the
// engine is back and it is stopped.
func TestStopWhileTheEngineIsAway(t *testing.T) {
	for _, question := range []string{"stop", "destroy", "start"} {
		t.Run(question, func(t *testing.T) {
			t.Parallel()
			r, tk := engineTask(t, question)
			session := tk.session.(*fakeSession)
			done := restart(tk)
			await(t, r.engine.wentOff)
			r.engine.launched() // whatever it was: it may run
			stopped := make(chan error, 1)
			go func() { stopped <- tk.stop(time.Second, "") }()
			await(t, stopped)
			must.ErrorIs(t, await(t, done), lifecycle.ErrEnded)
			await(t, tk.wait(t.Context()))
			must.Error(t, tk.destroy(true), must.Sprint("waits for nobody"))
			must.False(t, session.isPending(), must.Sprint("revoked while the container may run"))
			must.EqOp(t, 0, session.ended())
			must.EqOp(t, tk, tk.d.tasks.get(tk.cfg.ID))

			r.engine.comesBack()
			awaitPhase(t, tk, phaseReleased)
			must.EqOp(t, 1, r.engine.removed)
			must.EqOp(t, 1, session.ended())
			waitFor(t, func() bool { return tk.d.tasks.get(tk.cfg.ID) == nil }) // as Nomad had asked
		})
	}
}

// C12: a plugin that ends during the wait leaves all to the next one: the journal says that the restart is to be done
// again, and nothing is revoked. That one waits for the engine, too.
func TestPluginEndsWhileTheEngineIsAway(t *testing.T) {
	for _, question := range []string{"stop", "destroy", "start"} {
		t.Run(question, func(t *testing.T) {
			t.Parallel()
			r, tk := engineTask(t, question)
			session := tk.session.(*fakeSession)
			done := restart(tk)
			await(t, r.engine.wentOff)
			tk.d.close()
			must.ErrorIs(t, await(t, done), lifecycle.ErrEnded)
			must.Nil(t, tk.state.exitResult())
			must.EqOp(t, 0, session.ended())
			must.False(t, session.isPending())
			note, _, _, err := decodeRecord(session.Driver())
			must.NoError(t, err)
			must.True(t, note.Replacing)

			next := &fakeRunner{inner: newFakeInner(), engine: r.engine}
			next.inner.engine = r.engine
			again := unknownTask(t, next) // a new process knows no task
			handle := drivers.NewTaskHandle(1)
			handle.Config = again.cfg
			must.NoError(t, again.resumeRestart(handle))
			again.watch()
			exits := again.wait(t.Context())
			done = restart(again)
			notYet(t, done)
			r.engine.comesBack()
			must.NoError(t, await(t, done))
			notYet(t, exits)
			must.EqOp(t, 1, next.starts)
			must.EqOp(t, 1, len(next.inner.running))
			must.EqOp(t, 0, again.session.(*fakeSession).ended())
		})
	}
}

// C12: an engine that stays away for longer than that is waited for is the task's exit to Nomad, with or without a
// restart in place; what the container may use is not revoked before it is seen to be gone.
func TestEngineStaysAway(t *testing.T) {
	for name, ends := range map[string]func(*fakeRunner, *task){
		"a task that runs": func(r *fakeRunner, tk *task) {
			must.Error(t, r.engine.at("wait"))
			tk.finishUnconfirmed(&drivers.ExitResult{Err: errors.New("EOF")}) // as waitEnded does then
		},
		"a restart": func(r *fakeRunner, tk *task) {
			must.Error(t, r.engine.at("wait"))
			_, _, _ = tk.state.restart(t.Context(), func() {})
			must.ErrorIs(t, tk.giveUp(&drivers.ExitResult{}, errUnconfirmed), errUnconfirmed)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, tk := engineTask(t, "wait")
			session := tk.session.(*fakeSession)
			ends(r, tk)
			must.NotNil(t, await(t, tk.wait(t.Context())).Err)
			must.False(t, session.isPending())
			must.EqOp(t, 0, session.ended())
			r.engine.comesBack()
			awaitPhase(t, tk, phaseReleased)
			must.EqOp(t, 1, r.engine.removed)
			must.EqOp(t, 1, session.ended())
			must.NoError(t, tk.destroy(true))
		})
	}
}

// C12: the plugin ends before the container is seen to be gone: nothing is revoked, the journal stays.
func TestPluginEndsBeforeItIsFoundGone(t *testing.T) {
	r, tk := engineTask(t, "wait")
	must.Error(t, r.engine.at("wait"))
	tk.finishUnconfirmed(&drivers.ExitResult{Err: errors.New("EOF")})
	tk.d.cancel()
	tk.d.background.Wait()
	must.EqOp(t, 0, tk.session.(*fakeSession).ended())
	must.False(t, tk.session.(*fakeSession).isPending())
}

// What the next start of a task finds of one that ended unconfirmed goes first, files and all, so that it takes nothing away
// from that start later.
func TestStartAfterAnUnconfirmedEnd(t *testing.T) {
	r, tk := engineTask(t, "wait")
	must.Error(t, r.engine.at("wait"))
	tk.finishUnconfirmed(&drivers.ExitResult{Err: errors.New("EOF")})
	must.ErrorIs(t, tk.d.destroyEarlier(tk.cfg), errAway)
	r.engine.comesBack()
	must.NoError(t, tk.d.destroyEarlier(tk.cfg))
	must.EqOp(t, 1, tk.session.(*fakeSession).ended())
	must.Nil(t, tk.d.tasks.get(tk.cfg.ID))
}

// What the Docker client says of an engine that is away, also where the docker driver has lost the error's type.
func TestConnectionLost(t *testing.T) {
	docker, err := dockerEndpoint{host: "unix://" + t.TempDir() + "/none.sock"}.client()
	must.NoError(t, err)
	_, err = docker.Info(t.Context())
	must.True(t, connectionLost(err))
	must.True(t, connectionLost(errors.New("failed to fetch docker daemon info: "+err.Error())))
	must.False(t, connectionLost(errors.New("no such image")))
}
