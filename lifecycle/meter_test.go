package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// tally is a meter that keeps all in words.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
	took   map[RequestKind]time.Duration
}

func (m *tally) add(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[fmt.Sprintf(format, args...)]++
}

func (m *tally) Rotated(why Cause, how secrets.Mode, was RequestResult) {
	m.add("rotation %s %s %s", why, how, was)
}
func (m *tally) Renewed(was RequestResult) { m.add("renewal %s", was) }
func (m *tally) Requested(what RequestKind, was RequestResult, took time.Duration) {
	m.add("%s %s", what, was)
	if was == ResultOK {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.took[what] += took
	}
}

// of are the counts whose names begin so.
func (m *tally) of(prefix string) map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := maps.Clone(m.counts)
	maps.DeleteFunc(found, func(name string, _ int) bool { return len(name) < len(prefix) || name[:len(prefix)] != prefix })
	return found
}

// metered is a world whose keeper is metered.
func metered(t *testing.T, test func(w *world, m *tally)) {
	t.Helper()
	inWorld(t, func(w *world) {
		w.keeper.Close()
		m := &tally{counts: map[string]int{}, took: map[RequestKind]time.Duration{}}
		w.cfg.Meter = m
		w.start()
		test(w, m)
	})
}

// Each way to another secret is counted once, by what caused it, how the task was told, and what came of it.
func TestRotationsAreCounted(t *testing.T) {
	for name, test := range map[string]struct {
		secret secrets.SecretConfig
		cause  func(w *world, s *Session)
		want   map[string]int
	}{
		"a write": {app("signal"), func(w *world, _ *Session) {
			withApp(w, "other")
			w.sleep(time.Minute)
		}, map[string]int{"rotation changed signal ok": 1}},
		"a lease's maximum": {db(""), func(w *world, _ *Session) { w.sleep(25 * time.Hour) },
			map[string]int{"rotation lease_maximum restart ok": 1}},
		"a lease that nothing extends": {db("noop"), func(w *world, s *Session) {
			inLoop(s, func() { s.rotateBeforeEnd(time.Now(), s.secrets["db"], because(CauseNotRenewable)) })
			w.sleep(time.Hour)
		}, map[string]int{"rotation not_renewable noop ok": 1}},
		"a policy": {db(""), func(w *world, _ *Session) {
			w.vault.with(func() { w.vault.fail["renew"] = errDenied })
			w.sleep(time.Hour)
		}, map[string]int{"rotation renewal_refused restart ok": 1}},
		"a revoked lease": {db("script"), func(w *world, _ *Session) {
			w.vault.with(func() { clear(w.vault.leases) })
			w.sleep(5 * time.Minute)
		}, map[string]int{"rotation revoked script ok": 1}},
		"an outage": {db(""), func(w *world, _ *Session) {
			w.vault.set(errAway)
			w.sleep(2 * time.Hour)
			w.vault.set(nil)
			w.sleep(10 * time.Minute)
		}, map[string]int{"rotation expired restart ok": 1}},
		"a lost token": {db(""), func(w *world, _ *Session) {
			w.vault.with(func() { clear(w.vault.tokens) })
			w.sleep(5 * time.Minute)
		}, map[string]int{"rotation token_ended restart ok": 1}},
		"a certificate's end": {changing(secrets.SecretConfig{Path: "pki/issue/web", AllFiles: true}), func(w *world, _ *Session) {
			w.sleep(20 * time.Hour)
		}, map[string]int{"rotation expiring restart ok": 1}},
		"a restart that fails": {app(""), func(w *world, _ *Session) {
			w.host.restart = func(context.Context) error { return fmt.Errorf("no such image") }
			withApp(w, "other")
			w.sleep(time.Minute)
		}, map[string]int{"rotation changed restart error": 1}},
		"a task that ends meanwhile": {app(""), func(w *world, _ *Session) {
			w.host.restart = func(context.Context) error { return ErrEnded }
			withApp(w, "other")
			w.sleep(time.Minute)
		}, map[string]int{}},
		"the same as before": {app(""), func(w *world, _ *Session) {
			withApp(w, "first")
			w.sleep(time.Minute)
		}, map[string]int{}},
	} {
		t.Run(name, func(t *testing.T) {
			metered(t, func(w *world, m *tally) {
				withDB(w)
				withApp(w, "first")
				w.vault.roles["pki/issue/web"] = fakeRole{issued: 24 * time.Hour}
				s := w.open(many{"db": test.secret})
				test.cause(w, s)
				require.Equal(t, test.want, m.of("rotation"), w.host.said())
				s.End()
			})
		})
	}
}

