package lifecycle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// C3: a task whose secrets are all static is told of an outage, too, when the polls find it out; and of its end.
func TestOutageWithStaticSecretsAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "x")
		w.vault.with(func() { w.vault.static["secret/app-2"] = map[string]any{"password": "y"} })
		other := app("")
		other.Path = "secret/app-2"
		s := w.open(many{"app": app(""), "other": other})
		w.sleep(time.Minute)
		w.host.events = nil
		w.vault.set(errAway)
		w.sleep(3*w.cfg.PollInterval + time.Second) // the second poll does not count just after an answer to something else
		const away, back = "Secrets: server unreachable; the task keeps its secrets", "Secrets: server reachable again"
		require.Equal(w.t, away, w.host.said())
		w.sleep(20 * time.Minute)
		require.Equal(w.t, away, w.host.said(), "once an outage")
		w.vault.set(nil)
		w.sleep(time.Minute)
		require.Equal(w.t, away+"\n"+back, w.host.said())
		require.Empty(w.t, w.host.applied())
		s.End()
	})
}

// One poll that fails is no outage.
func TestStaticPollFailsOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "x")
		s := w.open(many{"app": app("")})
		w.sleep(time.Minute)
		w.vault.set(errAway)
		w.sleep(w.cfg.PollInterval)
		w.vault.set(nil)
		w.sleep(time.Minute)
		require.NotContains(w.t, w.host.said(), "reachable")
		s.End()
	})
}

// What runs out during an outage is told at that moment, and afterwards as what it is: nobody has revoked it.
func TestLeaseRunsOutDuringAnOutage(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.login.ttl = 100 * time.Hour
		s := w.open(many{"db": db("")})
		w.sleep(10 * time.Minute)
		w.vault.set(errAway)
		w.sleep(50*time.Minute - time.Second)
		require.NotContains(w.t, w.host.said(), "ended")
		w.sleep(time.Second)
		const ended = `Secrets: secret "db": the credential in hand ended at 01:00:00 UTC; it is replaced as soon as the server gives a new one`
		require.Contains(w.t, w.host.said(), ended)
		w.sleep(time.Hour)
		w.vault.set(nil)
		w.sleep(2 * time.Minute)
		require.Equal(w.t, []string{
			"Secrets: reading with the task's identity (role nomad-workloads)",
			"Secrets: server unreachable; credentials stay valid until 01:00:00 UTC",
			ended,
			"Secrets: server reachable again",
			`Secrets: secret "db" rotated (it ended at 01:00:00 UTC, while the server was away); task restarted in place`,
		}, w.host.events)
		s.End()
	})
}

// Several that end about the same time are told together.
func TestManyEndTogether(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		all := many{}
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			all[name] = db("")
			c := all[name]
			c.Env = nil
			all[name] = c
		}
		w.vault.login.ttl = 100 * time.Hour
		s := w.open(all)
		w.vault.set(errAway)
		w.sleep(2 * time.Hour)
		require.Contains(w.t, w.host.said(), `Secrets: secret "a", "b", "c", "d", "e": the credential in hand ended at 01:00:00 UTC; `)
		require.Len(w.t, w.host.events, 3, w.host.said()) // reading, away, ended
		s.End()
	})
}
