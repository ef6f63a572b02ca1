package lifecycle

import (
	"encoding/json"
	"fmt"
	"strings"
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
				require.Equal(t, want, w.host.applied())
				require.Equal(t, "two", w.host.files.Files[0].Data.Text())
				require.Contains(t, w.host.said(), `secret "app" changed; `)
				w.sleep(time.Hour)
				require.Equal(t, want, w.host.applied(), "once")
				s.End()
			})
		})
	}
}

// C7: the same content is nothing, be it written again or changed and changed back before the action.
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
		require.Empty(t, w.host.applied())
		withApp(w, "three")
		w.sleep(2 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
	})
}

// C7: what the task does not get is no change of it, whatever its mode: a field that nothing uses, a value that is
// rendered to the same text, a static role's settings.
func TestUnusedFieldChanges(t *testing.T) {
	role := func(password, unused, rotation string) map[string]any {
		return map[string]any{"username": "u", "password": password, "unused": unused, "rotation_period": json.Number(rotation)}
	}
	named := secrets.SecretConfig{Env: []map[string]string{{"PW": "password"}}, Files: map[string]*secrets.FileConfig{
		"app.conf": {Template: `user={{ .username | trim }}`},
	}}
	all := secrets.SecretConfig{AllFiles: true}
	for name, test := range map[string]struct {
		job    secrets.SecretConfig
		mode   string
		before map[string]any
		after  map[string]any
		acts   bool
	}{
		"a field that nothing uses":     {named, "", role("p", "a", "60"), role("p", "b", "60"), false},
		"the same, by signal":           {named, "signal", role("p", "a", "60"), role("p", "b", "60"), false},
		"the same, without an action":   {named, "noop", role("p", "a", "60"), role("p", "b", "60"), false},
		"the same text":                 {named, "", role("p", "a", "60"), map[string]any{"username": " u", "password": "p"}, false},
		"a static role's settings":      {named, "", role("p", "a", "60"), role("p", "a", "90"), false},
		"its settings as files":         {all, "", role("p", "a", "60"), role("p", "a", "90"), false},
		"a field that is used":          {named, "", role("p", "a", "60"), role("q", "a", "60"), true},
		"every field is used":           {all, "", role("p", "a", "60"), role("p", "b", "60"), true},
		"a field used by name is gone":  {named, "", role("p", "a", "60"), map[string]any{"username": "u"}, false},
		"a setting with its password":   {all, "", role("p", "a", "60"), role("q", "a", "90"), true},
		"every field, and one is added": {all, "", map[string]any{"username": "u"}, role("p", "a", "60"), true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.vault.static["secret/app-1"] = test.before
				c := test.job
				c.Path, c.ChangeMode = "secret/app-1", test.mode
				s := w.open(many{"app": changing(c)})
				w.sleep(time.Minute)
				w.vault.with(func() { w.vault.static["secret/app-1"] = test.after })
				w.sleep(time.Minute)
				require.Equal(t, test.acts, len(w.host.applied()) > 0, w.host.applied())
				reads := w.vault.called("read")
				w.sleep(time.Minute)
				require.LessOrEqual(t, w.vault.called("read"), reads+8, "it is polled, and no more")
				s.End()
			})
		})
	}
}

// S7: a change that the task's program could not be started with is told of, and the task keeps what it has.
func TestChangeThatTheKernelRefuses(t *testing.T) {
	inWorld(t, func(w *world) {
		prefix := "APP_"
		w.host.envRoom = 2_950_000 // less than 30 variables of 100,000 bytes
		many := map[string]any{}
		for i := range 30 {
			many[fmt.Sprintf("f%d", i)] = strings.Repeat("x", 100_000)
		}
		w.vault.static["secret/app-1"] = map[string]any{"f1": "x"}
		s := w.open(map[string]secrets.SecretConfig{"app": {Path: "secret/app-1", EnvPrefix: &prefix}})
		w.sleep(time.Minute)
		w.vault.with(func() { w.vault.static["secret/app-1"] = many })
		w.sleep(10 * time.Minute)
		require.Empty(t, w.host.applied())
		require.Equal(t, "x", s.Set().Env["APP_F1"].Text())
		require.Contains(t, w.host.said(), `Secrets: not rotated: secret "app": the task's variables are larger than 2881 KiB together`)
		w.vault.with(func() { delete(many, "f2") })
		w.sleep(10 * time.Minute)
		require.Equal(t, 1, w.host.count("restart"), "it fits now")
		s.End()

		w.vault.with(func() { many["f2"] = many["f1"] })
		_, err := w.keeper.Open(w.t.Context(), w.startOf(map[string]secrets.SecretConfig{"app": {Path: "secret/app-1", EnvPrefix: &prefix}}), w.host)
		require.Equal(t, secrets.Invalid, secrets.KindOf(err))
		require.ErrorContains(t, err, "deliver some as files")
	})
}

// C7: what a later change is rendered with is what the server has, be it that the task did not notice it.
func TestUnnoticedChangeIsTaken(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.static["secret/a"] = map[string]any{"on": "", "text": "one"}
		w.vault.static["secret/b"] = map[string]any{"on": ""}
		start := w.startOf(many{"a": {Path: "secret/a", Splay: "0s"}, "b": {Path: "secret/b", Splay: "0s"}})
		start.Config.Files = map[string]*secrets.FileConfig{"f": {Template: "{{ if .b.on }}{{ .a.text }}{{ end }}"}}
		var err error
		start.Spec, err = secrets.Compile(start.Config)
		require.NoError(t, err)
		s, err := w.keeper.Open(w.t.Context(), start, w.host)
		require.NoError(t, err)
		s.Watch()
		w.sleep(time.Minute)
		w.vault.with(func() { w.vault.static["secret/a"] = map[string]any{"on": "", "text": "two"} })
		w.sleep(time.Minute)
		require.Empty(t, w.host.applied())
		values, err := s.journal.Values()
		require.NoError(t, err)
		require.Equal(t, "two", values["a"].Map()["text"], "a recovery knows it, too")
		w.vault.with(func() { w.vault.static["secret/b"] = map[string]any{"on": "yes"} })
		w.sleep(time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		require.Equal(t, "two", w.host.files.Files[0].Data.Text())
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

// Stagger makes a group's allocations act one after another (docs/changes.md, "When a secret changes").
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
		require.Empty(t, w.host.applied())
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
		require.Equal(t, []string{"publish"}, w.host.applied())
		s.End()
	})
}

// A script that fails is reported, and the task runs on.
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
		w.sleep(oldLeaseGrace + time.Second)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		s.End()
	})
}

// C6: a static secret that is deleted, or may not be read any more, stays with the task. It is reported
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
			w.sleep(4*w.cfg.PollInterval + 2*time.Second)
		}
		require.Empty(t, w.host.applied())
		withApp(w, "two")
		w.sleep(time.Minute)
		require.Equal(t, 1, w.host.count("restart"))
		s.End()
	})
}
