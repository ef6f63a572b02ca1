package lifecycle

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// operate has the keeper do something, and gives what each secret came to.
func (w *world) operate(op Operation, sel Selection) (results map[string]Result, all []Outcome) {
	w.t.Helper()
	all = w.keeper.Operate(w.t.Context(), op, sel)
	results = map[string]Result{}
	for _, o := range all {
		results[o.Secret] = o.Result
	}
	return results, all
}

// revokeAll is `vault lease revoke -prefix`.
func (v *fakeVault) revokeAll() { v.with(func() { clear(v.leases) }) }

// After a mass revocation a refresh finds out at once, long before the next checks, and returns when the task has
// what is new; what is as it was is left alone.
func TestRefreshAfterRevocation(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "x")
		s := w.open(many{"db": db(""), "app": app("")})
		w.vault.revokeAll()
		began := time.Now()
		results, all := w.operate(Refresh, Selection{})
		require.Equal(t, map[string]Result{"db": Replaced, "app": Unchanged}, results, "%+v", all)
		require.LessOrEqual(t, time.Since(began), 2*time.Second) // of the bubble: the changes of a second go together
		require.Equal(t, []string{"publish", "restart"}, w.host.applied())
		require.Len(t, w.vault.live("database/creds/app"), 1)
		require.Contains(t, w.host.said(), `secret "db" rotated (its lease was revoked); task restarted in place`)
		s.End()
	})
}

// A refresh asks within no request rate: a node's tasks are all healthy again at once, whatever the rate.
func TestRefreshOfManyTasks(t *testing.T) {
	inWorld(t, func(w *world) {
		w.keeper.Close()
		w.cfg.RequestRate, w.cfg.LeaseCheckInterval = 1, time.Hour
		w.start()
		all, hosts := bigNode(w.t, w.keeper, w.vault, w.taskDir, 100, 2, 10*time.Hour)
		w.sleep(time.Minute)
		w.vault.revokeAll()
		began := time.Now()
		_, outcomes := w.operate(Refresh, Selection{})
		require.Len(t, outcomes, 200)
		for _, o := range outcomes {
			require.Equal(t, Replaced, o.Result, "%+v", o)
		}
		require.LessOrEqual(t, time.Since(began), 2*time.Second)
		for _, h := range hosts {
			require.Equal(t, 1, h.count("restart"))
		}
		require.Len(t, w.vault.live("database/creds/role-0"), 100)
		for _, s := range all {
			s.End()
		}
	})
}

// A static secret that was written is read, and given to the task after its splay: the refresh waits for that.
func TestRefreshReadsStaticSecrets(t *testing.T) {
	inWorld(t, func(w *world) {
		withApp(w, "first")
		pinned := app("")
		pinned.Path, pinned.Version = "secret/pinned", 1
		w.vault.static["secret/pinned"] = map[string]any{"password": "old"}
		s := w.open(many{"app": app(""), "pinned": pinned})
		withApp(w, "second")
		results, _ := w.operate(Refresh, Selection{})
		require.Equal(t, map[string]Result{"app": Replaced, "pinned": Unchanged}, results)
		require.Equal(t, []string{"publish", "restart"}, w.host.applied())
		st := s.Status(time.Now())
		require.Equal(t, SecretReady, st.Secrets[0].State)
		require.Equal(t, "changed on the server", st.Secrets[0].Cause)
		s.End()
	})
}

// A token that was revoked is found out, too: the task logs in again, and gets what is new.
func TestRefreshAfterTheTokenWasRevoked(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "x")
		s := w.open(many{"db": db(""), "app": app("")})
		w.sleep(10 * time.Second)
		w.vault.with(func() { clear(w.vault.tokens) })
		results, all := w.operate(Refresh, Selection{})
		require.Equal(t, map[string]Result{"db": Replaced, "app": Unchanged}, results, "%+v", all)
		require.Equal(t, 2, w.vault.called("login"))
		require.Equal(t, TaskWatched, s.Status(time.Now()).State)
		s.End()
	})
}

