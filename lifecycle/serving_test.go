package lifecycle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// openServing is open for a task that takes long to finish, and may for pre_stop_wait. The fake host waits for as long
// as it takes or is let, so what is shown is what it is let.
func (w *world) openServing(preStopWait string, all many) *Session {
	w.t.Helper()
	start := w.startOf(all)
	start.Config.PreStopWait = preStopWait
	var err error
	start.Spec, err = w.keeper.providers.compile(start.Config)
	require.NoError(w.t, err)
	w.host.serve = start.Spec.PreStopWait
	s, err := w.keeper.Open(w.t.Context(), start, w.host)
	require.NoError(w.t, err)
	s.Watch()
	return s
}

// until are the moments at which the old processes were done, after the test's beginning.
func (h *fakeHost) until(began time.Time) (all []time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, at := range h.served {
		all = append(all, at.Sub(began))
	}
	return all
}

// What does not end lets the old process finish for as long as the job says.
func TestServeAsLongAsTheJobSays(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		c := app("restart")
		c.Splay = "0s"
		s := w.openServing("3m", many{"app": c})
		withApp(w, "two")
		w.sleep(10 * time.Minute)
		require.Len(t, w.host.served, 1)
		require.Equal(t, 3*time.Minute, w.host.served[0].Sub(w.host.at[1]))
		s.End()
	})
}

// The rotation begins so early that the wait fits; and the old credential is valid until the old process has stopped, however
// short its life is.
func TestServeWithinTheLease(t *testing.T) {
	for _, test := range []struct {
		name string
		life time.Duration
		full bool // the whole wait fits
	}{{"long", time.Hour, true}, {"short", 3 * time.Minute, false}} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.vault.roles["database/creds/app"] = fakeRole{ttl: test.life, max: test.life, fixed: true}
				began := time.Now()
				w.host.during = func(what string) {
					if what == "restart" {
						require.NotEmpty(t, w.vault.live("database/creds/app"))
					}
				}
				s := w.openServing("5m", many{"db": db("")})
				w.sleep(test.life)
				served := w.host.until(began)
				require.NotEmpty(t, served)
				require.LessOrEqual(t, served[0], test.life-secrets.DefaultStopTimeout-StopAllowance, "the stop must fit, too")
				took := w.host.served[0].Sub(w.host.at[1])
				if test.full {
					require.Equal(t, 5*time.Minute, took)
				} else {
					require.Greater(t, took, time.Minute, "what there is is used")
					require.Less(t, took, 5*time.Minute)
				}
				s.End()
			})
		})
	}
}

// A credential that is gone is not served with.
func TestServeNotWithoutACredential(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.openServing("5m", many{"db": db("")})
		w.sleep(time.Second)
		w.vault.with(func() { clear(w.vault.leases) })
		w.sleep(2 * time.Minute)
		require.Len(t, w.host.served, 1)
		require.Equal(t, w.host.at[1], w.host.served[0])
		s.End()
	})
}

// Another credential that is lost, or ends, while the old process finishes ends its time.
func TestServeNoLongerThanAnotherLets(t *testing.T) {
	start := func(w *world, role fakeRole) (*Session, time.Time) {
		w.vault.roles["database/creds/app"] = role
		withApp(w, "one")
		c := app("restart")
		c.Splay = "0s"
		s := w.openServing("5m", many{"app": c, "db": db("")})
		began := time.Now()
		withApp(w, "two")
		return s, began
	}
	t.Run("lost", func(t *testing.T) {
		inWorld(t, func(w *world) {
			s, began := start(w, fakeRole{ttl: time.Hour, max: 24 * time.Hour})
			w.sleep(20 * time.Second)
			require.Equal(t, 1, w.host.count("restart"))
			require.Empty(t, w.host.served)
			w.vault.with(func() { clear(w.vault.leases) })
			w.sleep(2 * time.Minute)
			require.Equal(t, 2, w.host.count("restart"))
			require.Less(t, w.host.until(began)[0], 90*time.Second, "within lease_check_interval")
			s.End()
		})
	})
	t.Run("ends", func(t *testing.T) {
		inWorld(t, func(w *world) {
			const life = 4 * time.Minute
			s, began := start(w, fakeRole{ttl: life, max: life, fixed: true})
			w.sleep(life - time.Second)
			served := w.host.until(began)
			require.Len(t, served, 2, "both have been replaced by then")
			require.LessOrEqual(t, served[1], life-secrets.DefaultStopTimeout-StopAllowance)
			s.End()
		})
	})
}

// The plugin's end in the wait waits for nothing, and the next process applies the change again (E2).
func TestServeOverACrash(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "one")
		c := app("restart")
		c.Splay = "0s"
		w.openServing("5m", many{"app": c, "db": db("")})
		withApp(w, "two")
		w.sleep(20 * time.Second)
		require.Equal(t, 1, w.host.count("restart"))
		crashed := time.Now()
		w.crash()
		require.Zero(t, time.Since(crashed))
		s := w.recover()
		require.Equal(t, 2, w.host.count("restart"))
		w.sleep(5 * time.Minute)
		require.Contains(t, w.host.said(), "task restarted in place")
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}
