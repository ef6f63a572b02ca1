package lifecycle

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What status shows over a secret's life: its moments, the last change and why, and what is wrong.
func TestStatus(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: 3 * time.Hour}
		withApp(w, "x")
		began := time.Now()
		s := w.open(many{"db": db(""), "app": app("noop")})
		st := w.keeper.Status()
		require.Len(t, st.Tasks, 1)
		task := st.Tasks[0]
		require.Equal(t, TaskWatched, task.State)
		require.Equal(t, "the task's identity (role nomad-workloads)", task.Identity)
		require.Equal(t, []string{"app", "db"}, []string{task.Secrets[0].Name, task.Secrets[1].Name})
		require.Equal(t, "static", task.Secrets[0].Kind)
		require.Equal(t, "noop", task.Secrets[0].ChangeMode)
		require.Zero(t, task.Secrets[0].Expires)
		lease := task.Secrets[1]
		require.Equal(t, SecretReady, lease.State)
		require.Equal(t, "leased", lease.Kind)
		require.Equal(t, began.Add(time.Hour), lease.Expires)
		require.WithinRange(t, lease.NextRenewal, began.Add(30*time.Minute), began.Add(40*time.Minute))
		require.Zero(t, lease.Changed)

		w.sleep(3 * time.Hour)
		lease = statusOf(s, "db")
		require.Equal(t, "its lease reached its maximum", lease.Cause)
		require.WithinRange(t, lease.Changed, began.Add(time.Hour), began.Add(3*time.Hour))

		w.vault.set(errAway)
		w.sleep(5 * time.Hour)
		task = w.keeper.Status().Tasks[0]
		require.Equal(t, SecretEnded, task.Secrets[1].State)
		require.Contains(t, task.Secrets[1].LastError.Text, "connection refused")
		require.Len(t, task.Outages, 1)
		require.Equal(t, "vault", task.Outages[0].Provider)
		w.vault.set(nil)
		w.sleep(10 * time.Minute)
		require.Equal(t, SecretReady, statusOf(s, "db").State)
		require.Empty(t, w.keeper.Status().Tasks[0].Outages)
		s.End()
		require.Empty(t, w.keeper.Status().Tasks)
	})
}

// What comes next comes before the end, whichever of a lease and its token that is of, and however often either is renewed.
func TestStatusNextBeforeEnd(t *testing.T) {
	for name, login := range map[string]fakeRole{
		"a token that is renewed":            {ttl: time.Hour, max: 1000 * time.Hour},
		"a token that is renewed and ends":   {ttl: time.Hour, max: 5 * time.Hour},
		"a token that ends after the lease":  {ttl: 100 * time.Hour, max: 1000 * time.Hour},
		"a batch token, with all of its own": {ttl: time.Hour, max: time.Hour, batch: true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.vault.roles["database/creds/app"] = fakeRole{ttl: 3 * time.Hour, max: 1000 * time.Hour}
				w.vault.login = login
				s := w.open(many{"db": db("")})
				for range 12 * 60 {
					w.sleep(time.Minute)
					st := statusOf(s, "db")
					require.False(w.t, st.Expires.IsZero())
					next := earliest(st.NextRenewal, st.NextRotation)
					require.Falsef(w.t, next.After(st.Expires), "next %v, ends %v", next, st.Expires)
					if !login.batch {
						require.False(w.t, next.IsZero())
					}
				}
				s.End()
			})
		})
	}
}

// A token that ends sooner than it was granted for, as the server says when it is looked up, is renewed before that.
func TestTokenEndsSoonerThanGranted(t *testing.T) {
	now := time.Now()
	l := &tokenState{ends: now.Add(time.Hour), renew: now.Add(35 * time.Minute)}
	l.seen(now, now.Add(time.Hour-time.Second), 0)
	require.Equal(t, now.Add(35*time.Minute), l.renew, "a rounded answer")
	l.seen(now, now.Add(10*time.Minute), 0)
	require.Equal(t, now.Add(5*time.Minute), l.renew)
	require.Equal(t, now.Add(10*time.Minute), l.ends)
}

