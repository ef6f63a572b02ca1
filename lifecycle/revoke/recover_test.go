package revoke

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// E1: a revocation that cannot be read for want of descriptors is read when there are some.
func TestRevokeDescriptorsRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromIdentity, "T", tokenRights{}, "a", "b")
		var limit syscall.Rlimit
		require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
		none := limit
		none.Cur = 1
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
		err := o.Enqueue(j)
		time.Sleep(time.Hour)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
		require.NoError(t, err)
		require.Empty(t, o.server.taken())
		require.Equal(t, 1, o.left())
		time.Sleep(2 * retryMax)
		require.Equal(t, []string{"revoke token T"}, o.server.taken())
		require.Zero(t, o.left())
	})
}

// E1: of a journal whose entry is damaged the tokens are revoked all the same, in their namespace; without tokens
// there is nothing left to do.
func TestRevokeDamaged(t *testing.T) {
	for name, damage := range map[string]struct {
		files  []string
		revoke bool
	}{
		"the entry":            {[]string{"entry.json"}, true},
		"the entry and tokens": {[]string{"entry.json", "tokens.json"}, false},
		"the tokens":           {[]string{"tokens.json"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newQueueTest(t)
				o.task(journal.FromIdentity, "T", tokenRights{}, "a", "b")
				for _, file := range damage.files {
					require.NoError(t, os.WriteFile(filepath.Join(o.stateDir, testTask.AllocID, testTask.Name, file), []byte(`{"Version":1,"Task":{"Dri`), 0o600))
				}
				require.NoError(t, o.EnqueueTask(testTask))
				time.Sleep(time.Minute)
				require.Zero(t, o.left())
				if damage.revoke {
					require.Equal(t, []string{"revoke token T"}, o.server.taken())
					require.Empty(t, o.server.leasesAlive())
				} else {
					require.Empty(t, o.server.taken())
				}
			})
		})
	}
}

// A pending revocation of single leases has copies of a running task's tokens. They are not revoked where its entry is damaged, be it that the
// leases then live to their TTL. Where it is not, one of the version before, whose token file does not say so, is run as ever.
func TestRevokeDamagedWithARunningTasksToken(t *testing.T) {
	for name, damage := range map[string]struct {
		file, content string
		alive         []string
	}{
		"the entry":            {"entry.json", `{"Version":1,"Task":{"Dri`, []string{"a", "b"}},
		"the version before's": {"tokens.json", "", []string{"b"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newQueueTest(t)
				j := o.task(journal.FromIdentity, "T", tokenRights{revokes: true}, "a", "b")
				o.server.answer(errAway)
				require.NoError(t, o.EnqueueLeases(j, "a"))
				synctest.Wait()
				o.Close()
				files, err := filepath.Glob(filepath.Join(o.stateDir, ".owed", "*", damage.file))
				require.NoError(t, err)
				require.Len(t, files, 1)
				content := damage.content
				if content == "" {
					b, err := os.ReadFile(files[0])
					require.NoError(t, err)
					content = strings.Replace(string(b), `"KeepTokens":true,`, "", 1)
					require.NotEqual(t, string(b), content)
				}
				require.NoError(t, os.WriteFile(files[0], []byte(content), 0o600))
				o.server.answer(nil)
				o.restart()
				time.Sleep(time.Minute)
				require.Contains(t, o.server.tokensAlive(), "T")
				require.ElementsMatch(t, damage.alive, o.server.leasesAlive())
				require.Zero(t, o.left())
			})
		})
	}
}

// E1: what another server knows is not asked of this one, whose 403 would mean nothing, and waits until that is the
// plugin's again; without an address everything waits.
func TestRevokeAnotherServer(t *testing.T) {
	for name, address := range map[string]string{"another address": "https://two", "no address": ""} {
		for _, src := range []journal.TokenSource{journal.FromIdentity, journal.FromVaultBlock} {
			t.Run(name+", "+string(src), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := newQueueTest(t)
					j := o.task(src, "T", tokenRights{revokes: true}, "a", "b")
					o.server.answer(errAway)
					require.NoError(t, o.Enqueue(j))
					time.Sleep(time.Minute)
					known := o.address

					o.address = address
					o.server.answer(secrets.Errorf(secrets.Refused, "permission denied"))
					o.Close()
					o.server.taken()
					o.restart()
					time.Sleep(time.Hour)
					require.Empty(t, o.server.taken(), "a stranger is asked nothing")
					require.Equal(t, 1, o.left())

					o.address = known
					o.server.answer(nil)
					o.restart()
					time.Sleep(time.Minute)
					require.Empty(t, o.server.leasesAlive())
					require.Zero(t, o.left())
					require.Empty(t, o.refusals())
				})
			})
		}
	}
}

// What another server knows and has ended by itself is not waited for.
func TestRevokeAnotherServerEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newQueueTest(t)
		j := o.task(journal.FromIdentity, "T", tokenRights{})
		require.NoError(t, j.SaveToken(journal.FromIdentity, secrets.Token{
			Value: secrets.TextValue("T"), ID: "T", Server: "https://gone", Expires: time.Now().Add(time.Hour),
		}))
		require.NoError(t, j.AddLease(journal.Lease{ID: "a", TokenID: "T", Ends: time.Now().Add(2 * time.Hour)}))
		require.NoError(t, o.Enqueue(j))
		time.Sleep(90 * time.Minute)
		require.Equal(t, 1, o.left())
		time.Sleep(time.Hour)
		require.Zero(t, o.left())
		require.Empty(t, o.server.taken())
	})
}
