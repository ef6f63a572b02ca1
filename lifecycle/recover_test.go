package lifecycle

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
)

// crash ends the plugin's process and starts another. What a crash cuts off and Close does not are
// requests under way; those the journal's tests cover.
func (w *world) crash() {
	w.keeper.Close()
	w.start()
}

func (w *world) recover() *Session {
	w.t.Helper()
	s, err := w.keeper.Recover(w.task(), w.host)
	require.NoError(w.t, err)
	s.Watch()
	synctest.Wait()
	return s
}

// C11: of a task whose job is only in its journal, the requests are that job's all the same.
func TestRecoverKnowsTheJob(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.openFor("web", 1, many{"db": db("")})
		w.crash()
		w.vault.with(func() { clear(w.vault.tenants) })
		nobody := w.startFor("web", 1, nil).Task
		nobody.Namespace, nobody.JobID = "", ""
		s, err := w.keeper.Recover(nobody, w.host)
		require.NoError(t, err)
		s.Watch()
		w.sleep(2 * time.Minute)
		require.Equal(t, []limit.Tenant{{Namespace: "default", Job: "web"}}, slices.Collect(maps.Keys(w.vault.tenants)))
		s.End()
	})
}

// C4: nothing is fetched and nothing restarted; renewals and polls go on, and the end revokes.
func TestRecover(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "one")
		before := w.open(many{"db": db(""), "app": app("signal")})
		require.NoError(t, before.SetDriver([]byte(`{"pid":1}`)))
		w.sleep(time.Hour)
		calls := len(w.vault.calls)
		w.crash()
		w.vault.set(errAway) // recovery asks nobody
		s := w.recover()
		require.Len(t, w.vault.calls, calls)
		w.vault.set(nil)
		require.Equal(t, before.Set(), s.Set())
		require.JSONEq(t, `{"pid":1}`, string(s.Driver()))
		w.sleep(4 * time.Hour)
		require.Empty(t, w.host.applied())
		require.Equal(t, 1, w.vault.called("login"))
		require.Equal(t, 1, w.vault.called("read database"))
		require.Len(t, w.vault.live("database/creds/app"), 1, "renewed")
		withApp(w, "two")
		w.sleep(time.Minute)
		require.Equal(t, []string{"publish", "signal SIGHUP"}, w.host.applied())
		w.host.acts = nil
		w.sleep(24 * time.Hour)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
		synctest.Wait()
		require.Zero(t, w.vault.liveTokens())
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}

// What was changed while nobody looked is seen.
func TestRecoverChanged(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		w.open(many{"app": app("")})
		w.keeper.Close()
		withApp(w, "two")
		w.start()
		s := w.recover()
		w.sleep(20 * time.Second)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
	})
}

// What has ended meanwhile is fetched again: with an agent stopped for long, that is all there is to do.
func TestRecoverExpired(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.open(many{"db": db("")})
		w.keeper.Close()
		w.sleep(5 * time.Hour)
		w.start()
		s := w.recover()
		w.sleep(30 * time.Second)
		require.Equal(t, 1, w.host.count("restart"))
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}

// E2: a crash in the middle of a restart. The new secrets are the task's, it is restarted with them
// (again), and then the old are revoked.
func TestRecoverActing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		w.host.restart = func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		before := w.open(many{"db": db("")})
		w.sleep(45 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		require.Len(t, w.vault.live("database/creds/app"), 2)
		w.crash()
		w.host.restart = nil
		s := w.recover()
		require.Equal(t, before.Set(), s.Set())
		w.sleep(10 * time.Second)
		require.Equal(t, 2, w.host.count("restart"))
		require.Equal(t, 2, w.vault.called("read database"), "nothing is fetched for it")
		require.Len(t, w.vault.live("database/creds/app"), 1)
		require.Same(t, s.Set(), w.host.env)
		s.End()
	})
}