// What cannot be done is said, with the server's answer, and the rest is done; the session goes on trying.
func TestRefreshFails(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "x")
		w.vault.roles["database/creds/other"] = fakeRole{ttl: time.Hour, max: 24 * time.Hour}
		other := db("")
		other.Path, other.Env, other.AllFiles = "database/creds/other", nil, true
		s := w.open(many{"db": db(""), "other": other, "app": app("")})
		w.sleep(10 * time.Second)
		w.vault.revokeAll()
		w.vault.with(func() { w.vault.fail["read database/creds/app"] = errDenied })
		results, all := w.operate(Refresh, Selection{})
		require.Equal(t, map[string]Result{"db": Failed, "other": Replaced, "app": Unchanged}, results)
		require.Contains(t, all[1].Detail, "permission denied")
		require.Equal(t, SecretLost, statusOf(s, "db").State)
		require.Contains(t, statusOf(s, "db").LastError.Text, "permission denied")

		w.vault.with(func() { clear(w.vault.fail) })
		results, _ = w.operate(Refresh, Selection{}) // what has failed is tried again at once, not when its pause is over
		require.Equal(t, Replaced, results["db"])
		require.Equal(t, SecretReady, statusOf(s, "db").State)
		s.End()
	})
}

// While the server is away a refresh ends with that, and changes nothing.
func TestRefreshInAnOutage(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "x")
		s := w.open(many{"db": db(""), "app": app("")})
		w.sleep(10 * time.Second)
		w.vault.set(errAway)
		results, all := w.operate(Refresh, Selection{})
		require.Equal(t, map[string]Result{"db": Failed, "app": Failed}, results)
		require.Contains(t, all[0].Detail, "connection refused")
		require.Empty(t, w.host.applied())
		require.Len(t, s.Status(time.Now()).Outages, 1)
		w.vault.set(nil)
		w.sleep(time.Minute)
		require.Empty(t, s.Status(time.Now()).Outages)
		s.End()
	})
}

// A rotation asked for replaces what the server makes, revokes what was in use, and says what it leaves alone.
func TestRotate(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		withApp(w, "x")
		w.vault.roles["pki/issue/web"] = fakeRole{issued: 24 * time.Hour}
		s := w.open(many{"db": db(""), "app": app(""), "tls": changing(secrets.SecretConfig{Path: "pki/issue/web", AllFiles: true, ChangeMode: "signal"})})
		w.sleep(time.Minute)
		leaked := w.vault.live("database/creds/app")
		results, all := w.operate(Rotate, Selection{})
		require.Equal(t, map[string]Result{"db": Replaced, "app": Skipped, "tls": Replaced}, results, "%+v", all)
		require.Contains(t, all[1].Detail, "an operator asked for a new one; task restarted in place")
		require.Equal(t, []string{"publish", "restart"}, w.host.applied())
		now := w.vault.live("database/creds/app")
		require.Len(t, now, 1, "the old one is revoked when it answers")
		require.NotEqual(t, leaked, now)
		require.Equal(t, 2, w.vault.called("read pki/issue/web"))

		results, all = w.operate(Rotate, Selection{Secret: "tls"}) // C11
		require.Equal(t, map[string]Result{"tls": Failed}, results)
		require.Contains(t, all[0].Detail, "less than 30s ago")
		s.End()
	})
}

