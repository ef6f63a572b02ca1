package lifecycle

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What the policies grant and cannot be had, or does not fit, keeps no task from starting, and one event
// tells of all of it.
func TestGrantsKeepNoTaskFromStarting(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("secret/data/cert", "secret/data/nul", "a/x/dup", "b/x/dup", "secret/data/ends in a space ",
			"database/creds/nope", "database/creds/app", "secret/data/forbidden", "secret/data/own")
		g.static["secret/data/nul"] = map[string]any{"a": "x\x00y"}
		g.static["secret/data/own"] = map[string]any{"var": "x"}
		g.fail["read database/creds/nope"] = secrets.Errorf(secrets.Invalid, "the server answers 400 unknown role: nope")
		g.fail["read secret/data/forbidden"] = secrets.Errorf(secrets.Refused, "permission denied")
		st := w.startAll()
		st.Env["OWN_VAR"] = "the job's"
		// The operator's option, and a job that declares all it needs.
		st.Config.Secrets = map[string]*secrets.SecretConfig{"declared": {Path: "secret/data/cert", AllFiles: true}}
		st.Config.ByOperator = true
		var err error
		st.Spec, err = secrets.Compile(st.Config)
		require.NoError(t, err)
		s, err := w.keeper.Open(w.t.Context(), st, w.host)
		require.NoError(t, err)
		s.Watch()
		synctest.Wait()
		require.ElementsMatch(t, []string{"APP_USERNAME", "APP_PASSWORD"}, keys(s.Set().Env))
		require.Len(t, w.host.events, 2, w.host.said())
		for _, part := range []string{
			"secret/data/nul (env NUL_A: the field", `a/x/dup (its name would be that of `, "b/x/dup (", `"secret/data/ends in a space " (path`,
			"database/creds/nope (read database/creds/nope: the server answers 400", "secret/data/forbidden (", "secret/data/own (its variable OWN_VAR is set by the job itself",
		} {
			require.Contains(t, w.host.events[1], part)
		}
		require.LessOrEqual(t, len(w.host.events[1]), maxEvent)

		// It is looked for again, and nothing else happens, to the task or in its events.
		w.sleep(30 * time.Minute)
		require.Empty(t, w.host.applied())
		require.Len(t, w.host.events, 2, w.host.said())
		require.Len(t, w.vault.live("database/creds/app"), 1)
		require.Equal(t, 1, w.vault.called("login"))

		// What was repaired comes by itself, after a restart of the plugin, too.
		w.keeper.Close()
		w.start()
		again, err := w.keeper.Recover(w.task(), w.host)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"APP_USERNAME", "APP_PASSWORD"}, keys(again.Set().Env))
		again.Watch()
		g.with(func() {
			g.static["secret/data/nul"] = map[string]any{"a": "fine"}
			delete(g.fail, "read database/creds/nope")
			g.roles["database/creds/nope"] = fakeRole{ttl: time.Hour, max: 1000 * time.Hour}
		})
		w.sleep(3 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"), w.host.said())
		require.Equal(t, "fine", w.host.env.Env["NUL_A"].Text())
		require.NotEmpty(t, w.host.env.Env["NOPE_USERNAME"].Text())
		require.NotContains(t, w.host.env.Env, "OWN_VAR")
		again.End()
		synctest.Wait()
		require.Zero(t, w.vault.liveTokens())
	})
}

func keys(env map[string]secrets.Value) (names []string) {
	for name := range env {
		names = append(names, name)
	}
	return names
}

// An engine whose backend is away, or which never answers, is no outage of the server's: the task starts
// without it and gets it when it is there. What was made of a request that nobody waited for is known, and
// is revoked at the end.
func TestGrantsOfADeadEngine(t *testing.T) {
	for name, engine := range map[string]func(*granting){
		"away": func(g *granting) {
			g.fail["read database/creds/app"] = &secrets.Error{Kind: secrets.Outage, Err: errors.New("the server answers 500"), Elsewhere: true}
		},
		"hangs":    func(g *granting) { g.slow = map[string]time.Duration{"read database/creds/app": time.Hour} },
		"is slow":  func(g *granting) { g.slow = map[string]time.Duration{"read database/creds/app": 30 * time.Second} },
		"overload": func(g *granting) { g.fail["read database/creds/app"] = secrets.Errorf(secrets.Outage, "429") },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				g := w.fromPolicies("database/creds/app", "secret/data/cert")
				engine(g)
				began := time.Now()
				s := w.openAll()
				require.LessOrEqual(t, time.Since(began), grantWait+2*time.Second)
				require.ElementsMatch(t, []string{"CERT_PEM"}, keys(s.Set().Env))
				if name != "is slow" {
					w.sleep(5 * time.Minute)
					require.Empty(t, w.host.applied())
					require.Contains(t, w.host.said(), "database/creds/app (no answer")
					require.Less(t, len(w.host.events), 5, w.host.said())
					g.with(func() { g.slow = nil; clear(g.fail) })
				}
				w.sleep(3 * time.Minute)
				require.Equal(t, 1, w.host.count("restart"))
				require.NotEmpty(t, w.host.env.Env["APP_USERNAME"].Text())
				require.Len(t, w.vault.live("database/creds/app"), 1)
				s.End()
				synctest.Wait()
				require.Empty(t, w.vault.live("database/creds/app"))
			})
		})
	}
}

