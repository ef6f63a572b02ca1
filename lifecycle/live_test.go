package lifecycle

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// liveView is what a file server would have of a secret.
type liveView struct {
	mu     sync.Mutex
	fields secrets.Fields
	looked time.Time
	failed bool // the last look
}

func (w *world) liveOf(secret string) *liveView {
	v := &liveView{}
	w.host.live = func(name string, l Look) {
		if name != secret {
			return
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.failed = l.Err != nil
		if l.Fields != nil {
			v.fields = *l.Fields
		}
		if l.Err == nil {
			v.looked = l.At
		}
	}
	return v
}

func (v *liveView) value(field string) any {
	v.mu.Lock()
	defer v.mu.Unlock()
	value, _ := v.fields.Lookup(field)
	return value
}

func (v *liveView) at() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.looked
}

func (v *liveView) away() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.failed
}

// look looks at the world in the middle of each act from now on.
func (h *fakeHost) look(during func(what string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.during = during
}

// read has somebody read a secret for a while, 20 times a second.
func (w *world) read(s *Session, name string, d time.Duration) {
	for range d / (50 * time.Millisecond) {
		s.Reading(name)
		w.sleep(50 * time.Millisecond)
	}
}

func live(c secrets.SecretConfig) secrets.SecretConfig {
	c.LiveDir, c.LiveStale = "/run/app", "1m"
	return c
}

// What is read in a live directory alone is new within a second and a half, and nothing is done to the task, nor said. An
// outage is told of at once, and what is taken away is no file.
func TestLiveStatic(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		v := w.liveOf("app")
		s := w.open(many{"app": live(secrets.SecretConfig{Path: "secret/app-1"})})
		fields, looked := s.Live("app")
		first, _ := fields.Lookup("password")
		require.Equal(t, "one", first)
		require.WithinDuration(t, time.Now(), looked, time.Second)

		w.sleep(time.Hour)
		require.WithinDuration(t, time.Now(), v.at(), 20*time.Second, "nobody reads, and it is looked at as often as stale needs")
		events := len(w.host.events)
		for _, value := range []string{"two", "three"} {
			withApp(w, value)
			w.read(s, "app", 1500*time.Millisecond)
			require.Equal(t, value, v.value("password"))
		}
		w.sleep(time.Minute)
		require.Empty(t, w.host.applied())
		require.Len(t, w.host.events, events, w.host.said())

		w.vault.set(errAway)
		w.read(s, "app", 2*time.Second)
		require.True(t, v.away())
		away := v.at()
		w.read(s, "app", time.Minute)
		require.Equal(t, away, v.at(), "what nobody has looked at is not fresh")
		w.vault.set(nil)
		w.read(s, "app", 1500*time.Millisecond)
		require.False(t, v.away())
		require.WithinDuration(t, time.Now(), v.at(), 1500*time.Millisecond)

		w.vault.with(func() { delete(w.vault.static, "secret/app-1") })
		w.read(s, "app", 1500*time.Millisecond)
		require.Nil(t, v.value("password"))
		withApp(w, "three")
		w.read(s, "app", 1500*time.Millisecond)
		require.Equal(t, "three", v.value("password"), "the same as before it was taken away")
		s.End()
	})
}

// With variables or files beside it the directory has what is new at once, and the task is restarted when its time has come.
func TestLiveBesideFiles(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		v := w.liveOf("app")
		slow := live(app("restart"))
		slow.Splay, slow.Stagger = "0s", "0s"
		s := w.open(many{"app": slow})
		w.read(s, "app", 5*time.Second)
		withApp(w, "two")
		w.host.look(func(string) { require.Equal(t, "two", v.value("password")) })
		w.read(s, "app", 10*time.Second)
		require.Equal(t, []string{"publish", "restart"}, w.host.applied())
		s.End()
	})
}

// A field that nothing but the live directory has is a change for a secret with a change mode of its own, and none else: the
// directory has what is new either way.
func TestLiveDirCountsAsDelivered(t *testing.T) {
	for mode, applied := range map[string][]string{"": nil, "signal": {"publish", "signal SIGHUP"}} {
		inWorld(t, func(w *world) {
			put := func(password string) {
				w.vault.with(func() {
					w.vault.static["secret/app-1"] = map[string]any{"username": "u", "password": password}
				})
			}
			put("one")
			v := w.liveOf("app")
			sec := live(changing(secrets.SecretConfig{Path: "secret/app-1", Env: []map[string]string{{"APP_USER": "username"}}, ChangeMode: mode}))
			sec.Splay, sec.Stagger = "0s", "0s"
			s := w.open(many{"app": sec})
			w.read(s, "app", 5*time.Second)
			put("two")
			w.read(s, "app", 10*time.Second)
			require.Equal(w.t, "two", v.value("password"))
			require.Equal(w.t, applied, w.host.applied(), "change_mode %q", mode)
			s.End()
		})
	}
}

// A credential of a lease is the task's current one: reading makes none, and a rotation gives the directory the next before
// the task is told. While the server is away nobody says that it is fresh.
func TestLiveLeased(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		v := w.liveOf("db")
		s := w.open(many{"db": live(db("restart"))})
		fields, _ := s.Live("db")
		first, _ := fields.Lookup("username")
		w.host.look(func(what string) {
			require.NotNil(t, v.value("username"), what)
			require.NotEqual(t, first, v.value("username"), what)
		})
		require.False(t, s.Reading("db"), "no look comes of it")
		w.read(s, "db", 10*time.Second)
		require.Equal(t, 1, w.vault.called("read database"))
		require.WithinDuration(t, time.Now(), v.at(), 20*time.Second)
		w.sleep(30 * time.Hour)
		require.Equal(t, 1, w.host.count("restart"))
		require.WithinDuration(t, time.Now(), v.at(), 20*time.Second)
		require.Equal(t, 2, w.vault.called("read database"))

		w.sleep(time.Minute)
		w.vault.set(errAway)
		w.sleep(3 * time.Minute)
		require.Greater(t, time.Since(v.at()), time.Minute)
		w.vault.set(nil)
		w.sleep(2 * time.Minute)
		require.WithinDuration(t, time.Now(), v.at(), 21*time.Second)
		s.End()
	})
}

// After a restart of the plugin it is known what the directory has, and since when.
func TestLiveIsRecovered(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "one")
		v := w.liveOf("app")
		s := w.open(many{"app": live(secrets.SecretConfig{Path: "secret/app-1"})})
		w.read(s, "app", 5*time.Second)
		withApp(w, "two")
		w.read(s, "app", time.Hour)
		w.vault.set(errAway)
		w.crash()
		s = w.recover()
		fields, looked := s.Live("app")
		value, _ := fields.Lookup("password")
		require.Equal(t, "two", value)
		require.WithinDuration(t, v.at(), looked, lookNoteEvery+2*time.Second)
		w.read(s, "app", 5*time.Second)
		require.True(t, v.away())
		w.vault.set(nil)
		w.read(s, "app", 1500*time.Millisecond)
		require.False(t, v.away())
		s.End()
	})
}
