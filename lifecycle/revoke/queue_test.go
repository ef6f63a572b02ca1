package revoke

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// E1: at a task's end its leases are revoked at once; a token of ours takes all under it along.
func TestRevokeIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromIdentity, "T", tokenRights{}, "a", "b")
		require.NoError(t, j.Save(map[string]secrets.Fields{"db": fieldsOf("x")}, func(*journal.Entry) {}))
		start := time.Now()
		require.NoError(t, o.Enqueue(j))
		require.NoError(t, o.Enqueue(j))
		require.ErrorIs(t, j.AddLease(journal.Lease{ID: "late"}), journal.ErrClosed)
		synctest.Wait()
		require.Zero(t, time.Since(start))
		require.Equal(t, []string{"revoke token T"}, o.server.taken())
		require.Empty(t, o.server.leasesAlive())
		require.Zero(t, o.left())
		_, err := journal.Open(o.stateDir, testTask)
		require.ErrorIs(t, err, journal.ErrNone)
		require.NoError(t, o.EnqueueTask(testTask))
	})
}

// E1; docs/vault.md, "Whose token": Nomad owns a vault block's token: leases are revoked one by one, and it lives on.
func TestRevokeVaultBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		o.task(journal.FromVaultBlock, "T", tokenRights{revokes: true}, "a", "b")
		require.NoError(t, o.EnqueueTask(testTask)) // as for a task that is not recovered
		synctest.Wait()
		require.Equal(t, []string{"revoke a with T", "revoke b with T"}, o.server.taken())
		require.Contains(t, o.server.tokensAlive(), "T")
		require.Zero(t, o.left())
	})
}

// E1: if the server is away, later, also across restarts of the plugin.
func TestRevokeOutage(t *testing.T) {
	for _, src := range []journal.TokenSource{journal.FromIdentity, journal.FromVaultBlock} {
		synctest.Test(t, func(t *testing.T) {
			o := newQueueTest(t)
			j := o.task(src, "T", tokenRights{revokes: true}, "a", "b")
			for _, err := range []error{errAway, errors.New("of no kind")} {
				o.server.answer(err)
				require.NoError(t, o.Enqueue(j))
				time.Sleep(time.Hour)
				require.Len(t, o.server.leasesAlive(), 2)
				o.restart()
				time.Sleep(time.Hour)
				require.LessOrEqual(t, len(o.server.taken()), 2*2*130, "the pauses grow")
			}
			o.server.answer(nil)
			time.Sleep(retryMax)
			require.Empty(t, o.server.leasesAlive())
			require.Empty(t, o.refusals())
			require.Zero(t, o.left())
		})
	}
}

// A server that takes connections and never answers is away, and blocks nothing for ever.
func TestRevokeHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromIdentity, "T", tokenRights{}, "a")
		o.server.requests.Latency(24 * time.Hour)
		require.NoError(t, o.Enqueue(j))
		time.Sleep(time.Hour)
		o.server.requests.Latency(0)
		time.Sleep(retryMax + revokeTimeout)
		require.Empty(t, o.server.leasesAlive())
	})
}

// A revocation ends by itself when what is to be revoked does.
func TestRevokeEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromVaultBlock, "T", tokenRights{revokes: true})
		require.NoError(t, j.AddLease(journal.Lease{ID: "a", TokenID: "T", Ends: time.Now().Add(time.Hour)}))
		o.server.answer(errAway)
		require.NoError(t, o.Enqueue(j))
		time.Sleep(time.Hour - time.Second)
		require.Equal(t, 1, o.left())
		time.Sleep(retryMax)
		require.Zero(t, o.left())
		require.Empty(t, o.refusals())
	})
}

// A refusal is reported once a task, and the lease left to its TTL (docs/nomad.md, "Tokens").
func TestRevokeRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromVaultBlock, "T", tokenRights{}, "a", "b", "c")
		require.NoError(t, o.EnqueueLeases(j, "a"))
		synctest.Wait()
		require.NoError(t, o.EnqueueLeases(j, "b"))
		synctest.Wait()
		require.NoError(t, o.Enqueue(j))
		synctest.Wait()
		require.Len(t, o.refusals(), 1)
		require.Equal(t, secrets.Refused, secrets.KindOf(o.refused[0]))
		require.Zero(t, o.left())
	})
}

