package lifecycle

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// launch opens a session whose task's program does not run yet.
func (w *world) launch(all map[string]secrets.SecretConfig) *Session {
	w.t.Helper()
	s, err := w.keeper.Open(w.t.Context(), w.startOf(all), w.host)
	require.NoError(w.t, err)
	return s
}

// deliver is what the program begins with.
func (w *world) deliver(s *Session) *secrets.Set {
	w.t.Helper()
	set, err := s.Deliver(w.t.Context())
	require.NoError(w.t, err)
	require.True(w.t, set == s.Set())
	return set
}

// S9: while the wrapped driver pulls an image for minutes, leases of seconds and the token are renewed, and the program
// gets the first credential.
func TestLaunchingKeepsLeasesAlive(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.login = fakeRole{ttl: 20 * time.Second, max: 1000 * time.Hour}
		w.vault.roles["database/creds/app"] = fakeRole{ttl: 15 * time.Second, max: time.Hour}
		s := w.launch(many{"db": db("")})
		first := s.Set()
		w.sleep(10 * time.Minute)
		require.True(t, first == w.deliver(s))
		require.Equal(t, 1, w.vault.called("read"))
		require.Equal(t, 1, w.vault.called("login"))
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.Watch()
		w.sleep(30 * time.Minute)
		require.Empty(t, w.host.applied())
		require.Equal(t, "Secrets: reading with the task's identity (role nomad-workloads)", w.host.said())
		s.End()
	})
}

// S9: what has ended all the same is replaced before the program runs, and nothing is done to the task for it.
func TestEndedWhileLaunching(t *testing.T) {
	for name, test := range map[string]struct {
		login fakeRole
		role  fakeRole
		spoil func(w *world)
	}{
		"a lease that cannot be renewed": {role: fakeRole{ttl: 15 * time.Second, max: 15 * time.Second, fixed: true}},
		"a lease at its maximum":         {role: fakeRole{ttl: 15 * time.Second, max: 40 * time.Second}},
		"a certificate":                  {role: fakeRole{issued: 2 * time.Minute}},
		"a batch token": {login: fakeRole{ttl: 30 * time.Second, max: 30 * time.Second, batch: true},
			role: fakeRole{ttl: time.Hour, max: time.Hour}},
		"a lease that was revoked": {role: fakeRole{ttl: time.Hour, max: time.Hour}, spoil: func(w *world) {
			w.vault.with(func() { clear(w.vault.leases) })
		}},
		"a token that was revoked": {role: fakeRole{ttl: time.Hour, max: time.Hour}, spoil: func(w *world) {
			w.vault.with(func() { clear(w.vault.tokens) })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				if test.login.ttl > 0 {
					w.vault.login = test.login
				}
				w.vault.roles["database/creds/app"] = test.role
				withApp(w, "hunter2")
				s := w.launch(many{"db": db(""), "app": app("")})
				first := s.Set()
				if test.spoil != nil {
					test.spoil(w)
				}
				w.sleep(3 * time.Minute)
				require.Equal(t, 1, w.vault.called("read database"), "nothing is fetched while nothing needs it")
				set := w.deliver(s)
				require.NotEqual(t, first.Env["DB_USER"].Text(), set.Env["DB_USER"].Text())
				require.Equal(t, 2, w.vault.called("read database"))
				require.Contains(t, w.host.said(), `Secrets: secret "db": the credential ended before the task's program ran, and was replaced`)
				require.NotContains(t, w.host.said(), "in hand")
				s.Watch()
				w.sleep(2 * time.Second)
				require.Empty(t, w.host.applied())
				if test.role.issued == 0 {
					require.Len(t, w.vault.live("database/creds/app"), 1)
				}
				s.End()
				w.sleep(30 * time.Second) // a batch token ends by itself
				require.Empty(t, w.vault.live("database/creds/app"))
				require.Zero(t, w.vault.liveTokens())
			})
		})
	}
}

// S9: a token that has ended while the program was not there yet is refused for that: the start waits for the next token, and is not
// told that it may not.
func TestTokenEndsWhileDelivering(t *testing.T) {
	for name, test := range map[string]struct {
		launching time.Duration
		slow      map[string]time.Duration // from then on
	}{
		"before":                {launching: 35 * time.Second},
		"while it is read with": {launching: 19 * time.Second, slow: map[string]time.Duration{"read database/creds/app": 12 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.vault.login = fakeRole{ttl: 30 * time.Second, max: 30 * time.Second, batch: true}
				w.vault.roles["database/creds/app"] = fakeRole{ttl: 12 * time.Second, max: 12 * time.Second, fixed: true}
				s := w.launch(many{"db": db("")})
				w.vault.with(func() { w.vault.slow = map[string]time.Duration{"login nomad-workloads": 19 * time.Second} })
				w.sleep(test.launching)
				w.vault.with(func() { w.vault.slow = test.slow })
				require.NotEmpty(t, w.deliver(s).Env["DB_USER"].Text())
				s.End()
			})
		})
	}
}

