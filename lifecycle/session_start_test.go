package lifecycle

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func TestStart(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "hunter2")
		s, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db(""), "app": app("")}), w.host)
		require.NoError(t, err)
		require.NotNil(t, s.Set().Env["DB_USER"])
		require.Len(t, s.Set().Files, 3)
		require.Equal(t, "Secrets: reading with the task's identity (role nomad-workloads)", w.host.said())
		require.Len(t, w.vault.calls, 3, "S3: a login and a read of each secret")
		require.Len(t, s.journal.Entry().Leases, 1)

		require.NoError(t, s.SetDriver([]byte(`{"pid":1}`)))
		require.JSONEq(t, `{"pid":1}`, string(s.Driver()))

		s.Watch()
		s.End()
		s.End() // idempotent
		synctest.Wait()
		require.Empty(t, w.vault.live("database/creds/app"), "E1")
		require.Zero(t, w.vault.liveTokens(), "E1")
		require.Equal(t, 0, w.vault.called("revoke database"), "the token takes the leases with it")
		_, err = w.keeper.Recover(w.task(), w.host)
		require.ErrorIs(t, err, ErrNoJournal)
	})
}

// S2: an outage is waited out.
func TestStartOutage(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.set(errAway)
		time.AfterFunc(100*time.Second, func() { w.vault.set(nil) })
		s, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db("")}), w.host)
		require.NoError(t, err)
		require.Len(t, w.vault.calls, 2)
		s.End()
	})
}

// S2: the wait is bounded, and the error says what it was waiting for.
func TestStartOutageTooLong(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		began := time.Now()
		w.vault.set(errAway)
		_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db("")}), w.host)
		require.Equal(t, secrets.Outage, secrets.KindOf(err))
		require.ErrorContains(t, err, "connection refused")
		require.Equal(t, 2*time.Minute, time.Since(began))
		_, err = w.keeper.Recover(w.task(), w.host)
		require.ErrorIs(t, err, ErrNoJournal)
	})
}

// A hanging server is bounded, too.
func TestStartHanging(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.with(func() { w.vault.delay = time.Hour })
		began := time.Now()
		_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db("")}), w.host)
		require.Equal(t, secrets.Outage, secrets.KindOf(err))
		require.Equal(t, 2*time.Minute, time.Since(began))
	})
}

// S1, S2: what waiting does not help is an error at once, names secret and path, and leaves nothing.
func TestStartRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.roles["database/creds/other"] = fakeRole{ttl: time.Hour, max: time.Hour}
		other := secrets.SecretConfig{Path: "database/creds/other"}
		w.vault.fail["read database/creds/app"] = errDenied
		began := time.Now()
		_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db(""), "other": other}), w.host)
		require.EqualError(t, err, `secret "db": read database/creds/app: permission denied`)
		require.Equal(t, secrets.Refused, secrets.KindOf(err))
		require.InDelta(t, standbyLag, time.Since(began), float64(2*time.Second), "standbys lag for a moment")
		synctest.Wait()
		require.Empty(t, w.vault.live("database/creds/other"), "all is undone")
		require.Zero(t, w.vault.liveTokens())
	})
}

// S2: a standby that has not heard of the token yet is an outage.
func TestStartStandby(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.fail["read"] = errDenied
		time.AfterFunc(3*time.Second, func() { w.vault.with(func() { delete(w.vault.fail, "read") }) })
		s, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db("")}), w.host)
		require.NoError(t, err)
		s.End()
	})
}

func TestStartMissing(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "x")
		no := false
		optional := secrets.SecretConfig{Path: "secret/other", Required: &no}
		s := w.open(many{"app": app(""), "other": optional})
		require.Contains(t, w.host.said(), `Secrets: secret "other" not found at secret/other; skipped (required = false)`)
		s.End()
		_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"other": {Path: "secret/other"}}), w.host)
		require.Equal(t, secrets.NotFound, secrets.KindOf(err))
		require.ErrorContains(t, err, `secret "other": read secret/other`)
	})
}

// A template or field that does not fit is found before the task runs, and all is undone.
func TestStartRenderFails(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		c := db("")
		c.Env = []map[string]string{{"DB_USER": "nosuch"}}
		_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": c}), w.host)
		require.ErrorContains(t, err, "nosuch")
		synctest.Wait()
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}

// E1: with the server away at the end of a start that failed, what was made is revoked later.
func TestStartUndoneLater(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.fail["read secret/app-1"] = errAway
		time.AfterFunc(time.Minute, func() { w.vault.set(errAway) })
		_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db(""), "app": app("")}), w.host)
		require.Equal(t, secrets.Outage, secrets.KindOf(err))
		require.Len(t, w.vault.live("database/creds/app"), 1)
		w.vault.set(nil)
		w.sleep(2 * time.Minute)
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}

// A credential that takes the server 40 s to make (a slow creation statement) is waited for, at the start and at each rotation: the task has one
// that works at each moment, and nothing that was made is lost.
func TestCredentialThatTakesLongToMake(t *testing.T) {
	inWorld(t, func(w *world) {
		const takes = 40 * time.Second
		w.vault.roles["database/creds/app"] = fakeRole{ttl: 10 * time.Minute, max: 10 * time.Minute, fixed: true}
		w.vault.slow = map[string]time.Duration{"read database/creds/app": takes}
		began := time.Now()
		s := w.open(many{"db": db("")})
		require.Equal(t, takes, time.Since(began))
		for range 60 {
			w.sleep(time.Minute)
			set := w.host.env
			if set == nil {
				set = s.Set()
			}
			require.Contains(t, w.vault.live("database/creds/app"), "database/creds/app/"+set.Env["DB_USER"].Text()[len("user-"):])
		}
		require.GreaterOrEqual(t, w.host.count("restart"), 6)
		require.Equal(t, w.host.count("restart")+1, w.vault.called("read database"), "each was read once")
		s.End()
		w.sleep(time.Minute)
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}
