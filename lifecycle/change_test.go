package lifecycle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// C5: what somebody writes is seen within poll_interval; the mode's action follows within the splay.
func TestStaticChange(t *testing.T) {
	for mode, want := range map[string][]string{
		"":       {"publish", "restart"},
		"signal": {"publish", "signal SIGHUP"},
		"script": {"publish", "script /reload"},
		"noop":   {"publish"},
	} {
		t.Run("mode "+mode, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withApp(w, "one")
				s := w.open(many{"app": app(mode)})
				w.sleep(time.Minute)
				withApp(w, "two")
				w.sleep(10*time.Second + 5*time.Second + time.Second)
				require.Equal(t, want, w.host.acted())
				require.Equal(t, "two", w.host.files.Files[0].Data.Text())
				require.Contains(t, w.host.said(), `secret "app" changed; `)
				w.sleep(time.Hour)
				require.Equal(t, want, w.host.acted(), "once")
				s.End()
			})
		})
	}
}

// C7: the same content is nothing, be it written anew or changed and changed back before the action.
func TestSameContent(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		c := app("")
		c.Splay, c.Stagger = "0s", "60s"
		start := w.startOf(many{"app": c})
		start.Task.AllocIndex = 1
		s, err := w.keeper.Open(w.t.Context(), start, w.host)
		require.NoError(t, err)
		s.Watch()
		w.sleep(time.Minute)
		withApp(w, "two")
		w.sleep(20 * time.Second)
		withApp(w, "one")
		w.sleep(10 * time.Minute)
		require.Empty(t, w.host.acted())
		withApp(w, "three")
		w.sleep(2 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
	})
}

// C7: several changes within a second are one action, the strongest.
func TestCoalesce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cfg.PollInterval = time.Second / 2
		w.keeper.Close()
		w.start()
		w.vault.static["secret/a"] = map[string]any{"x": "1"}
		w.vault.static["secret/b"] = map[string]any{"x": "1"}
		w.vault.static["secret/c"] = map[string]any{"x": "1"}
		all := many{}
		for name, mode := range map[string]string{"a": "signal", "b": "restart", "c": "noop"} {
			all[name] = changing(secrets.SecretConfig{Path: "secret/" + name, AllFiles: true, ChangeMode: mode, Splay: "0s"})
		}
		s := w.open(all)
		w.sleep(10 * time.Second)
		w.vault.with(func() {
			for _, name := range []string{"a", "b", "c"} {
				w.vault.static["secret/"+name] = map[string]any{"x": "2"}
			}
		})
		w.sleep(10 * time.Second)
		require.Equal(t, 1, w.host.count("restart"))
		require.Zero(t, w.host.count("signal SIGHUP"))
		for _, f := range w.host.files.Files {
			require.Equal(t, "2", f.Data.Text(), f.Path)
		}
		require.Contains(t, w.host.said(), `secret "a" changed, secret "b" changed`)
		s.End()
	})
}

// DESIGN 3: stagger makes a group's allocations act one after another.
func TestStagger(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		c := app("")
		c.Splay = "0s"
		start := w.startOf(many{"app": c})
		start.Task.AllocIndex = 3
		s, err := w.keeper.Open(w.t.Context(), start, w.host)
		require.NoError(t, err)
		s.Watch()
		w.sleep(time.Minute)
		withApp(w, "two")
		w.sleep(29 * time.Second)
		require.Empty(t, w.host.acted())
		w.sleep(12 * time.Second)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
	})
}

// Splay and stagger are for what the task notices: files alone are published at once.
func TestNoopAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		start := w.startOf(many{"app": app("noop")})
		start.Task.AllocIndex = 20
		s, err := w.keeper.Open(w.t.Context(), start, w.host)
		require.NoError(t, err)
		s.Watch()
		w.sleep(time.Minute)
		withApp(w, "two")
		w.sleep(10*time.Second + coalesce)
		require.Equal(t, []string{"publish"}, w.host.acted())
		s.End()
	})
}

// A script that fails is told, and the task runs on.
func TestScriptFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		w.host.script = func() (int, error) { return 3, nil }
		s := w.open(many{"db": db("script")})
		w.sleep(42 * time.Minute)
		require.Contains(t, w.host.said(), "change_script failed: /reload: exit code 3")
		require.Len(t, w.vault.live("database/creds/app"), 2, "the task may still use the old")
		w.sleep(30 * time.Minute)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}

// C2 for a signal: files, then the signal, then after a moment the old lease.
func TestSignalOverlap(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
		s := w.open(many{"db": db("signal")})
		for w.host.count("signal SIGHUP") == 0 {
			w.sleep(time.Second)
		}
		require.Len(t, w.vault.live("database/creds/app"), 2)
		w.sleep(quietGrace + time.Second)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}

// C6: a static secret that is deleted, or may not be read any more, stays with the task. It is told
// once, and again when it is lost again.
func TestStaticLost(t *testing.T) {
	lose := map[string]func(v *fakeVault){
		"deleted": func(v *fakeVault) { delete(v.static, "secret/app-1") },
		"refused": func(v *fakeVault) { v.fail["read secret/app-1"] = errDenied },
	}
	for name, lost := range lose {
		t.Run(name, func(t *testing.T) { testStaticLost(t, lost) })
	}
}

func testStaticLost(t *testing.T, lost func(v *fakeVault)) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		s := w.open(many{"app": app("")})
		for n := 2; n < 5; n++ {
			w.vault.with(func() { lost(w.vault) })
			w.sleep(time.Hour)
			require.Len(t, w.host.events, n, w.host.said())
			w.vault.with(func() { clear(w.vault.fail) })
			withApp(w, "one")
			w.sleep(w.cfg.PollInterval*pollStretch + 2*time.Second)
		}
		require.Empty(t, w.host.acted())
		withApp(w, "two")
		w.sleep(time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
	})
}
