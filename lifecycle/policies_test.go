package lifecycle

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// granting is a server that tells what policies grant.
type granting struct {
	*fakeVault
	grants  []string // paths; the lock is fakeVault's
	unseen  []string // granted, and not to be seen
	skipped []secrets.Skipped
}

func (g *granting) Discover(ctx context.Context, tok secrets.Token, _ string, turn func(context.Context) error) (*secrets.Discovery, error) {
	if turn != nil {
		if err := turn(ctx); err != nil {
			return nil, err
		}
	}
	err := g.call(ctx, "discover", "")
	defer g.mu.Unlock()
	if err == nil {
		err = g.knows(tok)
	}
	if err != nil {
		return nil, err
	}
	d := &secrets.Discovery{Skipped: g.skipped, Granted: map[string]bool{}}
	for _, p := range g.grants {
		d.Found = append(d.Found, secrets.Found{Path: p})
	}
	for _, p := range append(g.unseen, g.grants...) {
		d.Granted[p] = true
	}
	return d, nil
}

func (g *granting) grant(paths ...string) { g.with(func() { g.grants = paths }) }

// fromPolicies makes the world's server one that grants paths.
func (w *world) fromPolicies(paths ...string) *granting {
	g := &granting{fakeVault: w.vault, grants: paths}
	w.vault.static["secret/data/cert"] = map[string]any{"pem": "one"}
	w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: 1000 * time.Hour}
	w.vault.roles["rabbitmq/creds/mq"] = fakeRole{ttl: time.Hour, max: 1000 * time.Hour}
	w.keeper.Close()
	w.cfg.Provider = g
	w.start()
	return g
}

// startAll is a start of a job that declares nothing.
func (w *world) startAll() Start {
	st := w.startOf(nil)
	st.Config.FromPolicies = "all"
	st.Config.Splay = "0s"
	return st
}

func (w *world) openAll() *Session {
	w.t.Helper()
	s, err := w.keeper.Open(w.t.Context(), w.startAll(), w.host)
	require.NoError(w.t, err)
	s.Watch()
	w.sleep(0)
	return s
}

func TestPoliciesAreFetchedAndRecovered(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("database/creds/app", "secret/data/cert", "secret/data/nothing-yet")
		g.skipped = []secrets.Skipped{{Path: "pki/issue/web", Why: "it needs parameters"}}
		s := w.openAll()
		require.Equal(t, "one", s.Set().Env["CERT_PEM"].Text())
		user := s.Set().Env["APP_USERNAME"].Text()
		require.NotEmpty(t, user)
		require.Contains(t, w.host.said(), "pki/issue/web (it needs parameters)")
		require.Contains(t, w.host.said(), "nothing is at secret/data/nothing-yet")
		require.Equal(t, 1, w.vault.called("discover"))
		require.Equal(t, 1, w.vault.called("login"))
		require.Equal(t, 3, w.vault.called("read"), "S3: one a secret")

		// C4: a recovery asks nothing.
		w.keeper.Close()
		calls := w.vault.called("")
		w.start()
		again, err := w.keeper.Recover(w.task(), w.host)
		require.NoError(t, err)
		require.Equal(t, calls, w.vault.called(""))
		require.Equal(t, user, again.Set().Env["APP_USERNAME"].Text())
		again.Watch()
		w.sleep(0)
		again.End()
		w.sleep(time.Second)
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}

func TestPoliciesThatGrantMore(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("database/creds/app")
		s := w.openAll()
		user := s.Set().Env["APP_USERNAME"].Text()
		g.grant("database/creds/app", "rabbitmq/creds/mq", "secret/data/cert")
		w.sleep(time.Minute + 3*time.Second)
		require.Equal(t, []string{"publish", "restart"}, w.host.acted(), "C7: one action for both")
		require.Equal(t, "one", w.host.env.Env["CERT_PEM"].Text())
		require.NotEmpty(t, w.host.env.Env["MQ_PASSWORD"].Text())
		require.Equal(t, user, w.host.env.Env["APP_USERNAME"].Text())
		require.Contains(t, w.host.said(), `secret "cert" added (the policies grant it now), secret "mq" added`)

		// The new ones are watched like the others, also by the plugin's next process.
		w.keeper.Close()
		w.start()
		again, err := w.keeper.Recover(w.task(), w.host)
		require.NoError(t, err)
		require.Equal(t, "one", again.Set().Env["CERT_PEM"].Text())
		again.Watch()
		w.vault.with(func() { w.vault.static["secret/data/cert"] = map[string]any{"pem": "two"} })
		w.sleep(20 * time.Second)
		require.Equal(t, 2, w.host.count("restart"))
		require.Equal(t, "two", w.host.env.Env["CERT_PEM"].Text())
		again.End()
		w.sleep(time.Second)
		require.Empty(t, w.vault.live("rabbitmq/creds/mq"))
	})
}