// The server itself being away is an outage, as for what is declared (S2).
func TestGrantsWaitForTheServer(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("database/creds/app", "secret/data/cert")
		g.sent = func() { // away as soon as the policies are known
			if strings.HasPrefix(g.calls[len(g.calls)-1], "discover") {
				g.away = secrets.Errorf(secrets.Outage, "away")
			}
		}
		time.AfterFunc(time.Minute, func() { g.with(func() { g.away, g.sent = nil, nil }) })
		began := time.Now()
		s := w.openAll()
		require.GreaterOrEqual(t, time.Since(began), time.Minute)
		require.Contains(t, s.Set().Env, "APP_USERNAME")
		require.Contains(t, s.Set().Env, "CERT_PEM")
		s.End()
		synctest.Wait()

		g.with(func() {
			g.sent = func() {
				if strings.HasPrefix(g.calls[len(g.calls)-1], "discover") {
					g.away = secrets.Errorf(secrets.Outage, "away")
				}
			}
		})
		_, err := w.keeper.Open(w.t.Context(), w.startAll(), w.host)
		require.Equal(t, secrets.Outage, secrets.KindOf(err))
		g.with(func() { g.away, g.sent = nil, nil })
	})
}

// A running task keeps what it has when what somebody writes cannot be delivered: it is neither stopped, nor
// restarted, nor robbed of another secret, however long that lasts.
func TestBadValuesDoNothingToARunningTask(t *testing.T) {
	for name, test := range map[string]struct {
		bad func(g *granting)
		of  string
	}{
		"a NUL":                    {func(g *granting) { g.static["secret/data/cert"] = map[string]any{"pem": "\x00"} }, `secret "cert"`},
		"another's variable":       {func(g *granting) { g.static["secret/data/cert"] = map[string]any{"pem": "x", "x_k": "x"} }, `secret "cert"`},
		"a newcomer with its name": {func(g *granting) { g.grants = append(g.grants, "other/cert") }, "other/cert"},
		"a newcomer with its variable": {func(g *granting) {
			g.static["other/z"] = map[string]any{"x_k": "planted"}
			g.grants = append(g.grants, "other/z")
		}, "other/z (its variable Z_X_K"},
		"forbidden": {func(g *granting) {
			g.fail["read secret/data/cert"] = secrets.Errorf(secrets.Refused, "permission denied")
		}, `secret "cert"`},
		"no room": {func(g *granting) { g.static["secret/data/cert"] = map[string]any{"pem": strings.Repeat("x", 5000)} }, "no room"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				g := w.fromPolicies("secret/data/cert", "secret/data/z_x", "secret/data/cert_x", "database/creds/app")
				g.static["secret/data/cert_x"] = map[string]any{"k": "kept"}
				g.static["secret/data/z_x"] = map[string]any{"k": "kept"}
				w.host.fits = func(set *secrets.Set) error {
					for _, f := range set.Files {
						if f.Data.Len() > 4000 {
							return errors.New("no room")
						}
					}
					return nil
				}
				s := w.openAll()
				before := s.Set()
				g.with(func() { test.bad(g) })
				w.sleep(2 * time.Hour)
				require.Empty(t, w.host.applied(), w.host.said())
				require.Equal(t, "one", s.Set().Env["CERT_PEM"].Text())
				require.Equal(t, "kept", s.Set().Env["CERT_X_K"].Text())
				require.Equal(t, "kept", s.Set().Env["Z_X_K"].Text())
				require.True(t, before.Env["APP_USERNAME"].Equal(s.Set().Env["APP_USERNAME"]))
				require.Contains(t, w.host.said(), test.of)
				require.LessOrEqual(t, len(w.host.events), 4, w.host.said())

				// Another secret's rotation goes on, with the old value of this one.
				g.with(func() {
					for id := range g.leases {
						delete(g.leases, id)
					}
				})
				w.sleep(3 * time.Minute)
				require.Equal(t, 1, w.host.count("restart"), w.host.said())
				require.Equal(t, "one", w.host.env.Env["CERT_PEM"].Text())
				s.End()
			})
		})
	}
}

