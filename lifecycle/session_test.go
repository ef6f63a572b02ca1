package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What is set up for most: a database role whose leases last an hour and can be renewed for a day.
func withDB(w *world) {
	w.vault.with(func() { w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: 24 * time.Hour} })
}

func withApp(w *world, password string) {
	w.vault.with(func() { w.vault.static["secret/app-1"] = map[string]any{"password": password} })
}

// C1: a lease is renewed for as long as the server extends it, and nothing else happens.
func TestRenew(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: 1000 * time.Hour}
		s := w.open(many{"db": db("")})
		w.sleep(100 * time.Hour)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		require.Equal(t, 1, w.vault.called("read"))
		require.Empty(t, w.host.applied())
		renewals := w.vault.called("renew database")
		require.Greater(t, renewals, 140)
		require.Less(t, renewals, 210)
		require.True(t, s.journal.Entry().Leases[0].Ends.After(time.Now()), "a pending revocation knows how long")
		s.End()
	})
}

// C1: renewals that fail are tried again while the lease lives, and are no rotation.
func TestRenewFails(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		w.vault.with(func() { w.vault.fail["renew"] = secrets.Errorf(secrets.Outage, "500") })
		w.sleep(55 * time.Minute)
		w.vault.with(func() { delete(w.vault.fail, "renew") })
		w.sleep(3 * time.Hour)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		require.Equal(t, 1, w.vault.called("read"))
		require.Empty(t, w.host.applied())
		s.End()
	})
}

// C2: three rotations; the old lease lives until the new process runs, and no longer.
func TestRotateThrice(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.host.during = func(what string) {
			require.Len(t, w.vault.live("database/creds/app"), 2, what)
		}
		w.host.restart = func(ctx context.Context) error {
			wait(ctx, 20*time.Second)
			require.Len(t, w.vault.live("database/creds/app"), 2, "revoked only after the restart")
			return nil
		}
		s := w.open(many{"db": db("")})
		first := s.Set()
		w.sleep(72 * time.Hour)
		require.Equal(t, 3, w.host.count("restart"))
		require.Equal(t, []string{"publish", "restart", "publish", "restart", "publish", "restart"}, w.host.applied())
		require.Len(t, w.vault.live("database/creds/app"), 1)
		require.Len(t, s.journal.Entry().Leases, 1)
		require.NotEqual(t, first.Env["DB_USER"].Text(), s.Set().Env["DB_USER"].Text())
		require.Same(t, s.Set(), w.host.env)
		require.Contains(t, w.host.said(), `secret "db" rotated (its lease reached its maximum); task restarted in place`)
		s.End()
	})
}

func TestRotateNotRenewable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		s := w.open(many{"db": db("")})
		w.sleep(39 * time.Minute)
		require.Empty(t, w.host.applied())
		w.sleep(2 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		require.Zero(t, w.vault.called("renew database"))
		s.End()
	})
}

func TestRotateIssued(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["pki/issue/web"] = fakeRole{issued: 24 * time.Hour}
		s := w.open(many{"tls": changing(secrets.SecretConfig{Path: "pki/issue/web", AllFiles: true, ChangeMode: "signal"})})
		w.sleep(14 * time.Hour)
		require.Empty(t, w.host.applied())
		w.sleep(4 * time.Hour)
		require.Equal(t, []string{"publish", "signal SIGHUP"}, w.host.applied())
		require.Equal(t, 2, w.vault.called("read"))
		s.End()
	})
}

// C3: an outage of any length stops nothing, fetches nothing, and is reported once; what has ended by then
// is fetched again after it.
func TestOutage(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "x")
		s := w.open(many{"db": db(""), "app": app("")})
		w.sleep(10 * time.Minute)
		w.vault.set(errAway)
		reads := w.vault.called("read database")
		w.sleep(40 * time.Minute)
		require.Contains(t, w.host.said(), "Secrets: server unreachable; credentials stay valid until 01:00:00 UTC")
		w.sleep(10 * time.Hour)
		require.Empty(t, w.host.applied())
		require.Equal(t, reads, w.vault.called("read database"))
		w.vault.set(nil)
		w.sleep(2 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		require.Equal(t, 1, w.vault.called("read database")-reads)
		require.Len(t, w.host.events, 6, w.host.said()) // reading, away, ended, back, the token, rotated
		require.Contains(t, w.host.said(), `secret "db" rotated (it ended at 01:00:00 UTC, while the server was away)`)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}

