package driver

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// patience bounds what a test waits for; nothing that works comes near it.
const patience = 10 * time.Second

func await[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("timed out")
		panic("unreachable")
	}
}

// awaitPhase waits until a task stands somewhere.
func awaitPhase(t *testing.T, tk *task, want taskPhase) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must.NoError(t, tk.state.await(ctx, func(p taskPhase) bool { return p == want }))
}

func notYet[T any](t *testing.T, ch <-chan T) {
	t.Helper()
	select {
	case <-ch:
		t.Fatal("came too early")
	default:
	}
}

func restart(tk *task) <-chan error {
	done := make(chan error, 1)
	go func() { done <- tk.Restart(context.Background(), context.Background(), &secrets.Set{}) }()
	return done
}

// C8: Nomad's wait goes on over a swap, and the end of the new process is the task's.
func TestSwapIsInvisible(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	tk := fakeTask(t, r)
	exits := tk.wait(t.Context())
	for range 3 {
		must.NoError(t, await(t, restart(tk)))
		notYet(t, exits)
	}
	must.Eq(t, 3, r.starts)
	must.False(t, tk.session.(*fakeSession).isPending())
	r.inner.end(tk.cfg.ID, 7)
	must.Eq(t, 7, await(t, exits).ExitCode)
	must.True(t, tk.session.(*fakeSession).isPending(), must.Sprint("before Nomad hears of the end (E2)"))
	awaitPhase(t, tk, phaseReleased)
	must.Eq(t, 1, tk.session.(*fakeSession).ended())
	must.Eq(t, 7, await(t, tk.wait(t.Context())).ExitCode) // and whoever asks later hears the same
}

// C8: calls that come during a swap wait for it.
func TestCallsWaitForTheSwap(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner(), arrived: make(chan struct{}, 1), hold: make(chan struct{})}
	tk := fakeTask(t, r)
	stats, err := tk.stats(t.Context(), time.Second)
	must.NoError(t, err)
	must.NotNil(t, await(t, stats))
	done := restart(tk)
	await(t, r.arrived) // the old process is gone, the new one not there

	signalled, inspected := make(chan error, 1), make(chan error, 1)
	go func() { signalled <- tk.d.SignalTask(tk.cfg.ID, "SIGHUP") }()
	go func() { _, err := tk.d.InspectTask(tk.cfg.ID); inspected <- err }()
	notYet(t, signalled)
	notYet(t, inspected)
	close(r.hold)
	must.NoError(t, await(t, done))
	must.NoError(t, await(t, signalled))
	must.NoError(t, await(t, inspected))
	must.NotNil(t, await(t, stats)) // the new process's, in the same stream
}

// C8: StopTask wins over a rotation, at whatever step it is.
func TestStopWinsOverTheSwap(t *testing.T) {
	t.Run("while the old process stops", func(t *testing.T) {
		r := &fakeRunner{inner: newFakeInner()}
		r.inner.hold = make(chan struct{})
		tk := fakeTask(t, r)
		done := restart(tk)
		await(t, r.inner.stopped)
		stopped := make(chan error, 1)
		go func() { stopped <- tk.stop(time.Second, "") }()
		await(t, r.inner.stopped) // Nomad's own stop reaches the process, too
		close(r.inner.hold)
		must.NoError(t, await(t, stopped))
		must.ErrorIs(t, await(t, done), lifecycle.ErrEnded)
		must.Eq(t, 143, await(t, tk.wait(t.Context())).ExitCode)
		must.Eq(t, 0, r.starts)
	})
	t.Run("while the new process starts", func(t *testing.T) {
		r := &fakeRunner{inner: newFakeInner(), arrived: make(chan struct{}, 1), hold: make(chan struct{})}
		tk := fakeTask(t, r)
		done := restart(tk)
		await(t, r.arrived)
		must.NoError(t, tk.stop(time.Second, ""))
		must.ErrorIs(t, await(t, done), lifecycle.ErrEnded)
		must.Eq(t, 143, await(t, tk.wait(t.Context())).ExitCode)
		must.Nil(t, r.inner.get(tk.cfg.ID))
	})
	t.Run("before it", func(t *testing.T) {
		r := &fakeRunner{inner: newFakeInner()}
		tk := fakeTask(t, r)
		must.NoError(t, tk.stop(time.Second, ""))
		must.ErrorIs(t, await(t, restart(tk)), lifecycle.ErrEnded)
		must.Eq(t, 0, r.starts)
	})
}