// A rotation that fails is counted at each attempt, by what is wrong.
func TestFailedRotationsAreCounted(t *testing.T) {
	metered(t, func(w *world, m *tally) {
		withDB(w)
		s := w.open(many{"db": db("")})
		w.vault.with(func() {
			w.vault.fail["read database/creds/app"] = errDenied
			clear(w.vault.leases)
		})
		w.sleep(10 * time.Minute)
		require.Equal(t, []string{"rotation revoked restart refused"}, slices.Collect(maps.Keys(m.of("rotation"))))
		require.Greater(t, m.of("rotation")["rotation revoked restart refused"], 1)
		s.End()
	})
}

// The cause of a rotation that a crash interrupted is counted, not the crash.
func TestCauseOutlivesACrash(t *testing.T) {
	metered(t, func(w *world, m *tally) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		w.host.hang = "restart"
		w.open(many{"db": db("")})
		w.sleep(45 * time.Minute)
		w.crash()
		m.mu.Lock()
		clear(m.counts)
		m.mu.Unlock()
		w.host.hang = ""
		s := w.recover()
		w.sleep(10 * time.Second)
		require.Equal(t, map[string]int{"rotation not_renewable restart ok": 1}, m.of("rotation"))
		s.End()
	})
}

// The page has each value that a label may have.
func TestPageHasEachLabelValue(t *testing.T) {
	page, err := os.ReadFile("../docs/monitoring.md")
	require.NoError(t, err)
	for c := range causes {
		require.Contains(t, string(page), "`"+string(c)+"`")
	}
	for _, r := range Results() {
		require.Contains(t, string(page), "`"+string(r)+"`")
	}
}

// Every request is counted by what it was for and what came of it, and timed without the wait for its turn.
func TestRequestsAreCounted(t *testing.T) {
	metered(t, func(w *world, m *tally) {
		withDB(w)
		withApp(w, "x")
		w.vault.delay = time.Second
		s := w.open(many{"db": db(""), "app": app("")})
		w.sleep(40 * time.Hour)
		w.vault.with(func() { w.vault.fail["renew"] = errDenied })
		w.sleep(time.Hour)
		s.End()
		w.sleep(time.Minute)
		for _, name := range []string{
			"login ok", "read ok", "renew_lease ok", "renew_lease refused", "renew_token ok", "lookup_lease ok", "lookup_token ok",
			"revoke_token ok", "revoke_lease ok", "renewal ok", "renewal refused",
		} {
			require.Positive(t, m.of(name)[name], "%s in %v", name, m.counts)
		}
		require.Equal(t, w.vault.called("read"), m.of("read ok")["read ok"])
		require.Equal(t, time.Duration(w.vault.called("read"))*time.Second, m.took[OperationRead])
		require.Equal(t, m.of("renew_lease ok")["renew_lease ok"]+m.of("renew_token ok")["renew_token ok"], m.of("renewal ok")["renewal ok"])
	})
}

// An outage is seen by the requests in vain, ends with the first answer, whatever it is, and is none of the server's where
// what it makes credentials in is away.
func TestOutageGauge(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "x")
		outage := func() bool {
			g, err := w.keeper.Gauges()
			require.NoError(t, err)
			return g.Outage
		}
		s := w.open(many{"db": db(""), "app": app("")})
		w.sleep(time.Minute)
		require.False(t, outage())
		w.vault.set(errAway)
		w.sleep(time.Minute)
		require.True(t, outage())
		w.vault.set(nil)
		w.vault.with(func() { w.vault.fail["read"] = errDenied })
		w.sleep(time.Minute)
		require.False(t, outage(), "a refusal is an answer")
		w.vault.with(func() {
			w.vault.fail["read"] = &secrets.Error{Kind: secrets.Outage, Elsewhere: true, Err: fmt.Errorf("the database is away")}
		})
		w.sleep(10 * time.Minute)
		require.False(t, outage())
		w.vault.set(errAway)
		w.sleep(time.Minute)
		require.True(t, outage())
		s.End()
		g, err := w.keeper.Gauges()
		require.NoError(t, err)
		require.Equal(t, 1, g.RevocationsPending)
		w.sleep(20 * time.Minute)
		require.True(t, outage(), "the revocation that is pending is in vain, too")
		w.vault.set(nil)
		w.sleep(2 * time.Minute)
		g, err = w.keeper.Gauges()
		require.NoError(t, err)
		require.Positive(t, g.RequestRate)
		g.RequestRate = 0
		require.Equal(t, Gauges{}, g)
	})
}