// C3: a short outage ends with nothing but two events, be it one of 429s to everybody.
func TestOutageShort(t *testing.T) {
	for name, outage := range map[string]error{"away": errAway, "limited": errLimited} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withDB(w)
				s := w.open(many{"db": db("")})
				w.sleep(10 * time.Minute)
				w.vault.set(outage)
				w.sleep(20 * time.Minute)
				w.vault.set(nil)
				w.sleep(time.Minute)
				require.Equal(t, []string{
					"Secrets: reading with the task's identity (role nomad-workloads)",
					"Secrets: server unreachable; credentials stay valid until 01:00:00 UTC",
					"Secrets: server reachable again",
				}, w.host.events)
				w.sleep(10 * time.Minute)
				require.Empty(t, w.host.applied())
				require.Len(t, w.host.events, 3)
				s.End()
			})
		})
	}
}

// C3: a server that accepts and never answers is reported as soon as one request has waited in vain.
func TestOutageHanging(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		w.vault.with(func() { w.vault.delay = time.Hour })
		w.sleep(time.Minute + requestTimeout + time.Second)
		require.Contains(t, w.host.said(), "Secrets: server unreachable; credentials stay valid until 01:00:00 UTC")
		w.vault.with(func() { w.vault.delay = 0 })
		w.sleep(2 * time.Minute)
		require.Contains(t, w.host.said(), "server reachable again")
		require.Empty(t, w.host.applied())
		s.End()
	})
}

// C6: a lease that is revoked behind our back is seen within lease_check_interval, and heals.
func TestGone(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		w.sleep(10 * time.Minute)
		w.vault.with(func() { clear(w.vault.leases) })
		w.sleep(time.Minute + 2*time.Second)
		require.Equal(t, 1, w.host.count("restart"))
		require.Contains(t, w.host.said(), `secret "db" rotated (its lease was revoked)`)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}

// The machine slept for most of a lease's life, or its clock was set back while the plugin was away: the
// lease has less left than we think. The next check shows that, and it is renewed in time.
func TestClockBehind(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		w.sleep(5 * time.Minute)
		w.vault.with(func() {
			for _, l := range w.vault.leases {
				l.until = l.until.Add(-50 * time.Minute)
			}
		})
		w.sleep(5 * time.Minute)
		require.Equal(t, 1, w.vault.called("renew "))
		require.Empty(t, w.host.applied())
		w.sleep(25 * time.Minute)
		require.Equal(t, 1, w.vault.called("renew "), "no storm")
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}

// The clock is set forward by a day while the plugin is away, or back: what the journal says is over, or
// far off. The server knows better: nothing is fetched, nothing restarted, nothing asked over and over.
func TestClockSetOverARestart(t *testing.T) {
	for name, jump := range map[string]time.Duration{"forward": 24 * time.Hour, "back": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) { testClockSet(t, jump) })
	}
}

func testClockSet(t *testing.T, jump time.Duration) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.open(many{"db": db("")})
		w.sleep(5 * time.Minute)
		w.keeper.Close()
		j, err := journal.Open(w.dir, w.task())
		require.NoError(t, err)
		require.NoError(t, j.Update(func(e *journal.Entry) { // as it looks when the clock has jumped
			h := e.Secrets["db"]
			for _, at := range []*time.Time{&h.IssuedAt, &h.ExpiresAt, &h.RenewAt} {
				*at = at.Add(-jump)
			}
			e.Secrets["db"] = h
		}))
		fetched := w.vault.called("read ")
		w.start()
		s, err := w.keeper.Recover(w.task(), w.host)
		require.NoError(t, err)
		s.Watch()
		w.sleep(3 * time.Hour)
		require.Empty(t, w.host.applied(), w.host.said())
		require.Equal(t, fetched, w.vault.called("read "))
		require.LessOrEqual(t, w.vault.called("renew "), 7)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}

