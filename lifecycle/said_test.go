package lifecycle

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// docs/changes.md, "When a secret changes": when the old lease is revoked is a matter of what was done to the task. Nothing is revoked before
// that is done, however long it takes.
func TestOldLeaseAfterAChange(t *testing.T) {
	const ttl = time.Hour
	failed := errors.New("it has failed")
	for name, tt := range map[string]struct {
		mode   string
		act    string
		fails  bool
		leaves time.Duration // how long the old one lives on after that; ttl: to its end
	}{
		"a restart":           {"restart", "restart", false, 0},
		"a signal":            {"signal", "signal SIGHUP", false, oldLeaseGrace},
		"a script":            {"script", "script /reload", false, oldLeaseGrace},
		"a script that fails": {"script", "script /reload", true, ttl},
		"noop":                {"noop", "publish", false, ttl},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.vault.roles["database/creds/app"] = fakeRole{ttl: ttl, max: ttl, fixed: true}
				if tt.fails {
					w.host.script = func() (int, error) { return 0, failed }
				}
				s := w.open(many{"db": db(tt.mode)})
				first := s.Set().Env["DB_USER"].Text()
				lives := func() bool {
					for _, id := range w.vault.live("database/creds/app") {
						if id == "database/creds/app/"+first[len("user-"):] {
							return true
						}
					}
					return false
				}
				var ended atomic.Pointer[time.Time]
				const takes = 3 * time.Second // less than a script may take
				w.host.whileDoing(func(what string) {
					if what != tt.act || ended.Load() != nil { // the first alone
						return
					}
					for range 50 {
						time.Sleep(takes / 50)
						require.True(w.t, lives(), "revoked while the task is at it")
					}
					now := time.Now()
					ended.Store(&now)
				})
				for ended.Load() == nil {
					w.sleep(time.Second)
				}
				if tt.leaves == 0 {
					w.sleep(time.Second)
					require.False(w.t, lives())
				} else if tt.leaves == ttl {
					w.sleep(oldLeaseGrace + time.Minute)
					require.True(w.t, lives(), "revoked")
					w.sleep(ttl)
					require.Zero(w.t, w.vault.called("revoke database"), "it ended by itself")
				} else {
					w.sleep(time.Until(ended.Load().Add(tt.leaves - time.Second)))
					require.True(w.t, lives(), "revoked too soon")
					w.sleep(2 * time.Second)
					require.False(w.t, lives())
				}
				w.host.whileDoing(nil)
				s.End()
			})
		})
	}
}

// docs/failures.md, "When things fail": after a reboot of the host there is no state_dir of before. What was pending is forgotten, and what
// was lent lives to its TTL, no longer.
func TestRebootLosesRevocations(t *testing.T) {
	after := newStateDir(t)
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.login = fakeRole{ttl: 1000 * time.Hour, max: 1000 * time.Hour}
		s := w.open(many{"db": db("")})
		w.vault.set(errAway)
		s.End()
		w.sleep(time.Minute)
		require.Len(w.t, w.keeper.Status().Revocations, 1)
		w.keeper.Close()

		w.cfg.StateDir = after
		w.start()
		w.vault.set(nil)
		w.sleep(50 * time.Minute)
		require.Empty(w.t, w.keeper.Status().Revocations)
		require.Len(w.t, w.vault.live("database/creds/app"), 1)
		w.sleep(10 * time.Minute)
		require.Empty(w.t, w.vault.live("database/creds/app"))
	})
}

// A lease that a signal leaves alone for a while is revoked then also if the plugin restarts meanwhile.
func TestOldLeaseOverACrash(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		w.open(many{"db": db("signal")})
		for w.host.count("signal SIGHUP") == 0 {
			w.sleep(time.Second)
		}
		w.crash()
		s := w.recover()
		w.sleep(oldLeaseGrace + time.Second)
		require.Len(w.t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}
