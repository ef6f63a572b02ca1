package lifecycle

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func fileOf(t *testing.T, set *secrets.Set, path string) string {
	t.Helper()
	for _, f := range set.Files {
		if f.Path == path {
			return f.Data.Text()
		}
	}
	t.Fatalf("no file %s", path)
	return ""
}

// A provider that can only be read and waited at, from a task's start to its end: nobody logs in for it, a change is
// seen at once, also after a restart of the plugin, and the end has nothing to revoke.
func TestProviderWithoutTokens(t *testing.T) {
	inWorld(t, func(w *world) {
		store := w.withStore()
		w.remove("private/vault.jwt") // the task has no identity
		store.put("app/config", "one")
		s := w.open(many{"app": inStore("app/config", "signal")})
		require.Equal(t, "one", fileOf(t, s.Set(), "app/password"))
		require.Equal(t, 1, store.sent(), "S3")
		e := s.journal.Entry()
		require.Empty(t, e.TokenSource)
		require.Empty(t, s.journal.Tokens())
		require.Equal(t, "store", e.Secrets["app"].Provider)

		w.sleep(time.Hour)
		require.Empty(t, w.host.applied())
		require.Zero(t, store.sent(), "it is not read as long as nothing changes")

		store.put("app/config", "two")
		w.sleep(2 * time.Second)
		require.Equal(t, []string{"publish", "signal SIGHUP"}, w.host.applied())
		require.Equal(t, "two", fileOf(t, s.Set(), "app/password"))

		w.crash()
		store.with(func() { store.away = errAway }) // recovery asks nobody (C4)
		s = w.recover()
		require.Equal(t, "two", fileOf(t, s.Set(), "app/password"))
		store.with(func() { store.away = nil })
		w.sleep(time.Hour)
		require.Len(t, w.host.applied(), 2)
		store.put("app/config", "three")
		w.sleep(2 * time.Second)
		require.Equal(t, "three", fileOf(t, s.Set(), "app/password"))
		require.Len(t, w.host.applied(), 4)

		w.keeper.Close()
		store.put("app/config", "four") // while nobody looks
		w.start()
		s = w.recover()
		w.sleep(5 * time.Second)
		require.Equal(t, "four", fileOf(t, s.Set(), "app/password"))

		s.End()
		synctest.Wait()
		_, waiting := store.now()
		require.Zero(t, waiting, "nothing waits for a task that has ended")
		_, err := w.keeper.Recover(w.task(), w.host)
		require.ErrorIs(t, err, ErrNoJournal)
		require.Empty(t, w.vault.calls)
		require.Zero(t, store.tokens)
	})
}