// A crash between the journalling of a new secret and the act: the next process tells the task (E2).
func TestPoliciesThatGrantMoreOverACrash(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("database/creds/app")
		w.keeper.random = func() float64 { return 0.99 } // while nothing runs that asks it
		st := w.startAll()
		st.Config.Splay = "1m"
		spec, err := secrets.Compile(st.Config)
		require.NoError(t, err)
		st.Spec = spec
		s, err := w.keeper.Open(w.t.Context(), st, w.host)
		require.NoError(t, err)
		s.Watch()
		synctest.Wait()
		g.grant("database/creds/app", "rabbitmq/creds/mq")
		w.sleep(time.Minute + 5*time.Second)
		require.Empty(t, w.host.acted())
		require.Len(t, w.vault.live("rabbitmq/creds/mq"), 1)
		w.keeper.Close()
		w.start()
		again, err := w.keeper.Recover(w.task(), w.host)
		require.NoError(t, err)
		again.Watch()
		w.sleep(5 * time.Second)
		require.Equal(t, []string{"publish", "restart"}, w.host.acted())
		require.NotEmpty(t, w.host.env.Env["MQ_PASSWORD"].Text())
		require.Len(t, w.vault.live("rabbitmq/creds/mq"), 1)
		again.End()
	})
}

func TestPoliciesThatGrantLess(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("database/creds/app", "rabbitmq/creds/mq", "secret/data/cert")
		w.openAll()
		require.Len(t, w.vault.live("rabbitmq/creds/mq"), 1)
		g.grant("database/creds/app")
		w.sleep(time.Minute)
		require.Empty(t, w.host.acted(), "a policy that is being written is not acted upon")
		w.sleep(time.Minute + 5*time.Second)
		require.Equal(t, []string{"publish", "restart"}, w.host.acted())
		require.Contains(t, w.host.env.Env, "APP_USERNAME")
		require.NotContains(t, w.host.env.Env, "MQ_USERNAME")
		require.NotContains(t, w.host.env.Env, "CERT_PEM")
		require.Contains(t, w.host.said(), `secret "cert" left out (the policies do not grant it any more)`)
		require.Empty(t, w.vault.live("rabbitmq/creds/mq"))
		require.Len(t, w.vault.live("database/creds/app"), 1)

		g.grant("database/creds/app", "secret/data/cert")
		w.sleep(time.Minute + 5*time.Second)
		require.Equal(t, 2, w.host.count("restart"))
		require.Contains(t, w.host.env.Env, "CERT_PEM")
	})
}

// What is granted and cannot be seen for the moment is kept, and so is all while the server is away,
// or answers what is not understood.
func TestPoliciesThatCannotBeSeen(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("database/creds/app", "secret/data/cert")
		w.openAll()
		g.with(func() { g.grants, g.unseen = nil, []string{"database/creds/app", "secret/data/cert"} })
		w.sleep(5 * time.Minute)
		g.set(secrets.Errorf(secrets.Outage, "away"))
		w.sleep(5 * time.Minute)
		g.set(nil)
		g.with(func() { g.fail["discover"] = secrets.Errorf(secrets.Invalid, "not understood") })
		w.sleep(5 * time.Minute)
		require.Empty(t, w.host.acted())
		require.Contains(t, w.host.said(), "not understood")
	})
}

func TestPoliciesRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("a/creds/app", "b/creds/app")
		_, err := w.keeper.Open(w.t.Context(), w.startAll(), w.host)
		require.ErrorContains(t, err, "a/creds/app and b/creds/app")
		require.Equal(t, secrets.Invalid, secrets.KindOf(err))
		require.Zero(t, g.called("read"))
		w.sleep(time.Second)
		require.Zero(t, g.liveTokens(), "nothing is left of a start that failed")

		g.fail["discover"] = secrets.Errorf(secrets.Invalid, "not understood")
		_, err = w.keeper.Open(w.t.Context(), w.startAll(), w.host)
		require.ErrorContains(t, err, "not understood")
		synctest.Wait() // the undo of that start revokes its token
		delete(g.fail, "discover")

		g.grant()
		s := w.openAll()
		require.Contains(t, w.host.said(), "grant no secret")
		s.End()
		synctest.Wait()

		w.remove("private/vault.jwt")
		require.False(t, w.keeper.HasIdentity(w.taskDir, nil, ""))
		require.True(t, w.keeper.HasIdentity(w.taskDir, map[string]string{"VAULT_TOKEN": "x"}, ""))
		w.keeper.cfg.TokenFile, w.keeper.cfg.TokenFilePaths = "/node-token", []string{"*"}
		_, err = w.keeper.Open(w.t.Context(), w.startAll(), w.host)
		require.ErrorContains(t, err, "from_policies needs an identity of the task's own")
	})
}