// C8: the event about a rotation that a crash interrupted says why it was begun, where that was journalled.
func TestRecoverKeepsTheReason(t *testing.T) {
	for name, test := range map[string]struct {
		older func(w *world)
		want  string
	}{
		"this version": {func(*world) {}, `secret "db" rotated (its lease cannot be renewed; resumed after a restart of the plugin); task restarted in place`},
		"a version that wrote no reason": {func(w *world) {
			w.editEntry(func(e map[string]any) {
				delete(e["Rotation"].(map[string]any)["Changes"].([]any)[0].(map[string]any), "Why")
			})
		}, `secret "db" rotated (resumed after a restart of the plugin); task restarted in place`},
		"a version that wrote no record": {(*world).asOlder, `secret "db" rotated (resumed after a restart of the plugin); task restarted in place`},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
				w.host.hang = "restart"
				w.open(many{"db": db("")})
				w.sleep(45 * time.Minute)
				require.Equal(t, 1, w.host.count("restart"))
				w.keeper.Close()
				test.older(w)
				w.start()
				w.recover()
				synctest.Wait()
				w.crash() // and again, which adds nothing
				w.host.hang = ""
				s := w.recover()
				w.sleep(10 * time.Second)
				require.Contains(t, w.host.said(), test.want)
				s.End()
			})
		})
	}
}

// E2: a lease whose secret came no further than the journal is revoked.
func TestRecoverFetching(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		tok, _ := s.tokens.inUse()
		a, err := w.vault.Read(s.ctx, tok, s.spec.Secrets[0].Request)
		require.NoError(t, err)
		require.NoError(t, s.journal.AddLease(journal.Lease{ID: a.Lease.ID, TokenID: tok.ID}))
		w.crash()
		s = w.recover()
		w.sleep(5 * time.Second)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		require.Empty(t, w.host.applied())
		s.End()
	})
}

// E2: a crash between start and its end. Nomad starts the task again, and what was fetched is revoked.
func TestOpenAfterCrash(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.open(many{"db": db("")})
		w.crash()
		s := w.open(many{"db": db("")})
		w.sleep(5 * time.Second)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		require.Equal(t, 1, w.vault.liveTokens())
		w.crash()
		require.NoError(t, w.keeper.Abandon(w.task()))
		require.NoError(t, w.keeper.Abandon(w.task()), "idempotent")
		w.sleep(5 * time.Second)
		require.Zero(t, w.vault.liveTokens())
		s.End() // of the process that is no more
	})
}

// A token that comes from the environment is all that recovery has.
func TestRecoverVaultEnv(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vaultBlock()
		b, err := os.ReadFile(filepath.Join(w.taskDir, "private/vault_token"))
		require.NoError(t, err)
		w.remove("private/vault_token")
		start := w.startOf(many{"db": db("")})
		start.Env["VAULT_TOKEN"] = string(b[:len(b)-1])
		_, err = w.keeper.Open(w.t.Context(), start, w.host)
		require.NoError(t, err)
		w.crash()
		s := w.recover()
		w.sleep(4 * time.Hour)
		require.Empty(t, w.host.applied())
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
		synctest.Wait()
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}

func TestRecoverUnreadable(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		dir := filepath.Join(w.dir, s.task.AllocID, s.task.Name)
		w.keeper.Close()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "entry.json"), []byte("{"), 0o600))
		w.start()
		_, err := w.keeper.Recover(w.task(), w.host)
		require.ErrorIs(t, err, ErrJournalUnreadable)
	})
}

// E1: the operator names another server under running tasks: they get credentials of that one, and what the first made
// for them waits until it is asked again. That the other does not know it proves nothing.
func TestRecoverOnAnotherServer(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.open(many{"db": db("")})
		first, other := w.vault, newFakeVault()
		other.address = "https://two"
		other.count = 100
		other.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: 24 * time.Hour}
		w.keeper.Close()
		w.cfg.Providers, w.vault = map[string]Provider{"vault": other}, other
		w.start()
		s := w.recover()
		w.sleep(5 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		require.Len(t, other.live("database/creds/app"), 1)
		s.End()
		w.sleep(time.Minute)
		require.Empty(t, other.live("database/creds/app"))
		require.Zero(t, other.liveTokens())
		require.Equal(t, 1, first.liveTokens())

		w.keeper.Close()
		w.cfg.Providers, w.vault = map[string]Provider{"vault": first}, first
		w.start()
		w.sleep(time.Minute)
		require.Empty(t, first.live("database/creds/app"))
		require.Zero(t, first.liveTokens())
	})
}