// Two providers in one task: each is asked in its own way, and what happens to one is nothing to the other.
func TestTwoProvidersInOneTask(t *testing.T) {
	inWorld(t, func(w *world) {
		store := w.withStore()
		withDB(w)
		store.put("app/config", "one")
		start := w.startOf(many{"db": db(""), "app": inStore("app/config", "signal")})
		start.Task.Namespace = "team"
		s, err := w.keeper.Open(w.t.Context(), start, w.host)
		require.NoError(t, err)
		s.Watch()
		synctest.Wait()
		require.Equal(t, "team", store.reads[0].Namespace, "the job's own, not Vault's")
		e := s.journal.Entry()
		require.Equal(t, "vault", e.TokenProvider)
		require.Equal(t, "vault", e.Secrets["db"].Provider)
		require.Equal(t, "store", e.Secrets["app"].Provider)
		require.Empty(t, e.Secrets["app"].TokenID)
		require.Equal(t, "vault", e.Leases[0].Provider)

		// The one is away and does not know the task's token any more: the other goes on.
		w.vault.with(func() { w.vault.tokens, w.vault.fail["login"] = map[string]*fakeToken{}, errAway })
		w.sleep(2 * time.Minute)
		require.True(t, s.tokens.lost())
		require.Contains(t, w.host.said(), "Secrets: server unreachable; ")
		store.put("app/config", "two")
		w.sleep(2 * time.Second)
		require.Equal(t, []string{"publish", "signal SIGHUP"}, w.host.applied())
		w.vault.with(func() { delete(w.vault.fail, "login") })
		w.sleep(2 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"), "with the credential in the place of the one that was lost")

		// And the other way round.
		w.host.events = nil
		store.with(func() { store.away = errAway })
		w.sleep(12 * time.Hour)
		require.Len(t, w.vault.live("database/creds/app"), 1, "renewed")
		require.Equal(t, `Secrets: provider "store" unreachable; the task keeps its secrets`, w.host.said())
		store.with(func() { store.away = nil })

		w.crash()
		s = w.recover()
		w.sleep(5 * time.Second)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
		synctest.Wait()
		require.Zero(t, w.vault.liveTokens())
		require.Empty(t, w.vault.live("database/creds/app"))
		require.Zero(t, store.tokens, "no token of Vault's goes elsewhere")
	})
}

// That a provider is away is told by its name.
func TestOutageOfASecondProvider(t *testing.T) {
	inWorld(t, func(w *world) {
		store := w.withStore()
		store.put("app/config", "one")
		s := w.open(many{"app": inStore("app/config", "signal")})
		store.with(func() { store.noReads = errAway })
		store.put("app/config", "two") // which the wait finds
		w.sleep(time.Minute)
		require.Contains(t, w.host.said(), `Secrets: provider "store" unreachable; the task keeps its secrets`)
		store.with(func() { store.noReads = nil })
		w.sleep(2 * time.Minute)
		require.Contains(t, w.host.said(), `Secrets: provider "store" reachable again`)
		s.End()
	})
}

// What a second provider refuses is told at once: there is no token to ask about.
func TestSecondProviderRefuses(t *testing.T) {
	inWorld(t, func(w *world) {
		store := w.withStore()
		store.put("app/config", "one")
		store.with(func() { store.denied[w.taskDir] = true })
		began := time.Now()
		_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"app": inStore("app/config", "")}), w.host)
		require.EqualError(t, err, `secret "app": task "web" may not read app/config`)
		require.Zero(t, time.Since(began))
		_, err = w.keeper.Recover(w.task(), w.host)
		require.ErrorIs(t, err, ErrNoJournal)

		store.with(func() { store.denied[w.taskDir] = false })
		s := w.open(many{"app": inStore("app/config", "signal")})
		store.with(func() { store.denied[w.taskDir] = true })
		w.sleep(time.Minute)
		require.Contains(t, w.host.said(), `not rotated: secret "app": task "web" may not read app/config`)
		require.Empty(t, w.host.applied())
		require.Empty(t, w.vault.calls)
		s.End()
	})
}

// Tasks that share a path share one wait (C5); it goes on when the task has ended that it was sent for.
func TestTasksShareAWait(t *testing.T) {
	inWorld(t, func(w *world) {
		store := w.withStore()
		store.put("app/config", "one")
		first := w.open(many{"app": inStore("app/config", "signal")})
		other := &fakeHost{}
		start := w.startOf(many{"app": inStore("app/config", "signal")})
		start.Task.AllocID = "alloc-2"
		second, err := w.keeper.Open(w.t.Context(), start, other)
		require.NoError(t, err)
		second.Watch()
		synctest.Wait()
		sent, waiting := store.now()
		require.Equal(t, 1, sent)
		require.Equal(t, 1, waiting)

		first.End()
		w.sleep(time.Second)
		sent, waiting = store.now()
		require.Equal(t, 2, sent, "with the rights of the task that goes on")
		require.Equal(t, 1, waiting)
		store.put("app/config", "two")
		w.sleep(2 * time.Second)
		require.Equal(t, []string{"publish", "signal SIGHUP"}, other.applied())
		require.Empty(t, w.host.applied())
		second.End()
	})
}