// gaugesOf are those of the one task there is, by secret.
func (w *world) gaugesOf() map[string]SecretGauge {
	w.t.Helper()
	g, err := w.keeper.Gauges()
	require.NoError(w.t, err)
	require.Len(w.t, g.Tasks, 1)
	all := map[string]SecretGauge{}
	for _, s := range g.Tasks[0].Secrets {
		all[s.Name] = s
	}
	return all
}

// A lease's end and its next renewal are known from the start on; what has no end has none. A renewal that fails stays
// planned for when it was, so that it can be seen to be late.
func TestSecretGauges(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "x")
		w.vault.login = fakeRole{ttl: 1000 * time.Hour, max: 1000 * time.Hour}
		w.open(many{"db": db(""), "app": app("")})
		began := time.Now()
		first := w.gaugesOf()
		require.Equal(t, SecretGauge{Name: "app", Ready: true}, first["app"])
		require.Equal(t, began.Add(time.Hour), first["db"].Expires)
		require.True(t, first["db"].Ready)
		require.False(t, first["db"].Renews.Before(began.Add(30*time.Minute)))
		require.False(t, first["db"].Renews.After(began.Add(40*time.Minute)))

		w.sleep(41 * time.Minute)
		renewed := w.gaugesOf()["db"]
		require.True(t, renewed.Expires.After(first["db"].Expires))
		require.True(t, renewed.Renews.After(time.Now()))

		w.vault.with(func() { w.vault.fail["renew"] = secrets.Errorf(secrets.Outage, "500") })
		w.sleep(time.Until(renewed.Renews) + 10*time.Minute)
		late := w.gaugesOf()["db"]
		require.Equal(t, renewed, late, "ready, and overdue")
		require.True(t, late.ReadyAt(time.Now()))
		require.False(t, late.ReadyAt(late.Expires))

		w.vault.with(func() { w.vault.fail["read database/creds/app"] = secrets.Errorf(secrets.Outage, "500") })
		w.sleep(24 * time.Hour)
		require.False(t, w.gaugesOf()["db"].Ready)
		require.True(t, w.gaugesOf()["app"].Ready)
		w.vault.with(func() { clear(w.vault.fail) })
		w.sleep(10 * time.Minute)
		require.True(t, w.gaugesOf()["db"].Ready)

		w.crash()
		s := w.recover()
		synctest.Wait()
		require.True(t, w.gaugesOf()["db"].Ready)
		s.End()
		g, err := w.keeper.Gauges()
		require.NoError(t, err)
		require.Empty(t, g.Tasks)
	})
}

// A secret is not ready while the task does not have what it is to have.
func TestNotReady(t *testing.T) {
	for name, fail := range map[string]func(w *world, s *Session){
		"it cannot be replaced": func(w *world, _ *Session) {
			w.vault.with(func() {
				w.vault.fail["read database/creds/app"] = errDenied
				clear(w.vault.leases)
			})
		},
		"it cannot be read": func(w *world, _ *Session) { w.vault.with(func() { delete(w.vault.static, "secret/app-1") }) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withDB(w)
				withApp(w, "x")
				s := w.open(many{"db": db(""), "app": app("")})
				ready := func() bool { g := w.gaugesOf(); return g["db"].Ready && g["app"].Ready }
				require.True(t, ready())
				fail(w, s)
				w.sleep(10 * time.Minute)
				require.False(t, ready())
				s.End()
			})
		})
	}
}

// Nor while nobody watches it: until the watch, which has failed, begins anew.
func TestNotReadyUnwatched(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		s.results <- func() { panic("hunter2") }
		synctest.Wait()
		require.False(t, w.gaugesOf()["db"].Ready)
		w.sleep(time.Minute)
		require.True(t, w.gaugesOf()["db"].Ready)
		s.End()
	})
}

// While a task waits for its secrets they are not ready.
func TestNotReadyBeforeTheStart(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "x")
		w.vault.set(errAway)
		start := w.startOf(many{"app": app("")})
		opened := make(chan *Session)
		go func() {
			s, _ := w.keeper.Open(w.t.Context(), start, w.host)
			opened <- s
		}()
		w.sleep(30 * time.Second)
		require.Equal(t, map[string]SecretGauge{"app": {Name: "app"}}, w.gaugesOf())
		w.vault.set(nil)
		s := <-opened
		require.Equal(t, map[string]SecretGauge{"app": {Name: "app", Ready: true}}, w.gaugesOf())
		s.End()
	})
}
