package lifecycle

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// C2: a token of ours that can be renewed no more is replaced, and what was made under it is
// rotated before it ends; then it is revoked.
func TestTokenMaximum(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.login = fakeRole{ttl: time.Hour, max: 10 * time.Hour}
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: 1000 * time.Hour}
		s := w.open(many{"db": db("")})
		w.host.during = func(what string) {
			require.Len(t, w.vault.live("database/creds/app"), 2, what)
			require.Equal(t, 2, w.vault.liveTokens(), what)
		}
		w.sleep(10 * time.Hour)
		require.Equal(t, 2, w.vault.called("login"))
		require.Equal(t, 1, w.host.count("restart"))
		require.Contains(t, w.host.said(), "the token it was made under reached its maximum")
		require.Equal(t, 1, w.vault.liveTokens())
		require.Len(t, w.vault.live("database/creds/app"), 1)
		require.Len(t, s.journal.Tokens(), 1)
		s.End()
		synctest.Wait()
		require.Zero(t, w.vault.liveTokens())
	})
}

// A token that ends sooner than was granted, as after a pause of the machine, costs the task nothing once an operator has had it looked at, be it
// to be renewed or to be replaced before that end.
func TestRefreshSeesATokensEnd(t *testing.T) {
	for name, login := range map[string]fakeRole{
		"renewed":     {ttl: time.Hour, max: 1000 * time.Hour},
		"a batch one": {ttl: time.Hour, max: time.Hour, batch: true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withDB(w)
				w.vault.login = login
				s := w.open(many{"db": db("")})
				w.sleep(time.Minute)
				w.vault.with(func() {
					for _, tok := range w.vault.tokens {
						tok.until = time.Now().Add(10 * time.Minute)
					}
				})
				for _, out := range w.keeper.Operate(w.t.Context(), Refresh, Selection{}) {
					require.True(t, out.Result.OK(), out.Detail) // replaced, where there is no time to lose
				}
				for range 20 * 60 {
					set := w.host.env
					if set == nil {
						set = s.Set()
					}
					user := set.Env["DB_USER"].Text()
					require.Contains(t, w.vault.live("database/creds/app"), "database/creds/app/"+user[len("user-"):], w.host.said())
					w.sleep(time.Second)
				}
				require.NotContains(t, w.host.said(), "ended")
				s.End()
			})
		})
	}
}

// C6: to look after the token is no reason to miss its renewal, where nothing else wakes the session.
func TestCheckKeepsTheRenewal(t *testing.T) {
	now := epoch
	l := &tokenState{renew: now.Add(time.Second), rotate: now.Add(2 * time.Second), check: now}
	h := &secretState{token: l, check: now.Add(time.Minute)} // its checks are the token's, too
	s := &Session{
		k:      &Keeper{cfg: Config{LeaseCheckInterval: time.Minute}, random: func() float64 { return 0 }},
		tokens: tokens{identity: &identity{source: journal.FromIdentity}, current: l}, secrets: map[string]*secretState{"db": h},
	}
	require.Equal(t, l.renew, s.stepToken(now))
}

// With static secrets alone a new token is nothing that the task notices.
func TestTokenMaximumStatic(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.login = fakeRole{ttl: time.Hour, max: 10 * time.Hour}
		withApp(w, "one")
		s := w.open(many{"app": app("")})
		w.sleep(50 * time.Hour)
		require.GreaterOrEqual(t, w.vault.called("login"), 5)
		require.Empty(t, w.host.applied())
		require.Equal(t, 1, w.vault.liveTokens())
		require.Len(t, w.host.events, 1, w.host.said())
		withApp(w, "two")
		w.sleep(20 * time.Second)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
	})
}

// C6: a token that is revoked behind our back is seen, and all that ended with it is fetched again.
func TestTokenRevoked(t *testing.T) {
	for name, all := range map[string]many{"leases": {"db": db("")}, "static": {"app": app("")}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withDB(w)
				withApp(w, "one")
				s := w.open(all)
				w.sleep(10 * time.Minute)
				w.vault.with(func() { clear(w.vault.tokens) })
				w.sleep(time.Minute + 3*time.Second)
				require.Equal(t, 1, w.vault.liveTokens())
				require.Equal(t, 2, w.vault.called("login"))
				if name == "leases" {
					require.Equal(t, 1, w.host.count("restart"))
					require.Len(t, w.vault.live("database/creds/app"), 1)
				} else {
					require.Empty(t, w.host.applied())
				}
				s.End()
				synctest.Wait()
				require.Zero(t, w.vault.liveTokens())
			})
		})
	}
}