// A refusal of a new token may be a standby that has not heard of it yet (S2).
func TestRevokeRefusedByStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromVaultBlock, "T", tokenRights{})
		o.token(j, journal.FromVaultBlock, "new", tokenRights{revokes: true}, "a")
		o.server.answer(errDenied)
		require.NoError(t, o.Enqueue(j))
		time.Sleep(2 * time.Second)
		o.server.answer(nil)
		time.Sleep(3 * time.Second)
		require.Empty(t, o.server.leasesAlive())
		require.Empty(t, o.refusals())
	})
}

// A token that has ended took its leases along: nothing is left to revoke or to report.
func TestRevokeUnderEndedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromVaultBlock, "T", tokenRights{revokes: true}, "a")
		delete(o.server.tokens, "T")
		require.NoError(t, o.Enqueue(j))
		synctest.Wait()
		require.Equal(t, []string{"look up T", "revoke a with T"}, o.server.taken())
		require.Empty(t, o.refusals())
		require.Zero(t, o.left())
	})
}

// That another token has ended says nothing of a lease whose own token lives.
func TestRevokeAnotherTokenEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromVaultBlock, "T", tokenRights{}, "a")
		o.token(j, journal.FromVaultBlock, "S", tokenRights{})
		delete(o.server.tokens, "S")
		time.Sleep(time.Minute)
		require.NoError(t, o.Enqueue(j))
		synctest.Wait()
		require.Len(t, o.refusals(), 1)
	})
}

// A token that was just revoked is not asked with any more.
func TestRevokedTokenIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromIdentity, "T", tokenRights{}, "a")
		require.NoError(t, j.AddLease(journal.Lease{ID: "b", TokenID: "forgotten"}))
		require.NoError(t, o.Enqueue(j))
		synctest.Wait()
		require.Equal(t, []string{"revoke token T"}, o.server.taken())
		require.Len(t, o.refusals(), 1)
	})
}

// A request that close cuts short proves nothing, not even of what has ended by the clock.
func TestRevokeCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromIdentity, "T", tokenRights{}, "a")
		require.NoError(t, j.SaveToken(journal.FromIdentity, secrets.Token{
			Value: secrets.TextValue("T"), ID: "T", Expires: time.Now().Add(time.Second),
		}))
		o.server.requests.Latency(24 * time.Hour)
		require.NoError(t, o.Enqueue(j))
		time.Sleep(2 * time.Second)
		o.Close()
		require.Equal(t, 1, o.left())
	})
}

// What one token of the task may not, another may.
func TestRevokeAnotherToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromVaultBlock, "T", tokenRights{}, "a")
		o.token(j, journal.FromVaultBlock, "S", tokenRights{revokes: true})
		time.Sleep(time.Minute)
		require.NoError(t, o.Enqueue(j))
		synctest.Wait()
		require.Equal(t, []string{"look up T", "revoke a with S", "revoke a with T"}, o.server.taken())
		require.Empty(t, o.server.leasesAlive())
		require.Empty(t, o.refusals())
	})
}

// C2: after a rotation the old lease is revoked, and the task, its token and its other leases go on.
func TestRevokeLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromIdentity, "T", tokenRights{revokes: true}, "old", "new")
		o.server.answer(errAway)
		require.NoError(t, o.EnqueueLeases(j))
		require.NoError(t, o.EnqueueLeases(j, "old"))
		require.Equal(t, []journal.Lease{{ID: "new", TokenID: "T"}}, j.Entry().Leases)
		o.restart() // E2
		o.server.answer(nil)
		time.Sleep(retryMax)
		require.Contains(t, o.server.leasesAlive(), "new")
		require.NotContains(t, o.server.leasesAlive(), "old")
		require.Contains(t, o.server.tokensAlive(), "T")
		require.Zero(t, o.left())

		j, err := journal.Open(o.stateDir, testTask)
		require.NoError(t, err)
		require.NoError(t, o.Enqueue(j))
		require.ErrorIs(t, o.EnqueueLeases(j, "new"), journal.ErrClosed)
		synctest.Wait()
		require.Empty(t, o.server.leasesAlive())
	})
}