// A provider that this plugin does not have, and a second one with tokens, are errors before anything is asked or
// written.
func TestProvidersRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		w.withStore()
		compiled := func(c secrets.SecretConfig, providers ...string) Start {
			st := Start{Task: w.task(), Config: secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{"app": &c}}, Env: map[string]string{}}
			var err error
			st.Spec, err = secrets.Compile(st.Config, providers...)
			require.NoError(t, err)
			return st
		}
		_, err := w.keeper.Open(w.t.Context(), compiled(secrets.SecretConfig{Provider: "other", Path: "a"}, "other"), w.host)
		require.EqualError(t, err, `provider "other" is not in this version of the plugin`)
		require.Equal(t, secrets.Invalid, secrets.KindOf(err))

		w.keeper.Close()
		w.cfg.Providers["second"] = newFakeVault()
		w.start()
		_, err = w.keeper.Open(w.t.Context(), w.startOf(many{"a": app(""), "b": {Provider: "second", Path: "b"}}), w.host)
		require.ErrorContains(t, err, "from second and vault")
		_, err = w.keeper.Recover(w.task(), w.host)
		require.ErrorIs(t, err, ErrNoJournal)
		require.Empty(t, w.vault.calls)
	})
}

// What a plugin wrote before there were providers is read as Vault's: recorded, not made up.
func TestJournalFromBeforeProviders(t *testing.T) {
	for name, test := range map[string]func(w *world){
		"recovered": func(w *world) {
			s := w.recover()
			require.Equal(w.t, "one", fileOf(w.t, s.Set(), "app/password"))
			w.sleep(4 * time.Hour)
			require.Len(w.t, w.vault.live("database/creds/app"), 1, "renewed")
			require.Empty(w.t, w.host.applied())
			withApp(w, "two")
			w.sleep(20 * time.Second)
			require.Equal(w.t, []string{"publish", "signal SIGHUP"}, w.host.applied())
			require.Equal(w.t, "vault", s.journal.Entry().Leases[0].Provider)
			s.End()
		},
		"ended": func(w *world) { require.NoError(w.t, w.keeper.Abandon(w.task())) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.sleep(time.Hour) // when it was recorded
				withDB(w)
				withApp(w, "one")
				w.vault.count = 2
				until := time.Now().Add(30 * time.Minute)
				w.vault.tokens["token-1"] = &fakeToken{until: until, max: until.Add(1000 * time.Hour), role: w.vault.login}
				w.vault.leases["database/creds/app/2"] = &fakeLease{path: "database/creds/app", token: "token-1", until: until, max: until.Add(24 * time.Hour)}
				_, err := journal.Create(w.dir, journal.Entry{Task: w.task()}) // for its directory
				require.NoError(t, err)
				for _, file := range []string{"entry.json", "tokens.json", "values.json"} {
					b, err := os.ReadFile(filepath.Join("testdata", "before_providers", file))
					require.NoError(t, err)
					require.NotContains(t, string(b), `"vault"`)
					b = bytes.ReplaceAll(b, []byte("/alloc/web"), []byte(w.taskDir)) // one that is there
					require.NoError(t, os.WriteFile(filepath.Join(w.dir, w.task().AllocID, w.task().Name, file), b, 0o600))
				}
				test(w)
				w.sleep(10 * time.Second)
				require.Zero(t, w.vault.liveTokens())
				require.Empty(t, w.vault.live("database/creds/app"))
				require.Equal(t, 1, w.vault.called("revoke-token token-1"))
			})
		})
	}
}

// A token is its provider's alone: what its owner replaces is not journalled for another's secrets, and what the
// operator allows the node's token for is not asked of them.
func TestTokensAreOneProviders(t *testing.T) {
	inWorld(t, func(w *world) {
		store := w.withStore()
		withApp(w, "one")
		store.put("config", "one")
		w.vaultBlock()
		both := many{"app": app(""), "config": inStore("config", "")}
		s := w.open(both)
		w.vaultBlock() // Nomad has replaced it
		w.sleep(10 * time.Second)
		require.Nil(t, s.secrets["config"].token)
		require.Same(t, s.tokens.current, s.secrets["app"].token)
		s.End()

		w.remove("private/vault_token")
		w.remove("private/vault.jwt")
		w.vault.with(func() {
			tok, _ := w.vault.newToken(fakeRole{ttl: time.Hour, max: time.Hour})
			w.write("node", tok.Value.Text())
		})
		w.keeper.Close()
		w.cfg.TokenFile, w.cfg.TokenFilePaths = w.taskDir+"/node", []string{"secret/*"}
		w.start()
		w.open(both)
		w.crash()
		s = w.recover()
		require.Len(t, s.secrets, 2)
		s.End()
		require.Zero(t, store.tokens)
	})
}