// A server that hangs holds up no start that has all it needs.
func TestDeliverAsksNobody(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.launch(many{"db": db("")})
		w.vault.with(func() { w.vault.delay = time.Hour })
		w.sleep(50 * time.Minute) // renewals hang meanwhile
		began := time.Now()
		w.deliver(s)
		require.Zero(t, time.Since(began))
		w.vault.with(func() { w.vault.delay = 0 })
		s.End()
	})
}

// A server that is away when something has ended is waited for, and no longer than a launcher waits.
func TestDeliverWaits(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: 15 * time.Second, max: 15 * time.Second}
		s := w.launch(many{"db": db("")})
		w.vault.set(errAway)
		w.sleep(time.Minute)
		time.AfterFunc(20*time.Second, func() { w.vault.set(nil) })
		began := time.Now()
		w.deliver(s)
		require.GreaterOrEqual(t, time.Since(began), 20*time.Second)
		require.Len(t, w.host.waits(), 1)

		w.vault.set(errAway)
		w.sleep(time.Minute)
		began = time.Now()
		_, err := s.Deliver(w.t.Context())
		require.Equal(t, secrets.Outage, secrets.KindOf(err))
		require.ErrorContains(t, err, "connection refused")
		require.Equal(t, deliverTimeout, time.Since(began))
		s.End()
		w.vault.set(nil)
		w.sleep(2 * time.Minute)
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}

// What waiting does not help is an error at once.
func TestDeliverRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: 15 * time.Second, max: 15 * time.Second}
		s := w.launch(many{"db": db("")})
		w.sleep(time.Minute)
		w.vault.with(func() { w.vault.fail["read database/creds/app"] = errDenied })
		_, err := s.Deliver(w.t.Context())
		require.EqualError(t, err, `secret "db": read database/creds/app: permission denied`)
		s.End()
	})
}

// A session that ends meanwhile holds up nobody.
func TestDeliverOfAnEndedSession(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: 15 * time.Second, max: 15 * time.Second}
		s := w.launch(many{"db": db("")})
		w.vault.set(errAway)
		w.sleep(time.Minute)
		time.AfterFunc(10*time.Second, s.End)
		_, err := s.Deliver(w.t.Context())
		require.Equal(t, secrets.Outage, secrets.KindOf(err))
		_, err = s.Deliver(w.t.Context())
		require.Equal(t, secrets.Outage, secrets.KindOf(err))
		synctest.Wait()
	})
}

// What is written while a task is started is what its program begins with; it is not restarted for it.
func TestChangedWhileLaunching(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		s := w.launch(many{"app": app("")})
		withApp(w, "two")
		w.sleep(time.Minute)
		require.Empty(t, w.host.applied())
		require.Equal(t, "two", w.deliver(s).Files[0].Data.Text())
		s.Watch()
		w.sleep(time.Minute)
		require.Empty(t, w.host.applied())

		withApp(w, "three")
		w.sleep(time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
	})
}

// becomes replaces the engine at a path: by one that lends for so long, or, for 0, by a static one.
func (w *world) becomes(path, value string, lends time.Duration) {
	w.vault.with(func() {
		delete(w.vault.roles, path)
		delete(w.vault.static, path)
		if lends > 0 {
			w.vault.roles[path] = fakeRole{ttl: lends, max: 1000 * time.Hour}
		} else {
			w.vault.static[path] = map[string]any{"password": value}
		}
	})
}

// S9: an engine that is replaced by one that lends while a task is started: the program begins with a lease that lives, and that is kept alive
// from then on, also by the plugin's next process.
func TestLentWhileLaunching(t *testing.T) {
	for name, ttl := range map[string]time.Duration{"it lives": time.Hour, "it has ended meanwhile": 15 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withApp(w, "one")
				s := w.launch(many{"app": app("")})
				w.becomes("secret/app-1", "", ttl)
				w.sleep(time.Minute)
				set := w.deliver(s)
				user, isUser := strings.CutPrefix(set.Files[1].Data.Text(), "user-")
				require.True(t, isUser)
				require.Contains(t, w.vault.live("secret/app-1"), "secret/app-1/"+user)
				s.Watch()
				reads := w.vault.called("read")
				w.sleep(2 * time.Hour)
				w.crash()
				s = w.recover()
				w.sleep(2 * time.Hour)
				require.Contains(t, w.vault.live("secret/app-1"), "secret/app-1/"+user)
				require.Equal(t, reads, w.vault.called("read"), "each would make another")
				require.Empty(t, w.host.applied())
				s.End()
				w.sleep(10 * time.Second)
				require.Empty(t, w.vault.live("secret/app-1"))
			})
		})
	}
}