// Of a task that has logged in again the old token is revoked, with its leases.
func TestRevokeToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromIdentity, "T", tokenRights{}, "a")
		o.token(j, journal.FromIdentity, "S", tokenRights{}, "b")
		require.NoError(t, o.EnqueueToken(j, "T"))
		require.NoError(t, o.EnqueueToken(j, "T"))
		synctest.Wait()
		require.Equal(t, []string{"revoke token T"}, o.server.taken())
		require.Equal(t, []journal.Lease{{ID: "b", TokenID: "S"}}, j.Entry().Leases)
		_, ok := j.Token("T")
		require.False(t, ok)
		require.Contains(t, o.server.tokensAlive(), "S")
		require.Zero(t, o.left())
	})
}

// What a newer plugin wrote is left to it; what is damaged is dropped once its token is revoked, and nothing else suffers.
func TestRevokeUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		for _, content := range []string{`{"Version":1,"Ta`, `{"Version":99}`} {
			o.task(journal.FromIdentity, "T", tokenRights{}, "a")
			require.NoError(t, os.WriteFile(filepath.Join(o.stateDir, testTask.AllocID, testTask.Name, "entry.json"), []byte(content), 0o600))
			require.NoError(t, o.EnqueueTask(testTask))
			synctest.Wait()
		}
		require.Equal(t, 1, o.left())
		require.NoError(t, os.WriteFile(filepath.Join(o.stateDir, ".owed", "stray"), nil, 0o600))
		require.NoError(t, os.Mkdir(filepath.Join(o.stateDir, ".owed", "half removed"), 0o700))
		o.restart()
		synctest.Wait()
		require.Equal(t, 1, o.left())
		require.Equal(t, []string{"revoke token T"}, o.server.taken(), "of the damaged one")
	})
}

// Any number of tasks may end at once: the server sees 16 requests at a time (C11), and the
// background's request rate is not theirs.
func TestRevokeManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		o.server.requests.Latency(50 * time.Millisecond)
		var journals []*journal.Journal
		for i := range 200 {
			task := journal.Task{AllocID: fmt.Sprint(i), Name: "web"}
			j, err := journal.Create(o.stateDir, journal.Entry{Task: task})
			require.NoError(t, err)
			id := fmt.Sprint("T", i)
			o.token(j, journal.FromIdentity, id, tokenRights{}, secrets.LeaseID(id))
			journals = append(journals, j)
		}
		start := time.Now()
		for _, j := range journals {
			require.NoError(t, o.Enqueue(j))
		}
		for o.left() > 0 && time.Since(start) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		require.Empty(t, o.server.leasesAlive())
		require.Less(t, time.Since(start), 5*time.Second)
		require.Equal(t, limit.ForegroundAtOnce, o.server.requests.Most())
	})
}

// After Close nothing is lost: the next process revokes.
func TestRevokeAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromIdentity, "T", tokenRights{}, "a")
		o.Close()
		require.NoError(t, o.Enqueue(j))
		require.Equal(t, 1, o.left())
		o.restart()
		synctest.Wait()
		require.Empty(t, o.server.leasesAlive())
	})
}

func TestRevokeBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		try := rapid.IntRange(0, 1000).Draw(t, "try")
		r := rapid.SampledFrom([]float64{0, 0.01, 0.5, 0.99}).Draw(t, "r")
		pause := limit.Backoff(retryMin, retryMax, try+1, r)
		if pause < retryMin/2 || pause > retryMax {
			t.Fatalf("pause %v", pause)
		}
		if try >= 6 && pause < retryMax/2 {
			t.Fatalf("pause %v after %d tries", pause, try)
		}
		if r > 0 && pause == limit.Backoff(retryMin, retryMax, try+1, 0) {
			t.Fatalf("no jitter in %v", pause)
		}
	})
}