// Where the request rate is too low for all of them, looks at a token are made more rarely, and do not queue up.
func TestTokenLooksDoNotQueueUp(t *testing.T) {
	inWorld(t, func(w *world) {
		w.keeper.Close()
		w.cfg.RequestRate = 0.01
		w.start()
		withApp(w, "one")
		s := w.open(many{"app": app("")})
		w.sleep(time.Hour)
		waiting := 0
		for _, p := range []limit.Priority{limit.Renew, limit.Rotate, limit.Poll} {
			waiting += w.keeper.limit.Waiting(s.tenant().At("vault"), p)
		}
		require.LessOrEqual(t, waiting, 3, "a poll, a look at the token, its renewal")
		require.Positive(t, w.vault.called("lookup"))
		s.End()
	})
}

// vaultBlock gives the task a vault block: Nomad has written a token.
func (w *world) vaultBlock() {
	w.vault.with(func() {
		tok, _ := w.vault.newToken(fakeRole{ttl: 1000 * time.Hour, max: 1000 * time.Hour})
		w.write("private/vault_token", tok.Value.Text()+"\n")
	})
}

// Nomad's token is never revoked or renewed; leases are revoked one by one (docs/vault.md, "Whose token").
func TestVaultBlock(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vaultBlock()
		s := w.open(many{"db": db("")})
		require.Equal(t, "Secrets: reading with the token of the job's vault block", w.host.said())
		w.sleep(30 * time.Hour)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
		synctest.Wait()
		require.Empty(t, w.vault.live("database/creds/app"), "E1")
		require.Equal(t, 1, w.vault.liveTokens())
		for _, call := range []string{"login", "revoke-token", "renew-token"} {
			require.Zero(t, w.vault.called(call), call)
		}
	})
}

// When Nomad replaces the token, it is reloaded, and what ended with the old is fetched again (docs/vault.md, "Whose token").
func TestVaultBlockReplaced(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "one")
		w.vaultBlock()
		s := w.open(many{"db": db(""), "app": app("signal")})
		w.sleep(10 * time.Minute)
		w.vault.with(func() { clear(w.vault.tokens) })
		w.sleep(5 * time.Minute)
		require.Empty(t, w.host.applied(), "only Nomad can give a new one")
		require.Contains(t, w.host.said(), "the token of the job's vault block is no longer valid; waiting for a new one")
		w.vaultBlock()
		w.sleep(10 * time.Second)
		require.Equal(t, 1, w.host.count("restart"))
		require.Len(t, w.vault.live("database/creds/app"), 1)
		withApp(w, "two")
		w.sleep(time.Minute)
		require.Equal(t, 1, w.host.count("signal SIGHUP"))
		s.End()
	})
}

// Leases that died with a token whose place another took at once are looked after soon.
func TestVaultBlockReplacedAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vaultBlock()
		s := w.open(many{"db": db("")})
		w.sleep(time.Second)
		w.vault.with(func() { clear(w.vault.tokens) })
		w.vaultBlock()
		w.sleep(reloadEvery + 4*time.Second)
		require.Equal(t, 1, w.host.count("restart"))
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}

// Nomad may replace a token that is still good, too: then nothing else changes.
func TestVaultBlockReplacedAlive(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vaultBlock()
		s := w.open(many{"db": db("")})
		w.vaultBlock()
		w.sleep(2 * time.Hour)
		tok, ok := s.tokens.inUse()
		require.True(t, ok)
		require.Equal(t, "token-3", tok.Value.Text())
		require.Empty(t, w.host.applied())
		require.Len(t, w.host.events, 1, w.host.said())
		s.End()
	})
}

