package lifecycle

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// C2: batch tokens have no accessor, are neither renewed nor revoked, and what is made under them ends with
// them. The task always has a credential that lives, over restarts of the plugin, too; each old lease is revoked
// by itself, and so is the last.
func TestBatchTokens(t *testing.T) {
	for _, ttl := range []time.Duration{45 * time.Second, time.Minute, time.Hour} {
		t.Run(fmt.Sprint(ttl), func(t *testing.T) {
			inWorld(t, func(w *world) {
				withDB(w)
				w.vault.login = fakeRole{ttl: ttl, max: ttl, batch: true}
				s := w.open(many{"db": db("")})
				has := func() string { // the user that the task's process has
					set := w.host.env
					if set == nil {
						set = s.Set()
					}
					return set.Env["DB_USER"].Text()
				}
				alive := func(user string) (found bool) {
					w.vault.with(func() {
						for id := range w.vault.leases {
							found = found || "user-"+string(id)[len("database/creds/app/"):] == user && w.vault.alive(id) != nil
						}
					})
					return found
				}
				for i := range 10 * int(ttl/time.Second) {
					w.sleep(time.Second)
					require.True(t, alive(has()), "the task's credential is refused after %d s", i)
					if i%100 == 99 {
						w.crash()
						s = w.recover()
						require.NotContains(t, w.host.said(), "refused")
					}
				}
				logins := w.vault.called("login")
				require.Less(t, logins, 20)
				require.InDelta(t, logins-1, w.host.count("restart"), 1, "one restart for one token")
				require.Zero(t, w.vault.called("renew-token"))
				require.Zero(t, w.vault.called("renew database"), "it cannot outlive the token")
				require.Zero(t, w.vault.called("revoke-token"))
				require.GreaterOrEqual(t, w.vault.called("revoke database"), w.host.count("restart")-1)
				require.LessOrEqual(t, len(s.journal.Tokens()), 2)
				s.End()
				w.sleep(5 * time.Second)
				require.Empty(t, w.vault.live("database/creds/app"))
				require.NotContains(t, w.host.said(), "revocation")
			})
		})
	}
}

// C2: a lease that is read with the old token while a new login is under way is replaced before the old token ends,
// and not revoked with it before that.
func TestReadWhileLoggingInAgain(t *testing.T) {
	for name, first := range map[string]string{
		"the answer comes after the login's":  "login",
		"the answer comes before the login's": "read",
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.cfg.LeaseCheckInterval = time.Hour
				w.keeper.Close()
				w.start()
				w.vault.login = fakeRole{ttl: time.Hour, max: 10 * time.Hour}
				w.vault.roles["database/creds/app"] = fakeRole{ttl: 1000 * time.Hour, max: 1000 * time.Hour}
				s := w.open(many{"db": db("")})
				w.vault.with(func() {
					w.vault.slow = map[string]time.Duration{"login nomad-workloads": 15 * time.Second, "read database/creds/app": 15 * time.Second}
					w.vault.slow[map[string]string{"login": "login nomad-workloads", "read": "read database/creds/app"}[first]] = 10 * time.Second
				})
				// Its lease is revoked behind our back as the new login begins.
				loggingIn := func() (is bool) {
					inLoop(s, func() { is = s.tokens.busy && !s.tokens.current.rotate.IsZero() })
					return is
				}
				for !loggingIn() {
					w.sleep(time.Second)
				}
				w.vault.with(func() { w.vault.fail["check"], w.vault.fail["renew database"] = errGone, errGone })
				inLoop(s, func() { s.secretLost(time.Now(), "db", s.secrets["db"], because(CauseRevoked)) })
				w.vault.with(func() { clear(w.vault.fail) })
				w.sleep(time.Minute)
				for range 100 {
					require.Equal(t, s.Set().Env["DB_USER"].Text(), w.host.env.Env["DB_USER"].Text())
					user := w.host.env.Env["DB_USER"].Text()
					require.Contains(t, w.vault.live("database/creds/app"), "database/creds/app/"+user[len("user-"):])
					w.sleep(30 * time.Second)
				}
				require.Equal(t, 1, w.vault.liveTokens())
				s.End()
				synctest.Wait()
				require.Zero(t, w.vault.liveTokens())
			})
		})
	}
}

// A token that Nomad replaces is the vault block's: what is journalled of the old one goes, and its leases are revoked
// with the new.
func TestReloadedTokenTakesTheLeases(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.remove("private/vault.jwt")
		var first, second secrets.Token
		w.vault.with(func() {
			first, _ = w.vault.newToken(fakeRole{ttl: 1000 * time.Hour, max: 1000 * time.Hour})
			second, _ = w.vault.newToken(fakeRole{ttl: 1000 * time.Hour, max: 1000 * time.Hour})
		})
		w.write(vaultTokenFile, first.Value.Text())
		s := w.open(many{"db": db("")})
		w.write(vaultTokenFile, second.Value.Text())
		w.sleep(10 * time.Second)
		require.Len(t, s.journal.Tokens(), 1)
		inLoop(s, func() { require.Equal(t, s.tokens.current.tok.ID, s.journal.Entry().Leases[0].TokenID) })
		w.crash()
		s = w.recover()
		s.End()
		w.sleep(5 * time.Second)
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}
