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
	hidden  []string // granted, and not to be seen
	skipped []secrets.Skipped
	cut     bool // there is more than one task may have
}

func (g *granting) Discover(ctx context.Context, tok secrets.Token, _ string, _ []string, turn func(context.Context) error) (*secrets.Discovery, error) {
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
	d := &secrets.Discovery{Skipped: g.skipped, Cut: g.cut, Granted: map[string]bool{}}
	for _, p := range g.grants {
		d.Found = append(d.Found, secrets.Found{Path: p})
	}
	for _, p := range append(g.hidden, g.grants...) {
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
	w.cfg.Providers = map[string]Provider{"vault": g}
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

// What is declared and granted is fetched once, under the name that the job gives it, also when the policies are looked at
// again and after a restart of the plugin.
func TestPoliciesGrantWhatIsDeclared(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("database/creds/app", "secret/data/cert")
		g.skipped = []secrets.Skipped{{Path: "pki/issue/web", Why: "it needs parameters"}}
		w.vault.roles["pki/issue/web"] = fakeRole{issued: 24 * time.Hour}
		st := w.startOf(many{"db": db(""), "tls": {Path: "pki/issue/web", AllFiles: true}})
		st.Config.FromPolicies = "all"
		s, err := w.keeper.Open(w.t.Context(), st, w.host)
		require.NoError(w.t, err)
		s.Watch()
		w.sleep(10 * time.Minute)
		w.crash()
		s = w.recover()
		w.sleep(10 * time.Minute)
		require.Equal(w.t, 1, w.vault.called("read database/creds/app"))
		require.Equal(w.t, 1, w.vault.called("read pki/issue/web"))
		require.Len(w.t, w.vault.live("database/creds/app"), 1)
		require.NotNil(w.t, s.Set().Env["DB_USER"])
		require.NotContains(w.t, s.Set().Env, "APP_USERNAME")
		require.Contains(w.t, s.Set().Env, "CERT_PEM")
		require.NotContains(w.t, w.host.said(), "pki/issue/web")
		require.Empty(w.t, w.host.applied())
		s.End()
	})
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
		require.Contains(t, w.host.said(), "secret/data/nothing-yet (not found)")
		require.Len(t, w.host.events, 2, "one event for all that is left out: %s", w.host.said())
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
		require.Equal(t, []string{"publish", "restart"}, w.host.applied(), "C7: one action for both")
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
		require.Empty(t, w.host.applied())
		require.Len(t, w.vault.live("rabbitmq/creds/mq"), 1)
		w.keeper.Close()
		w.start()
		again, err := w.keeper.Recover(w.task(), w.host)
		require.NoError(t, err)
		again.Watch()
		w.sleep(5 * time.Second)
		require.Equal(t, []string{"publish", "restart"}, w.host.applied())
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
		require.Empty(t, w.host.applied(), "a policy that is being written is not applied")
		w.sleep(time.Minute + 5*time.Second)
		require.Equal(t, []string{"publish", "restart"}, w.host.applied())
		require.Contains(t, w.host.env.Env, "APP_USERNAME")
		require.NotContains(t, w.host.env.Env, "MQ_USERNAME")
		require.NotContains(t, w.host.env.Env, "CERT_PEM")
		require.Contains(t, w.host.said(), `secret "cert" removed (the policies no longer grant it)`)
		require.Empty(t, w.vault.live("rabbitmq/creds/mq"))
		require.Len(t, w.vault.live("database/creds/app"), 1)

		g.grant("database/creds/app", "secret/data/cert")
		w.sleep(time.Minute + 5*time.Second)
		require.Equal(t, 2, w.host.count("restart"))
		require.Contains(t, w.host.env.Env, "CERT_PEM")
	})
}

// C2: what waits for its stagger to be left out is left out before its lease ends for good, which may show only then.
func TestPoliciesThatGrantLessNearTheMaximum(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("database/creds/app")
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Minute, max: 10 * time.Minute}
		w.host.during = func(act string) { require.Len(t, w.vault.live("database/creds/app"), 1, act) }
		start := w.startAll()
		start.Task.AllocIndex = 20
		s, err := w.keeper.Open(w.t.Context(), start, w.host)
		require.NoError(t, err)
		s.Watch()
		w.sleep(6 * time.Minute)
		g.grant()
		w.sleep(3 * time.Minute)
		require.Empty(t, w.host.applied(), "it waits")
		w.sleep(time.Minute)
		require.Equal(t, []string{"publish", "restart"}, w.host.applied())
		require.Contains(t, w.host.said(), `secret "app" removed`)
		s.End()
	})
}