// The first found is used (docs/vault.md, "Whose token").
func TestTokenOrder(t *testing.T) {
	const node = "the node's token"
	for name, tt := range map[string]struct {
		file, jwt bool
		env       string
		want      string
	}{
		"all":           {file: true, jwt: true, env: "t", want: "the token of the job's vault block"},
		"env and jwt":   {jwt: true, env: "t", want: "the token of the job's vault block"},
		"jwt":           {jwt: true, want: "the task's identity (role nomad-workloads)"},
		"none but node": {want: node},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withApp(w, "one")
				w.vault.with(func() {
					tok, _ := w.vault.newToken(fakeRole{ttl: time.Hour, max: time.Hour})
					w.write("node", tok.Value.Text())
					if tt.env != "" {
						tt.env = tok.Value.Text()
					}
				})
				w.cfg.TokenFile, w.cfg.TokenFilePaths = w.taskDir+"/node", []string{"secret/*"}
				w.keeper.Close()
				w.start()
				if tt.file {
					w.vaultBlock()
				}
				if !tt.jwt {
					w.remove("private/vault.jwt")
				}
				start := w.startOf(many{"app": app("")})
				start.Env["VAULT_TOKEN"] = tt.env
				s, err := w.keeper.Open(w.t.Context(), start, w.host)
				require.NoError(t, err)
				require.Equal(t, "Secrets: reading with "+tt.want, w.host.said())
				s.End()
				if tt.want == node {
					_, err = w.keeper.Open(w.t.Context(), w.startOf(many{"db": db("")}), w.host)
					require.ErrorContains(t, err, `secret "db": the operator's token_file_paths do not allow database/creds/app`)
				}
			})
		})
	}
}

func TestNoIdentity(t *testing.T) {
	inWorld(t, func(w *world) {
		w.remove("private/vault.jwt")
		_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db("")}), w.host)
		require.Equal(t, secrets.Invalid, secrets.KindOf(err))
		require.ErrorContains(t, err, "identity {")
		require.Empty(t, w.vault.calls)
	})
}

// S2: an expired JWT is an outage, for Nomad renews it when its servers are back.
func TestExpiredJWT(t *testing.T) {
	inWorld(t, func(w *world) {
		jwt := func(exp time.Time) string {
			claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, exp.Unix()))
			return "h." + claims + ".s"
		}
		withApp(w, "one")
		w.vault.fail["login"] = secrets.Errorf(secrets.Invalid, "token is expired")
		w.write("private/vault.jwt", jwt(time.Now().Add(-time.Hour)))
		time.AfterFunc(time.Minute, func() { w.vault.with(func() { delete(w.vault.fail, "login") }) })
		s, err := w.keeper.Open(w.t.Context(), w.startOf(many{"app": app("")}), w.host)
		require.NoError(t, err)
		require.Contains(t, w.host.said(), "for a poststop task, once the allocation is stopped: give that a longer ttl", "what is waited for may not come")
		s.End()

		w.vault.with(func() { w.vault.fail["login"] = secrets.Errorf(secrets.Invalid, "role not found") })
		w.write("private/vault.jwt", jwt(time.Now().Add(time.Hour)))
		_, err = w.keeper.Open(w.t.Context(), w.startOf(many{"app": app("")}), w.host)
		require.Equal(t, secrets.Invalid, secrets.KindOf(err))
	})
}

func TestMatchPath(t *testing.T) {
	for _, tt := range []struct {
		glob, path string
		want       bool
	}{
		{"secret/app", "secret/app", true},
		{"secret/app", "secret/app-1", false},
		{"secret/app*", "secret/app-1", true},
		{"secret/*", "secret/a/b", true},
		{"secret/*", "secret", false},
		{"secret/+/db", "secret/a/db", true},
		{"secret/+/db", "secret/a/b/db", false},
		{"secret/+/db", "secret//db", false},
		{"secret/*", "secret/../sys/x", false},
		{"*", "anything/at/all", true},
		{"secret/ap*", "secret/app/deeper", true},
		{"", "a", false},
	} {
		require.Equal(t, tt.want, matchPath(tt.glob, tt.path), "%s %s", tt.glob, tt.path)
	}
}