// S9: the other way round: what is static now is polled.
func TestStaticWhileLaunching(t *testing.T) {
	inWorld(t, func(w *world) {
		w.becomes("secret/app-1", "", 15*time.Second)
		s := w.launch(many{"app": app("")})
		w.becomes("secret/app-1", "one", 0)
		w.vault.with(func() { clear(w.vault.leases) }) // Vault revokes them with the engine
		w.sleep(time.Minute)
		require.Equal(t, "one", w.deliver(s).Files[0].Data.Text())
		s.Watch()
		w.sleep(time.Hour)
		require.Empty(t, w.host.applied())
		w.becomes("secret/app-1", "two", 0)
		w.sleep(20 * time.Second)
		require.Equal(t, 1, w.host.count("restart"))
		require.Equal(t, "two", w.host.env.Files[0].Data.Text())
		s.End()
	})
}

// A change that comes between is applied as ever, once the program runs.
func TestChangedBetweenDeliverAndWatch(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		s := w.launch(many{"app": app("")})
		w.deliver(s)
		withApp(w, "two")
		w.sleep(time.Minute)
		require.Empty(t, w.host.applied())
		s.Watch()
		w.sleep(time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
	})
}

// A change that cannot be given to the program keeps it from starting no more than it would stop it.
func TestBadChangeWhileLaunching(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		withDB(w)
		c := app("")
		c.Env = []map[string]string{{"PASSWORD": "password"}}
		s := w.launch(many{"app": c, "db": db("")})
		w.vault.with(func() { w.vault.static["secret/app-1"] = map[string]any{"other": "x"} })
		w.sleep(time.Minute)
		require.Equal(t, "one", w.deliver(s).Env["PASSWORD"].Text())
		s.Watch()
		w.sleep(time.Minute)
		require.Empty(t, w.host.applied())
		require.Contains(t, w.host.said(), "not rotated")
		s.End()
	})
}

// E2: after a crash in the midst of it the lease that was replaced is revoked, and the new one known.
func TestDeliverIsJournalled(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: 15 * time.Second, max: 15 * time.Second}
		s := w.launch(many{"db": db("")})
		w.sleep(time.Minute)
		user := w.deliver(s).Env["DB_USER"].Text()
		w.crash()
		s = w.recover()
		require.Equal(t, user, s.Set().Env["DB_USER"].Text())
		s.End()
		w.sleep(10 * time.Second)
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}

// S2: a start that waits for longer than its token lives logs in again, and does not take that for a refusal.
func TestStartOutlivesItsToken(t *testing.T) {
	for name, login := range map[string]fakeRole{
		"renewed":      {ttl: 20 * time.Second, max: time.Hour},
		"at its end":   {ttl: 20 * time.Second, max: 20 * time.Second},
		"a batch one":  {ttl: 20 * time.Second, max: 20 * time.Second, batch: true},
		"for a moment": {ttl: 20 * time.Second, max: 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.vault.login = login
				w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour}
				withApp(w, "hunter2")
				w.vault.fail["read database/creds/app"] = &secrets.Error{Kind: secrets.Outage, Elsewhere: true, Err: errors.New("no such database")}
				time.AfterFunc(100*time.Second, func() { w.vault.with(func() { clear(w.vault.fail) }) })
				s := w.launch(many{"db": db(""), "app": app("")})
				require.Len(t, w.vault.live("database/creds/app"), 1)
				w.deliver(s)
				s.End()
				w.sleep(30 * time.Second) // a batch token ends by itself
				require.Empty(t, w.vault.live("database/creds/app"))
				require.Zero(t, w.vault.liveTokens())
			})
		})
	}
}

// A start that is told why it is to give up says so, and may be tried again.
func TestStartGivesUpForAReason(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.set(errAway)
		ctx, cancel := context.WithCancelCause(w.t.Context())
		time.AfterFunc(10*time.Second, func() { cancel(errors.New("the house is on fire")) })
		began := time.Now()
		_, err := w.keeper.Open(ctx, w.startOf(many{"db": db("")}), w.host)
		require.Equal(t, secrets.Outage, secrets.KindOf(err))
		require.EqualError(t, err, "gave up waiting, since the house is on fire; before that: log in with the task's identity (role nomad-workloads, the default, as the job names none): connection refused")
		require.Equal(t, 10*time.Second, time.Since(began))
	})
}
