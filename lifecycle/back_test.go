package lifecycle

import (
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// C1: a server that fails for 12 s, and then again after 1.5 to 5 s, over and over, loses no lease of 40 s: while it answers,
// what waits to be tried again is tried at once. (In less, the request rate does not let all ten tasks renew.)
func TestServerThatComesAndGoes(t *testing.T) {
	for seed := range uint64(8) {
		inWorld(t, func(w *world) {
			w.keeper.Close()
			w.cfg.RequestRate = 20
			w.start()
			w.vault.roles["database/creds/app"] = fakeRole{ttl: 40 * time.Second, max: 1000 * time.Hour}
			w.vault.login = fakeRole{ttl: 2 * time.Minute, max: 1000 * time.Hour}
			withApp(w, "x")
			var sessions []*Session
			for i := range 10 {
				start := w.startOf(many{"db": db(""), "app": app("noop")})
				start.Task.AllocID = string(rune('a' + i))
				s, err := w.keeper.Open(w.t.Context(), start, w.host)
				require.NoError(w.t, err)
				s.Watch()
				sessions = append(sessions, s)
			}
			r := rand.New(rand.NewPCG(seed, 0))
			for range 100 {
				w.vault.set(errAway)
				w.sleep(12 * time.Second)
				w.vault.set(nil)
				w.sleep(3*time.Second/2 + time.Duration(r.Int64N(int64(7*time.Second/2))))
			}
			require.Zero(t, w.host.count("restart"), "seed %d: leases lost, of which the task was told by restarts:\n%s", seed, w.host.said())
			require.Len(t, w.vault.live("database/creds/app"), 10)
			for _, s := range sessions {
				s.End()
			}
		})
	}
}

// One answer brings forward what waits at that server, for all tasks, and nothing else; it is brought forward once a second at
// the most, and a pending revocation once in ten.
func TestAnswerBringsRetriesForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answering
		heard := func(provider string, err error) [2]bool {
			again, revocations := a.heard(time.Now(), provider, err)
			return [2]bool{again, revocations}
		}
		require.Equal(t, [2]bool{}, heard("vault", nil), "it was not away")
		heard("vault", errAway)
		require.Equal(t, [2]bool{}, heard("nomad", nil), "another")
		require.Equal(t, [2]bool{}, heard("vault", errors.New("cancelled")), "no answer")
		require.Equal(t, [2]bool{true, true}, heard("vault", errDenied), "a refusal is an answer")
		require.Equal(t, [2]bool{}, heard("vault", nil))
		heard("vault", errAway)
		require.Equal(t, [2]bool{}, heard("vault", nil), "too soon")
		time.Sleep(time.Second)
		require.Equal(t, [2]bool{true, false}, heard("vault", nil))
		heard("vault", &secrets.Error{Kind: secrets.Outage, Err: errors.New("the database is away"), Elsewhere: true})
		time.Sleep(time.Minute)
		require.Equal(t, [2]bool{}, heard("vault", nil), "an outage elsewhere is an answer")
		heard("vault", errLimited)
		require.Equal(t, [2]bool{}, heard("vault", nil), "a limit may be one job's")
		heard("vault", errAway)
		require.Equal(t, [2]bool{}, heard("vault", errLimited), "a limit asks for fewer requests")
		require.Equal(t, [2]bool{true, true}, heard("vault", nil))
	})
}

// C11: what one job is limited to (429) brings nothing forward that waits, however often the server answers other jobs: neither its own
// renewals nor its revocations, which come after a back-off.
func TestLimitOfOneJobBringsNothingForward(t *testing.T) {
	inWorld(t, func(w *world) {
		w.keeper.Close()
		w.cfg.PollInterval, w.cfg.LeaseCheckInterval = time.Second, 24*time.Hour
		w.start()
		withDB(w)
		withApp(w, "x")
		other, _, _ := w.openFor("other", 0, many{"app": app("noop")})
		limited, _, _ := w.openFor("limited", 0, many{"db": db("")})
		ended, _, _ := w.openFor("limited", 1, many{"db": db("")})
		w.vault.with(func() {
			w.vault.fail["revoke-token"] = errLimited
			for id := range w.vault.leases {
				w.vault.fail["renew "+string(id)] = errLimited
			}
		})
		ended.End()
		w.sleep(45 * time.Minute) // by then the renewal is due
		renewals, revocations, polls := w.vault.called("renew database"), w.vault.called("revoke-token"), w.vault.called("read secret")
		require.Positive(t, renewals)
		w.sleep(5 * time.Minute)
		require.GreaterOrEqual(t, w.vault.called("read secret")-polls, 200, "the other is answered each second")
		require.InDelta(t, 13, w.vault.called("renew database")-renewals, 8, "15 to 30 s apart")
		require.InDelta(t, 7, w.vault.called("revoke-token")-revocations, 4, "30 to 60 s apart")
		limited.End()
		other.End()
	})
}

// E1: when the server answers again, revocations that wait are tried within seconds, and not after their back-off.
func TestAnswerBringsRevocationsForward(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("")})
		start := w.startOf(many{"db": db("")})
		start.Task.AllocID = "alloc-2"
		other, err := w.keeper.Open(w.t.Context(), start, &fakeHost{})
		require.NoError(t, err)
		other.Watch()
		w.vault.set(errAway)
		s.End()
		w.sleep(30 * time.Minute) // by now a minute apart
		w.vault.set(nil)
		inLoop(other, func() { other.noteAnswer(other.tokens.issuer, nil) })
		w.sleep(3 * time.Second)
		require.Equal(t, 1, w.vault.liveTokens(), "the other task's")
		other.End()
	})
}