// A job chooses the path, the operator the globs: no spelling of a path is one of what is not allowed.
func TestNodeMayRead(t *testing.T) {
	for _, tt := range []struct {
		glob, path      string
		allowed, pinned bool
	}{
		{"secret/app", "secret/app", true, true},
		{"secret/*", "secret/data/app", true, true},
		{"secret/app/*", "secret/data/app/x", false, false},
		{"secret/data/app/*", "secret/data/app/x", true, true},
		{"secret/+/x", "secret/data/x", false, false}, // which is secret/x
		{"secret/+/x", "secret/a/x", true, true},
		{"secret/d*", "secret/data/x", false, false},
		{"secret/data*", "secret/data/x", false, false},
		{"secret/+/x", "secret/a%2fb/x", false, false}, // a proxy may make it secret/a/b/x
		{"secret/+", "secret/a%252fb", false, false},
		{"secret/*", "secret/a%2fb", true, true},
		{"secret/app*", "secret/app%2f..%2fother", false, false},
		{"secret/*", "team/secret/x", false, false},
		{"+/x", "team/x", true, false},
		{"*", "team/secret/x", true, false},
		{"sec*", "secret/x", true, false},
	} {
		allowed, pinned := nodeMayRead([]string{tt.glob}, tt.path)
		require.Equal(t, []bool{tt.allowed, tt.pinned}, []bool{allowed, pinned}, "%s %s", tt.glob, tt.path)
	}
	allowed, pinned := nodeMayRead([]string{"*", "secret/*"}, "secret/x")
	require.True(t, allowed && pinned)
}

// An identity that is not where it is looked for is named with the place where it is, and what to change.
func TestIdentityElsewhere(t *testing.T) {
	const set = `file = true and filepath = "private/vault.jwt"`
	const give = ": give that identity block " + set
	const ask = ": if that identity is for Vault, give its block " + set + "; if not, the task has no identity to read secrets with: add to it"
	const none = "the task has no identity to read secrets with: add to it"
	for name, tc := range map[string]struct{ file, audience, want string }{
		"without a filepath":  {"secrets/nomad_vault.jwt", "vault.io", `the task's identity is looked for at private/vault.jwt, and there is none; there is "secrets/nomad_vault.jwt" (aud vault.io)` + give},
		"in secrets":          {"secrets/vault.jwt", "our-vault", `there is "secrets/vault.jwt" (aud our-vault)` + give},
		"in local":            {"local/vault.jwt", "ours", `there is "local/vault.jwt" (aud ours)` + give},
		"at the top":          {"vault.jwt", "ours", `there is "vault.jwt" (aud ours)` + give},
		"under any name":      {"private/token", "vault.io", `there is "private/token" (aud vault.io)` + give},
		"for something else":  {"secrets/nomad_consul_default.jwt", "consul.io", `there is "secrets/nomad_consul_default.jwt" (aud consul.io)` + ask},
		"for Nomad":           {"private/nomad.jwt", "nomadproject.io", none},
		"in its environment":  {"NOMAD_TOKEN_app", "vault.io", "there is the variable NOMAD_TOKEN_app (aud vault.io)" + give},
		"a variable's name":   {"NOMAD_TOKEN_vault", "ours", "there is the variable NOMAD_TOKEN_vault (aud ours)" + give},
		"a variable, another": {"NOMAD_TOKEN_app", "ours", "there is the variable NOMAD_TOKEN_app (aud ours)" + ask},
		"no JWT":              {"private/other.jwt", "", none},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withApp(w, "one")
				w.remove("private/vault.jwt")
				require.NoError(t, os.MkdirAll(filepath.Join(w.taskDir, "secrets"), 0o700))
				jwt := "x"
				if tc.audience != "" {
					jwt = "h." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"aud":%q}`, tc.audience)) + ".s"
				}
				start := w.startOf(many{"app": app("")})
				if strings.HasPrefix(tc.file, "NOMAD_") {
					start.Env[tc.file] = jwt
				} else {
					w.write(tc.file, jwt)
				}
				_, err := w.keeper.Open(w.t.Context(), start, w.host)
				require.ErrorContains(t, err, tc.want)
				require.Equal(t, strings.HasPrefix(tc.want, none), strings.HasPrefix(err.Error(), none), err.Error())
			})
		})
	}
}

// A login that is refused says that the role is not the job's own choice.
func TestDefaultRoleIsSaid(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		w.vault.with(func() { w.vault.fail["login"] = secrets.Errorf(secrets.Invalid, "no such role") })
		_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"app": app("")}), w.host)
		require.ErrorContains(t, err, "log in with the task's identity (role nomad-workloads, the default, as the job names none): no such role")
	})
}