// A credential that does not fit is given back, and not made again and again.
func TestCredentialsThatDoNotFit(t *testing.T) {
	inWorld(t, func(w *world) {
		w.fromPolicies("database/creds/app", "secret/data/cert")
		st := w.startAll()
		st.Env["APP_PASSWORD"] = "the job's own"
		s, err := w.keeper.Open(w.t.Context(), st, w.host)
		require.NoError(t, err)
		s.Watch()
		w.sleep(10 * time.Second)
		require.Empty(t, w.vault.live("database/creds/app"))
		w.sleep(3 * time.Hour)
		require.LessOrEqual(t, w.vault.called("read database/creds/app"), 4)
		require.Empty(t, w.host.applied())
		require.Empty(t, w.vault.live("database/creds/app"))
		require.Len(t, w.host.events, 2, w.host.said())
		s.End()
	})
}

// The operator's option stops no job whose policies cannot be had: it starts with what it declares.
func TestOperatorsPoliciesThatCannotBeHad(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("secret/data/cert")
		g.fail["discover"] = secrets.Errorf(secrets.Invalid, "a root token")
		st := w.startAll()
		st.Config.ByOperator = true
		s, err := w.keeper.Open(w.t.Context(), st, w.host)
		require.NoError(t, err)
		require.Empty(t, s.Set().Env)
		require.Contains(t, w.host.said(), "a root token")
		s.Watch()
		g.with(func() { clear(g.fail) })
		w.sleep(2 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
		synctest.Wait()

		g.with(func() { g.fail["login"] = secrets.Errorf(secrets.Invalid, "role could not be found") })
		_, err = w.keeper.Open(w.t.Context(), st, w.host)
		require.ErrorIs(t, err, ErrNothingGranted)
		require.ErrorContains(t, err, "role could not be found")
		// Who declares something needs the login.
		st.Config.Secrets = map[string]*secrets.SecretConfig{"declared": {Path: "secret/data/cert", AllFiles: true}}
		st.Spec, err = secrets.Compile(st.Config)
		require.NoError(t, err)
		_, err = w.keeper.Open(w.t.Context(), st, w.host)
		require.Error(t, err)
		require.NotErrorIs(t, err, ErrNothingGranted)
	})
}

// What is granted takes no room from what is declared: it is fetched after that, and what cannot be
// journalled of it is left out, the largest first.
func TestGrantsTakeNoRoom(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("secret/data/large", "secret/data/cert", "secret/data/larger")
		g.static["secret/app-1"] = map[string]any{"k": strings.Repeat("x", 20<<20)}
		g.static["secret/data/large"] = map[string]any{"k": strings.Repeat("x", 8<<20)}
		g.static["secret/data/larger"] = map[string]any{"k": strings.Repeat("x", 9<<20)}
		st := w.startAll()
		st.Config.FromPolicies = "files"
		st.Config.Secrets = map[string]*secrets.SecretConfig{"app": {Path: "secret/app-1", AllFiles: true}}
		var err error
		st.Spec, err = secrets.Compile(st.Config)
		require.NoError(t, err)
		s, err := w.keeper.Open(w.t.Context(), st, w.host)
		require.NoError(t, err)
		require.Len(t, s.Set().Files, 3, w.host.said()) // app, cert, large
		require.Contains(t, w.host.said(), "secret/data/larger (with it the task's secrets would be larger than 32 MiB)")
		s.Watch()
		s.End()
	})
}

// The revocations of a granted engine when the task ends, or when its start fails, are counted for nobody after that: else a
// dead engine and some restarts would keep all tasks of the node from fetching large secrets.
func TestGrantsOfADeadEngineAreForgotten(t *testing.T) {
	for name, watched := range map[string]bool{"the task ended": true, "the start failed": false} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				g := w.fromPolicies("database/creds/app", "secret/data/cert")
				g.slow = map[string]time.Duration{"read database/creds/app": time.Hour}
				g.static["secret/data/cert"] = map[string]any{"pem": strings.Repeat("x", 7<<20)}
				for range 6 {
					s, err := w.keeper.Open(w.t.Context(), w.startAll(), w.host)
					require.NoError(w.t, err)
					if watched {
						s.Watch()
					}
					w.sleep(time.Second)
					s.End()
					w.sleep(5 * time.Minute)
				}
				require.Zero(w.t, w.keeper.memory.used)
				require.Nil(w.t, w.keeper.memory.ahead)
			})
		})
	}
}