// C6: where a new read cannot replace what is lost, the task runs on, and an event says so once. When it can,
// it heals, and the next time is news.
func TestGoneForGood(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		role := w.vault.roles["database/creds/app"]
		s := w.open(many{"db": db("")})
		for n := 1; n < 4; n++ {
			w.vault.with(func() { clear(w.vault.leases); clear(w.vault.roles) })
			w.sleep(time.Hour)
			require.Equal(t, n-1, w.host.count("restart"))
			require.Equal(t, n, strings.Count(w.host.said(), "not rotated: "), w.host.said())
			w.vault.with(func() { w.vault.roles["database/creds/app"] = role })
			w.sleep(10*time.Minute + time.Second)
			require.Equal(t, n, w.host.count("restart"))
		}
		require.Contains(t, w.host.said(), "nothing is there; the current one has ended")
		s.End()
	})
}

// A token that may not look up or renew leases is reported once, and its leases are rotated in time.
func TestLeaseRequestsRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.fail["check"], w.vault.fail["renew"] = errDenied, errDenied
		s := w.open(many{"db": db("")})
		w.sleep(59 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		require.Contains(t, w.host.said(), "policy needs update on sys/leases/renew")
		require.Contains(t, w.host.said(), "policy needs update on sys/leases/lookup")
		require.Len(t, w.host.events, 4, w.host.said())
		require.LessOrEqual(t, w.vault.called("check"), 2)
		s.End()
	})
}

// A token that may neither renew nor revoke itself is replaced in time, which is reported once; and what was
// made under the old one is revoked lease by lease.
func TestTokenRequestsRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.fail["renew-token"], w.vault.fail["revoke-token"] = errDenied, errDenied
		s := w.open(many{"db": db("")})
		w.sleep(150 * time.Minute)
		require.Greater(t, w.vault.called("login"), 2)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		said := w.host.said()
		require.Equal(t, 1, strings.Count(said, "policy needs update on auth/token/renew-self"), said)
		require.Equal(t, 1, strings.Count(said, "policy needs update on auth/token/revoke-self"), said)
		require.NotContains(t, said, "sys/leases/revoke")
		s.End()
	})
}

// C9: a restart that fails is the task's exit. Nothing is done any more, and End revokes it all.
func TestRestartFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		w.host.restart = func(context.Context) error { return errors.New("no such image") }
		s := w.open(many{"db": db("")})
		w.sleep(50 * time.Minute)
		require.Len(t, w.vault.live("database/creds/app"), 2)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
		synctest.Wait()
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}

// A rotation whose secret cannot be rendered leaves the task as it is.
func TestRotationRenderFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		s := w.open(many{"db": db("")})
		before := s.Set()
		w.sleep(30 * time.Minute)
		w.vault.with(func() {
			w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true, extraField: "other"}
		})
		w.sleep(15 * time.Minute)
		require.Empty(t, w.host.applied())
		require.Same(t, before, s.Set())
		require.Len(t, w.vault.live("database/creds/app"), 1, "the useless new ones are revoked")
		require.Contains(t, w.host.said(), `not rotated: secret "db"`)
		require.Len(t, w.host.events, 2, w.host.said())
		withDB(w)
		w.sleep(14 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
	})
}

// A set that cannot be published is not what the task has.
func TestPublishFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		w.host.publish = func() error { return errors.New("no space left on device") }
		s := w.open(many{"db": db("")})
		before := s.Set()
		w.sleep(42 * time.Minute)
		require.Zero(t, w.host.count("restart"))
		require.Same(t, before, s.Set())
		require.Len(t, w.vault.live("database/creds/app"), 1)
		require.Contains(t, w.host.said(), `not rotated: secret "db": publish: no space left on device`)
		s.End()
	})
}