// C8: a task that exits by itself is reported as such, also when a restart in place has just begun.
func TestExitByItself(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	tk := fakeTask(t, r)
	r.inner.end(tk.cfg.ID, 3)
	must.Eq(t, 3, await(t, tk.wait(t.Context())).ExitCode)
	must.ErrorIs(t, await(t, restart(tk)), lifecycle.ErrEnded)
	must.Eq(t, 0, r.starts)
}

// C8: also when the swap's stop comes before the news of the exit, which a busy machine brings late.
func TestExitByItselfToldLate(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	r.inner.late = make(chan struct{})
	tk := fakeTask(t, r)
	r.inner.end(tk.cfg.ID, 3)
	done := restart(tk)
	await(t, r.inner.stopped)
	close(r.inner.late)
	must.ErrorIs(t, await(t, done), lifecycle.ErrEnded)
	must.Eq(t, 3, await(t, tk.wait(t.Context())).ExitCode)
	must.Eq(t, 0, r.starts)
}

// C9: a new process that cannot start is the task's exit.
func TestNewProcessCannotStart(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner(), fail: errors.New("no such image")}
	tk := fakeTask(t, r)
	must.ErrorContains(t, await(t, restart(tk)), "no such image")
	res := await(t, tk.wait(t.Context()))
	must.ErrorContains(t, res.Err, "no such image")
	must.False(t, res.Successful())
	awaitPhase(t, tk, phaseReleased)
	must.NoError(t, tk.destroy(false))
	must.Nil(t, tk.d.tasks.get(tk.cfg.ID))
}

// Where the task's own address is advertised, Nomad itself must restart the task if that changes, and only then.
func TestAdvertisedAddress(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner(), network: &drivers.DriverNetwork{IP: "10.1.2.3", AutoAdvertise: true}}
	tk := fakeTask(t, r)
	exits := tk.wait(t.Context())
	must.NoError(t, await(t, restart(tk)))
	notYet(t, exits)
	r.fail = fmt.Errorf("%w: it had 10.1.2.3, and 10.1.2.4 now", errAddressChanged)
	must.ErrorIs(t, await(t, restart(tk)), lifecycle.ErrEnded)
	exit := await(t, exits)
	must.Eq(t, 1, exit.ExitCode)
	must.ErrorIs(t, exit.Err, errAddressChanged)
}

// What a container asks for is the address that Nomad knows, of either version of IP.
func TestContainerAsksForItsAddress(t *testing.T) {
	cfg := &drivers.TaskConfig{}
	must.NoError(t, cfg.EncodeConcreteDriverConfig(map[string]any{"image": "x"}))
	for _, test := range []struct {
		ip        string
		advertise bool
		option    string
	}{
		{"10.1.2.3", true, "ipv4_address"},
		{"fd00::3", true, "ipv6_address"},
		{"10.1.2.3", false, ""},
		{"", true, ""},
	} {
		asked, err := asking(cfg, &drivers.DriverNetwork{IP: test.ip, AutoAdvertise: test.advertise})
		must.NoError(t, err)
		if test.option == "" {
			must.Nil(t, asked)
			continue
		}
		var options map[string]any
		must.NoError(t, asked.DecodeDriverConfig(&options))
		must.Eq(t, map[string]any{"image": "x", test.option: test.ip}, options)
	}
	none, err := asking(cfg, nil)
	must.NoError(t, err)
	must.Nil(t, none)
}

// C8: a command that fails since the program is not ready yet runs again as long as one that the restart held up.
func TestRepeatUntil(t *testing.T) {
	now := time.Now()
	deadline := now.Add(5 * time.Second)
	must.Eq(t, deadline, repeatUntil(deadline, 5*time.Second, true, now.Add(-time.Hour)), must.Sprint("in a restart"))
	must.Eq(t, now.Add(3*time.Second), repeatUntil(deadline, 5*time.Second, false, now.Add(-2*time.Second)), must.Sprint("soon after one"))
	must.True(t, repeatUntil(deadline, 5*time.Second, false, now.Add(-6*time.Second)).Before(now), must.Sprint("later"))
	must.True(t, repeatUntil(deadline, 5*time.Second, false, time.Time{}).Before(now), must.Sprint("without one"))
}