// A state_dir without room for it: what is granted is left out, and the task starts.
func TestGrantsWithoutRoomInStateDir(t *testing.T) {
	inWorldAt(t, smallStateDir(t, "size=16m"), func(w *world) {
		g := w.fromPolicies("secret/data/large", "secret/data/cert")
		g.static["secret/data/large"] = map[string]any{"k": strings.Repeat("x", 8<<20)}
		st := w.startAll()
		st.Config.FromPolicies = "files"
		s, err := w.keeper.Open(w.t.Context(), st, w.host)
		require.NoError(t, err)
		require.Len(t, s.Set().Files, 1)
		require.Contains(t, w.host.said(), "secret/data/large (state_dir: ")
		s.Watch()
		s.End()
	})
}

// One event for hundreds of paths, whatever they are called.
func TestSkippedGrantsAreOneEvent(t *testing.T) {
	inWorld(t, func(w *world) {
		var paths []string
		for i := range 90 {
			paths = append(paths, fmt.Sprintf("secret/data/%s%d\n\x1b[31m", strings.Repeat("long", 200), i))
		}
		w.fromPolicies(paths...)
		s := w.openAll()
		require.Len(t, w.host.events, 2)
		said := w.host.events[1]
		require.LessOrEqual(t, len(said), maxEvent)
		require.Contains(t, said, "and 70 more")
		require.NotContains(t, said, "\n")
		require.NotContains(t, said, "\x1b")
		s.End()
	})
}

// The node's token goes nowhere but into the operator's namespace, and to the paths that the operator allows, however
// a job says the one or the other: nothing is sent.
func TestNodeTokenStaysInItsNamespace(t *testing.T) {
	for name, test := range map[string]struct {
		operators, job, env string
		path                string
		ok                  bool
	}{
		"the same":            {path: "secret/app-1", ok: true},
		"the same, named":     {operators: "ops", job: "/ops/", path: "secret/app-1", ok: true},
		"the job's":           {job: "team", path: "secret/app-1"},
		"the env's":           {env: "team", path: "secret/app-1"},
		"another":             {operators: "ops", job: "team", path: "secret/app-1"},
		"below":               {operators: "ops", job: "ops/team", path: "secret/app-1"},
		"a path's":            {path: "team/secret/app-1"},
		"the API's path":      {path: "secret/data/app-1", ok: true},
		"an escape":           {path: "secret%2fother/app-1"},
		"an escaped way out":  {path: "secret/app-1%2f..%2fother"},
		"slashes":             {path: "//secret///app-1/", ok: true},
		"a slash that is not": {path: "secretapp-1"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withApp(w, "one")
				w.vault.static["secret/data/app-1"] = map[string]any{"k": "v"}
				w.remove("private/vault.jwt")
				w.vault.with(func() {
					tok, _ := w.vault.newToken(fakeRole{ttl: time.Hour, max: time.Hour})
					w.write("node", tok.Value.Text())
				})
				w.cfg.TokenFile, w.cfg.TokenFilePaths, w.cfg.Namespace = w.taskDir+"/node", []string{"secret/app-*", "secret/data/*"}, test.operators
				w.keeper.Close()
				w.start()
				c := secrets.TaskConfig{Namespace: test.job, Secrets: map[string]*secrets.SecretConfig{"app": {Path: test.path, AllFiles: true}}}
				spec, err := secrets.Compile(c)
				if err == nil {
					st := Start{Task: w.task(), Spec: spec, Config: c, Env: map[string]string{"VAULT_NAMESPACE": test.env}}
					var s *Session
					if s, err = w.keeper.Open(w.t.Context(), st, w.host); err == nil {
						s.End()
					}
				}
				if test.ok {
					require.NoError(t, err)
					return
				}
				require.Equal(t, secrets.Invalid, secrets.KindOf(err))
				require.Empty(t, w.vault.calls, "nothing is sent")
				if test.job+test.env != "" {
					require.ErrorContains(t, err, "namespace")
					require.ErrorContains(t, err, "identity of its own")
				}
			})
		})
	}
}

// An operator who takes a path away, or moves to another namespace, takes it from recovered tasks, too.
func TestNodeTokenAfterTheOperatorsChange(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		w.remove("private/vault.jwt")
		w.vault.with(func() {
			tok, _ := w.vault.newToken(fakeRole{ttl: time.Hour, max: time.Hour})
			w.write("node", tok.Value.Text())
		})
		w.cfg.TokenFile, w.cfg.TokenFilePaths = w.taskDir+"/node", []string{"secret/*"}
		w.keeper.Close()
		w.start()
		w.open(many{"app": app("")})
		w.keeper.Close()
		w.cfg.Namespace = "ops"
		w.start()
		_, err := w.keeper.Recover(w.task(), w.host)
		require.ErrorIs(t, err, ErrJournalUnreadable)
	})
}