// C3: a database that is away is no outage of the server. It is one event, however its text changes, and
// heals.
func TestOutageElsewhere(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: 3 * time.Hour, max: 3 * time.Hour, fixed: true}
		s := w.open(many{"db": db("")})
		for n := range 60 {
			w.vault.with(func() {
				w.vault.fail["read database/creds/app"] = &secrets.Error{
					Kind: secrets.Outage, Err: fmt.Errorf("the server answers 500 no connection, attempt %d", n), Elsewhere: true,
				}
			})
			w.sleep(150 * time.Second)
		}
		require.NotContains(t, w.host.said(), "unreachable")
		require.Equal(t, 1, strings.Count(w.host.said(), `not rotated: secret "db": read database/creds/app: the server answers 500`), w.host.said())
		w.vault.with(func() { delete(w.vault.fail, "read database/creds/app") })
		w.sleep(time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
	})
}

// C1, C3: a renewal that fails for a database is reported as that, once, and tried until it is back.
func TestRenewalFailsElsewhere(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		w.vault.with(func() {
			w.vault.fail["renew"] = &secrets.Error{Kind: secrets.Outage, Err: errors.New("the database is away"), Elsewhere: true}
		})
		w.sleep(50 * time.Minute)
		require.Greater(t, w.vault.called("renew database"), 5)
		require.NotContains(t, w.host.said(), "unreachable")
		require.Equal(t, 1, strings.Count(w.host.said(), `secret "db": not renewed yet: the database is away; the current one ends at `), w.host.said())
		w.vault.with(func() { delete(w.vault.fail, "renew") })
		w.sleep(time.Hour)
		require.Empty(t, w.host.applied())
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}

// A slow server delays nobody past his lease's end: requests do not wait for one another.
func TestSlowServer(t *testing.T) {
	inWorld(t, func(w *world) {
		all := many{}
		for i := range 30 {
			path := fmt.Sprintf("database/creds/r%d", i)
			w.vault.roles[path] = fakeRole{ttl: time.Minute, max: 1000 * time.Hour}
			all[fmt.Sprintf("s%d", i)] = secrets.SecretConfig{Path: path}
		}
		s := w.open(all)
		w.vault.with(func() { w.vault.delay = 10 * time.Second })
		w.sleep(time.Hour)
		require.Empty(t, w.host.applied())
		require.Equal(t, 30, w.vault.called("read"))
		s.End()
	})
}

// Leases that were granted together are replaced together.
func TestRotateTogether(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		w.vault.roles["database/creds/b"] = fakeRole{ttl: 62 * time.Minute, max: 62 * time.Minute, fixed: true}
		s := w.open(many{"a": db(""), "b": {Path: "database/creds/b"}})
		w.sleep(45 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		require.Len(t, w.vault.live("database/creds/app"), 1)
		require.Len(t, w.vault.live("database/creds/b"), 1)
		s.End()
	})
}

// One that cannot be fetched again does not hold up the others.
func TestRotateOneRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		w.vault.roles["database/creds/b"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		s := w.open(many{"a": db(""), "b": {Path: "database/creds/b"}})
		w.sleep(10 * time.Second)
		w.vault.with(func() { w.vault.fail["read database/creds/b"] = errDenied })
		w.sleep(41 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		require.Contains(t, w.host.said(), `not rotated: secret "b": read database/creds/b: permission denied; the current one ends at 01:00:00 UTC`)
		require.Len(t, w.host.events, 3, w.host.said())
		w.vault.with(func() { clear(w.vault.fail) })
		w.sleep(10 * time.Minute)
		require.Equal(t, 2, w.host.count("restart"))
		s.End()
	})
}

// Close does not wait for an outage, and what was begun is pending.
func TestCloseDuringOpen(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.fail["read"] = errAway
		failed := make(chan error)
		go func() {
			_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db("")}), w.host)
			failed <- err
		}()
		w.sleep(30 * time.Second)
		require.Equal(t, 1, w.vault.liveTokens())
		began := time.Now()
		w.keeper.Close()
		require.Error(t, <-failed)
		require.Zero(t, time.Since(began))
		w.start()
		w.sleep(time.Minute)
		require.Zero(t, w.vault.liveTokens(), "E2")
	})
}