// C2, C6: what the policies newly grant, and waits for its stagger, may end before the task gets it: by its maximum, or since
// somebody revoked it. The task gets a credential that lives, once.
func TestPoliciesThatGrantMoreWhichEnds(t *testing.T) {
	for name, revoked := range map[string]bool{"at its maximum": false, "revoked": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				g := w.fromPolicies("secret/data/cert")
				w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Minute, max: 3 * time.Minute}
				if revoked {
					w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour}
				}
				w.host.during = func(act string) { require.NotEmpty(t, w.vault.live("database/creds/app"), act) }
				start := w.startAll()
				start.Task.AllocIndex = 25
				s, err := w.keeper.Open(w.t.Context(), start, w.host)
				require.NoError(t, err)
				s.Watch()
				g.grant("secret/data/cert", "database/creds/app")
				w.sleep(2 * time.Minute)
				require.Empty(t, w.host.applied(), "it waits")
				if revoked {
					w.vault.with(func() { clear(w.vault.leases) })
				}
				w.sleep(2 * time.Minute)
				require.Equal(t, []string{"publish", "restart"}, w.host.applied())
				require.Contains(t, w.host.said(), `secret "app" added`)
				require.Len(t, w.vault.live("database/creds/app"), 1)
				require.Equal(t, "user-"+w.vault.live("database/creds/app")[0][len("database/creds/app/"):], w.host.env.Env["APP_USERNAME"].Text())
				s.End()
			})
		})
	}
}

// What is granted and cannot be seen for the moment is kept, and so is all while the server is away,
// or answers what is not understood.
// A grant that goes and comes back while changes wait for their turn: they are not forgotten with it, be it that the
// secret has changed, or that the task has not had it yet. Without any the task is left alone.
func TestPoliciesThatComeBack(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("secret/data/cert")
		st := w.startAll()
		st.Config.Stagger = "5m"
		var err error
		st.Spec, err = secrets.Compile(st.Config)
		require.NoError(t, err)
		st.Task.AllocIndex = 1
		s, err := w.keeper.Open(w.t.Context(), st, w.host)
		require.NoError(t, err)
		s.Watch()
		away := func() {
			g.grant()
			w.sleep(2*time.Minute + 10*time.Second)
			inLoop(s, func() { require.True(t, s.changes["cert"].drop) })
		}
		away()
		g.grant("secret/data/cert")
		w.sleep(10 * time.Minute)
		require.Empty(t, w.host.applied())

		w.vault.with(func() { w.vault.static["secret/data/cert"] = map[string]any{"pem": "two"} })
		w.sleep(20 * time.Second)
		away()
		g.grant("secret/data/cert", "database/creds/app")
		w.sleep(90 * time.Second)
		inLoop(s, func() { require.NotNil(t, s.secrets["app"]) })
		w.sleep(5 * time.Minute)
		require.Equal(t, "two", w.host.env.Env["CERT_PEM"].Text())
		require.NotEmpty(t, w.host.env.Env["APP_USERNAME"].Text())
		s.End()
	})
}

func TestPoliciesThatCannotBeSeen(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("database/creds/app", "secret/data/cert")
		w.openAll()
		g.with(func() { g.grants, g.hidden = nil, []string{"database/creds/app", "secret/data/cert"} })
		w.sleep(5 * time.Minute)
		g.set(secrets.Errorf(secrets.Outage, "away"))
		w.sleep(5 * time.Minute)
		g.set(nil)
		g.with(func() { g.fail["discover"] = secrets.Errorf(secrets.Invalid, "not understood") })
		w.sleep(5 * time.Minute)
		require.Empty(t, w.host.applied())
		require.Contains(t, w.host.said(), "not understood")
	})
}

func TestPoliciesRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies()
		g.fail["discover"] = secrets.Errorf(secrets.Invalid, "not understood")
		_, err := w.keeper.Open(w.t.Context(), w.startAll(), w.host)
		require.ErrorContains(t, err, "not understood")
		require.Equal(t, secrets.Invalid, secrets.KindOf(err))
		require.Zero(t, g.called("read"))
		synctest.Wait() // the undo of that start revokes its token
		require.Zero(t, g.liveTokens(), "nothing is left of a start that failed")
		delete(g.fail, "discover")

		g.grant()
		g.cut = true
		s := w.openAll()
		require.Contains(t, w.host.said(), "grant no secret")
		require.Contains(t, w.host.said(), "more than 100 paths; the rest is skipped")
		s.End()
		synctest.Wait()

		w.remove("private/vault.jwt")
		require.False(t, w.keeper.cfg.HasIdentity(w.taskDir, nil, ""))
		require.True(t, w.keeper.cfg.HasIdentity(w.taskDir, map[string]string{"VAULT_TOKEN": "x"}, ""))
		w.keeper.cfg.TokenFile, w.keeper.cfg.TokenFilePaths = "/node-token", []string{"*"}
		_, err = w.keeper.Open(w.t.Context(), w.startAll(), w.host)
		require.ErrorContains(t, err, "from_policies needs an identity of the task's own")
	})
}
