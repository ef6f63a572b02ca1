package lifecycle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// staggered opens a session that has what its policies grant, and whose changes wait for minutes.
func (w *world) staggered() *Session {
	w.t.Helper()
	st := w.startAll()
	st.Config.Stagger = "5m"
	var err error
	st.Spec, err = secrets.Compile(st.Config)
	require.NoError(w.t, err)
	st.Task.AllocIndex = 1
	s, err := w.keeper.Open(w.t.Context(), st, w.host)
	require.NoError(w.t, err)
	s.Watch()
	return s
}

// C6: a mass revocation while a rotation fetches: a credential that the rotation was to give the task has ended, too. It is fetched
// anew, and the task gets no other.
func TestLostWhileItsBatchFetches(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cfg.LeaseCheckInterval = 10 * time.Second
		g := w.fromPolicies("rabbitmq/creds/mq")
		s := w.staggered()
		g.grant("rabbitmq/creds/mq", "database/creds/app")
		w.sleep(20 * time.Second)
		inLoop(s, func() { require.NotNil(t, s.changes["app"].fresh, "it waits for its stagger") })

		w.vault.with(func() {
			w.vault.slow = map[string]time.Duration{"read rabbitmq/creds/mq": 30 * time.Second}
			for id, l := range w.vault.leases {
				if l.path == "rabbitmq/creds/mq" {
					delete(w.vault.leases, id)
				}
			}
		})
		w.sleep(15 * time.Second)
		inLoop(s, func() {
			require.Equal(t, phaseFetching, s.phase)
			require.Equal(t, []string{"app", "mq"}, s.rotation.names(), "they go together")
		})
		w.vault.with(func() { clear(w.vault.leases) }) // vault lease revoke -prefix
		w.sleep(2 * time.Minute)
		require.NotContains(t, w.host.said(), "not watched")
		for path, variable := range map[string]string{"database/creds/app": "APP_USERNAME", "rabbitmq/creds/mq": "MQ_USERNAME"} {
			live := w.vault.live(path)
			require.Len(t, live, 1)
			require.Equal(t, "user-"+live[0][len(path)+1:], w.host.env.Env[variable].Text())
		}
		s.End()
	})
}

// What the policies no longer grant is left out, also where the change that leaves it out was to give the task a new value of it, or
// the first.
func TestLeftOutWithAChangeOfItsOwn(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("secret/data/cert")
		s := w.staggered()
		w.vault.with(func() { w.vault.static["secret/data/cert"] = map[string]any{"pem": "two"} })
		g.grant("secret/data/cert", "database/creds/app")
		w.sleep(70 * time.Second)
		g.grant()
		w.sleep(10 * time.Minute)
		require.Empty(t, s.Set().Env)
		require.Empty(t, w.host.env.Env)
		require.Empty(t, w.vault.live("database/creds/app"))
		s.End()
	})
}