// What a later process of the plugin shows of the last change is what the one before it had.
func TestStatusAfterRecovery(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "first")
		w.open(many{"app": app("")})
		withApp(w, "second")
		w.sleep(time.Minute)
		before := w.keeper.Status().Tasks[0].Secrets[0]
		require.Equal(t, "changed on the server", before.Cause)
		w.keeper.Close()
		w.start()
		s, err := w.keeper.Recover(w.task(), w.host)
		require.NoError(w.t, err)
		require.Equal(t, TaskStarting, s.Status(time.Now()).State)
		s.Watch()
		synctest.Wait()
		after := w.keeper.Status().Tasks[0]
		require.Equal(t, TaskWatched, after.State)
		require.Equal(t, before.Cause, after.Secrets[0].Cause)
		require.True(t, before.Changed.Equal(after.Secrets[0].Changed))
		s.End()
	})
}

// A start that waits shows what for.
func TestStatusOfAStart(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.set(errAway)
		opened := make(chan error)
		go func() {
			s, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db("")}), w.host)
			if err == nil {
				s.End()
			}
			opened <- err
		}()
		w.sleep(10 * time.Second)
		task := w.keeper.Status().Tasks[0]
		require.Equal(t, TaskStarting, task.State)
		require.Equal(t, SecretStarting, task.Secrets[0].State)
		require.Contains(t, task.LastError.Text, "connection refused")
		w.vault.set(nil)
		require.NoError(w.t, <-opened)
	})
}

// The status of 1,000 tasks waits for nothing: neither for a server that hangs, nor for a task whose restart does, nor for
// a session whose loop is busy.
func TestStatusWaitsForNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.keeper.Close()
		w.cfg.LeaseCheckInterval = time.Hour
		w.start()
		all, hosts := bigNode(w.t, w.keeper, w.vault, w.taskDir, 1000, 1, 2*time.Minute)
		synctest.Wait()
		busy := make(chan struct{})
		for i, s := range all {
			hosts[i].hang = "restart"
			if i%2 == 0 {
				s.results <- func() { <-busy }
			}
		}
		w.vault.with(func() { w.vault.delay = time.Hour })
		w.sleep(85 * time.Second) // renewals are under way
		began := time.Now()
		st := w.keeper.Status()
		require.Zero(t, time.Since(began))
		require.Len(t, st.Tasks, 1000)
		for _, task := range st.Tasks {
			require.Len(t, task.Secrets, 1)
		}
		w.sleep(time.Minute)
		for _, task := range w.keeper.Status().Tasks { // though the loops of half of them have not seen it
			require.Equal(t, SecretEnded, task.Secrets[0].State)
		}
		close(busy)
		w.vault.with(func() { w.vault.delay = 0 })
		for _, s := range all {
			s.End()
		}
	})
}

// A task whose watch has failed is told from one that has ended, until the watch begins anew.
func TestStatusOfAnUnwatchedTask(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		s.results <- func() { panic("in a test") }
		synctest.Wait()
		require.Equal(t, TaskUnwatched, w.keeper.Status().Tasks[0].State)
		_, all := w.operate(Refresh, Selection{})
		require.Equal(t, Failed, all[0].Result)
		require.Contains(t, all[0].Detail, "not watched just now")
		w.sleep(time.Minute)
		require.Equal(t, TaskWatched, w.keeper.Status().Tasks[0].State)
		s.End()
	})
}

// L4: no value and no token is in what operators see.
func TestStatusHasNoValues(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "hunter2")
		s := w.open(many{"db": db(""), "app": app("")})
		out, err := json.Marshal(w.keeper.Status())
		require.NoError(w.t, err)
		for _, value := range []string{"hunter2", "user-", "pass-", "token-", "accessor-of"} {
			require.NotContains(t, string(out), value)
		}
		s.End()
	})
}

// BenchmarkStatus is what the status of 1,000 tasks with 5 secrets each costs, as it is sent.
func BenchmarkStatus(b *testing.B) {
	v, k, dir := newBigKeeper(b, time.Hour)
	defer k.Close()
	bigNode(b, k, v, dir, 1000, 5, time.Hour)
	for b.Loop() {
		if _, err := json.Marshal(k.Status()); err != nil {
			b.Fatal(err)
		}
	}
}