// What the server refuses to revoke lives on: after a leak that is no success.
func TestRotateIsNotRevoked(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		w.sleep(time.Minute)
		w.vault.with(func() { w.vault.fail["revoke"] = errDenied })
		results, all := w.operate(Rotate, Selection{})
		require.Equal(t, map[string]Result{"db": NotRevoked}, results)
		require.Contains(t, all[0].Detail, "lives to its end")
		require.Contains(t, all[0].Detail, "permission denied")

		w.sleep(time.Second)
		w.vault.with(func() { w.vault.fail["revoke"] = errAway })
		results, all = w.operate(Rotate, Selection{})
		require.Equal(t, map[string]Result{"db": NotRevoked}, results)
		require.Contains(t, all[0].Detail, "not revoked yet")
		require.Len(t, w.keeper.Status().Revocations, 1)
		require.Equal(t, "connection refused", w.keeper.Status().Revocations[0].LastError)
		w.vault.with(func() { clear(w.vault.fail) })
		w.sleep(2 * time.Minute)
		require.Empty(t, w.keeper.Status().Revocations)
		s.End()
	})
}

// Of a secret that the task is not told of, the old credential is the task's to the end: the outcome says so.
func TestRotateSilently(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("noop")})
		w.sleep(time.Minute)
		results, all := w.operate(Rotate, Selection{})
		require.Equal(t, map[string]Result{"db": Replaced}, results)
		require.Contains(t, all[0].Detail, "the old credential lives until 01:00:00 UTC")
		require.Len(t, w.vault.live("database/creds/app"), 2)
		s.End()
	})
}

// Only what is selected is touched.
func TestOperationSelects(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		var hosts []*fakeHost
		for _, alloc := range []string{"aaaa-1", "aabb-2", "cccc-3"} {
			start, h := w.startOf(many{"db": db("")}), &fakeHost{}
			start.Task.AllocID = alloc
			s, err := w.keeper.Open(w.t.Context(), start, h)
			require.NoError(w.t, err)
			s.Watch()
			defer s.End()
			hosts = append(hosts, h)
		}
		synctest.Wait()
		_, all := w.operate(Rotate, Selection{Alloc: "aa", Task: "web", Secret: "db"})
		require.Len(t, all, 2)
		require.Equal(t, []string{"aaaa-1", "aabb-2"}, []string{all[0].Alloc, all[1].Alloc})
		require.Empty(t, hosts[2].applied())
		for _, sel := range []Selection{{Alloc: "dd"}, {Task: "other"}, {Secret: "other"}} {
			_, all = w.operate(Rotate, sel)
			require.Empty(t, all, "%+v", sel)
		}
	})
}

// Who does not wait any longer gets an answer at once, and so does who asks for a task that ends, or is starting.
func TestOperationIsNotWaitedFor(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.host.hang = "restart"
		s := w.open(many{"db": db("")})
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
		defer cancel()
		all := w.keeper.Operate(ctx, Rotate, Selection{})
		require.Equal(t, Failed, all[0].Result)
		require.Contains(t, all[0].Detail, "not waited for to its end")

		answer := make(chan []Outcome)
		go func() { answer <- w.keeper.Operate(context.Background(), Rotate, Selection{}) }()
		synctest.Wait()
		s.End()
		all = <-answer
		require.Equal(t, Failed, all[0].Result)
		require.Contains(t, all[0].Detail, "has ended")

		start := w.startOf(many{"db": db("")})
		start.Task.AllocID = "starting"
		starting, err := w.keeper.Open(w.t.Context(), start, &fakeHost{})
		require.NoError(w.t, err)
		results, _ := w.operate(Rotate, Selection{})
		require.Equal(t, map[string]Result{"db": Skipped}, results)
		starting.End()
	})
}

// A task whose action fails has not got what is new: the outcome and the status say so.
func TestRotateSignalFails(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		fails := db("script")
		w.host.script = func() (int, error) { return 3, nil }
		s := w.open(many{"db": fails})
		results, all := w.operate(Rotate, Selection{})
		require.Equal(t, map[string]Result{"db": Failed}, results)
		require.Contains(t, all[0].Detail, "exit code 3")
		require.Equal(t, SecretFailing, statusOf(s, "db").State)
		s.End()
	})
}

func statusOf(s *Session, secret string) SecretStatus {
	for _, st := range s.Status(time.Now()).Secrets {
		if st.Name == secret {
			return st
		}
	}
	panic(fmt.Sprintf("no secret %q", secret))
}
