package lifecycle

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// openPulling is Open for a task whose image is pulled with the secret "db", and that has another.
func (w *world) openPulling(use secrets.SecretConfig) *Session {
	w.t.Helper()
	withApp(w, "one")
	start := w.startOf(many{"db": use, "app": app("")})
	start.Config.RegistryAuth = &secrets.RegistryAuthConfig{Secret: "db"}
	var err error
	start.Spec, err = w.keeper.providers.compile(start.Config)
	require.NoError(w.t, err)
	s, err := w.keeper.Open(w.t.Context(), start, w.host)
	require.NoError(w.t, err)
	return s
}

// pullOnly is a leased secret that nothing but the pull makes use of.
var pullOnly = secrets.SecretConfig{Path: "database/creds/app"}

// A lease that only the pull needs is revoked after it, and not before, however long that takes; the task keeps all else.
func TestPullGivesItsLeaseBack(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.openPulling(pullOnly)
		login := s.RegistryLogin()
		require.Equal(t, "db", login.Secret)
		require.Equal(t, []string{"user-2", "pass-2"}, []string{login.Username.Text(), login.Password.Text()})
		w.sleep(30 * time.Minute)
		require.Len(t, w.vault.live("database/creds/app"), 1, "the pull is not over")
		require.Zero(t, w.vault.called("revoke database"))

		s.ImagePulled()
		require.Nil(t, s.RegistryLogin())
		s.Watch()
		w.sleep(time.Second)
		require.Empty(t, w.vault.live("database/creds/app"))
		values, err := s.journal.Values()
		require.NoError(t, err)
		require.NotContains(t, values, "db", "what nothing uses is not kept")
		require.Contains(t, values, "app")
		require.NotContains(t, s.journal.Entry().Secrets, "db")
		set := s.Set()

		w.sleep(25 * time.Hour)
		require.Equal(t, 1, w.vault.called("read database"))
		require.Empty(t, w.host.applied())
		withApp(w, "two")
		w.sleep(time.Minute)
		require.Equal(t, 1, w.host.count("restart"), "the others are followed")
		require.NotEqual(t, set, s.Set())
		s.End()
		synctest.Wait()
		require.Zero(t, w.vault.liveTokens())
	})
}

// One that ends while the image is pulled is of no use to the program, and not made anew for it.
func TestPullOutlivesItsLease(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Minute, max: time.Minute, fixed: true}
		s := w.openPulling(pullOnly)
		w.sleep(10 * time.Minute)
		first := s.Set()
		require.True(t, first == w.deliver(s))
		s.ImagePulled()
		s.Watch()
		w.sleep(time.Hour)
		require.Equal(t, 1, w.vault.called("read database"))
		require.Empty(t, w.host.applied())
		s.End()
	})
}

// After a restart of the plugin the task is without it, whether the lease was given back before or not.
func TestPullIsRecovered(t *testing.T) {
	for name, before := range map[string]func(*world, *Session){
		"given back": func(w *world, s *Session) {
			s.Watch()
			w.sleep(time.Second)
		},
		"not yet": func(*world, *Session) {},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withDB(w)
				s := w.openPulling(pullOnly)
				s.ImagePulled()
				before(w, s)
				w.crash()
				s = w.recover()
				w.sleep(time.Second)
				require.Empty(t, w.vault.live("database/creds/app"))
				require.NotContains(t, s.journal.Entry().Secrets, "db")
				require.Nil(t, s.RegistryLogin())
				w.crash()
				s = w.recover()
				w.sleep(25 * time.Hour)
				require.Equal(t, 1, w.vault.called("read database"))
				require.Empty(t, w.host.applied())
				s.End()
			})
		})
	}
}

// A lease that something else makes use of, too, is followed as any other.
func TestPullLeavesWhatIsUsed(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.openPulling(db(""))
		s.ImagePulled()
		s.Watch()
		w.sleep(time.Hour)
		require.Len(t, w.vault.live("database/creds/app"), 1)
		w.sleep(30 * time.Hour)
		require.Positive(t, w.host.count("restart"))
		s.End()
	})
}

// A change of static credentials does nothing to the task, and they are not even looked at again.
func TestPullOfStaticCredentials(t *testing.T) {
	inWorld(t, func(w *world) {
		creds := map[string]any{"username": "puller", "password": "one"}
		w.vault.static["secret/registry"] = creds
		s := w.openPulling(secrets.SecretConfig{Path: "secret/registry"})
		require.Equal(t, "one", s.RegistryLogin().Password.Text())
		s.ImagePulled()
		s.Watch()
		w.vault.with(func() { creds["password"] = "two" })
		w.sleep(time.Hour)
		require.Equal(t, 1, w.vault.called("read secret/registry"))
		require.Empty(t, w.host.applied())
		s.End()
	})
}

// A start whose pull fails leaves no lease.
func TestPullFails(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.openPulling(pullOnly)
		s.End()
		synctest.Wait()
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}

// A field that is not there fails the start, before anything is sent to a registry.
func TestPullWithoutItsField(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		start := w.startOf(many{"db": pullOnly})
		start.Config.RegistryAuth = &secrets.RegistryAuthConfig{Secret: "db", Password: "token"}
		var err error
		start.Spec, err = w.keeper.providers.compile(start.Config)
		require.NoError(t, err)
		_, err = w.keeper.Open(w.t.Context(), start, w.host)
		require.ErrorContains(t, err, `registry_auth: password: secret "db": `)
		require.NotContains(t, err.Error(), "pass-")
		synctest.Wait()
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}
