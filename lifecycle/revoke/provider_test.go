package revoke

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What is to be revoked at a provider that this version does not have waits for one that has it, or for its own end.
func TestRevocationsOfAMissingProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		o.without = "other"
		o.restart()
		pending := func(alloc string, ends time.Time) {
			task := testTask
			task.AllocID = alloc
			j, err := journal.Create(o.stateDir, journal.Entry{Task: task, TokenSource: journal.FromIdentity, TokenProvider: "other"})
			require.NoError(t, err)
			require.NoError(t, j.SaveToken(journal.FromIdentity, secrets.Token{Value: secrets.TextValue(alloc), Accessor: alloc, Expires: ends}))
			o.server.mu.Lock()
			o.server.tokens[alloc] = tokenRights{}
			o.server.mu.Unlock()
			require.NoError(t, o.Enqueue(j))
		}
		pending("one", time.Now().Add(time.Hour))
		pending("two", time.Time{})
		time.Sleep(time.Hour + 2*retryMax)
		require.Equal(t, 1, o.left(), "the one that has not ended by itself")
		require.Empty(t, o.refusals())
		require.Empty(t, o.server.calls, "no other provider is asked with its token")
		synctest.Wait() // nobody looks at it now
		o.without = ""
		o.restart()
		time.Sleep(time.Minute)
		require.Zero(t, o.left())
	})
}
